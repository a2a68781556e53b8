//! The packet logic of Longshore: generic over [`Packet`] and [`Maps`], without aya.
//!
//! The same source runs in the kernel (monomorphised by `ebpf/programs`) and in `cargo test`.
//! Deliberately absent: attaching, counting drops and logging (the programs do that), and IPv6,
//! whose twins come with the Service issue; until then a pod's IPv6 is dropped with a reason.
#![no_std]

pub mod flow;
pub mod icmp;
pub mod parse;
pub mod pod;
pub mod policy;
pub mod socket;

use longshore_abi::{
    Addr, CidrKey, DropReason, Endpoint, FlowKey, FlowValue, FragmentKey, FragmentValue,
    GroupHeader, Mask, PeerKey, PortKey, RangeKey,
};

/// A frame as a hook sees it, Ethernet header first.
pub trait Packet {
    /// Bytes of the whole frame.
    fn frame_len(&self) -> u32;
    /// `N` bytes at `offset` of the frame, a constant; `None` when they are not all there.
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// The same for an offset that the packet itself gives.
    fn bytes_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
    /// A VLAN tag that the NIC or veth carries beside the frame.
    fn has_vlan_tag(&self) -> bool;
    /// Interface of the hook.
    fn ifindex(&self) -> u32;
    /// Interface on which the packet came in; 0: this node made it.
    fn ingress_ifindex(&self) -> u32;
}

/// The maps of `longshore-abi` that packets need. An element can be recycled under a reader: what
/// is needed of a row is read once, right after the lookup.
pub trait Maps {
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint>;
    /// Class of the longest prefix.
    fn cidr_class(&self, key: &CidrKey) -> Option<u64>;
    fn group(&self, group: u64) -> Option<&GroupHeader>;
    fn peer(&self, key: &PeerKey) -> Option<&Mask>;
    fn port(&self, key: &PortKey) -> Option<&Mask>;
    /// Mask of the longest prefix.
    fn range(&self, key: &RangeKey) -> Option<Mask>;
    /// Changes a flow in place: an update of an LRU element may evict an unrelated one. The table
    /// is chosen by the key's protocol, as in [`Maps::insert_flow`].
    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowValue) -> R) -> Option<R>;
    /// Failure is harmless: flows are soft state.
    fn insert_flow(&self, key: &FlowKey, value: &FlowValue);
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Failure drops the later fragments, nothing else.
    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue);
    /// CLOCK_MONOTONIC (coarse) in ns.
    fn now_ns(&self) -> u64;

    /// [`policy::evaluate`]; programs put a function boundary here that the verifier respects.
    ///
    /// # Errors
    /// The reason of the policy that denies.
    #[inline(always)]
    fn evaluate(&self, src: &End, dst: &End, service: Service) -> Result<(), DropReason>
    where
        Self: Sized,
    {
        policy::evaluate(self, src, dst, service)
    }
}

/// What holds for the whole node; set at load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// serviceCIDR as (address, mask), both as they stand in packets; mask 0: there is none.
    pub service_base: u32,
    pub service_mask: u32,
}

impl Config {
    #[inline(always)]
    fn is_service(&self, raw: u32) -> bool {
        self.service_mask != 0 && raw & self.service_mask == self.service_base
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// To the stack (or, on the way in, to the pod).
    Pass,
    /// Straight into the pod behind this host-side interface, with the pod's MAC as destination.
    Redirect {
        ifindex: u32,
        mac: [u8; 6],
    },
    Drop(DropReason),
}

pub use pod::{pod_in, pod_out};
pub use policy::{End, Service};
pub use socket::{ServiceMaps, SocketAddress, SocketVerdict};
