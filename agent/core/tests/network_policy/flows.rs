//! The oracle's own rules: order of checks at the hooks, flows, ICMP, fragments, Services, and what
//! it tells.

use crate::lab::{Lab, NODE, WORLD, ifindex_of, ip, key, sends};
use longshore_abi::DropReason;
use longshore_core::image::{Backend, Frontend, Image, Protocol, ServiceEntry, View};
use longshore_core::oracle::{
    Flows, Fragment, Hop, Icmp, Opener, Packet, Quote, Scene, Shape, TcpFlags, Transport, Verdict,
    explain_flow, walk,
};

/// x/a is isolated both ways and may talk to x/b on 80 of TCP and 53 of UDP; x/b asks nobody.
fn lab() -> Lab {
    let mut lab = Lab::grid();
    lab.policy("x/a", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}, {port: 53, protocol: UDP}]}]}");
    lab
}

fn scene(now_s: u64) -> Scene {
    Scene { service_cidr: Some("10.96.0.0/12".parse().unwrap()), now_ns: now_s * 1_000_000_000 }
}

fn out(image: &Image, packet: &Packet, from: &str) -> Verdict {
    let at = Hop::PodOut { ifindex: ifindex_of(ip(from)) };
    walk(image, &scene(0), &mut Flows::default(), packet, at).verdict
}

fn into(image: &Image, packet: &Packet, to: &str, made_here: bool) -> Verdict {
    let at = Hop::PodIn { ifindex: ifindex_of(ip(to)), made_here };
    walk(image, &scene(0), &mut Flows::default(), packet, at).verdict
}

fn tcp(src: &str, dst: &str, port: u16) -> Packet {
    Packet::open(ip(src), ip(dst), Protocol::Tcp, 40000, port)
}

