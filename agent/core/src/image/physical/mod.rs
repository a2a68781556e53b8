//! The physical image: which rows the kernel holds, and the ordered writes that lead to new ones.
//!
//! Incremental per key; every plan is a transaction that is taken whole or [`Refused`] whole, so a
//! full map leaves the old verdict (I9, F44). State is persistent maps: a refused plan costs what
//! it touched. Deliberately absent: files and the kernel; a restart rebuilds all of it from the
//! rows ([`Physical::adopt`]).

mod plan;
mod policy;
mod services;
mod slab;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use longshore_abi as abi;

pub use self::plan::Limits;
use self::plan::{Mirror, Plan};
use self::policy::Policy;
use self::services::Services;
use super::{CidrClass, Endpoint, Frontend, Group, Image, ImageChange, ServiceEntry, rows};
use super::{KernelRows, MapOp};
use crate::model::{ObjectKey, Time};

/// How long a range, group or class that nothing refers to keeps its rows: many RCU grace periods,
/// so no program that still holds the old row meets other contents.
pub const QUARANTINE_MS: i64 = 1_000;

/// Why a plan was not taken. Nothing was planned then; the kernel keeps what it has.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    #[error(
        "the eBPF map {map} holds {max} rows and {needed} are needed: nothing was changed; \
         remove objects or spread them over more nodes"
    )]
    MapFull { map: &'static str, needed: usize, max: u32 },
    #[error(
        "no {needed} adjoining free slots among the {max} of the backend slab: nothing was \
         changed; it is tried again when replaced ranges are free, else remove Services"
    )]
    SlabFull { needed: u32, max: u32, retry_at: Option<Time> },
    #[error("{service} has {count} endpoints on one port, at most 65535 fit")]
    TooManyBackends { service: ObjectKey, count: usize },
    #[error(
        "the policies of one pod have {count} different port lists in one direction, at most \
         {max} fit: merge rules that could list the same ports (group {group:016x})"
    )]
    TooManyPortSets { group: u64, count: usize, max: usize },
    #[error("group {group:016x} is known with another content; report this as a bug")]
    Collision { group: u64 },
}

/// What a refused change was about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Subject {
    Group(u64),
    /// Prefixes change together: an except is not separable from its block.
    Cidrs,
    Endpoint(IpAddr),
    Service(Frontend),
    /// Deletions of any kind.
    Removal,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Group(id) => write!(f, "policy group {id:016x}"),
            Subject::Cidrs => f.write_str("ipBlock prefixes"),
            Subject::Endpoint(ip) => write!(f, "endpoint {ip}"),
            Subject::Service(frontend) => write!(f, "service {frontend}"),
            Subject::Removal => f.write_str("removals"),
        }
    }
}

/// Rows, numbers and ranges of this node's maps. Cloning shares everything.
#[derive(Clone, Debug)]
pub struct Physical {
    limits: Limits,
    mirror: Mirror,
    services: Services,
    policy: Policy,
}

/// Last change of every key, by the key of its row: what one transaction takes in.
#[derive(Clone, Default)]
struct Wanted<'a> {
    groups: BTreeMap<u64, Option<&'a Group>>,
    /// Shorter prefixes first.
    cidrs: BTreeMap<abi::CidrKey, Option<&'a CidrClass>>,
    endpoints: BTreeMap<abi::Addr, Option<&'a Endpoint>>,
    services: BTreeMap<abi::ServiceKey, Option<(Frontend, &'a ServiceEntry)>>,
}

impl Physical {
    /// From what the kernel holds; empty rows for a first start.
    pub fn adopt(rows: &KernelRows) -> Self {
        Self::with_limits(rows, Limits::default())
    }

    /// As [`adopt`](Self::adopt), with maps of other sizes than the default ones.
    pub fn with_limits(rows: &KernelRows, limits: Limits) -> Self {
        let mirror = Mirror::adopt(rows);
        let policy = Policy::adopt(&mirror);
        let services = Services::adopt(rows, limits.backends);
        Self { limits, mirror, services, policy }
    }

    /// Ops for some keys' new contents, whatever the order of `changes` (the last of a key wins).
    /// An endpoint whose group is not there yet keeps its old verdict until it is.
    pub fn plan(&mut self, changes: &[ImageChange], now: Time) -> Result<Vec<MapOp>, Refused> {
        let wanted = Wanted::of(changes);
        self.transaction(now, |next, plan| next.take_in(plan, &wanted, now))
    }

    /// As [`plan`](Self::plan), but what does not fit is left out, one key at a time: others are
    /// unharmed.
    pub fn plan_each(
        &mut self,
        changes: &[ImageChange],
        now: Time,
    ) -> (Vec<MapOp>, Vec<(Subject, Refused)>) {
        self.each(&Wanted::of(changes), now)
    }

