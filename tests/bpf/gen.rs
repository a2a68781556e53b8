//! Random nodes and packets, small enough that they meet: few addresses, ports, classes and groups.
//!
//! A [`Node`] is map rows, whatever made them; [`steps`] are frames at hooks. Nothing here knows
//! of the kernel, so other judges (the oracle) can be asked about the same ones.

use longshore_abi::policy::{
    GROUP_HAS_CIDRS, GROUP_HAS_RANGES, ISOLATED_EGRESS, ISOLATED_INGRESS, LOCAL, NODE, OPEN,
};
use longshore_abi::{
    Addr, CidrKey, Endpoint, GroupHeader, IPPROTO_ICMP, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP,
    Mask, PeerKey, PortKey, RangeKey,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::select;

use crate::host::{self, Frame, Ip, Model};

/// Pods of this node: address and host-side interface.
pub const PODS: [([u8; 4], u32); 3] =
    [([10, 0, 0, 1], 101), ([10, 0, 0, 2], 102), ([10, 0, 0, 3], 103)];
pub const NODE_IP: [u8; 4] = [192, 168, 0, 1];
/// Pods of other nodes, and the world.
pub const REMOTES: [[u8; 4]; 4] = [[10, 0, 1, 1], [10, 0, 1, 2], [1, 2, 3, 4], [1, 2, 4, 4]];
pub const SERVICE_IP: [u8; 4] = [10, 96, 0, 10];
const PORTS: [u16; 4] = [53, 80, 8080, 40_000];
const GROUPS: [u64; 3] = [0x11, 0x2222, 0xffff_ffff_ffff_fff0];
const CLASSES: [u64; 3] = [1, 2, 0x8000_0000_0000_0000];
const BITS: [usize; 3] = [0, 64, 255];

/// The rows of a node. `stamp` of every endpoint is to be made unique per case, so that the flows
/// of one case mean nothing to the next.
#[derive(Clone, Debug)]
pub struct Node {
    pub rows: Model,
}

/// A packet at a hook.
#[derive(Clone, Debug)]
pub struct Step {
    pub hook: Hook,
    pub frame: Frame,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    Out,
    In,
}

fn mask() -> impl Strategy<Value = Mask> {
    proptest::sample::subsequence(BITS.to_vec(), 0..=BITS.len()).prop_map(|bits| {
        let mut mask = Mask::default();
        for bit in bits {
            mask.bits[bit / 64] |= 1 << (bit % 64);
        }
        mask
    })
}

fn sparse(strategy: impl Strategy<Value = Mask>) -> impl Strategy<Value = Mask> {
    prop_oneof![3 => Just(Mask::default()), 1 => strategy]
}

fn proto() -> impl Strategy<Value = u8> {
    select(vec![IPPROTO_TCP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP])
}

fn port() -> impl Strategy<Value = u16> {
    select(PORTS.to_vec())
}

fn class() -> impl Strategy<Value = u64> {
    prop_oneof![4 => select(CLASSES.to_vec()), 1 => Just(0)]
}

fn group() -> impl Strategy<Value = u64> {
    // The last is a group without rows.
    prop_oneof![6 => select(GROUPS.to_vec()), 1 => Just(0xdead)]
}

prop_compose! {
    fn local(ifindex: u32)(
        class in class(),
        stamp in 1..3_u64,
        ingress in group(),
        egress in group(),
        isolation in select(vec![0, ISOLATED_INGRESS, ISOLATED_EGRESS, ISOLATED_INGRESS | ISOLATED_EGRESS]),
        open in prop_oneof![9 => Just(OPEN), 1 => Just(0)],
        moved in prop_oneof![19 => Just(0), 1 => Just(1_u32)],
    ) -> Endpoint {
        Endpoint {
            class, stamp, ingress, egress,
            ifindex: ifindex + moved,
            flags: LOCAL | open | isolation,
            mac: [2, 0, 0, 0, 1, ifindex as u8],
            reserved: [0; 10],
        }
    }
}

fn endpoints() -> impl Strategy<Value = Vec<(Addr, Endpoint)>> {
    let pods = PODS.map(|(addr, ifindex)| {
        proptest::option::weighted(0.95, local(ifindex)).prop_map(move |row| (Addr::v4(addr), row))
    });
    let remotes = REMOTES.map(|addr| {
        let row = (class(), 1..3_u64).prop_map(|(class, stamp)| Endpoint {
            class,
            stamp,
            ..Endpoint::default()
        });
        proptest::option::of(row).prop_map(move |row| (Addr::v4(addr), row))
    });
    (pods, remotes).prop_map(|(pods, remotes)| {
        let node = Endpoint { flags: NODE, stamp: 1, ..Endpoint::default() };
        let known = pods.into_iter().chain(remotes).filter_map(|(a, row)| Some((a, row?)));
        known.chain([(Addr::v4(NODE_IP), node)]).collect()
    })
}

fn cidr_key() -> impl Strategy<Value = CidrKey> {
    let addr = select(vec![REMOTES[0], REMOTES[2], REMOTES[3], PODS[0].0]);
    (addr, select(vec![96, 104, 112, 119, 120, 128]))
        .prop_map(|(addr, len)| host::cidr(Addr::v4(addr), len))
}

fn range_key() -> impl Strategy<Value = RangeKey> {
    (select(GROUPS.to_vec()), proto(), port(), select(vec![72, 73, 78, 84, 88]))
        .prop_map(|(group, proto, port, len)| host::range(group, proto, port, len))
}

prop_compose! {
    pub fn node()(
        endpoints in endpoints(),
        cidrs in btree_map(cidr_key(), select(CLASSES.to_vec()), 0..4),
        groups in btree_map(
            select(GROUPS.to_vec()),
            (sparse(mask()), sparse(mask()), select(vec![0, GROUP_HAS_CIDRS, GROUP_HAS_RANGES, GROUP_HAS_CIDRS | GROUP_HAS_RANGES])),
            2..=3,
        ),
        peers in btree_map((select(GROUPS.to_vec()), select(CLASSES.to_vec())), mask(), 0..9),
        ports in btree_map((select(GROUPS.to_vec()), port(), proto()), mask(), 0..20),
        ranges in btree_map(range_key(), mask(), 0..6),
    ) -> Node {
        let header = |(any_peer, any_port, flags)| GroupHeader { any_peer, any_port, flags, reserved: 0 };
        Node {
            rows: Model {
                endpoints: endpoints.into_iter().collect(),
                cidrs,
                groups: groups.into_iter().map(|(id, parts)| (id, header(parts))).collect(),
                peers: peers.into_iter().map(|((group, class), m)| (PeerKey { group, class }, m)).collect(),
                ports: ports
                    .into_iter()
                    .map(|((group, port, proto), m)| {
                        (PortKey { group, port: port.to_be(), proto, reserved: [0; 5] }, m)
                    })
                    .collect(),
                ranges,
                ..Model::default()
            },
        }
    }
}

fn addr() -> impl Strategy<Value = [u8; 4]> {
    let mut all: Vec<[u8; 4]> = PODS.iter().map(|(addr, _)| *addr).collect();
    all.extend(all.clone());
    all.extend(REMOTES);
    all.extend([NODE_IP, SERVICE_IP, [224, 0, 0, 1]]);
    select(all)
}

fn plain_ip() -> impl Strategy<Value = Ip> {
    let tcp_flags = select(vec![0x02, 0x12, 0x10, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00]);
    let ends = || (addr(), port(), addr(), port());
    prop_oneof![
        6 => (ends(), tcp_flags)
            .prop_map(|((s, sp, d, dp), flags)| Ip::tcp((s, sp), (d, dp), flags)),
        4 => ends().prop_map(|(s, sp, d, dp)| Ip::udp((s, sp), (d, dp))),
        1 => ends().prop_map(|(s, sp, d, dp)| {
            let mut ip = Ip::udp((s, sp), (d, dp));
            ip.proto = IPPROTO_SCTP;
            ip
        }),
        2 => (addr(), addr(), select(vec![0, 8, 13, 14, 5]), 0..3_u16)
            .prop_map(|(s, d, kind, id)| Ip::icmp(s, d, kind, id)),
        1 => (addr(), addr(), select(vec![2, 47, 50, 255]), vec(any::<u8>(), 0..20))
            .prop_map(|(s, d, proto, payload)| Ip::new(s, d, proto, payload)),
    ]
}

fn ip() -> impl Strategy<Value = Ip> {
    let whole = plain_ip();
    let quoting = (addr(), addr(), select(vec![3, 11, 12, 4]), plain_ip())
        .prop_map(|(s, d, kind, inner)| Ip::icmp_error(s, d, kind, &inner));
    // Errors that answer what their receiver sent, most of all.
    let related = (select(vec![3, 11, 12]), plain_ip(), proptest::option::of(addr())).prop_map(
        |(kind, inner, router)| {
            Ip::icmp_error(router.unwrap_or(inner.dst), inner.src, kind, &inner)
        },
    );
    let fragment = (plain_ip(), 0..3_u16, select(vec![0, 1, 2, 185]), any::<bool>())
        .prop_map(|(ip, id, offset, more)| Ip { id, ..ip.fragment(offset, more) });
    prop_oneof![12 => whole, 1 => quoting, 2 => related, 2 => fragment]
}

fn damage() -> impl Strategy<Value = Option<Damage>> {
    let damage = prop_oneof![
        (14..60_usize, any::<u8>()).prop_map(|(at, value)| Damage::Byte(at, value)),
        (15..80_usize).prop_map(Damage::Cut),
        (1..20_usize).prop_map(Damage::Pad),
        select(vec![0x0806, 0x86dd, 0x8100, 0x88cc]).prop_map(Damage::Ethertype),
    ];
    proptest::option::weighted(0.15, damage)
}

#[derive(Clone, Debug)]
enum Damage {
    Byte(usize, u8),
    Cut(usize),
    Pad(usize),
    Ethertype(u16),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Damage::Byte(at, value) => {
                if let Some(byte) = bytes.get_mut(*at) {
                    *byte = *value;
                }
            }
            Damage::Cut(len) => bytes.truncate(*len),
            Damage::Pad(len) => bytes.resize(bytes.len() + len, 0xaa),
            Damage::Ethertype(ethertype) => {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let elsewhere = select(vec![101, 102, 103]);
    let ingress = select(vec![0, 1, 101]);
    (any::<bool>(), ip(), proptest::option::weighted(0.1, elsewhere), ingress, damage()).prop_map(
        |(is_out, ip, elsewhere, ingress, damage)| {
            let end = if is_out { ip.src } else { ip.dst };
            let own = PODS.iter().find(|(addr, _)| *addr == end).map(|(_, ifindex)| *ifindex);
            let ifindex = elsewhere.or(own).unwrap_or(101);
            let mut frame = ip.through(if is_out { ifindex } else { ingress }, ifindex);
            if let Some(damage) = damage {
                damage.apply(&mut frame.bytes);
            }
            Step { hook: if is_out { Hook::Out } else { Hook::In }, frame }
        },
    )
}

/// Packets one after another: later ones meet the flows and fragments of earlier ones.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(step(), 1..40)
}

/// Whether this is what a test is about; keeps the generator honest.
pub fn is_icmp(frame: &Frame) -> bool {
    frame.bytes.get(23) == Some(&IPPROTO_ICMP)
}
