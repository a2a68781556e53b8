//! What the kernel holds, as far as was planned, and the ops of one plan in their order.

use imbl::{OrdMap, OrdSet};
use longshore_abi::{self as abi, Mask, names};

use super::Refused;
use crate::image::{KernelRows, MapOp};

/// Rows that each map can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    pub services: u32,
    /// Slots of the slab.
    pub backends: u32,
    pub endpoints: u32,
    pub cidrs: u32,
    pub groups: u32,
    pub peers: u32,
    pub ports: u32,
    pub ranges: u32,
}

impl Default for Limits {
    /// The sizes that the daemon creates its maps with.
    fn default() -> Self {
        Self {
            services: names::SERVICES_MAX,
            backends: names::BACKENDS_MAX,
            endpoints: names::ENDPOINTS_MAX,
            cidrs: names::CIDRS_MAX,
            groups: names::GROUPS_MAX,
            peers: names::PEERS_MAX,
            ports: names::PORTS_MAX,
            ranges: names::RANGES_MAX,
        }
    }
}

/// When an op of a plan happens. What a row refers to is written in an earlier phase and deleted
/// in a later one; what narrows by itself comes after what makes up for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Rows that nothing uses and whose quarantine is over.
    Due,
    /// Slots, peers, ports, ranges: found only through rows of later phases.
    Parts,
    Headers,
    /// Prefixes and peers gain terms: new groups name them, old ones do not know them.
    WidenCidrs,
    WidenEndpoints,
    /// Endpoints change their groups.
    Endpoints,
    Services,
    /// Prefixes and peers lose terms: the groups that named them are gone now.
    NarrowEndpoints,
    NarrowCidrs,
    Delete,
}

const PHASES: usize = Phase::Delete as usize + 1;

/// The maps whose rows are counted.
#[derive(Clone, Copy)]
enum Table {
    Services,
    Endpoints,
    Cidrs,
    Groups,
    Peers,
    Ports,
    Ranges,
}

const TABLES: usize = Table::Ranges as usize + 1;

/// Ops by phase, and the most rows that each map holds while they are executed.
#[derive(Default)]
pub(super) struct Plan {
    phases: [Vec<MapOp>; PHASES],
    /// Some group appears or leaves: rows are ordered with care then.
    pub changes_groups: bool,
    peak: [usize; TABLES],
}

impl Plan {
    pub fn op(&mut self, phase: Phase, op: MapOp) {
        self.phases[phase as usize].push(op);
    }

    pub fn into_ops(self) -> Vec<MapOp> {
        self.phases.into_iter().flatten().collect()
    }
}

/// Order of the rows of [`abi::RangeKey`] here: all rows of a group side by side.
type RangeOrder = (u64, abi::RangeKey);

/// Rows as the kernel has them once the plans so far are executed. Slots of the slab are kept by
/// their service ([`super::services`]).
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Mirror {
    pub services: OrdMap<abi::ServiceKey, abi::ServiceValue>,
    pub endpoints: OrdMap<abi::Addr, abi::Endpoint>,
    pub cidrs: OrdMap<abi::CidrKey, u64>,
    pub groups: OrdMap<u64, abi::GroupHeader>,
    pub peers: OrdMap<abi::PeerKey, Mask>,
    /// (class, group) of `peers`.
    pub peers_by_class: OrdSet<(u64, u64)>,
    pub ports: OrdMap<abi::PortKey, Mask>,
    pub ranges: OrdMap<RangeOrder, Mask>,
}

impl Mirror {
    pub fn adopt(rows: &KernelRows) -> Self {
        let copy = |key: &abi::RangeKey| (u64::from_be_bytes(key.group), *key);
        Self {
            services: rows.services.iter().map(|(k, v)| (*k, *v)).collect(),
            endpoints: rows.endpoints.iter().map(|(k, v)| (*k, *v)).collect(),
            cidrs: rows.cidrs.iter().map(|(k, v)| (*k, *v)).collect(),
            groups: rows.groups.iter().map(|(k, v)| (*k, *v)).collect(),
            peers: rows.peers.iter().map(|(k, v)| (*k, *v)).collect(),
            peers_by_class: rows.peers.keys().map(|key| (key.class, key.group)).collect(),
            ports: rows.ports.iter().map(|(k, v)| (*k, *v)).collect(),
            ranges: rows.ranges.iter().map(|(k, v)| (copy(k), *v)).collect(),
        }
    }

    fn lengths(&self) -> [usize; TABLES] {
        [
            self.services.len(),
            self.endpoints.len(),
            self.cidrs.len(),
            self.groups.len(),
            self.peers.len(),
            self.ports.len(),
            self.ranges.len(),
        ]
    }

    /// Starts the count for [`check`](Self::check): rows that are there now.
    pub fn count(&self, plan: &mut Plan) {
        plan.peak = self.lengths();
    }

    /// Every map holds what the plan puts before its deletions (F44).
    pub fn check(&self, plan: &Plan, limits: &Limits) -> Result<(), Refused> {
        let limits = [
            (names::SERVICES, limits.services),
            (names::ENDPOINTS, limits.endpoints),
            (names::CIDRS, limits.cidrs),
            (names::GROUPS, limits.groups),
            (names::PEERS, limits.peers),
            (names::PORTS, limits.ports),
            (names::RANGES, limits.ranges),
        ];
        for (needed, (map, max)) in plan.peak.iter().zip(limits) {
            if *needed > max as usize {
                return Err(Refused::MapFull { map, needed: *needed, max });
            }
        }
        Ok(())
    }

