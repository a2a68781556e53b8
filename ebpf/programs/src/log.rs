//! Messages for `--bpf-log`. Not in the object that runs otherwise.

use aya_ebpf::programs::{SockAddrContext, TcContext};
use aya_log_ebpf::{info, warn};
use longshore_abi::{DropReason, SocketState};
use longshore_packet::Packet;

use crate::pod::Frame;

/// A dropped packet; addresses and ports as far as a plain IPv4 header shows them.
#[inline(always)]
pub fn packet(ctx: &TcContext, reason: DropReason) {
    let frame = Frame(ctx);
    let ifindex = frame.ifindex();
    let header = frame.bytes::<8>(26);
    let ports = frame.bytes::<4>(34).unwrap_or_default();
    let Some(h) = header else {
        warn!(ctx, "drop reason={} ifindex={} short", reason as u32, ifindex);
        return;
    };
    let src = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
    let dst = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    let src_port = u16::from_be_bytes([ports[0], ports[1]]);
    let dst_port = u16::from_be_bytes([ports[2], ports[3]]);
    warn!(
        ctx,
        "drop reason={} ifindex={} {:i}:{} > {:i}:{}",
        reason as u32,
        ifindex,
        src,
        src_port,
        dst,
        dst_port
    );
}

#[inline(always)]
pub fn translated(ctx: &SockAddrContext, state: &SocketState) {
    info!(
        ctx,
        "service {:i}:{} > {:i}:{}",
        u32::from_be(state.vip.words[3]),
        u16::from_be(state.vip_port),
        u32::from_be(state.backend.words[3]),
        u16::from_be(state.backend_port)
    );
}

#[inline(always)]
pub fn refused(ctx: &SockAddrContext) {
    info!(ctx, "service without endpoints: connection refused");
}

#[inline(always)]
pub fn socket_dropped(ctx: &SockAddrContext, reason: DropReason) {
    warn!(ctx, "drop reason={} at the socket", reason as u32);
}