fn drops(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

#[test]
fn order_of_checks_of_what_a_pod_sends() {
    let (a, b, ghost) = ("10.0.0.10", "10.0.0.11", "10.0.0.99");
    let mut lab = lab();
    lab.attach("x/ghost", ghost);
    let mut image = lab.image();
    let shaped = |shape| Packet { shape, ..tcp(a, b, 80) };
    for (packet, from, expect) in [
        (shaped(Shape::Arp), a, Verdict::Pass),
        (shaped(Shape::NotIp), a, drops(DropReason::NotIp)),
        (shaped(Shape::Malformed), a, drops(DropReason::Malformed)),
        (tcp("fe80::1", "2001:db8::1", 80), a, drops(DropReason::Ipv6)),
        (tcp(a, "224.0.0.1", 80), a, drops(DropReason::Multicast)),
        (tcp(a, "255.255.255.255", 67), a, drops(DropReason::Multicast)),
        (tcp(b, "224.0.0.1", 80), a, drops(DropReason::Multicast)),
        // Spoofing comes before the node's exemption; a pod without a row reaches the node only.
        (tcp(b, NODE, 80), a, drops(DropReason::SpoofedSource)),
        (tcp(NODE, a, 80), b, drops(DropReason::SpoofedSource)),
        (tcp("10.0.9.30", b, 80), a, drops(DropReason::SpoofedSource)),
        (tcp("10.0.0.200", NODE, 80), a, Verdict::Pass),
        (tcp("10.0.0.200", b, 80), a, drops(DropReason::Closed)),
        (tcp(ghost, NODE, 80), ghost, Verdict::Pass),
        (tcp(ghost, b, 80), ghost, drops(DropReason::Closed)),
        (tcp(a, NODE, 80), a, Verdict::Pass),
        (tcp(a, "10.96.0.1", 443), a, drops(DropReason::UntranslatedService)),
        // A closed peer comes before any policy.
        (tcp(a, ghost, 80), a, drops(DropReason::PeerClosed)),
        (tcp(b, ghost, 80), b, drops(DropReason::PeerClosed)),
        (tcp(b, a, 81), b, drops(DropReason::PolicyIngress)),
        (tcp(b, a, 80), b, Verdict::Redirect { ifindex: ifindex_of(ip(a)) }),
        (tcp(b, WORLD, 80), b, Verdict::Pass),
        (tcp(b, "10.0.9.30", 80), b, Verdict::Pass),
    ] {
        assert_eq!(out(&image, &packet, from), expect, "{packet:?}");
    }
    // A group that is missing denies (I9).
    image.groups.clear();
    assert_eq!(out(&image, &tcp(b, a, 80), b), drops(DropReason::PolicyIngress));
}

#[test]
fn order_of_checks_of_what_reaches_a_pod() {
    let (a, ghost) = ("10.0.0.10", "10.0.0.99");
    let mut lab = lab();
    lab.attach("x/ghost", ghost);
    let image = lab.image();
    for (packet, to, made_here, expect) in [
        (tcp(NODE, a, 1), a, true, Verdict::Pass),
        (tcp(NODE, ghost, 1), ghost, true, Verdict::Pass),
        // The node's address on a packet that came in from elsewhere is forged.
        (tcp(NODE, a, 1), a, false, drops(DropReason::PolicyIngress)),
        (tcp(WORLD, a, 80), a, true, drops(DropReason::PolicyIngress)),
        (tcp(WORLD, ghost, 80), ghost, false, drops(DropReason::Closed)),
        (tcp(WORLD, "10.0.0.200", 80), a, false, drops(DropReason::Closed)),
        (tcp(WORLD, "10.0.0.11", 80), a, false, drops(DropReason::Closed)),
        (tcp(WORLD, "10.0.0.11", 80), "10.0.0.11", false, Verdict::Pass),
        (tcp("2001:db8::1", "2001:db8::2", 80), a, false, drops(DropReason::Ipv6)),
    ] {
        assert_eq!(into(&image, &packet, to, made_here), expect, "{packet:?}");
    }
}

#[test]
fn i7_losing_every_flow_breaks_no_allowed_tcp_connection() {
    let image = lab().image();
    let open = tcp("10.0.0.11", "10.0.0.10", 80);
    for packet in [open.reply(), open.reply().reply()] {
        assert!(sends(&image, &mut Flows::default(), &packet), "{packet:?}");
    }
    // The opener is asked, for this port.
    let wrong = tcp("10.0.0.11", "10.0.0.10", 81);
    for packet in [wrong.reply(), wrong.reply().reply()] {
        assert!(!sends(&image, &mut Flows::default(), &packet), "{packet:?}");
    }
}

#[test]
fn c14_a_syn_leaves_no_flow_and_is_judged_in_its_own_direction() {
    let image = lab().image();
    let mut flows = Flows::default();
    let open = tcp("10.0.0.11", "10.0.0.10", 80);
    assert!(sends(&image, &mut flows, &open) && flows.is_empty());
    assert!(sends(&image, &mut flows, &open.reply()) && flows.len() == 1);
    // x/a may not open to x/b, not even from the ports of the open connection.
    let back = Packet::open(open.dst, open.src, Protocol::Tcp, 80, 40000);
    assert!(!sends(&image, &mut flows, &back));
}

#[test]
fn c14_udp_replies_need_a_flow_that_is_young() {
    let image = lab().image();
    let ask = Packet::open(ip("10.0.0.11"), ip("10.0.0.10"), Protocol::Udp, 5000, 53);
    let step = |flows: &mut Flows, packet: &Packet, now_s| {
        let at = Hop::PodOut { ifindex: ifindex_of(packet.src) };
        matches!(walk(&image, &scene(now_s), flows, packet, at).verdict, Verdict::Redirect { .. })
    };
    let mut flows = Flows::default();
    assert!(!step(&mut flows, &ask.reply(), 0), "unasked");
    assert!(step(&mut flows, &ask, 0));
    assert!(!step(&mut flows.clone(), &ask.reply(), 31), "30 s without an answer");
    assert!(step(&mut flows, &ask.reply(), 30));
    assert!(step(&mut flows.clone(), &ask.reply(), 210), "180 s after an answer");
    assert!(!step(&mut flows.clone(), &ask.reply(), 211));
    let other = Packet::open(ip("10.0.0.10"), ip("10.0.0.11"), Protocol::Udp, 53, 5001);
    assert!(!step(&mut flows, &other, 30), "another port");
}

fn icmp(src: &str, dst: &str, icmp: Icmp) -> Packet {
    Packet::new(ip(src), ip(dst), Transport::Icmp(icmp))
}

#[test]
fn c8_icmp_needs_a_rule_without_ports() {
    let (a, b, c) = ("10.0.0.10", "10.0.0.11", "10.0.0.12");
    let mut lab = lab();
    assert!(!sends(&lab.image(), &mut Flows::default(), &icmp(b, a, Icmp::Query { id: 1 })));
    lab.policy("x/ping", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: c}}}]}]}");
    let image = lab.image();
    let mut flows = Flows::default();
    assert!(sends(&image, &mut flows, &icmp(c, a, Icmp::Query { id: 1 })));
    assert!(sends(&image, &mut flows, &icmp(a, c, Icmp::Answer { id: 1 })));
    // GHSA-c66w-hq56-4q97: neither another id, nor a question under an answer's flow.
    assert!(!sends(&image, &mut flows, &icmp(a, c, Icmp::Answer { id: 2 })));
    assert!(!sends(&image, &mut flows, &icmp(a, c, Icmp::Query { id: 1 })));
    assert!(sends(&image, &mut flows, &icmp(c, a, Icmp::Notice)));
    assert!(!sends(&image, &mut flows, &icmp(a, c, Icmp::Notice)));
    assert!(sends(&image, &mut flows, &Packet::new(ip(c), ip(a), Transport::Other(47))));
    assert!(!sends(&image, &mut flows, &Packet::new(ip(b), ip(a), Transport::Other(47))));
}