    pub fn put_service(&mut self, plan: &mut Plan, key: abi::ServiceKey, value: abi::ServiceValue) {
        if put(&mut self.services, &mut plan.peak[Table::Services as usize], key, value) {
            plan.op(Phase::Services, MapOp::PutService(key, value));
        }
    }

    pub fn put_endpoint(
        &mut self,
        plan: &mut Plan,
        phase: Phase,
        key: abi::Addr,
        value: abi::Endpoint,
    ) {
        if put(&mut self.endpoints, &mut plan.peak[Table::Endpoints as usize], key, value) {
            plan.op(phase, MapOp::PutEndpoint(key, value));
        }
    }

    pub fn put_cidr(&mut self, plan: &mut Plan, phase: Phase, key: abi::CidrKey, class: u64) {
        if put(&mut self.cidrs, &mut plan.peak[Table::Cidrs as usize], key, class) {
            plan.op(phase, MapOp::PutCidr(key, class));
        }
    }

    pub fn put_group(&mut self, plan: &mut Plan, key: u64, value: abi::GroupHeader) {
        if put(&mut self.groups, &mut plan.peak[Table::Groups as usize], key, value) {
            plan.op(Phase::Headers, MapOp::PutGroup(key, value));
        }
    }

    pub fn put_peer(&mut self, plan: &mut Plan, key: abi::PeerKey, value: Mask) {
        if put(&mut self.peers, &mut plan.peak[Table::Peers as usize], key, value) {
            self.peers_by_class.insert((key.class, key.group));
            plan.op(Phase::Parts, MapOp::PutPeer(key, value));
        }
    }

    pub fn put_port(&mut self, plan: &mut Plan, key: abi::PortKey, value: Mask) {
        if put(&mut self.ports, &mut plan.peak[Table::Ports as usize], key, value) {
            plan.op(Phase::Parts, MapOp::PutPort(key, value));
        }
    }

    pub fn put_range(&mut self, plan: &mut Plan, key: abi::RangeKey, value: Mask) {
        let order = (u64::from_be_bytes(key.group), key);
        if put(&mut self.ranges, &mut plan.peak[Table::Ranges as usize], order, value) {
            plan.op(Phase::Parts, MapOp::PutRange(key, value));
        }
    }

    pub fn delete_peer(&mut self, plan: &mut Plan, phase: Phase, key: abi::PeerKey) {
        if self.peers.remove(&key).is_some() {
            self.peers_by_class.remove(&(key.class, key.group));
            plan.op(phase, MapOp::DelPeer(key));
        }
    }

    pub fn delete_port(&mut self, plan: &mut Plan, phase: Phase, key: abi::PortKey) {
        if self.ports.remove(&key).is_some() {
            plan.op(phase, MapOp::DelPort(key));
        }
    }

    pub fn delete_range(&mut self, plan: &mut Plan, phase: Phase, key: abi::RangeKey) {
        if self.ranges.remove(&(u64::from_be_bytes(key.group), key)).is_some() {
            plan.op(phase, MapOp::DelRange(key));
        }
    }

    /// Every row of a group: the header first, because it leads to the others.
    pub fn delete_group(&mut self, plan: &mut Plan, phase: Phase, group: u64) {
        if self.groups.remove(&group).is_some() {
            plan.op(phase, MapOp::DelGroup(group));
        }
        for key in self.peers_of_group(group) {
            self.delete_peer(plan, phase, key);
        }
        for key in self.ports_of_group(group) {
            self.delete_port(plan, phase, key);
        }
        for key in self.ranges_of_group(group) {
            self.delete_range(plan, phase, key);
        }
    }

    pub fn peers_of_group(&self, group: u64) -> Vec<abi::PeerKey> {
        let first = abi::PeerKey { group, class: 0 };
        let rows = self.peers.range(first..).map(|(key, _)| *key);
        rows.take_while(|key| key.group == group).collect()
    }

    pub fn peers_of_class(&self, class: u64) -> Vec<abi::PeerKey> {
        let rows = self.peers_by_class.range((class, 0)..).copied();
        rows.take_while(|(of, _)| *of == class)
            .map(|(class, group)| abi::PeerKey { group, class })
            .collect()
    }

    pub fn ports_of_group(&self, group: u64) -> Vec<abi::PortKey> {
        let first = abi::PortKey { group, ..abi::PortKey::default() };
        let rows = self.ports.range(first..).map(|(key, _)| *key);
        rows.take_while(|key| key.group == group).collect()
    }

    pub fn ranges_of_group(&self, group: u64) -> Vec<abi::RangeKey> {
        let rows = self.ranges.range((group, abi::RangeKey::default())..).map(|(key, _)| *key);
        rows.take_while(|(of, _)| *of == group).map(|(_, key)| key).collect()
    }
}

/// True when the row is not there like that; counts it when it is new.
fn put<K: Ord + Clone, V: Clone + PartialEq>(
    map: &mut OrdMap<K, V>,
    peak: &mut usize,
    key: K,
    value: V,
) -> bool {
    match map.get(&key) {
        Some(known) if *known == value => return false,
        Some(_) => {}
        None => *peak += 1,
    }
    map.insert(key, value);
    true
}
