//! Ethernet, IPv4 and transport headers, read defensively (F57).
//!
//! Lengths are bounded by the IPv4 total length, never by the frame: padding is not data.
//! Deliberately absent: IP options are skipped unread (source routes end in the receiver's stack,
//! which refuses them), and checksums are left to the receiver.

use longshore_abi::{
    Addr, DropReason, FragmentKey, FragmentValue, IPPROTO_ICMP, IPPROTO_SCTP, IPPROTO_TCP,
    IPPROTO_UDP,
};

use longshore_abi::track::FRAGMENT_NS;

use crate::{Maps, Packet};

pub const ETHERNET_LEN: u32 = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;

const FRAGMENT_MORE: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// The network header that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    Arp,
    Ipv4,
}

/// An IPv4 header whose lengths were checked against the frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4 {
    /// As it stands in the packet, like `dst`.
    pub src: u32,
    pub dst: u32,
    pub proto: u8,
    pub id: u16,
    /// In units of 8 bytes; 0: a whole packet or a first fragment.
    pub fragment_offset: u16,
    pub more_fragments: bool,
    /// Offset of the transport header in the frame, and bytes from there to the packet's end.
    pub transport: u32,
    pub transport_len: u32,
}

/// What a packet is to the flow it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TCP SYN without ACK.
    Open,
    /// TCP SYN with ACK: its receiver opened.
    Accept,
    /// Any other TCP.
    Segment,
    /// TCP with FIN or RST.
    Close,
    /// ICMP echo or timestamp request, and its answer.
    Query,
    Answer,
    /// ICMP unreachable, time exceeded or parameter problem.
    Error,
    /// Any other ICMP.
    Notice,
    /// UDP, SCTP and every other protocol.
    Datagram,
}

/// The transport header as far as flows and policies need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// Network byte order; ICMP requests and answers: the identifier, in both; else 0.
    pub src_port: u16,
    pub dst_port: u16,
    pub kind: Kind,
}

impl Transport {
    /// Of a protocol without ports.
    pub const NONE: Self = Self { src_port: 0, dst_port: 0, kind: Kind::Datagram };
}

impl Ipv4 {
    /// Nothing read yet.
    pub const NONE: Self = Self {
        src: 0,
        dst: 0,
        proto: 0,
        id: 0,
        fragment_offset: 0,
        more_fragments: false,
        transport: 0,
        transport_len: 0,
    };
}

/// Reads as far as the network header, into `out` if it is IPv4.
///
/// `out` is initialised: of a `Result` with a payload LLVM copies undefined registers on the error
/// path, which the verifier refuses.
///
/// # Errors
/// [`DropReason::NotIp`], [`DropReason::Ipv6`], [`DropReason::Malformed`].
// A function of its own: its buffers are gone before the deep calls.
#[inline(never)]
pub fn network<P: Packet>(packet: &P, out: &mut Ipv4) -> Result<Network, DropReason> {
    if packet.has_vlan_tag() {
        return Err(DropReason::NotIp);
    }
    let Some(ethertype) = packet.bytes::<2>(12) else {
        return Err(DropReason::Malformed);
    };
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => ipv4(packet, out),
        ETHERTYPE_ARP => Ok(Network::Arp),
        ETHERTYPE_IPV6 => Err(DropReason::Ipv6),
        _ => Err(DropReason::NotIp),
    }
}

#[inline(always)]
fn ipv4<P: Packet>(packet: &P, out: &mut Ipv4) -> Result<Network, DropReason> {
    let Some(h) = packet.bytes::<20>(ETHERNET_LEN) else {
        return Err(DropReason::Malformed);
    };
    let header_len = u32::from(h[0] & 0x0f) * 4;
    let total_len = u32::from(u16::from_be_bytes([h[2], h[3]]));
    if h[0] >> 4 != 4
        || header_len < 20
        || total_len < header_len
        || packet.frame_len() < ETHERNET_LEN + total_len
    {
        return Err(DropReason::Malformed);
    }
    let fragment = u16::from_be_bytes([h[6], h[7]]);
    out.src = u32::from_ne_bytes([h[12], h[13], h[14], h[15]]);
    out.dst = u32::from_ne_bytes([h[16], h[17], h[18], h[19]]);
    out.proto = h[9];
    out.id = u16::from_be_bytes([h[4], h[5]]);
    out.fragment_offset = fragment & FRAGMENT_OFFSET;
    out.more_fragments = fragment & FRAGMENT_MORE != 0;
    out.transport = ETHERNET_LEN + header_len;
    out.transport_len = total_len - header_len;
    // A first fragment that does not hold the header (RFC 1858) and a second one that would
    // overwrite TCP's flags (RFC 3128) are made to deceive filters.
    let truncated = out.fragment_offset == 0 && out.transport_len < header_min(out.proto);
    if truncated || (out.proto == IPPROTO_TCP && out.fragment_offset == 1) {
        return Err(DropReason::Malformed);
    }
    Ok(Network::Ipv4)
}

