//! Messages for `--bpf-log`. Not in the object that runs otherwise.

use aya_ebpf::programs::{SockAddrContext, TcContext};
use aya_log_ebpf::{info, warn};
use longshore_abi::{DropReason, SocketState};
use longshore_packet::Packet;

use crate::pod::Frame;

const WORD_LEN: usize = 20;
/// A power of two, so that a mask bounds the index.
const ROWS: usize = 16;

/// The reasons' words, padded to one length: without pointers, which a map cannot hold, and
/// without a loop, which the verifier would have to walk.
static WORDS: [[u8; WORD_LEN]; ROWS] = {
    assert!(DropReason::COUNT as usize <= ROWS);
    let mut words = [[b' '; WORD_LEN]; ROWS];
    let mut reason = 0;
    while reason < DropReason::COUNT as usize {
        let word = DropReason::ALL[reason].word().as_bytes();
        let mut at = 0;
        while at < word.len() {
            words[reason][at] = word[at];
            at += 1;
        }
        reason += 1;
    }
    words
};

#[inline(always)]
fn word(reason: DropReason) -> &'static str {
    // LLVM knows that a reason is in bounds and drops the mask; the verifier does not know.
    let row = core::hint::black_box(reason as u32) as usize & (ROWS - 1);
    // SAFETY: the words are ASCII.
    unsafe { core::str::from_utf8_unchecked(&WORDS[row]) }
}

/// A dropped packet; addresses and ports as far as a plain IPv4 header shows them.
#[inline(always)]
pub fn packet(ctx: &TcContext, reason: DropReason) {
    let frame = Frame(ctx);
    let ifindex = frame.ifindex();
    let header = match frame.bytes::<2>(12) {
        Some([0x08, 0x00]) => frame.bytes::<8>(26),
        _ => None,
    };
    let ports = frame.bytes::<4>(34).unwrap_or_default();
    let Some(h) = header else {
        warn!(ctx, "drop {} ifindex={}", word(reason), ifindex);
        return;
    };
    let src = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
    let dst = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    let src_port = u16::from_be_bytes([ports[0], ports[1]]);
    let dst_port = u16::from_be_bytes([ports[2], ports[3]]);
    warn!(
        ctx,
        "drop {} ifindex={} {:i}:{} > {:i}:{}",
        word(reason),
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
    warn!(ctx, "drop {} at the socket", word(reason));
}
