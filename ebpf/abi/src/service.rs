//! Services: a frontend row names a range of the backend slab.

use crate::Addr;

/// Which of a Service's faces a frontend is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum View {
    /// ClusterIP.
    #[default]
    Internal = 0,
    /// LoadBalancer and external addresses.
    External = 1,
    /// NodePort: the address of the key is zero.
    NodePort = 2,
}

/// Key of a frontend.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceKey {
    pub addr: Addr,
    /// Network byte order.
    pub port: u16,
    pub proto: u8,
    /// [`View`] as its number.
    pub view: u8,
}

/// A frontend: slots `base .. base + count` of the slab, local backends first.
///
/// A reader checks `service` and `generation` of the slot against this row: hash elements are
/// recycled without a grace period, so a value pointer may change under the reader.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ServiceValue {
    pub base: u32,
    pub generation: u32,
    pub service: u32,
    /// 0: no endpoints, the caller gets ECONNREFUSED (B26).
    pub count: u16,
    /// The first `count_local` slots are on this node.
    pub count_local: u16,
    /// `FLAG_*` of this module.
    pub flags: u32,
    /// ClientIP affinity in seconds; 0: none (B18).
    pub affinity_s: u32,
    pub reserved: [u32; 2],
}

/// internalTrafficPolicy Local: choose among the local slots only; none: drop (B24).
pub const FLAG_LOCAL_ONLY: u32 = 1;
/// With `FLAG_LOCAL_ONLY` and no local slot: endpoints exist elsewhere, so drop and do not refuse.
pub const FLAG_REMOTE_EXISTS: u32 = 2;

/// One slot of the slab.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Backend {
    pub addr: Addr,
    /// Network byte order.
    pub port: u16,
    pub flags: u8,
    pub zone: u8,
    pub service: u32,
    pub generation: u32,
    pub reserved: u32,
}

/// What the hooks remember of a translated socket; freed with the socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SocketState {
    pub vip: Addr,
    pub backend: Addr,
    /// Network byte order, as `backend_port`.
    pub vip_port: u16,
    pub backend_port: u16,
    pub service: u32,
    pub generation: u32,
    pub flags: u32,
}
