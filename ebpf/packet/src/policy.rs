//! NetworkPolicy of one packet in one direction: the formula of `longshore_abi::policy`.

use longshore_abi::policy::{
    GROUP_HAS_CIDRS, GROUP_HAS_RANGES, ISOLATED_EGRESS, ISOLATED_INGRESS, LOCAL,
};
use longshore_abi::{Addr, CidrKey, DropReason, Mask, PeerKey, PortKey, RangeKey};

use crate::Maps;
use crate::parse::has_ports;

/// One end of a packet: its address, and its row or zeros. `repr(C)`: programs pass it between
/// functions that the verifier checks apart.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    pub addr: Addr,
    pub class: u64,
    /// 0: no row.
    pub stamp: u64,
    pub ingress: u64,
    pub egress: u64,
    /// Flags of `longshore_abi::policy`, and [`KNOWN`].
    pub flags: u32,
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub reserved: [u8; 2],
}

/// There is a row.
pub const KNOWN: u32 = 1 << 31;

impl End {
    /// No address yet, and no row.
    pub const NONE: Self = Self {
        addr: Addr { words: [0, 0, 0, 0] },
        class: 0,
        stamp: 0,
        ingress: 0,
        egress: 0,
        flags: 0,
        ifindex: 0,
        mac: [0, 0, 0, 0, 0, 0],
        reserved: [0, 0],
    };

    /// Fills [`End::NONE`] in place: a BPF stack has no room for copies. The row is read at once:
    /// its element may be recycled a moment later.
    #[inline(always)]
    pub fn look_up<M: Maps>(&mut self, maps: &M, addr: Addr) {
        self.addr = addr;
        if let Some(row) = maps.endpoint(&self.addr) {
            self.class = row.class;
            self.stamp = row.stamp;
            self.ingress = row.ingress;
            self.egress = row.egress;
            self.flags = row.flags | KNOWN;
            self.ifindex = row.ifindex;
            self.mac = row.mac;
        }
    }

    /// All of these flags.
    #[inline(always)]
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// A pod of this node whose veth is this interface.
    #[inline(always)]
    pub fn is_behind(&self, ifindex: u32) -> bool {
        self.has(LOCAL) && self.ifindex == ifindex
    }

    /// Some policy selects this pod of our node, in whatever direction: its flows are tracked.
    #[inline(always)]
    pub fn is_isolated(&self) -> bool {
        self.has(LOCAL) && self.flags & (ISOLATED_INGRESS | ISOLATED_EGRESS) != 0
    }
}

/// Protocol and destination port of what is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// Network byte order; 0 where the protocol has none.
    pub port: u16,
    pub proto: u8,
}

impl Service {
    /// What only rules for every port match (C8): protocol 0 has none.
    pub const EVERY: Self = Self { port: 0, proto: 0 };
}

/// Whether `src` may open to `service` of `dst`: egress of one and ingress of the other (C2).
///
/// # Errors
/// [`DropReason::PolicyEgress`], [`DropReason::PolicyIngress`].
#[inline(always)]
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
    let any_peer = header.any_peer;
    let mut ports = header.any_port;
    if has_ports(service.proto) {
        let (port, proto) = (service.port, service.proto);
        let key = PortKey { group, port, proto, reserved: [0, 0, 0, 0, 0] };
        if let Some(mask) = maps.port(&key) {
            union(&mut ports, mask);
        }
        if flags & GROUP_HAS_RANGES != 0 {
            let key = RangeKey {
                prefix_len: RangeKey::BITS,
                group: group.to_be_bytes(),
                proto,
                port: port.to_ne_bytes(),
                reserved: 0,
            };
            if let Some(mask) = maps.range(&key) {
                union(&mut ports, &mask);
            }
        }
    }
    if meet(&any_peer, &ports) {
        return true;
    }
    let mut key = PeerKey { group, class: peer.class };
    if peer.class != 0
        && let Some(mask) = maps.peer(&key)
        && meet(mask, &ports)
    {
        return true;
    }
    if flags & GROUP_HAS_CIDRS == 0 {
        return false;
    }
    let Some(class) = maps.cidr_class(&CidrKey { prefix_len: 128, addr: peer.addr }) else {
        return false;
    };
    key.class = class;
    maps.peer(&key).is_some_and(|mask| meet(mask, &ports))
}

#[inline(always)]
fn union(mask: &mut Mask, with: &Mask) {
    mask.bits[0] |= with.bits[0];
    mask.bits[1] |= with.bits[1];
    mask.bits[2] |= with.bits[2];
    mask.bits[3] |= with.bits[3];
}

#[inline(always)]
fn meet(a: &Mask, b: &Mask) -> bool {
    let [a, b] = [&a.bits, &b.bits];
    (a[0] & b[0]) | (a[1] & b[1]) | (a[2] & b[2]) | (a[3] & b[3]) != 0
}
