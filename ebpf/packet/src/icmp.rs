//! ICMP errors: they pass when the packet that they quote was allowed (C14, PMTU).

use longshore_abi::policy::NODE;
use longshore_abi::{Addr, IPPROTO_ICMP};

use crate::flow::Flow;
use crate::parse::{Ipv4, Kind, quoted};
use crate::policy::End;
use crate::{Maps, Packet};

/// Whether the error from `src` to `dst` quotes a packet that `dst` could send.
///
/// The quote is evidence only: it must have been sent by the receiver of the error, and a pod can
/// complain only about packets to itself. So nobody can speak for another flow.
// A function of its own, for its stack frame.
#[inline(never)]
pub fn is_related<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    ip: &Ipv4,
    src: &End,
    dst: &End,
) -> bool {
    let at = ip.transport + 8;
    let len = ip.transport_len.saturating_sub(8);
    let Some(h) = packet.bytes::<20>(at) else {
        return false;
    };
    let header_len = u32::from(h[0] & 0x0f) * 4;
    let fragment_offset = u16::from_be_bytes([h[6], h[7]]) & 0x1fff;
    if h[0] >> 4 != 4 || header_len < 20 || len < header_len + 8 || fragment_offset != 0 {
        return false;
    }
    let proto = h[9];
    let sender = Addr::v4_raw(u32::from_ne_bytes([h[12], h[13], h[14], h[15]]));
    let target = Addr::v4_raw(u32::from_ne_bytes([h[16], h[17], h[18], h[19]]));
    if sender != dst.addr {
        return false;
    }
    let target = if target == src.addr {
        *src
    } else {
        let is_pod = src.flags != 0 && src.flags & NODE == 0;
        if is_pod {
            return false;
        }
        End::new(target, maps.endpoint(&target).as_ref())
    };
    let Some(h) = packet.bytes::<8>(at + header_len) else {
        return false;
    };
    let transport = quoted(proto, h);
    // There are no errors about errors (RFC 1122, 3.2.2).
    if proto == IPPROTO_ICMP && transport.kind == Kind::Error {
        return false;
    }
    Flow { src: dst, dst: &target, proto, transport }.would_pass(maps)
}
