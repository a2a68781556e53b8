//! NetworkPolicy of one packet in one direction: the formula of `longshore_abi::policy`.

use longshore_abi::policy::{
    GROUP_HAS_CIDRS, GROUP_HAS_RANGES, ISOLATED_EGRESS, ISOLATED_INGRESS, LOCAL,
};
use longshore_abi::{Addr, CidrKey, DropReason, Endpoint, Mask, PeerKey, PortKey, RangeKey};

use crate::Maps;
use crate::parse::has_ports;

/// One end of a packet: its address and what policy needs of its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub addr: Addr,
    pub class: u64,
    /// 0: no row.
    pub stamp: u64,
    pub ingress: u64,
    pub egress: u64,
    /// 0: no row.
    pub flags: u32,
}

impl End {
    #[inline(always)]
    pub fn new(addr: Addr, row: Option<&Endpoint>) -> Self {
        match row {
            Some(row) => Self {
                addr,
                class: row.class,
                stamp: row.stamp,
                ingress: row.ingress,
                egress: row.egress,
                flags: row.flags,
            },
            None => Self { addr, class: 0, stamp: 0, ingress: 0, egress: 0, flags: 0 },
        }
    }

    /// Some policy of this node's selects it, in whatever direction: its flows are tracked.
    #[inline(always)]
    pub fn is_isolated(&self) -> bool {
        self.flags & LOCAL != 0 && self.flags & (ISOLATED_INGRESS | ISOLATED_EGRESS) != 0
    }

    #[inline(always)]
    fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }
}

/// Protocol and destination port of what is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// Network byte order; 0 where the protocol has none.
    pub port: u16,
    pub proto: u8,
}

/// Whether `src` may open to `service` of `dst`: egress of one and ingress of the other (C2).
///
/// # Errors
/// [`DropReason::PolicyEgress`], [`DropReason::PolicyIngress`].
// A function of its own, like `allow`: the packet paths ask up to four times.
#[inline(never)]
pub fn evaluate<M: Maps>(
    maps: &M,
    src: &End,
    dst: &End,
    service: Service,
) -> Result<(), DropReason> {
    // No policy can cut a pod off from itself (C12).
    if src.addr == dst.addr {
        return Ok(());
    }
    if src.has(LOCAL | ISOLATED_EGRESS) && !allow(maps, src.egress, dst, service) {
        return Err(DropReason::PolicyEgress);
    }
    if dst.has(LOCAL | ISOLATED_INGRESS) && !allow(maps, dst.ingress, src, service) {
        return Err(DropReason::PolicyIngress);
    }
    Ok(())
}

/// Whether `group` lets its pods exchange `service` with `peer`. A missing group denies (I9).
#[inline(never)]
fn allow<M: Maps>(maps: &M, group: u64, peer: &End, service: Service) -> bool {
    let Some(header) = maps.group(group) else {
        return false;
    };
    let flags = header.flags;
    let mut peers = header.any_peer;
    let mut ports = header.any_port;
    if peer.class != 0 {
        union(&mut peers, maps.peer(&PeerKey { group, class: peer.class }));
    }
    if flags & GROUP_HAS_CIDRS != 0
        && let Some(class) = maps.cidr_class(&CidrKey { prefix_len: 128, addr: peer.addr })
    {
        union(&mut peers, maps.peer(&PeerKey { group, class }));
    }
    if has_ports(service.proto) {
        let key = PortKey { group, port: service.port, proto: service.proto, reserved: [0; 5] };
        union(&mut ports, maps.port(&key));
        if flags & GROUP_HAS_RANGES != 0 {
            let key = RangeKey {
                prefix_len: RangeKey::BITS,
                group: group.to_be_bytes(),
                proto: service.proto,
                port: service.port.to_ne_bytes(),
                reserved: 0,
            };
            union(&mut ports, maps.range(&key).as_ref());
        }
    }
    let [p, q] = [peers.bits, ports.bits];
    (p[0] & q[0]) | (p[1] & q[1]) | (p[2] & q[2]) | (p[3] & q[3]) != 0
}

#[inline(always)]
fn union(mask: &mut Mask, with: Option<&Mask>) {
    if let Some(with) = with {
        mask.bits[0] |= with.bits[0];
        mask.bits[1] |= with.bits[1];
        mask.bits[2] |= with.bits[2];
        mask.bits[3] |= with.bits[3];
    }
}
