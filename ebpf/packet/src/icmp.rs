//! ICMP errors: they pass when the packet that they quote was allowed (C14, PMTU).

use longshore_abi::policy::NODE;
use longshore_abi::{Addr, IPPROTO_ICMP};

use crate::flow::Flow;
use crate::parse::{Kind, quoted};
use crate::pod::Seen;
use crate::policy::{End, KNOWN};
use crate::{Maps, Packet};

/// Whether this is an error that quotes a packet which its receiver could send.
///
/// The quote is evidence only: it must have been sent by the receiver of the error, and a pod can
/// complain only about packets to itself. So nobody can speak for another flow.
// A function of its own: a BPF call chain has 512 bytes of stack.
#[inline(never)]
pub fn is_related<P: Packet, M: Maps>(packet: &P, maps: &M, seen: &Seen) -> bool {
    let Seen { ip, src, dst } = seen;
    if ip.more_fragments || ip.fragment_offset != 0 {
        return false;
    }
    let Some(error) = packet.bytes_at::<8>(ip.transport) else {
        return false;
    };
    let at = ip.transport + 8;
    let len = ip.transport_len.saturating_sub(8);
    let Some(h) = packet.bytes_at::<20>(at) else {
        return false;
    };
    let header_len = u32::from(h[0] & 0x0f) * 4;
    let fragment_offset = u16::from_be_bytes([h[6], h[7]]) & 0x1fff;
    if quoted(IPPROTO_ICMP, error).kind != Kind::Error
        || h[0] >> 4 != 4
        || header_len < 20
        || len < header_len + 8
        || fragment_offset != 0
    {
        return false;
    }
    let proto = h[9];
    let sender = Addr::v4_raw(u32::from_ne_bytes([h[12], h[13], h[14], h[15]]));
    let target = Addr::v4_raw(u32::from_ne_bytes([h[16], h[17], h[18], h[19]]));
    let is_pod = src.has(KNOWN) && !src.has(NODE);
    if sender != dst.addr || (is_pod && target != src.addr) {
        return false;
    }
    let Some(h) = packet.bytes_at::<8>(at + header_len) else {
        return false;
    };
    let transport = quoted(proto, h);
    // There are no errors about errors (RFC 1122, 3.2.2).
    if transport.kind == Kind::Error {
        return false;
    }
    let mut end = End::NONE;
    end.look_up(maps, target);
    Flow { src: dst, dst: &end, proto, transport }.would_pass(maps)
}