#[test]
fn f59_an_icmp_error_must_quote_an_allowed_packet_of_its_receiver() {
    let (a, b, router) = ("10.0.0.10", "10.0.0.11", "203.0.113.1");
    let mut lab = lab();
    lab.policy("x/b", "{podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress, Egress], egress: [{to: [{podSelector: {}}], ports: [{port: 80}]}, {to: [{ipBlock: {cidr: 203.0.113.9/32}}], ports: [{port: 80}]}]}");
    let image = lab.image();
    let quote = |packet: Packet| {
        Icmp::Error(Some(Quote {
            src: packet.src,
            dst: packet.dst,
            transport: Box::new(packet.transport),
        }))
    };
    for (packet, allowed) in [
        // Opener the pod that the packet was for, and from a router on the way.
        (icmp(a, b, quote(tcp(b, a, 80))), true),
        (icmp(router, b, quote(tcp(b, WORLD, 80))), true),
        // A packet that policy denies; a direction that is wrong; another pod's business.
        (icmp(a, b, quote(tcp(b, a, 81))), false),
        (icmp(router, b, quote(tcp(b, WORLD, 81))), false),
        (icmp(a, b, quote(tcp(a, b, 80))), false),
        (icmp(a, b, quote(tcp("10.0.0.12", a, 80))), false),
        (icmp(a, b, quote(tcp(b, WORLD, 80))), false),
        (icmp(router, b, Icmp::Error(None)), false),
        (icmp(a, b, quote(icmp(b, a, quote(tcp(a, b, 80))))), false),
    ] {
        assert_eq!(sends(&image, &mut Flows::default(), &packet), allowed, "{packet:?}");
    }
}

#[test]
fn f58_later_fragments_follow_their_first_or_a_rule_without_ports() {
    let (b, a) = ("10.0.0.11", "10.0.0.10");
    let mut lab = lab();
    let image = lab.image();
    let udp = |port| Packet::open(ip(b), ip(a), Protocol::Udp, 5000, port);
    let first = |port, id| Packet { fragment: Fragment::First { id }, ..udp(port) };
    let later = |id| Packet { fragment: Fragment::Later { id }, ..udp(0) };
    let step = |flows: &mut Flows, packet: &Packet, now_s| {
        let at = Hop::PodOut { ifindex: ifindex_of(ip(b)) };
        walk(&image, &scene(now_s), flows, packet, at).verdict
    };
    let mut flows = Flows::default();
    let delivered = Verdict::Redirect { ifindex: ifindex_of(ip(a)) };
    assert_eq!(step(&mut flows, &later(1), 0), drops(DropReason::Fragment));
    assert_eq!(step(&mut flows, &first(53, 1), 0), delivered);
    assert_eq!(step(&mut flows, &later(1), 30), delivered);
    assert_eq!(step(&mut flows, &later(1), 31), drops(DropReason::Fragment));
    assert_eq!(step(&mut flows, &later(2), 0), drops(DropReason::Fragment));
    // What follows a denied first fragment is denied as it was.
    assert_eq!(step(&mut flows, &first(54, 3), 0), drops(DropReason::PolicyIngress));
    assert_eq!(step(&mut flows, &later(3), 0), drops(DropReason::PolicyIngress));
    // A segment that continues a SYN is no SYN.
    lab.policy(
        "x/any",
        "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}]}",
    );
    let image = lab.image();
    assert!(sends(&image, &mut Flows::default(), &later(9)));
}

