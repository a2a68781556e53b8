//! The two hooks of a pod's veth: what the pod sends, and what reaches it through the stack.

use longshore_abi::policy::{LOCAL, NODE, OPEN};
use longshore_abi::{Addr, DropReason, Endpoint};

use crate::flow::Flow;
use crate::parse::{self, Ipv4, Kind, Network};
use crate::policy::End;
use crate::{Config, Maps, Packet, Verdict};

/// A packet that the pod sends (ingress of the host side of its veth).
#[inline(always)]
pub fn pod_out<P: Packet, M: Maps>(packet: &P, maps: &M, config: &Config) -> Verdict {
    match outbound(packet, maps, config) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// A packet that reaches the pod through the stack (egress of the host side of its veth).
#[inline(always)]
pub fn pod_in<P: Packet, M: Maps>(packet: &P, maps: &M) -> Verdict {
    match inbound(packet, maps) {
        Ok(()) => Verdict::Pass,
        Err(reason) => Verdict::Drop(reason),
    }
}

#[inline(always)]
fn outbound<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    config: &Config,
) -> Result<Verdict, DropReason> {
    let ip = match parse::network(packet)? {
        // The gateway's neighbour entry is permanent; what is asked all the same may ask.
        Network::Arp => return Ok(Verdict::Pass),
        Network::Ipv4(ip) => ip,
    };
    let src_addr = Addr::v4_raw(ip.src);
    let dst_addr = Addr::v4_raw(ip.dst);
    let src = maps.endpoint(&src_addr);
    if let Some(src) = &src
        && !is_behind(src, packet.ifindex())
    {
        return Err(DropReason::SpoofedSource);
    }
    if parse::is_multicast(ip.dst) {
        return Err(DropReason::Multicast);
    }
    let dst = maps.endpoint(&dst_addr);
    let dst_flags = dst.map_or(0, |dst| dst.flags);
    // C12; also before the pod has a row: the node's probes need replies.
    if dst_flags & NODE != 0 {
        return Ok(Verdict::Pass);
    }
    let Some(src) = src else {
        return Err(DropReason::Closed);
    };
    if src.flags & OPEN == 0 {
        return Err(DropReason::Closed);
    }
    if config.is_service(ip.dst) {
        return Err(DropReason::UntranslatedService);
    }
    if dst_flags & (LOCAL | OPEN) == LOCAL {
        return Err(DropReason::PeerClosed);
    }
    let verdict = match &dst {
        Some(dst) if dst.flags & LOCAL != 0 => {
            Verdict::Redirect { ifindex: dst.ifindex, mac: dst.mac }
        }
        _ => Verdict::Pass,
    };
    let src = End::new(src_addr, Some(&src));
    let dst = End::new(dst_addr, dst.as_ref());
    // Nothing at all per packet when no policy selects either end (dataplane.md E.0).
    if src.is_isolated() || dst.is_isolated() {
        judge(packet, maps, &ip, &src, &dst)?;
    }
    Ok(verdict)
}

#[inline(always)]
fn inbound<P: Packet, M: Maps>(packet: &P, maps: &M) -> Result<(), DropReason> {
    let ip = match parse::network(packet)? {
        Network::Arp => return Ok(()),
        Network::Ipv4(ip) => ip,
    };
    let src_addr = Addr::v4_raw(ip.src);
    let dst_addr = Addr::v4_raw(ip.dst);
    let src = maps.endpoint(&src_addr);
    // C12: probes, kubelet, hostNetwork pods. Anti-spoofing makes it unforgeable.
    if packet.ingress_ifindex() == 0 && src.is_some_and(|src| src.flags & NODE != 0) {
        return Ok(());
    }
    let Some(dst) = maps.endpoint(&dst_addr) else {
        return Err(DropReason::Closed);
    };
    if dst.flags & OPEN == 0 || !is_behind(&dst, packet.ifindex()) {
        return Err(DropReason::Closed);
    }
    let src = End::new(src_addr, src.as_ref());
    let dst = End::new(dst_addr, Some(&dst));
    if src.is_isolated() || dst.is_isolated() {
        judge(packet, maps, &ip, &src, &dst)?;
    }
    Ok(())
}

/// A pod of this node whose veth is this interface.
#[inline(always)]
fn is_behind(row: &Endpoint, ifindex: u32) -> bool {
    row.flags & LOCAL != 0 && row.ifindex == ifindex
}

/// Policy of both ends, when some policy selects either.
// A function of its own: a BPF stack frame has 512 bytes.
#[inline(never)]
fn judge<P: Packet, M: Maps>(
    packet: &P,
    maps: &M,
    ip: &Ipv4,
    src: &End,
    dst: &End,
) -> Result<(), DropReason> {
    let transport = parse::transport(packet, maps, ip)?;
    if transport.kind == Kind::Error
        && !ip.more_fragments
        && crate::icmp::is_related(packet, maps, ip, src, dst)
    {
        return Ok(());
    }
    Flow { src, dst, proto: ip.proto, transport }.judge(maps)
}
