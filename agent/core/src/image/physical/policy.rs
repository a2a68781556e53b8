//! The policy half: endpoints, prefixes, groups and what groups say of classes (C16, I9).
//!
//! Rows of a group or class are a pure function of its content and are written when it appears.
//! They are deleted a quarantine after nothing refers to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use longshore_abi::{self as abi, Mask, policy as flag};

use super::plan::{Mirror, Phase, Plan};
use super::tables::{or, tables_of};
use super::{QUARANTINE_MS, Refused};
use crate::image::identity::{Numbers, stamp};
use crate::image::{CidrClass, Class, Endpoint, Group, MapOp, PeerTerm};
use crate::model::Time;

/// Terms of a class, endpoints' and prefixes' alike.
type Terms = std::collections::BTreeSet<PeerTerm>;

#[derive(Clone, Debug, Default)]
struct GroupState {
    /// `None`: adopted from the kernel, no logical image has named it yet.
    content: Option<Arc<Group>>,
    /// Some image has it, or nobody has said yet that none does.
    wanted: bool,
    /// References from endpoint rows.
    uses: u32,
    /// Nothing needs it any more: deleted then.
    leaves_at: Option<Time>,
}

#[derive(Clone, Debug, Default)]
struct ClassState {
    /// `None`: adopted.
    terms: Option<Arc<Terms>>,
    /// Adopted, and no complete image has decided about it yet.
    pinned: bool,
    /// References from endpoint and prefix rows.
    uses: u32,
    leaves_at: Option<Time>,
}

/// Who names a term.
#[derive(Clone, Debug, Default)]
struct TermState {
    /// Rules of the group that name it.
    groups: OrdMap<u64, Mask>,
    classes: OrdSet<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Leaver {
    Group(u64),
    Class(u64),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    groups: OrdMap<u64, GroupState>,
    classes: OrdMap<u64, ClassState>,
    numbers: Numbers,
    terms: OrdMap<PeerTerm, TermState>,
    /// Endpoints whose group is not in the kernel: their old row stays until it is.
    waiting: OrdMap<abi::Addr, Arc<Endpoint>>,
    quarantine: OrdSet<(Time, Leaver)>,
}

impl Policy {
    pub fn adopt(mirror: &Mirror) -> Self {
        let mut this = Self::default();
        let named = mirror.groups.keys().copied();
        let peers = mirror.peers.keys().map(|key| key.group);
        let ports = mirror.ports.keys().map(|key| key.group);
        let ranges = mirror.ranges.keys().map(|(group, _)| *group);
        for id in named.chain(peers).chain(ports).chain(ranges) {
            this.groups.entry(id).or_default().wanted = true;
        }
        for key in mirror.peers.keys() {
            this.classes.entry(key.class).or_default().pinned = true;
        }
        for row in mirror.endpoints.values() {
            this.hold(row.class, groups_of(row));
        }
        for class in mirror.cidrs.values() {
            this.hold(*class, [None, None]);
        }
        this
    }

    fn hold(&mut self, class: u64, groups: [Option<u64>; 2]) {
        if class != 0 {
            self.classes.entry(class).or_default().uses += 1;
        }
        for id in groups.into_iter().flatten() {
            self.groups.entry(id).or_default().uses += 1;
        }
    }

    /// Ids of all groups that have rows or are referred to.
    pub fn group_ids(&self) -> impl Iterator<Item = u64> {
        self.groups.keys().copied()
    }

    pub fn waiting(&self) -> impl Iterator<Item = abi::Addr> {
        self.waiting.keys().copied()
    }

    pub fn wake_at(&self) -> Option<Time> {
        self.quarantine.get_min().map(|(due, _)| *due)
    }

    // ---- groups

