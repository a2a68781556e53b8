//! The two hooks of a pod's veth: what the pod sends, and what reaches it through the stack.

use longshore_abi::policy::{LOCAL, NODE, OPEN};
use longshore_abi::{Addr, DropReason, IPPROTO_ICMP};

use crate::flow::Flow;
use crate::parse::{self, Ipv4, Network, Transport};
use crate::policy::{End, KNOWN, Service};
use crate::{Config, Maps, Packet, Verdict};

/// What a hook has read of a packet.
pub struct Seen {
    pub ip: Ipv4,
    pub src: End,
    pub dst: End,
}

impl Seen {
    const NONE: Self = Self { ip: Ipv4::NONE, src: End::NONE, dst: End::NONE };
}

/// A packet that the pod sends (ingress of the host side of its veth).
#[inline(always)]
pub fn pod_out<P: Packet, M: Maps>(packet: &P, maps: &M, config: &Config) -> Verdict {
    let mut seen = Seen::NONE;
    match parse::network(packet, &mut seen.ip) {
        // The gateway's neighbour entry is permanent; what is asked all the same may ask.
        Ok(Network::Arp) => return Verdict::Pass,
        Ok(Network::Ipv4) => {}
        Err(reason) => return Verdict::Drop(reason),
    }
    if parse::is_multicast(seen.ip.dst) {
        return Verdict::Drop(DropReason::Multicast);
    }
    seen.src.look_up(maps, Addr::v4_raw(seen.ip.src));
    if seen.src.has(KNOWN) && !seen.src.is_behind(packet.ifindex()) {
        return Verdict::Drop(DropReason::SpoofedSource);
    }
    seen.dst.look_up(maps, Addr::v4_raw(seen.ip.dst));
    // C12; also before the pod has a row: the node's probes need replies.
    if seen.dst.has(NODE) {
        return Verdict::Pass;
    }
    if !seen.src.has(OPEN) {
        return Verdict::Drop(DropReason::Closed);
    }
    if config.is_service(seen.ip.dst) {
        return Verdict::Drop(DropReason::UntranslatedService);
    }
    if seen.dst.has(LOCAL) && !seen.dst.has(OPEN) {
        return Verdict::Drop(DropReason::PeerClosed);
    }
    if let Err(reason) = enforce(packet, maps, &seen) {
        return Verdict::Drop(reason);
    }
    if seen.dst.has(LOCAL) {
        Verdict::Redirect { ifindex: seen.dst.ifindex, mac: seen.dst.mac }
    } else {
        Verdict::Pass
    }
}

/// A packet that reaches the pod through the stack (egress of the host side of its veth).
#[inline(always)]
pub fn pod_in<P: Packet, M: Maps>(packet: &P, maps: &M) -> Verdict {
    let mut seen = Seen::NONE;
    match parse::network(packet, &mut seen.ip) {
        Ok(Network::Arp) => return Verdict::Pass,
        Ok(Network::Ipv4) => {}
        Err(reason) => return Verdict::Drop(reason),
    }
    seen.src.look_up(maps, Addr::v4_raw(seen.ip.src));
    // C12: probes, kubelet, hostNetwork pods. Anti-spoofing makes it unforgeable.
    if packet.ingress_ifindex() == 0 && seen.src.has(NODE) {
        return Verdict::Pass;
    }
    seen.dst.look_up(maps, Addr::v4_raw(seen.ip.dst));
    if !seen.dst.has(OPEN) || !seen.dst.is_behind(packet.ifindex()) {
        return Verdict::Drop(DropReason::Closed);
    }
    match enforce(packet, maps, &seen) {
        Ok(()) => Verdict::Pass,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Policy of both ends; nothing at all per packet when none selects either.
#[inline(always)]
fn enforce<P: Packet, M: Maps>(packet: &P, maps: &M, seen: &Seen) -> Result<(), DropReason> {
    if !seen.src.is_isolated() && !seen.dst.is_isolated() {
        return Ok(());
    }
    let judged = judge(packet, maps, seen);
    if judged.is_err()
        && seen.ip.proto == IPPROTO_ICMP
        && crate::icmp::is_related(packet, maps, seen)
    {
        return Ok(());
    }
    judged
}

// A function of its own: a BPF call chain has 512 bytes of stack.
#[inline(never)]
fn judge<P: Packet, M: Maps>(packet: &P, maps: &M, seen: &Seen) -> Result<(), DropReason> {
    let mut transport = Transport::NONE;
    match parse::transport(packet, maps, &seen.ip, &mut transport) {
        Ok(()) => {}
        // F58: of ports that nobody knows only rules for every port can say anything.
        Err(DropReason::Fragment) => {
            return match maps.evaluate(&seen.src, &seen.dst, Service::EVERY) {
                Ok(()) => Ok(()),
                Err(_) => Err(DropReason::Fragment),
            };
        }
        Err(reason) => return Err(reason),
    }
    Flow { src: &seen.src, dst: &seen.dst, proto: seen.ip.proto, transport }.judge(maps)
}