/// Bytes that a transport header has at least; 0 where we read none.
#[inline(always)]
const fn header_min(proto: u8) -> u32 {
    match proto {
        IPPROTO_TCP => 20,
        IPPROTO_UDP | IPPROTO_ICMP => 8,
        IPPROTO_SCTP => 12,
        _ => 0,
    }
}

/// Whether policies match ports of this protocol; any other is matched by "every port" only (C8).
#[inline(always)]
pub const fn has_ports(proto: u8) -> bool {
    matches!(proto, IPPROTO_TCP | IPPROTO_UDP | IPPROTO_SCTP)
}

/// `224.0.0.0/4` and `255.255.255.255`.
#[inline(always)]
pub const fn is_multicast(raw: u32) -> bool {
    u32::from_be(raw) >> 28 == 0xe || raw == u32::MAX
}

/// Reads the transport header; of a later fragment: what its first fragment left in the map.
///
/// Into `out`, as in [`network`].
///
/// # Errors
/// [`DropReason::Fragment`]: the first fragment was not seen, so nothing is known of its ports;
/// [`DropReason::Malformed`].
#[inline(always)]
pub fn transport<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    ip: &Ipv4,
    out: &mut Transport,
) -> Result<(), DropReason> {
    if header_min(ip.proto) == 0 {
        return Ok(());
    }
    let fragmented = ip.fragment_offset != 0 || ip.more_fragments;
    if !fragmented {
        return header(packet, ip, out);
    }
    let key = FragmentKey {
        src: Addr::v4_raw(ip.src),
        dst: Addr::v4_raw(ip.dst),
        id: u32::from(ip.id),
        proto: ip.proto,
        reserved: [0, 0, 0],
    };
    if ip.fragment_offset == 0 {
        header(packet, ip, out)?;
        let value = FragmentValue {
            src_port: out.src_port,
            dst_port: out.dst_port,
            reserved: out.kind as u32,
            seen_ns: maps.now_ns(),
        };
        maps.insert_fragment(&key, &value);
        return Ok(());
    }
    let Some(first) = maps.fragment(&key) else {
        return Err(DropReason::Fragment);
    };
    if maps.now_ns().saturating_sub(first.seen_ns) > FRAGMENT_NS {
        return Err(DropReason::Fragment);
    }
    out.src_port = first.src_port;
    out.dst_port = first.dst_port;
    out.kind = match ip.proto {
        IPPROTO_TCP => Kind::Segment,
        IPPROTO_ICMP if first.reserved == Kind::Query as u32 => Kind::Query,
        IPPROTO_ICMP if first.reserved == Kind::Answer as u32 => Kind::Answer,
        IPPROTO_ICMP => Kind::Notice,
        _ => Kind::Datagram,
    };
    Ok(())
}

#[inline(always)]
fn header<P: Packet>(packet: &P, ip: &Ipv4, out: &mut Transport) -> Result<(), DropReason> {
    let Some(h) = packet.bytes_at::<8>(ip.transport) else {
        return Err(DropReason::Malformed);
    };
    *out = quoted(ip.proto, h);
    if ip.proto == IPPROTO_TCP {
        let Some([_, flags]) = packet.bytes_at::<2>(ip.transport + 12) else {
            return Err(DropReason::Malformed);
        };
        out.kind = if flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
            Kind::Open
        } else if flags & TCP_SYN != 0 {
            Kind::Accept
        } else if flags & (TCP_FIN | TCP_RST) != 0 {
            Kind::Close
        } else {
            Kind::Segment
        };
    }
    Ok(())
}

/// What the first 8 bytes of a transport header tell; all that an ICMP error must quote.
#[inline(always)]
pub fn quoted(proto: u8, h: [u8; 8]) -> Transport {
    if has_ports(proto) {
        return Transport {
            src_port: u16::from_ne_bytes([h[0], h[1]]),
            dst_port: u16::from_ne_bytes([h[2], h[3]]),
            kind: if proto == IPPROTO_TCP { Kind::Segment } else { Kind::Datagram },
        };
    }
    if proto != IPPROTO_ICMP {
        return Transport::NONE;
    }
    let kind = match h[0] {
        8 | 13 => Kind::Query,
        0 | 14 => Kind::Answer,
        3 | 11 | 12 => Kind::Error,
        _ => Kind::Notice,
    };
    let id = match kind {
        Kind::Query | Kind::Answer => u16::from_ne_bytes([h[4], h[5]]),
        _ => 0,
    };
    Transport { src_port: id, dst_port: id, kind }
}