    /// Writes the group's rows, then flips the endpoints that waited for it.
    pub fn set_group(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        id: u64,
        group: &Group,
        now: Time,
    ) -> Result<(), Refused> {
        let known = self.groups.get(&id).and_then(|state| state.content.clone());
        match known {
            Some(known) if known.to_string() != group.to_string() => {
                return Err(Refused::Collision { group: id });
            }
            Some(_) => {}
            None => self.write_group(mirror, plan, id, group)?,
        }
        let state = self.groups.entry(id).or_default();
        state.content = Some(Arc::new(group.clone()));
        state.wanted = true;
        state.leaves_at = None;
        let names = |endpoint: &Endpoint| [endpoint.ingress, endpoint.egress].contains(&Some(id));
        let flips: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, endpoint)| names(endpoint))
            .map(|(addr, endpoint)| (*addr, endpoint.clone()))
            .collect();
        for (addr, endpoint) in flips {
            self.set_endpoint(mirror, plan, addr, &endpoint, now);
        }
        Ok(())
    }

    fn write_group(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        id: u64,
        group: &Group,
    ) -> Result<(), Refused> {
        let tables = tables_of(id, group).map_err(|count| Refused::TooManyPortSets {
            group: id,
            count,
            max: Mask::BITS,
        })?;
        let mut peers = OrdMap::<u64, Mask>::new();
        for (term, mask) in &tables.terms {
            let state = self.terms.entry(term.clone()).or_default();
            state.groups.insert(id, *mask);
            for class in &state.classes {
                let row = peers.entry(*class).or_default();
                *row = or(*row, *mask);
            }
        }
        // Adopted rows that the content does not have; of unknown classes nothing is known yet.
        for key in mirror.peers_of_group(id) {
            let known = self.classes.get(&key.class).is_some_and(|state| state.terms.is_some());
            if known && !peers.contains_key(&key.class) {
                mirror.delete_peer(plan, Phase::Delete, key);
            }
        }
        for key in mirror.ports_of_group(id) {
            if !tables.ports.contains_key(&key) {
                mirror.delete_port(plan, Phase::Delete, key);
            }
        }
        for key in mirror.ranges_of_group(id) {
            if !tables.ranges.contains_key(&key) {
                mirror.delete_range(plan, Phase::Delete, key);
            }
        }
        for (class, mask) in &peers {
            mirror.put_peer(plan, abi::PeerKey { group: id, class: *class }, *mask);
        }
        for (key, mask) in &tables.ports {
            mirror.put_port(plan, *key, *mask);
        }
        for (key, mask) in &tables.ranges {
            mirror.put_range(plan, *key, *mask);
        }
        mirror.put_group(plan, id, tables.header);
        Ok(())
    }

    /// No image has the group any more: it leaves when the last endpoint row does.
    pub fn remove_group(&mut self, id: u64, now: Time) {
        if let Some(state) = self.groups.get_mut(&id) {
            state.wanted = false;
        }
        self.may_leave_group(id, now);
    }

    fn may_leave_group(&mut self, id: u64, now: Time) {
        let Some(state) = self.groups.get_mut(&id) else { return };
        if !state.wanted && state.uses == 0 && state.leaves_at.is_none() {
            let due = now.plus_ms(QUARANTINE_MS);
            state.leaves_at = Some(due);
            self.quarantine.insert((due, Leaver::Group(id)));
        }
    }

    fn release_group(&mut self, id: u64, now: Time) {
        if let Some(state) = self.groups.get_mut(&id) {
            state.uses = state.uses.saturating_sub(1);
        }
        self.may_leave_group(id, now);
    }

    // ---- classes

    /// Counts one more row of the class and writes its peer rows if it is new.
    fn use_class(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        text: &str,
        terms: &Terms,
    ) -> u64 {
        let number = self.numbers.number(text);
        let state = self.classes.entry(number).or_default();
        state.uses += 1;
        state.leaves_at = None;
        if state.terms.is_none() {
            state.terms = Some(Arc::new(terms.clone()));
            self.write_class(mirror, plan, number, terms);
        }
        number
    }

    fn write_class(&mut self, mirror: &mut Mirror, plan: &mut Plan, class: u64, terms: &Terms) {
        let mut peers = OrdMap::<u64, Mask>::new();
        for term in terms {
            let state = self.terms.entry(term.clone()).or_default();
            state.classes.insert(class);
            for (group, mask) in &state.groups {
                let row = peers.entry(*group).or_default();
                *row = or(*row, *mask);
            }
        }
        for key in mirror.peers_of_class(class) {
            let known = self.groups.get(&key.group).is_some_and(|state| state.content.is_some());
            if known && !peers.contains_key(&key.group) {
                mirror.delete_peer(plan, Phase::Delete, key);
            }
        }
        for (group, mask) in &peers {
            mirror.put_peer(plan, abi::PeerKey { group: *group, class }, *mask);
        }
    }

    fn release_class(&mut self, class: u64, now: Time) {
        if let Some(state) = self.classes.get_mut(&class) {
            state.uses = state.uses.saturating_sub(1);
        }
        self.may_leave_class(class, now);
    }

    fn may_leave_class(&mut self, class: u64, now: Time) {
        let Some(state) = self.classes.get_mut(&class) else { return };
        if !state.pinned && state.uses == 0 && state.leaves_at.is_none() {
            let due = now.plus_ms(QUARANTINE_MS);
            state.leaves_at = Some(due);
            self.quarantine.insert((due, Leaver::Class(class)));
        }
    }

    /// A complete image was planned: adopted classes that no row has may go.
    pub fn unpin(&mut self, now: Time) {
        let pinned: Vec<u64> =
            self.classes.iter().filter(|(_, state)| state.pinned).map(|(id, _)| *id).collect();
        for class in pinned {
            if let Some(state) = self.classes.get_mut(&class) {
                state.pinned = false;
            }
            self.may_leave_class(class, now);
        }
    }

    // ---- rows that refer to them

    /// The endpoint's next content is in this plan: what it waited for does not count any more.
    pub fn stop_waiting(&mut self, addr: abi::Addr) {
        self.waiting.remove(&addr);
    }

    /// Writes the endpoint's row, or makes it wait for its groups. Once for an address in a plan.
    pub fn set_endpoint(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        addr: abi::Addr,
        endpoint: &Endpoint,
        now: Time,
    ) {
        let old = mirror.endpoints.get(&addr).copied();
        let mut groups = [endpoint.ingress, endpoint.egress].into_iter().flatten();
        if groups.all(|id| mirror.groups.contains_key(&id)) {
            self.waiting.remove(&addr);
            self.flip(mirror, plan, addr, old, endpoint, now);
            return;
        }
        self.waiting.insert(addr, Arc::new(endpoint.clone()));
        // The old row is the old verdict (I9), unless it is of another interface: then closed.
        let closed = closed_row(endpoint);
        if !old.is_some_and(|old| same_place(&old, &closed)) {
            self.put_endpoint(mirror, plan, Phase::Endpoints, addr, closed, now);
        }
    }

    /// From the old row to the endpoint's in up to three writes, so that no flow that both allow is
    /// denied in between: terms of the class are gained before any endpoint of the plan changes its
    /// groups, and lost afterwards.
    fn flip(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        addr: abi::Addr,
        old: Option<abi::Endpoint>,
        endpoint: &Endpoint,
        now: Time,
    ) {
        let terms = &endpoint.class.terms;
        let class = self.use_endpoint_class(mirror, plan, terms);
        let row = row_of(endpoint, class);
        let known = old.filter(|old| same_place(old, &row));
        let old_terms = known.and_then(|old| self.terms_of(old.class));
        let (Some(old), Some(old_terms)) = (known, old_terms) else {
            self.put_endpoint(mirror, plan, Phase::WidenEndpoints, addr, row, now);
            return;
        };
        let between = if old.class == class || terms.is_superset(&old_terms) {
            class
        } else if old_terms.is_superset(terms) {
            old.class
        } else if groups_of(&old) == groups_of(&row) && !plan.changes_groups {
            // Nobody changes groups: there is nothing to be between of.
            class
        } else {
            let union: Terms = terms.union(&old_terms).cloned().collect();
            self.use_endpoint_class(mirror, plan, &union)
        };
        let widened = abi::Endpoint { class: between, stamp: stamp_of(between, &old), ..old };
        let flipped = abi::Endpoint { class: between, stamp: stamp_of(between, &row), ..row };
        let steps = [
            (Phase::WidenEndpoints, widened),
            (Phase::Endpoints, flipped),
            (Phase::NarrowEndpoints, row),
        ];
        // Every step counts its class anew; `class` and a union were counted once already.
        for (phase, step) in steps {
            self.hold(step.class, [None, None]);
            self.put_endpoint(mirror, plan, phase, addr, step, now);
        }
        self.release_class(class, now);
        if between != class && between != old.class {
            self.release_class(between, now);
        }
    }

    fn use_endpoint_class(&mut self, mirror: &mut Mirror, plan: &mut Plan, terms: &Terms) -> u64 {
        if terms.is_empty() {
            return 0;
        }
        let text = Class { terms: terms.clone() }.to_string();
        self.use_class(mirror, plan, &text, terms)
    }

    /// `None`: an adopted class that no image has named yet.
    fn terms_of(&self, class: u64) -> Option<Arc<Terms>> {
        if class == 0 {
            return Some(Arc::default());
        }
        self.classes.get(&class)?.terms.clone()
    }

    /// `row.class` is counted already.
    fn put_endpoint(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        phase: Phase,
        addr: abi::Addr,
        row: abi::Endpoint,
        now: Time,
    ) {
        for id in groups_of(&row).into_iter().flatten() {
            let state = self.groups.entry(id).or_default();
            state.uses += 1;
            state.leaves_at = None;
        }
        let old = mirror.endpoints.get(&addr).copied();
        mirror.put_endpoint(plan, phase, addr, row);
        self.release_endpoint(old, now);
    }

    pub fn remove_endpoint(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        addr: abi::Addr,
        now: Time,
    ) {
        self.waiting.remove(&addr);
        let old = mirror.endpoints.remove(&addr);
        if old.is_some() {
            plan.op(Phase::Delete, MapOp::DelEndpoint(addr));
        }
        self.release_endpoint(old, now);
    }

    fn release_endpoint(&mut self, old: Option<abi::Endpoint>, now: Time) {
        let Some(old) = old else { return };
        self.release_class(old.class, now);
        for id in groups_of(&old).into_iter().flatten() {
            self.release_group(id, now);
        }
    }

    /// All prefixes of a plan at once. As with endpoints, a prefix first answers for what its
    /// addresses were and will be, and is narrowed or deleted after the groups have changed.
    pub fn set_cidrs(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        wanted: &BTreeMap<abi::CidrKey, Option<&CidrClass>>,
        now: Time,
    ) {
        let before = mirror.cidrs.clone();
        // Longer prefixes first: an except is there before its block.
        for (key, class) in wanted.iter().rev() {
            let was =
                covering(key).find_map(|key| before.get(&key)).and_then(|c| self.terms_of(*c));
            let will = covering(key).find_map(|key| match wanted.get(&key) {
                Some(class) => class.map(|class| Arc::new(class.terms.clone())),
                None => before.get(&key).and_then(|class| self.terms_of(*class)),
            });
            let mut between: Terms = was.iter().flat_map(|terms| terms.iter()).cloned().collect();
            between.extend(will.iter().flat_map(|terms| terms.iter()).cloned());
            if class.is_some() || before.contains_key(key) {
                self.put_cidr(mirror, plan, Phase::WidenCidrs, *key, &between, now);
            }
            if let Some(class) = class {
                self.put_cidr(mirror, plan, Phase::NarrowCidrs, *key, &class.terms, now);
            }
        }
        // Shorter ones first: a block goes before its except.
        for (key, _) in wanted.iter().filter(|(_, class)| class.is_none()) {
            if let Some(class) = mirror.cidrs.remove(key) {
                plan.op(Phase::Delete, MapOp::DelCidr(*key));
                self.release_class(class, now);
            }
        }
    }

    fn put_cidr(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        phase: Phase,
        key: abi::CidrKey,
        terms: &Terms,
        now: Time,
    ) {
        let text = CidrClass { terms: terms.clone() }.to_string();
        let class = self.use_class(mirror, plan, &text, terms);
        let old = mirror.cidrs.get(&key).copied();
        mirror.put_cidr(plan, phase, key, class);
        if let Some(old) = old {
            self.release_class(old, now);
        }
    }

    // ---- the end of a quarantine

    pub fn tick(&mut self, mirror: &mut Mirror, plan: &mut Plan, now: Time) {
        while let Some((due, leaver)) = self.quarantine.get_min().copied() {
            if due > now {
                break;
            }
            self.quarantine.remove(&(due, leaver));
            match leaver {
                Leaver::Group(id) => {
                    if self.groups.get(&id).is_some_and(|state| state.leaves_at == Some(due)) {
                        self.drop_group(mirror, plan, id);
                    }
                }
                Leaver::Class(id) => {
                    if self.classes.get(&id).is_some_and(|state| state.leaves_at == Some(due)) {
                        self.drop_class(mirror, plan, id);
                    }
                }
            }
        }
    }

    fn drop_group(&mut self, mirror: &mut Mirror, plan: &mut Plan, id: u64) {
        let content = self.groups.remove(&id).and_then(|state| state.content);
        let rules = content.iter().flat_map(|group| group.rules.values());
        for term in rules.flat_map(|rule| &rule.peers) {
            self.forget_term(term, |state| {
                state.groups.remove(&id);
            });
        }
        mirror.delete_group(plan, Phase::Due, id);
    }

    fn drop_class(&mut self, mirror: &mut Mirror, plan: &mut Plan, class: u64) {
        let terms = self.classes.remove(&class).and_then(|state| state.terms);
        for term in terms.iter().flat_map(|terms| terms.iter()) {
            self.forget_term(term, |state| {
                state.classes.remove(&class);
            });
        }
        self.numbers.forget(class);
        for key in mirror.peers_of_class(class) {
            mirror.delete_peer(plan, Phase::Due, key);
        }
    }

    fn forget_term(&mut self, term: &PeerTerm, change: impl FnOnce(&mut TermState)) {
        let Some(state) = self.terms.get_mut(term) else { return };
        change(state);
        if state.groups.is_empty() && state.classes.is_empty() {
            self.terms.remove(term);
        }
    }
}

