//! The policy half: endpoints, prefixes, groups and what groups say of classes (dataplane.md E.6).
//!
//! Rows of a group or class are a pure function of its content and are written when it appears.
//! They are deleted a quarantine after nothing refers to them.

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

    /// Writes the endpoint's row, or makes it wait for its groups.
    pub fn set_endpoint(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        addr: abi::Addr,
        endpoint: &Endpoint,
        now: Time,
    ) {
        let mut groups = [endpoint.ingress, endpoint.egress].into_iter().flatten();
        if groups.all(|id| mirror.groups.contains_key(&id)) {
            self.waiting.remove(&addr);
            let class = if endpoint.class.terms.is_empty() {
                0
            } else {
                let text = endpoint.class.to_string();
                self.use_class(mirror, plan, &text, &endpoint.class.terms)
            };
            self.put_endpoint(mirror, plan, addr, row_of(endpoint, class), now);
            return;
        }
        self.waiting.insert(addr, Arc::new(endpoint.clone()));
        // The old row is the old verdict (I9), unless it is of another interface: then closed.
        let closed = closed_row(endpoint);
        let same = mirror
            .endpoints
            .get(&addr)
            .is_some_and(|row| (row.ifindex, row.mac) == (closed.ifindex, closed.mac));
        if !same {
            self.put_endpoint(mirror, plan, addr, closed, now);
        }
    }

    /// `row.class` is counted already.
    fn put_endpoint(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
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
        mirror.put_endpoint(plan, addr, row);
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

    pub fn set_cidr(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        key: abi::CidrKey,
        class: &CidrClass,
        now: Time,
    ) {
        let number = self.use_class(mirror, plan, &class.to_string(), &class.terms);
        let old = mirror.cidrs.get(&key).copied();
        let narrows = old
            .and_then(|old| self.classes.get(&old)?.terms.clone())
            .is_some_and(|terms| class.terms.is_subset(&terms));
        let phase = if narrows { Phase::NarrowCidrs } else { Phase::Cidrs };
        mirror.put_cidr(plan, phase, key, number);
        if let Some(old) = old {
            self.release_class(old, now);
        }
    }

    pub fn remove_cidr(
        &mut self,
        mirror: &mut Mirror,
        plan: &mut Plan,
        key: abi::CidrKey,
        now: Time,
    ) {
        if let Some(class) = mirror.cidrs.remove(&key) {
            plan.op(Phase::Delete, MapOp::DelCidr(key));
            self.release_class(class, now);
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
