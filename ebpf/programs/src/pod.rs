//! Classifiers on the host side of a pod's veth.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext;
use aya_ebpf::Global;
use aya_ebpf::bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{bpf_redirect_peer, bpf_skb_load_bytes};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use longshore_abi::DropReason;
use longshore_packet::{Config, Packet, Verdict};

use crate::maps::{KernelMaps, count_drop};

/// serviceCIDR, as it stands in packets; mask 0: there is none. Set by the daemon at load.
#[unsafe(no_mangle)]
static SERVICE_BASE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SERVICE_MASK: Global<u32> = Global::new(0);

const PACKET_HOST: u32 = 0;

/// A frame in the kernel.
pub struct Frame<'a>(pub &'a TcContext);

impl Frame<'_> {
    #[inline(always)]
    fn skb(&self) -> *const __sk_buff {
        self.0.as_ptr().cast::<__sk_buff>().cast_const()
    }
}

impl Packet for Frame<'_> {
    #[inline(always)]
    fn frame_len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // Headers are mostly linear: direct access costs no call.
        let start = self.0.data() + offset as usize;
        if start + N <= self.0.data_end() {
            // SAFETY: the verifier has seen the bounds check; any bytes are a `[u8; N]`.
            return Some(unsafe { (start as *const [u8; N]).read_unaligned() });
        }
        self.bytes_at(offset)
    }

    #[inline(always)]
    fn bytes_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let mut bytes = MaybeUninit::<[u8; N]>::uninit();
        // SAFETY: the buffer is `N` bytes long; the helper checks the offset.
        let ret = unsafe {
            bpf_skb_load_bytes(self.0.as_ptr(), offset, bytes.as_mut_ptr().cast(), N as u32)
        };
        // SAFETY: on success the helper has written all of it.
        if ret == 0 { Some(unsafe { bytes.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: the context is valid, and the kernel lets classifiers read this field.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb()).ifindex }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb()).ingress_ifindex }
    }
}

#[classifier]
pub fn pod_out(ctx: TcContext) -> i32 {
    let config = Config { service_base: SERVICE_BASE.load(), service_mask: SERVICE_MASK.load() };
    let verdict = longshore_packet::pod_out(&Frame(&ctx), &KernelMaps, &config);
    enforce(&ctx, verdict)
}

#[classifier]
pub fn pod_in(ctx: TcContext) -> i32 {
    let verdict = longshore_packet::pod_in(&Frame(&ctx), &KernelMaps);
    enforce(&ctx, verdict)
}

#[inline(always)]
fn enforce(ctx: &TcContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => TC_ACT_OK,
        Verdict::Redirect { ifindex, mac } => redirect(ctx, ifindex, &mac),
        Verdict::Drop(reason) => drop(ctx, reason),
    }
}

/// Straight into the other pod's namespace: no stack, no second hook.
#[inline(always)]
fn redirect(ctx: &TcContext, ifindex: u32, mac: &[u8; 6]) -> i32 {
    if ctx.store(0, mac, 0).is_err() {
        return drop(ctx, DropReason::Malformed);
    }
    // SAFETY: the context is valid, and the kernel lets classifiers read this field.
    let pkt_type = unsafe { (*ctx.as_ptr().cast::<__sk_buff>()).pkt_type };
    // Before 6.15 the redirect keeps the type that the sender's frame had.
    if pkt_type != PACKET_HOST {
        let _ = ctx.change_type(PACKET_HOST);
    }
    // SAFETY: the helper checks the interface when the redirect is done.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

#[inline(always)]
fn drop(ctx: &TcContext, reason: DropReason) -> i32 {
    count_drop(reason);
    #[cfg(feature = "log")]
    crate::log::packet(ctx, reason);
    let _ = ctx;
    TC_ACT_SHOT
}