/// The prefix itself, then every one around it, the longest first.
fn covering(key: &abi::CidrKey) -> impl Iterator<Item = abi::CidrKey> + use<> {
    let (bits, longest) = (u128::from_be_bytes(key.addr.octets()), key.prefix_len.min(128));
    (0..=longest).rev().map(move |prefix_len| {
        let mask = if prefix_len == 0 { 0 } else { u128::MAX << (128 - prefix_len) };
        abi::CidrKey { prefix_len, addr: abi::Addr::v6((bits & mask).to_be_bytes()) }
    })
}

/// The same interface, as far as rows tell.
fn same_place(a: &abi::Endpoint, b: &abi::Endpoint) -> bool {
    (a.ifindex, a.mac) == (b.ifindex, b.mac)
}

/// The stamp of `row` if its class were `class`.
fn stamp_of(class: u64, row: &abi::Endpoint) -> u64 {
    let [ingress, egress] = groups_of(row);
    stamp(class, ingress, egress)
}

fn row_of(endpoint: &Endpoint, class: u64) -> abi::Endpoint {
    let mut row = abi::Endpoint {
        class,
        stamp: stamp(class, endpoint.ingress, endpoint.egress),
        ingress: endpoint.ingress.unwrap_or(0),
        egress: endpoint.egress.unwrap_or(0),
        ..abi::Endpoint::default()
    };
    let mut set = |condition: bool, bit: u32| row.flags |= if condition { bit } else { 0 };
    set(endpoint.pod.is_none(), flag::NODE);
    set(endpoint.local.is_some(), flag::LOCAL);
    set(endpoint.open, flag::OPEN);
    set(endpoint.ingress.is_some(), flag::ISOLATED_INGRESS);
    set(endpoint.egress.is_some(), flag::ISOLATED_EGRESS);
    if let Some(local) = endpoint.local {
        row.ifindex = local.ifindex;
        row.mac = local.mac;
    }
    row
}

/// The row of an endpoint of which only the place is known: nothing but its own node reaches it.
fn closed_row(endpoint: &Endpoint) -> abi::Endpoint {
    let class = Class::default();
    let closed = Endpoint { class, open: false, ingress: None, egress: None, ..endpoint.clone() };
    row_of(&closed, 0)
}

/// Groups that a row refers to.
pub(super) fn groups_of(row: &abi::Endpoint) -> [Option<u64>; 2] {
    [
        (row.flags & flag::ISOLATED_INGRESS != 0).then_some(row.ingress),
        (row.flags & flag::ISOLATED_EGRESS != 0).then_some(row.egress),
    ]
}
