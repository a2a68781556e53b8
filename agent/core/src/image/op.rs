//! The physical layer's two messages: rows to write, and rows that are there.

use std::collections::BTreeMap;

use longshore_abi as abi;

/// One map write. The order of a list of them is part of the contract: whatever a row refers to
/// was written before it, and is deleted after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapOp {
    PutService(abi::ServiceKey, abi::ServiceValue),
    DelService(abi::ServiceKey),
    PutBackend(u32, abi::Backend),
    PutEndpoint(abi::Addr, abi::Endpoint),
    DelEndpoint(abi::Addr),
    PutCidr(abi::CidrKey, u64),
    DelCidr(abi::CidrKey),
    PutGroup(u64, abi::GroupHeader),
    DelGroup(u64),
    PutPeer(abi::PeerKey, abi::Mask),
    DelPeer(abi::PeerKey),
    PutPort(abi::PortKey, abi::Mask),
    DelPort(abi::PortKey),
    PutRange(abi::RangeKey, abi::Mask),
    DelRange(abi::RangeKey),
}

/// All rows of the kernel's maps, as read back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KernelRows {
    pub services: BTreeMap<abi::ServiceKey, abi::ServiceValue>,
    /// Slots with a generation other than 0.
    pub backends: BTreeMap<u32, abi::Backend>,
    pub endpoints: BTreeMap<abi::Addr, abi::Endpoint>,
    pub cidrs: BTreeMap<abi::CidrKey, u64>,
    pub groups: BTreeMap<u64, abi::GroupHeader>,
    pub peers: BTreeMap<abi::PeerKey, abi::Mask>,
    pub ports: BTreeMap<abi::PortKey, abi::Mask>,
    pub ranges: BTreeMap<abi::RangeKey, abi::Mask>,
}
