//! Flows and fragments that were seen: soft state.

use std::collections::BTreeMap;
use std::net::IpAddr;

use longshore_abi::track::{FLOW_ANY_REPLIED_NS, FLOW_ANY_UNREPLIED_NS, FRAGMENT_NS};

use super::packet::{Packet, Transport};
use crate::image::{Class, Image};

/// Who an address was when a flow was allowed; `None`: no row.
pub type Identity = Option<(Class, Option<u64>, Option<u64>)>;

pub fn identity(image: &Image, addr: IpAddr) -> Identity {
    let row = image.endpoints.get(&addr)?;
    Some((row.class.clone(), row.ingress, row.egress))
}

/// One side of a flow: address and port, or ICMP identifier, or 0.
pub type Side = (IpAddr, u16);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FlowKey {
    proto: u8,
    low: Side,
    high: Side,
}

impl FlowKey {
    pub fn of(proto: u8, one: Side, other: Side) -> Self {
        Self { proto, low: one.min(other), high: one.max(other) }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Flow {
    opener: Side,
    identities: BTreeMap<IpAddr, Identity>,
    replied: bool,
    seen_ns: u64,
}

/// What a flow's row says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    No,
    /// Policy allowed it, and both ends are who they were.
    Current {
        opener: Side,
    },
    /// An end has another class or group now: the flow must be judged anew.
    Stale {
        opener: Side,
    },
}

/// Everything tracked. [`Flows::default`] is a fresh start; dropping it at any time breaks no
/// allowed TCP connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flows {
    flows: BTreeMap<FlowKey, Flow>,
    fragments: BTreeMap<(IpAddr, IpAddr, u32, u8), (Transport, u64)>,
}

impl Flows {
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// What is known of the flow; one that is too old is unknown.
    pub fn find(&self, image: &Image, key: &FlowKey, now_ns: u64) -> Known {
        let Some(flow) = self.flows.get(key) else { return Known::No };
        let age_max = if flow.replied { FLOW_ANY_REPLIED_NS } else { FLOW_ANY_UNREPLIED_NS };
        let is_tcp = key.proto == longshore_abi::IPPROTO_TCP;
        if !is_tcp && now_ns.saturating_sub(flow.seen_ns) > age_max {
            return Known::No;
        }
        if flow.identities.iter().all(|(addr, was)| identity(image, *addr) == *was) {
            Known::Current { opener: flow.opener }
        } else {
            Known::Stale { opener: flow.opener }
        }
    }

    /// A packet of a flow that counts went by.
    pub fn refresh(&mut self, key: &FlowKey, sender: Side, now_ns: u64) {
        if let Some(flow) = self.flows.get_mut(key) {
            flow.seen_ns = now_ns;
            flow.replied |= sender != flow.opener;
        }
    }

    pub fn insert(
        &mut self,
        image: &Image,
        key: FlowKey,
        opener: Side,
        replied: bool,
        now_ns: u64,
    ) {
        let ends = [key.low.0, key.high.0];
        let identities = ends.into_iter().map(|addr| (addr, identity(image, addr))).collect();
        self.flows.insert(key, Flow { opener, identities, replied, seen_ns: now_ns });
    }

    /// Remembers the header of a first fragment.
    pub fn first_fragment(&mut self, packet: &Packet, id: u32, now_ns: u64) {
        let key = (packet.src, packet.dst, id, packet.transport.number());
        self.fragments.insert(key, (packet.transport.clone(), now_ns));
    }

    /// The header that the first fragment had.
    pub fn header_of(&self, packet: &Packet, id: u32, now_ns: u64) -> Option<Transport> {
        let key = (packet.src, packet.dst, id, packet.transport.number());
        let (transport, seen_ns) = self.fragments.get(&key)?;
        (now_ns.saturating_sub(*seen_ns) <= FRAGMENT_NS).then(|| transport.clone())
    }
}