fn with_service(image: &mut Image, local_only: bool, backends: &[(&str, u16, bool)]) {
    let backends = backends
        .iter()
        .map(|(addr, port, local)| Backend { local: *local, addr: ip(addr), port: *port })
        .collect();
    image.services.insert(
        Frontend { addr: ip("10.96.0.10"), port: 80, proto: Protocol::Tcp, view: View::Internal },
        ServiceEntry {
            service: key("x/web"),
            port_name: "http".into(),
            backends,
            local_only,
            affinity_s: None,
        },
    );
}

#[test]
fn b24_b26_a_socket_goes_to_an_endpoint_or_is_refused_or_dropped() {
    let connect = |local_only, backends: &[(&str, u16, bool)], port| {
        let mut image = Image::default();
        with_service(&mut image, local_only, backends);
        let packet = tcp("10.0.0.11", "10.96.0.10", port);
        walk(&image, &scene(0), &mut Flows::default(), &packet, Hop::Socket).verdict
    };
    let (near, far) = (("10.0.0.10", 8080, true), ("10.0.9.30", 8080, false));
    let chosen = |list: &[(&str, u16, bool)]| {
        let backend = |b: &(&str, u16, bool)| Backend { local: b.2, addr: ip(b.0), port: b.1 };
        Verdict::Backends(list.iter().map(backend).collect())
    };
    assert_eq!(connect(false, &[near, far], 80), chosen(&[near, far]));
    assert_eq!(connect(true, &[near, far], 80), chosen(&[near]));
    assert_eq!(connect(true, &[far], 80), drops(DropReason::NoLocalEndpoint));
    assert_eq!(connect(true, &[], 80), Verdict::Refused);
    assert_eq!(connect(false, &[], 80), Verdict::Refused);
    assert_eq!(connect(false, &[near], 81), Verdict::Pass);
}

#[test]
fn explain_names_the_policy_that_denies() {
    let mut lab = Lab::default();
    lab.local("demo/web", "10.0.0.5", "{app: web}");
    lab.local("demo/client", "10.0.0.6", "{app: client}");
    lab.local("default/other", "10.0.0.7", "{}");
    lab.policy("demo/allow-client", "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]}");
    let mut image = lab.image();
    with_service(&mut image, false, &[("10.0.0.5", 80, true)]);
    let explain = |from: &str, to: &str| {
        explain_flow(&image, &Opener::Pod(key(from)), ip(to), 80, Protocol::Tcp)
    };
    let denied = explain("default/other", "10.96.0.10");
    assert!(!denied.allowed);
    assert_eq!(
        denied.to_string(),
        "default/other (10.0.0.7) connects to 10.96.0.10 on TCP/80
Service x/web port http: 1 endpoint
endpoint demo/web (10.0.0.5) on TCP/80
  egress of default/other: no policy selects it
  denied by ingress isolation of demo/web: policies demo/allow-client; no rule allows peer \
         default/other on TCP/80 (allowed: pods(\"=demo\" \"app=client\") on tcp/80)
denied"
    );
    let allowed = explain("demo/client", "10.96.0.10");
    assert!(allowed.allowed);
    assert!(allowed.to_string().contains("ingress of demo/web: allowed by demo/allow-client"));
    assert!(explain("demo/client", "10.0.0.1").allowed, "the node");
    let nobody = explain("demo/nobody", "10.0.0.5");
    assert!(!nobody.allowed && nobody.to_string().contains("no address"));
    let world = explain_flow(&image, &Opener::Addr(ip(WORLD)), ip("10.0.0.5"), 80, Protocol::Tcp);
    assert!(world.to_string().contains("egress of 203.0.113.9: not decided on this node"));
    assert!(!world.allowed);
}

#[test]
fn explain_and_the_walk_agree() {
    let mut lab = lab();
    let image = lab.image();
    for from in ["x/a", "x/b", "x/c", "y/a", "z/a"] {
        for to in ["x/a", "x/b", "y/a", "z/b", NODE, WORLD] {
            for port in [80, 81] {
                let told = explain_flow(
                    &image,
                    &Opener::Pod(key(from)),
                    lab.addr(to),
                    port,
                    Protocol::Tcp,
                );
                let text = format!("TCP/{port}");
                let walked = crate::lab::opens(&image, lab.addr(from), lab.addr(to), &text);
                assert_eq!(told.allowed, walked, "{from} → {to} on {port}: {told}");
            }
        }
    }
}

fn segment(open: &Packet, syn: bool) -> Packet {
    let mut packet = open.clone();
    if let Transport::Tcp { flags, .. } = &mut packet.transport {
        *flags = TcpFlags { syn, ack: true, ..TcpFlags::default() };
    }
    packet
}

#[test]
fn c15_a_known_tcp_connection_ends_when_its_opener_may_no_longer_open() {
    // x/a is isolated for ingress only, so by itself it may open to anyone: without the opener, a
    // segment of the revoked connection would pass as part of one of x/a's own.
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}");
    let image = lab.image();
    // Both with the server on the lower port and on the higher one: the SYN-ACK tells.
    for port in [80, 50000] {
        let open = tcp("10.0.0.11", "10.0.0.10", port);
        let accept = segment(&open.reply(), true);
        let mut flows = Flows::default();
        for packet in [&open, &accept, &segment(&open, false), &open.reply()] {
            assert!(sends(&image, &mut flows, packet), "{packet:?}");
        }
        let mut lab = Lab::grid();
        lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}}");
        let stricter = lab.image();
        for packet in [&segment(&open, false), &open.reply()] {
            assert!(!sends(&stricter, &mut flows, packet), "{packet:?}");
        }
        // The same policy again, and the connection goes on.
        assert!(sends(&image, &mut flows, &segment(&open, false)));
        // A connection that x/a opened is none of its ingress policy's business.
        let mine = tcp("10.0.0.10", "10.0.0.11", port);
        let mut flows = Flows::default();
        for packet in [&mine, &segment(&mine.reply(), true), &segment(&mine, false)] {
            assert!(sends(&image, &mut flows, packet), "{packet:?}");
        }
        for packet in [&segment(&mine, false), &mine.reply()] {
            assert!(sends(&stricter, &mut flows, packet), "{packet:?}");
        }
    }
}