    /// Ops that make the kernel mean exactly `image`; rows that nobody wants are deleted last.
    /// Empty after a restart that met the same objects (I14).
    pub fn plan_full(&mut self, image: &Image, now: Time) -> Result<Vec<MapOp>, Refused> {
        let wanted = self.all_of(image);
        let ops = self.transaction(now, |next, plan| next.take_in(plan, &wanted, now))?;
        self.policy.unpin(now);
        Ok(ops)
    }

    /// As [`plan_full`](Self::plan_full), leaving out what does not fit.
    pub fn plan_full_each(
        &mut self,
        image: &Image,
        now: Time,
    ) -> (Vec<MapOp>, Vec<(Subject, Refused)>) {
        let wanted = self.all_of(image);
        let planned = self.each(&wanted, now);
        self.policy.unpin(now);
        planned
    }

    /// Deletions and free ranges whose quarantine is over.
    pub fn tick(&mut self, now: Time) -> Vec<MapOp> {
        let mut plan = Plan::default();
        self.services.tick(now);
        self.policy.tick(&mut self.mirror, &mut plan, now);
        plan.into_ops()
    }

    /// When [`tick`](Self::tick) has something to do; `None`: nothing is in quarantine.
    pub fn wake_at(&self) -> Option<Time> {
        [self.services.wake_at(), self.policy.wake_at()].into_iter().flatten().min()
    }

    /// Endpoints that keep an old or closed row because their group is not in the kernel.
    pub fn waiting(&self) -> impl Iterator<Item = IpAddr> {
        self.policy.waiting().map(rows::ip_of)
    }

    fn transaction(
        &mut self,
        now: Time,
        work: impl FnOnce(&mut Self, &mut Plan) -> Result<(), Refused>,
    ) -> Result<Vec<MapOp>, Refused> {
        let mut next = self.clone();
        let mut plan = Plan::default();
        next.services.tick(now);
        next.policy.tick(&mut next.mirror, &mut plan, now);
        next.mirror.count(&mut plan);
        work(&mut next, &mut plan)?;
        next.mirror.check(&plan, &next.limits)?;
        *self = next;
        Ok(plan.into_ops())
    }

    fn take_in(&mut self, plan: &mut Plan, wanted: &Wanted, now: Time) -> Result<(), Refused> {
        let Self { mirror, services, policy, .. } = self;
        plan.changes_groups = !wanted.groups.is_empty();
        for addr in wanted.endpoints.keys() {
            policy.stop_waiting(*addr);
        }
        for (id, group) in &wanted.groups {
            if let Some(group) = group {
                policy.set_group(mirror, plan, *id, group, now)?;
            }
        }
        policy.set_cidrs(mirror, plan, &wanted.cidrs, now);
        for (addr, endpoint) in &wanted.endpoints {
            match endpoint {
                Some(endpoint) => policy.set_endpoint(mirror, plan, *addr, endpoint, now),
                None => policy.remove_endpoint(mirror, plan, *addr, now),
            }
        }
        for (key, entry) in &wanted.services {
            match entry {
                Some((frontend, entry)) => services.set(mirror, plan, frontend, entry, now)?,
                None => services.remove(mirror, plan, *key, now),
            }
        }
        for (id, group) in &wanted.groups {
            if group.is_none() {
                policy.remove_group(*id, now);
            }
        }
        Ok(())
    }

    /// The whole, else one key after the other; removals between two attempts may make room.
    fn each(&mut self, wanted: &Wanted, now: Time) -> (Vec<MapOp>, Vec<(Subject, Refused)>) {
        if let Ok(ops) = self.transaction(now, |next, plan| next.take_in(plan, wanted, now)) {
            return (ops, Vec::new());
        }
        let mut ops = Vec::new();
        let mut take = |this: &mut Self, part: &Wanted| -> Option<Refused> {
            match this.transaction(now, |next, plan| next.take_in(plan, part, now)) {
                Ok(more) => {
                    ops.extend(more);
                    None
                }
                Err(refused) => Some(refused),
            }
        };
        let (puts, removals) = wanted.parts();
        let late: Vec<_> =
            puts.into_iter().filter(|(_, part)| take(self, part).is_some()).collect();
        let mut refused: Vec<(Subject, Refused)> =
            take(self, &removals).map(|why| (Subject::Removal, why)).into_iter().collect();
        for (subject, part) in late {
            refused.extend(take(self, &part).map(|why| (subject, why)));
        }
        (ops, refused)
    }

