//! Byte layout of every eBPF map key and value: the contract between programs and daemon.
//!
//! `no_std`, no dependency, no logic beyond constructors and ages: both sides compile the same
//! file.
//! Every struct is `repr(C)` with explicit padding, because a hash map compares padding bytes; the
//! asserts at the end hold the sizes. A change here is a new [`LAYOUT`]: pins live in a
//! directory of that name, so two layouts never meet.
//!
//! Ports and addresses are in network byte order, as they stand in packets. IPv4 is carried as
//! v4-mapped IPv6, so every key has room for both families.
#![no_std]

pub mod names;
pub mod policy;
pub mod reason;
pub mod service;
pub mod track;

pub use policy::{Endpoint, GroupHeader, Mask, PeerKey, PortKey, RangeKey};
pub use reason::DropReason;
pub use service::{Backend, ServiceKey, ServiceValue, SocketState, View};
pub use track::{FlowKey, FlowValue, FragmentKey, FragmentValue};

/// Version of everything in this crate; part of the pin path (`bpf/v1/…`).
pub const LAYOUT: u32 = 1;

pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_SCTP: u8 = 132;

/// An IPv6 address, or an IPv4 address as `::ffff:a.b.c.d`, as four words in network byte order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Addr {
    pub words: [u32; 4],
}

impl Addr {
    /// Third word of every v4-mapped address.
    pub const V4_PREFIX: u32 = 0x0000_ffff_u32.to_be();

    /// `raw` as it stands in the packet (network byte order).
    #[inline(always)]
    pub const fn v4_raw(raw: u32) -> Self {
        Self { words: [0, 0, Self::V4_PREFIX, raw] }
    }

    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::v4_raw(u32::from_ne_bytes(octets))
    }

    #[inline(always)]
    pub const fn v6(octets: [u8; 16]) -> Self {
        let o = octets;
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// The IPv4 address in network byte order, if this is one.
    #[inline(always)]
    pub const fn as_v4_raw(&self) -> Option<u32> {
        if self.words[0] == 0 && self.words[1] == 0 && self.words[2] == Self::V4_PREFIX {
            Some(self.words[3])
        } else {
            None
        }
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let (a, b) = (self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes());
        let (c, d) = (self.words[2].to_ne_bytes(), self.words[3].to_ne_bytes());
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }
}

/// Key of an LPM trie: `prefix_len` counts bits of `data`, most significant bit first.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CidrKey {
    /// Bits of the v4-mapped address: an IPv4 /24 is 120.
    pub prefix_len: u32,
    pub addr: Addr,
}

const _: () = {
    assert!(size_of::<Addr>() == 16);
    assert!(size_of::<CidrKey>() == 20);
    assert!(size_of::<ServiceKey>() == 20);
    assert!(size_of::<ServiceValue>() == 32);
    assert!(size_of::<Backend>() == 32);
    assert!(size_of::<SocketState>() == 48);
    assert!(size_of::<Endpoint>() == 56);
    assert!(size_of::<GroupHeader>() == 72);
    assert!(size_of::<PeerKey>() == 16);
    assert!(size_of::<PortKey>() == 16);
    assert!(size_of::<RangeKey>() == 16);
    assert!(size_of::<Mask>() == 32);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<FlowValue>() == 32);
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentValue>() == 16);
};