#[test]
fn c15_a_change_that_still_allows_a_udp_flow_does_not_break_it() {
    let mut lab = lab();
    let ask = Packet::open(ip("10.0.0.11"), ip("10.0.0.10"), Protocol::Udp, 5000, 53);
    let mut flows = Flows::default();
    assert!(sends(&lab.image(), &mut flows, &ask));
    lab.policy("x/more", "{podSelector: {matchLabels: {pod: a}}, ingress: [{ports: [{port: 9}]}]}");
    assert!(sends(&lab.image(), &mut flows, &ask.reply()));
    lab.delete_policy("x/a");
    lab.policy("x/more", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}");
    assert!(!sends(&lab.image(), &mut flows, &ask.reply()));
}

#[test]
fn c15_a_tcp_segment_of_an_unknown_connection_is_judged_as_its_opener_s() {
    // x/a is isolated for ingress only, so it may open to anyone and nobody may open to it.
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}}");
    let image = lab.image();
    let (a, b) = (ip("10.0.0.10"), ip("10.0.0.11"));
    for (of_b, of_a, told) in [
        // x/b has a client's port and x/a a server's: x/b opened.
        (40000, 80, Some(false)),
        (32768, 32767, Some(false)),
        (60999, 1, Some(false)),
        // The reverse.
        (80, 40000, Some(true)),
        (32767, 32768, Some(true)),
        // The ports tell nothing, and x/a may have opened: the price of soft state.
        (32767, 80, None),
        (61000, 80, None),
        (40000, 50000, None),
        (40000, 61000, None),
        (700, 2049, None),
    ] {
        let there = Packet::open(b, a, Protocol::Tcp, of_b, of_a);
        assert!(!sends(&image, &mut Flows::default(), &there), "a SYN never: {there:?}");
        for packet in [segment(&there, false), there.reply()] {
            let passes = sends(&image, &mut Flows::default(), &packet);
            assert_eq!(passes, told.unwrap_or(true), "{packet:?}");
        }
        // Of a SYN-ACK its receiver opened, whatever the ports.
        assert!(!sends(&image, &mut Flows::default(), &segment(&there.reply(), true)));
        assert!(sends(&image, &mut Flows::default(), &segment(&there, true)));
    }
}

#[test]
fn c15_a_first_policy_reaches_connections_that_nobody_tracked() {
    let mut lab = Lab::grid();
    let open = tcp("10.0.0.11", "10.0.0.10", 80);
    let free = lab.image();
    let mut flows = Flows::default();
    for packet in [&open, &segment(&open.reply(), true), &segment(&open, false)] {
        assert!(sends(&free, &mut flows, packet));
    }
    assert!(flows.is_empty(), "without a policy nothing is tracked");
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}}");
    let image = lab.image();
    for packet in [segment(&open, false), open.reply(), segment(&open.reply(), true)] {
        assert!(!sends(&image, &mut flows, &packet), "{packet:?}");
    }
}