    /// `image`, and the removal of every key that has a row or waits and is not in it.
    fn all_of<'a>(&self, image: &'a Image) -> Wanted<'a> {
        let mut wanted = Wanted::default();
        for id in self.policy.group_ids() {
            wanted.groups.insert(id, None);
        }
        for key in self.mirror.cidrs.keys() {
            wanted.cidrs.insert(*key, None);
        }
        let waiting = self.policy.waiting();
        for addr in self.mirror.endpoints.keys().copied().chain(waiting) {
            wanted.endpoints.insert(addr, None);
        }
        for key in self.mirror.services.keys() {
            wanted.services.insert(*key, None);
        }
        image.groups.iter().for_each(|(id, group)| wanted.group(*id, Some(group)));
        image.cidrs.iter().for_each(|(net, class)| wanted.cidr(*net, Some(class)));
        image.endpoints.iter().for_each(|(ip, endpoint)| wanted.endpoint(*ip, Some(endpoint)));
        image.services.iter().for_each(|(at, entry)| wanted.service(at, Some(entry)));
        wanted
    }
}

impl<'a> Wanted<'a> {
    fn of(changes: &'a [ImageChange]) -> Self {
        let mut wanted = Self::default();
        for change in changes {
            match change {
                ImageChange::Group(id, group) => wanted.group(*id, group.as_ref()),
                ImageChange::Cidr(net, class) => wanted.cidr(*net, class.as_ref()),
                ImageChange::Endpoint(ip, endpoint) => wanted.endpoint(*ip, endpoint.as_ref()),
                ImageChange::Service(at, entry) => wanted.service(at, entry.as_ref()),
            }
        }
        wanted
    }

    fn group(&mut self, id: u64, group: Option<&'a Group>) {
        self.groups.insert(id, group);
    }

    fn cidr(&mut self, net: ipnet::IpNet, class: Option<&'a CidrClass>) {
        self.cidrs.insert(rows::cidr_key_of(net), class);
    }

    fn endpoint(&mut self, ip: IpAddr, endpoint: Option<&'a Endpoint>) {
        self.endpoints.insert(rows::addr_of(ip), endpoint);
    }

    fn service(&mut self, at: &Frontend, entry: Option<&'a ServiceEntry>) {
        self.services.insert(rows::service_key_of(at), entry.map(|entry| (*at, entry)));
    }

    /// The smallest changes that may be refused alone, in order, and all removals.
    fn parts(&self) -> (Vec<(Subject, Wanted<'a>)>, Wanted<'a>) {
        let mut puts = Vec::new();
        let mut removals = Wanted::default();
        for (id, group) in &self.groups {
            let part = Wanted { groups: [(*id, *group)].into(), ..Wanted::default() };
            match group {
                Some(_) => puts.push((Subject::Group(*id), part)),
                None => removals.groups.extend(part.groups),
            }
        }
        if !self.cidrs.is_empty() {
            let part = Wanted { cidrs: self.cidrs.clone(), ..Wanted::default() };
            puts.push((Subject::Cidrs, part));
        }
        for (addr, endpoint) in &self.endpoints {
            let part = Wanted { endpoints: [(*addr, *endpoint)].into(), ..Wanted::default() };
            match endpoint {
                Some(_) => puts.push((Subject::Endpoint(rows::ip_of(*addr)), part)),
                None => removals.endpoints.extend(part.endpoints),
            }
        }
        for (key, entry) in &self.services {
            let part = Wanted { services: [(*key, *entry)].into(), ..Wanted::default() };
            match entry {
                Some((frontend, _)) => puts.push((Subject::Service(*frontend), part)),
                None => removals.services.extend(part.services),
            }
        }
        (puts, removals)
    }
}

/// Slots, keys and references that do not fit together: what a checker reports of the kernel.
pub fn inconsistencies(rows: &KernelRows) -> Vec<String> {
    let mut found = Vec::new();
    for (key, row) in &rows.services {
        for index in row.base..row.base.saturating_add(u32::from(row.count)) {
            let slot = rows.backends.get(&index).copied().unwrap_or_default();
            if (slot.service, slot.generation) != (row.service, row.generation) {
                let at = super::text::frontend_of(key);
                found.push(format!("service {at}: slot {index} is of another publish"));
            }
        }
    }
    let known: BTreeSet<u64> = rows.groups.keys().copied().collect();
    for (addr, row) in &rows.endpoints {
        for group in policy::groups_of(row).into_iter().flatten() {
            if !known.contains(&group) {
                let ip = rows::ip_of(*addr);
                found.push(format!("endpoint {ip}: group {group:016x} is not there"));
            }
        }
    }
    found
}
