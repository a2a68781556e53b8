//! Names of maps and pins, and their sizes. One place: the programs declare them, the daemon
//! creates, pins, dumps and counts them.

/// Service frontends: HASH [`crate::ServiceKey`] → [`crate::ServiceValue`].
pub const SERVICES: &str = "services";
/// Backend slab: ARRAY u32 → [`crate::Backend`].
pub const BACKENDS: &str = "backends";
/// Per-socket translation: SK_STORAGE → [`crate::SocketState`].
pub const SOCKETS: &str = "sockets";
/// Pods and node addresses: HASH [`crate::Addr`] → [`crate::Endpoint`].
pub const ENDPOINTS: &str = "endpoints";
/// ipBlock classes: LPM_TRIE [`crate::CidrKey`] → u64 (class).
pub const CIDRS: &str = "cidrs";
/// Policy groups: HASH u64 (group) → [`crate::GroupHeader`].
pub const GROUPS: &str = "groups";
/// Peers of a group: HASH [`crate::PeerKey`] → [`crate::Mask`].
pub const PEERS: &str = "peers";
/// Ports of a group: HASH [`crate::PortKey`] → [`crate::Mask`].
pub const PORTS: &str = "ports";
/// Port ranges of a group: LPM_TRIE [`crate::RangeKey`] → [`crate::Mask`].
pub const RANGES: &str = "ranges";
/// TCP flows: LRU_HASH [`crate::FlowKey`] → [`crate::FlowValue`].
pub const FLOWS_TCP: &str = "flows_tcp";
/// Flows of every other protocol, so that TCP cannot evict them.
pub const FLOWS_ANY: &str = "flows_any";
/// First fragments' ports: LRU_HASH [`crate::FragmentKey`] → [`crate::FragmentValue`].
pub const FRAGMENTS: &str = "fragments";
/// Drops by [`crate::DropReason`]: PERCPU_ARRAY u32 → u64 packets.
pub const DROPS: &str = "drops";

pub const SERVICES_MAX: u32 = 65_536;
pub const BACKENDS_MAX: u32 = 262_144;
pub const ENDPOINTS_MAX: u32 = 65_536;
pub const CIDRS_MAX: u32 = 16_384;
pub const GROUPS_MAX: u32 = 4_096;
pub const PEERS_MAX: u32 = 32_768;
pub const PORTS_MAX: u32 = 16_384;
pub const RANGES_MAX: u32 = 16_384;
pub const FLOWS_TCP_MAX: u32 = 65_536;
pub const FLOWS_ANY_MAX: u32 = 32_768;
pub const FRAGMENTS_MAX: u32 = 8_192;
