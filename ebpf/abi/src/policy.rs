//! NetworkPolicy: endpoints, and masks of groups over classes and ports.
//!
//! `allow(g, peer, proto, port) =
//!   (any_peer[g] | peers[g, class(peer)] | peers[g, cidr_class(peer)])
//! & (any_port[g] | ports[g, proto, port] | ranges[g, proto, port]) ≠ 0`
//!
//! Classes, groups and stamps are 64-bit hashes of their canonical text, computed by the daemon
//! and checked there for collisions. So a restart that meets the same objects computes the same
//! bytes, and a row of a group or class never changes its meaning: a new meaning is a new number.

/// One bit for each distinct port set of a group.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mask {
    pub bits: [u64; 4],
}

impl Mask {
    /// Distinct port sets that one group can have.
    pub const BITS: usize = 256;
}

/// What is at an address: a pod (of this or another node) or an address of this node.
///
/// No row: the world. A pod without a row of its own, or with one that lacks [`OPEN`], exchanges
/// packets with its own node only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Endpoint {
    /// Class as a peer; 0: matches no selector.
    pub class: u64,
    /// Changes whenever a verdict of this endpoint may change: flows of an old stamp are judged anew.
    pub stamp: u64,
    /// Group that isolates ingress; read only with [`ISOLATED_INGRESS`].
    pub ingress: u64,
    /// Group that isolates egress; read only with [`ISOLATED_EGRESS`].
    pub egress: u64,
    /// Host side of the pod's veth; 0 when not on this node.
    pub ifindex: u32,
    /// Flags of this module.
    pub flags: u32,
    /// MAC of the pod's own interface.
    pub mac: [u8; 6],
    pub reserved: [u8; 10],
}

/// A pod of this node: `ifindex` and `mac` hold.
pub const LOCAL: u32 = 1;
/// An address of this node itself (also of its hostNetwork pods).
pub const NODE: u32 = 2;
/// The policy of this local pod is in the kernel: it may exchange packets with others.
pub const OPEN: u32 = 4;
pub const ISOLATED_INGRESS: u32 = 8;
pub const ISOLATED_EGRESS: u32 = 16;

/// What holds for a group whatever the peer or port is.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct GroupHeader {
    /// Port sets that every peer may use.
    pub any_peer: Mask,
    /// Port sets that hold every port of every protocol.
    pub any_port: Mask,
    /// `GROUP_*` flags.
    pub flags: u32,
    pub reserved: u32,
}

/// Some peer of the group is an ipBlock: the CIDR trie must be asked.
pub const GROUP_HAS_CIDRS: u32 = 1;
/// Some port set of the group is in the range trie.
pub const GROUP_HAS_RANGES: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PeerKey {
    pub group: u64,
    /// Class of an endpoint or of a CIDR.
    pub class: u64,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortKey {
    pub group: u64,
    /// Network byte order.
    pub port: u16,
    pub proto: u8,
    pub reserved: [u8; 5],
}

/// Key of the range trie: group (big-endian), protocol, port, matched from the left.
///
/// A node's mask is the union of all ranges that cover it: a trie answers the longest match only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RangeKey {
    /// Up to [`RangeKey::BITS`].
    pub prefix_len: u32,
    pub group: [u8; 8],
    pub proto: u8,
    pub port: [u8; 2],
    pub reserved: u8,
}

impl RangeKey {
    /// Bits of group, protocol and port.
    pub const BITS: u32 = 64 + 8 + 16;
    /// Bits of group and protocol: every port of a protocol.
    pub const BITS_PROTO: u32 = 64 + 8;
}
