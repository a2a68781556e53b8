//! Policy, tracked flows, ICMP errors and fragments over maps in memory.

mod host;

use host::{ACK, FIN, Frame, Ip, Model, RST, SYN, cidr, range};
use longshore_abi::policy::{
    GROUP_HAS_CIDRS, GROUP_HAS_RANGES, ISOLATED_EGRESS, ISOLATED_INGRESS, LOCAL, OPEN,
};
use longshore_abi::track::{
    FLOW_ANY_REPLIED_NS, FLOW_ANY_UNREPLIED_NS, FLOW_CLOSING, FLOW_REPLIED, FLOW_TCP_CLOSING_NS,
    FLOW_TCP_SILENT_NS, FRAGMENT_NS,
};
use longshore_abi::{
    Addr, DropReason, Endpoint, FlowValue, GroupHeader, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP,
    Mask, PeerKey, PortKey,
};
use longshore_packet::{Config, Verdict, pod_in, pod_out};

const SERVER: [u8; 4] = [10, 0, 0, 1];
const CLIENT: [u8; 4] = [10, 0, 0, 2];
const OTHER: [u8; 4] = [10, 0, 0, 3];
const REMOTE: [u8; 4] = [10, 0, 1, 1];
const STRANGER: [u8; 4] = [10, 0, 1, 2];
const WORLD: [u8; 4] = [1, 2, 3, 4];

const SERVER_IF: u32 = 11;
const CLIENT_IF: u32 = 12;

const GROUP: u64 = 0xabcd;
const CLASS: u64 = 5;
const BLOCK: u64 = 6;

const DENIED: Verdict = Verdict::Drop(DropReason::PolicyIngress);
const TO_SERVER: Verdict = Verdict::Redirect { ifindex: SERVER_IF, mac: [0; 6] };
const TO_CLIENT: Verdict = Verdict::Redirect { ifindex: CLIENT_IF, mac: [0; 6] };

fn bit(n: usize) -> Mask {
    let mut mask = Mask::default();
    mask.bits[n / 64] = 1 << (n % 64);
    mask
}

fn port(port: u16, proto: u8) -> PortKey {
    PortKey { group: GROUP, port: port.to_be(), proto, reserved: [0; 5] }
}

/// The server is isolated for ingress: pods of `CLASS` may use TCP 80, UDP 53 and SCTP 9.
fn node() -> Model {
    let mut model = Model::default();
    let pod = |class, stamp, ifindex| Endpoint {
        class,
        stamp,
        ifindex,
        flags: LOCAL | OPEN,
        ..Endpoint::default()
    };
    let server = pod(1, 100, SERVER_IF);
    let remote = |class| Endpoint { class, stamp: 7, ..Endpoint::default() };
    model.endpoints.extend([
        (
            Addr::v4(SERVER),
            Endpoint { ingress: GROUP, flags: server.flags | ISOLATED_INGRESS, ..server },
        ),
        (Addr::v4(CLIENT), pod(CLASS, 200, CLIENT_IF)),
        (Addr::v4(OTHER), pod(9, 300, 13)),
        (Addr::v4(REMOTE), remote(CLASS)),
        (Addr::v4(STRANGER), remote(9)),
    ]);
    model.groups.insert(GROUP, GroupHeader::default());
    model.peers.insert(PeerKey { group: GROUP, class: CLASS }, bit(70));
    for (number, proto) in [(80, IPPROTO_TCP), (53, IPPROTO_UDP), (9, IPPROTO_SCTP)] {
        model.ports.insert(port(number, proto), bit(70));
    }
    model.now_ns.set(1_000_000_000_000);
    model
}

fn later(model: &Model, ns: u64) {
    model.now_ns.set(model.now_ns.get() + ns);
}

fn restamp(model: &mut Model, addr: [u8; 4]) {
    model.endpoints.get_mut(&Addr::v4(addr)).unwrap().stamp += 1;
}

fn out(model: &Model, frame: &Frame) -> Verdict {
    pod_out(frame, model, &Config::default())
}

/// As a pod of this node sends it.
#[track_caller]
fn sends(model: &Model, ip: &Ip, expect: Verdict) {
    let ifindex = model.endpoints[&Addr::v4(ip.src)].ifindex;
    assert_eq!(out(model, &ip.at(ifindex)), expect);
}

/// As it reaches the server through the stack.
#[track_caller]
fn reaches_server(model: &Model, ip: &Ip, expect: Verdict) {
    assert_eq!(pod_in(&ip.through(2, SERVER_IF), model), expect);
}

fn tcp(flags: u8) -> (Ip, Ip) {
    (Ip::tcp((CLIENT, 40_000), (SERVER, 80), flags), Ip::tcp((SERVER, 80), (CLIENT, 40_000), flags))
}

#[test]
fn c1_the_union_of_allows_by_peer_and_port() {
    let model = node();
    for (src, dst_port, expect) in
        [(CLIENT, 80, TO_SERVER), (CLIENT, 81, DENIED), (CLIENT, 53, DENIED), (OTHER, 80, DENIED)]
    {
        sends(&model, &Ip::tcp((src, 40_000), (SERVER, dst_port), SYN), expect);
    }
    for (src, expect) in [(REMOTE, Verdict::Pass), (STRANGER, DENIED), (WORLD, DENIED)] {
        reaches_server(&model, &Ip::tcp((src, 40_000), (SERVER, 80), SYN), expect);
    }
}

#[test]
fn c2_egress_of_the_source_and_ingress_of_the_destination() {
    let mut model = node();
    let client = model.endpoints.get_mut(&Addr::v4(CLIENT)).unwrap();
    client.flags |= ISOLATED_EGRESS;
    client.egress = 99;
    model.groups.insert(99, GroupHeader { any_port: bit(0), ..GroupHeader::default() });
    let denied = Verdict::Drop(DropReason::PolicyEgress);
    sends(&model, &tcp(SYN).0, denied);
    model.peers.insert(PeerKey { group: 99, class: 1 }, bit(0));
    sends(&model, &tcp(SYN).0, TO_SERVER);
    sends(&model, &Ip::tcp((CLIENT, 40_000), (SERVER, 81), SYN), DENIED);
}

#[test]
fn c7_ip_blocks_by_their_longest_prefix() {
    let mut model = node();
    model.cidrs.insert(cidr(Addr::v4([1, 2, 0, 0]), 112), BLOCK);
    model.cidrs.insert(cidr(Addr::v4([1, 2, 3, 0]), 120), BLOCK + 1);
    model.peers.insert(PeerKey { group: GROUP, class: BLOCK }, bit(70));
    let syn = |src| Ip::tcp((src, 40_000), (SERVER, 80), SYN);
    reaches_server(&model, &syn([1, 2, 9, 9]), DENIED);
    model.groups.get_mut(&GROUP).unwrap().flags |= GROUP_HAS_CIDRS;
    reaches_server(&model, &syn([1, 2, 9, 9]), Verdict::Pass);
    reaches_server(&model, &syn([1, 2, 3, 9]), DENIED);
    reaches_server(&model, &syn([1, 3, 0, 1]), DENIED);
}

#[test]
fn c9_port_ranges() {
    let mut model = node();
    // 1024–2047, of TCP only.
    model.ranges.insert(range(GROUP, IPPROTO_TCP, 1024, 72 + 6), bit(70));
    let header = model.groups.get_mut(&GROUP).unwrap();
    header.flags |= GROUP_HAS_RANGES;
    for (dst_port, expect) in [(1023, DENIED), (1024, TO_SERVER), (2047, TO_SERVER), (2048, DENIED)]
    {
        sends(&model, &Ip::tcp((CLIENT, 40_000), (SERVER, dst_port), SYN), expect);
    }
    sends(&model, &Ip::udp((CLIENT, 40_000), (SERVER, 1024)), DENIED);
}

#[test]
fn c8_every_port_means_every_protocol() {
    let mut model = node();
    let icmp = Ip::icmp(CLIENT, SERVER, 8, 1);
    let gre = Ip::new(CLIENT, SERVER, 47, vec![0; 8]);
    sends(&model, &icmp, DENIED);
    sends(&model, &gre, DENIED);
    model.groups.get_mut(&GROUP).unwrap().any_port = bit(70);
    sends(&model, &icmp, TO_SERVER);
    sends(&model, &gre, TO_SERVER);
    sends(&model, &Ip::icmp(OTHER, SERVER, 8, 1), DENIED);
}

#[test]
fn c19_sctp_is_its_own_protocol() {
    let model = node();
    let sctp = |port: u16| {
        let [high, low] = port.to_be_bytes();
        let mut payload = vec![0; 16];
        (payload[0], payload[1], payload[2], payload[3]) = (0x9c, 0x40, high, low);
        Ip::new(CLIENT, SERVER, IPPROTO_SCTP, payload)
    };
    sends(&model, &sctp(9), TO_SERVER);
    sends(&model, &sctp(80), DENIED);
    sends(&model, &Ip::tcp((CLIENT, 40_000), (SERVER, 9), SYN), DENIED);
}

#[test]
fn c14_replies_pass_without_a_rule() {
    let model = node();
    sends(&model, &tcp(SYN).0, TO_SERVER);
    sends(&model, &tcp(SYN | ACK).1, TO_CLIENT);
    sends(&model, &tcp(ACK).0, TO_SERVER);
    sends(&model, &Ip::udp((CLIENT, 5000), (SERVER, 53)), TO_SERVER);
    sends(&model, &Ip::udp((SERVER, 53), (CLIENT, 5000)), TO_CLIENT);
}

#[test]
fn e7_a_syn_leaves_no_row_and_is_always_judged() {
    let mut model = node();
    sends(&model, &tcp(SYN).0, TO_SERVER);
    assert!(model.flows.borrow().is_empty());
    sends(&model, &tcp(ACK).0, TO_SERVER);
    assert_eq!(model.flows.borrow().len(), 1);
    model.ports.clear();
    sends(&model, &tcp(ACK).0, TO_SERVER);
    sends(&model, &tcp(SYN).0, DENIED);
}

#[test]
fn e7_losing_rows_breaks_no_tcp() {
    let mut model = node();
    for ip in [tcp(ACK).0, tcp(ACK).1, tcp(SYN | ACK).1, tcp(FIN | ACK).0] {
        model.flows.borrow_mut().clear();
        let expect = if ip.src == CLIENT { TO_SERVER } else { TO_CLIENT };
        sends(&model, &ip, expect);
        assert_eq!(model.flows.borrow().len(), 1);
    }
    // What its opener may not open has no row to lose, whatever the other end might open.
    model.flows.borrow_mut().clear();
    sends(&model, &Ip::tcp((OTHER, 40_000), (SERVER, 80), ACK), DENIED);
    sends(&model, &Ip::tcp((CLIENT, 40_000), (SERVER, 81), ACK), DENIED);
    assert!(model.flows.borrow().is_empty());
    // Ports that do not tell the opener: the server itself might be it.
    sends(&model, &Ip::tcp((OTHER, 40_000), (SERVER, 40_001), ACK), TO_SERVER);
    model.flows.borrow_mut().clear();
    let server = model.endpoints.get_mut(&Addr::v4(SERVER)).unwrap();
    server.flags |= ISOLATED_EGRESS;
    server.egress = 98;
    model.groups.insert(98, GroupHeader::default());
    sends(&model, &Ip::tcp((OTHER, 40_000), (SERVER, 40_001), ACK), DENIED);
    assert!(model.flows.borrow().is_empty());
}

#[test]
fn c15_of_an_unknown_connection_the_ephemeral_port_tells_the_opener() {
    // Nobody may open to the server, which may itself open to everybody.
    let mut model = node();
    model.peers.clear();
    for (client, server, is_told) in [
        (40_000, 80, true),
        (32_768, 32_767, true),
        (60_999, 1, true),
        (32_767, 80, false),
        (61_000, 80, false),
        (40_000, 50_000, false),
        (40_000, 61_000, false),
        (700, 2049, false),
        // The server is the opener.
        (80, 40_000, false),
    ] {
        for flags in [ACK, FIN | ACK, RST] {
            model.flows.borrow_mut().clear();
            let (there, back) = if is_told { (DENIED, DENIED) } else { (TO_SERVER, TO_CLIENT) };
            sends(&model, &Ip::tcp((CLIENT, client), (SERVER, server), flags), there);
            model.flows.borrow_mut().clear();
            sends(&model, &Ip::tcp((SERVER, server), (CLIENT, client), flags), back);
        }
    }
}

#[test]
fn c15_a_first_policy_reaches_connections_that_nobody_tracked() {
    // Without a policy nothing is tracked, so the connection has no row when the policy comes.
    let mut model = node();
    let isolated = model.endpoints[&Addr::v4(SERVER)];
    let free = Endpoint { ingress: 0, flags: LOCAL | OPEN, stamp: 99, ..isolated };
    model.endpoints.insert(Addr::v4(SERVER), free);
    let syn_ack = tcp(SYN | ACK).1;
    for (ip, expect) in
        [(tcp(SYN).0, TO_SERVER), (syn_ack.clone(), TO_CLIENT), (tcp(ACK).0, TO_SERVER)]
    {
        sends(&model, &ip, expect);
    }
    assert!(model.flows.borrow().is_empty());
    model.peers.clear();
    model.endpoints.insert(Addr::v4(SERVER), isolated);
    // A SYN-ACK too: its receiver opened, although the server's own egress is free.
    for ip in [tcp(ACK).0, tcp(ACK).1, tcp(FIN | ACK).1, syn_ack] {
        sends(&model, &ip, DENIED);
    }
    assert!(model.flows.borrow().is_empty());
}

#[test]
fn e7_one_row_for_both_directions() {
    let model = node();
    sends(&model, &tcp(ACK).0, TO_SERVER);
    sends(&model, &tcp(ACK).1, TO_CLIENT);
    sends(&model, &tcp(RST).1, TO_CLIENT);
    let flows = model.flows.borrow();
    assert_eq!(flows.len(), 1);
    let flow = flows.values().next().unwrap();
    assert_eq!(flow.flags & (FLOW_REPLIED | FLOW_CLOSING), FLOW_REPLIED | FLOW_CLOSING);
}

#[test]
fn c15_a_new_stamp_judges_established_flows_anew() {
    // The server's own egress is free: what counts is who opened.
    for changed in [CLIENT, SERVER] {
        let mut model = node();
        let ask = Ip::udp((CLIENT, 5000), (SERVER, 53));
        let answer = Ip::udp((SERVER, 53), (CLIENT, 5000));
        sends(&model, &tcp(SYN).0, TO_SERVER);
        sends(&model, &tcp(SYN | ACK).1, TO_CLIENT);
        sends(&model, &ask, TO_SERVER);
        restamp(&mut model, changed);
        sends(&model, &tcp(ACK).0, TO_SERVER);
        sends(&model, &tcp(ACK).1, TO_CLIENT);
        sends(&model, &answer, TO_CLIENT);
        model.peers.clear();
        restamp(&mut model, changed);
        sends(&model, &tcp(ACK).1, DENIED);
        sends(&model, &tcp(ACK).0, DENIED);
        sends(&model, &answer, DENIED);
        sends(&model, &ask, DENIED);
    }
}

#[test]
fn c15_the_opener_is_who_sent_the_syn_whatever_the_ports() {
    let mut model = node();
    model.ports.insert(port(50_000, IPPROTO_TCP), bit(70));
    let there = |flags| Ip::tcp((CLIENT, 40_000), (SERVER, 50_000), flags);
    let back = |flags| Ip::tcp((SERVER, 50_000), (CLIENT, 40_000), flags);
    sends(&model, &there(SYN), TO_SERVER);
    sends(&model, &back(SYN | ACK), TO_CLIENT);
    sends(&model, &there(ACK), TO_SERVER);
    model.peers.clear();
    restamp(&mut model, SERVER);
    sends(&model, &there(ACK), DENIED);
    // The same ports, opened by the server: a new flow.
    sends(&model, &back(SYN), TO_CLIENT);
    sends(&model, &there(SYN | ACK), TO_SERVER);
    sends(&model, &back(ACK), TO_CLIENT);
    sends(&model, &there(ACK), TO_SERVER);
}

#[test]
fn c15_an_isolated_server_s_side_is_cut_off_too() {
    let mut model = node();
    let server = model.endpoints.get_mut(&Addr::v4(SERVER)).unwrap();
    server.flags |= ISOLATED_EGRESS;
    server.egress = 98;
    model.groups.insert(98, GroupHeader::default());
    sends(&model, &tcp(ACK).0, TO_SERVER);
    sends(&model, &tcp(ACK).1, TO_CLIENT);
    model.peers.clear();
    restamp(&mut model, SERVER);
    sends(&model, &tcp(ACK).0, DENIED);
    sends(&model, &tcp(ACK).1, DENIED);
    model.flows.borrow_mut().clear();
    sends(&model, &tcp(ACK).1, DENIED);
}

#[test]
fn e7_udp_rows_age() {
    let mut model = node();
    let server = model.endpoints.get_mut(&Addr::v4(SERVER)).unwrap();
    server.flags |= ISOLATED_EGRESS;
    server.egress = 98;
    model.groups.insert(98, GroupHeader::default());
    let (ask, answer) =
        (Ip::udp((CLIENT, 5000), (SERVER, 53)), Ip::udp((SERVER, 53), (CLIENT, 5000)));
    let denied = Verdict::Drop(DropReason::PolicyEgress);
    sends(&model, &answer, denied);
    sends(&model, &ask, TO_SERVER);
    later(&model, FLOW_ANY_UNREPLIED_NS + 1);
    sends(&model, &answer, denied);
    sends(&model, &ask, TO_SERVER);
    sends(&model, &answer, TO_CLIENT);
    later(&model, FLOW_ANY_UNREPLIED_NS + 1);
    sends(&model, &answer, TO_CLIENT);
    later(&model, FLOW_ANY_REPLIED_NS + 1);
    sends(&model, &answer, denied);
}

#[test]
fn e7_the_ages_at_which_a_row_may_go() {
    let now = 10 * FLOW_TCP_SILENT_NS;
    for (proto, flags, age_max) in [
        (IPPROTO_UDP, 0, FLOW_ANY_UNREPLIED_NS),
        (IPPROTO_SCTP, FLOW_REPLIED, FLOW_ANY_REPLIED_NS),
        (IPPROTO_TCP, 0, FLOW_TCP_SILENT_NS),
        (IPPROTO_TCP, FLOW_REPLIED, FLOW_TCP_SILENT_NS),
        (IPPROTO_TCP, FLOW_REPLIED | FLOW_CLOSING, FLOW_TCP_CLOSING_NS),
    ] {
        let aged = |age: u64| FlowValue { seen_ns: now - age, flags, ..FlowValue::default() };
        assert!(!aged(age_max).is_expired(proto, now), "{proto} {flags}");
        assert!(aged(age_max + 1).is_expired(proto, now), "{proto} {flags}");
        let ahead = FlowValue { seen_ns: now + 1, flags, ..FlowValue::default() };
        assert!(!ahead.is_expired(proto, now), "{proto} {flags}");
    }
}

#[test]
fn e7_a_new_connection_on_the_ports_of_an_ended_one_is_not_closing() {
    let model = node();
    let is_closing = || {
        let flows = model.flows.borrow();
        flows.values().next().is_some_and(|flow| flow.flags & FLOW_CLOSING != 0)
    };
    sends(&model, &tcp(ACK).0, TO_SERVER);
    sends(&model, &tcp(RST).1, TO_CLIENT);
    assert!(is_closing());
    sends(&model, &tcp(SYN).0, TO_SERVER);
    sends(&model, &tcp(SYN | ACK).1, TO_CLIENT);
    assert!(!is_closing());
}

#[test]
fn e7_replies_to_an_isolated_client_need_the_flow() {
    // Ingress isolation of the client alone: what it sends must be remembered.
    let mut model = node();
    let client = model.endpoints.get_mut(&Addr::v4(CLIENT)).unwrap();
    client.flags |= ISOLATED_INGRESS;
    client.ingress = 97;
    model.groups.insert(97, GroupHeader::default());
    let answer = Ip::udp((WORLD, 53), (CLIENT, 5000)).through(2, CLIENT_IF);
    assert_eq!(pod_in(&answer, &model), DENIED);
    sends(&model, &Ip::udp((CLIENT, 5000), (WORLD, 53)), Verdict::Pass);
    assert_eq!(pod_in(&answer, &model), Verdict::Pass);
}

#[test]
fn e7_echo_replies_follow_requests_and_requests_follow_policy() {
    let mut model = node();
    let client = model.endpoints.get_mut(&Addr::v4(CLIENT)).unwrap();
    client.flags |= ISOLATED_INGRESS;
    client.ingress = 97;
    model.groups.insert(97, GroupHeader::default());
    let arrives = |model: &Model, kind, id| {
        pod_in(&Ip::icmp(WORLD, CLIENT, kind, id).through(2, CLIENT_IF), model)
    };
    assert_eq!(arrives(&model, 0, 7), DENIED);
    sends(&model, &Ip::icmp(CLIENT, WORLD, 8, 7), Verdict::Pass);
    assert_eq!(arrives(&model, 0, 7), Verdict::Pass);
    assert_eq!(arrives(&model, 0, 8), DENIED);
    assert_eq!(arrives(&model, 8, 7), DENIED);
}

#[test]
fn c14_icmp_errors_follow_the_packet_that_they_quote() {
    let model = node();
    let router = [172, 16, 0, 1];
    let sent = Ip::tcp((SERVER, 80), (REMOTE, 40_000), ACK);
    let strange = Ip::udp((SERVER, 1), (STRANGER, 2));
    for kind in [3, 11, 12] {
        let error = |inner: &Ip| Ip::icmp_error(router, SERVER, kind, inner);
        // The server may open to anybody: what it sent is allowed.
        reaches_server(&model, &error(&sent), Verdict::Pass);
        reaches_server(&model, &error(&strange), Verdict::Pass);
    }
    // Other types quote nothing that counts.
    reaches_server(&model, &Ip::icmp_error(router, SERVER, 5, &sent), DENIED);
}

#[test]
fn c14_icmp_errors_about_what_the_pod_could_not_send_are_dropped() {
    let mut model = node();
    let server = model.endpoints.get_mut(&Addr::v4(SERVER)).unwrap();
    server.flags |= ISOLATED_EGRESS;
    server.egress = 98;
    model.groups.insert(98, GroupHeader::default());
    let router = [172, 16, 0, 1];
    let error = |inner: &Ip| Ip::icmp_error(router, SERVER, 3, inner);
    // The reply of an allowed connection: also without a row.
    let reply = Ip::tcp((SERVER, 80), (REMOTE, 40_000), ACK);
    reaches_server(&model, &error(&reply), Verdict::Pass);
    reaches_server(&model, &error(&Ip::udp((SERVER, 1), (STRANGER, 2))), DENIED);
    // The answer of an allowed exchange of UDP: needs its row.
    let answer = Ip::udp((SERVER, 53), (REMOTE, 5000));
    reaches_server(&model, &error(&answer), DENIED);
    reaches_server(&model, &Ip::udp((REMOTE, 5000), (SERVER, 53)), Verdict::Pass);
    reaches_server(&model, &error(&answer), Verdict::Pass);
    // A quote that the receiver did not send, and a quote of an error.
    reaches_server(&model, &error(&Ip::tcp((CLIENT, 80), (REMOTE, 40_000), ACK)), DENIED);
    reaches_server(&model, &error(&error(&reply)), DENIED);
    let mut cut = error(&reply);
    cut.payload.truncate(8 + 20 + 7);
    reaches_server(&model, &cut, DENIED);
    // A later fragment has no ports to quote.
    let fragment = Ip::tcp((SERVER, 80), (REMOTE, 40_000), ACK).fragment(3, false);
    reaches_server(&model, &error(&fragment), DENIED);
}

#[test]
fn f59_a_pod_complains_only_about_packets_to_itself() {
    let model = node();
    let sent_to_other = Ip::tcp((SERVER, 80), (OTHER, 40_000), ACK);
    sends(&model, &Ip::icmp_error(CLIENT, SERVER, 3, &sent_to_other), DENIED);
    sends(&model, &Ip::icmp_error(CLIENT, SERVER, 3, &tcp(ACK).1), TO_SERVER);
    assert!(model.flows.borrow().is_empty(), "a quote makes no flow");
}

#[test]
fn e9_later_fragments_have_the_ports_of_the_first() {
    let model = node();
    let first = |dst_port| Ip::udp((CLIENT, 5000), (SERVER, dst_port)).fragment(0, true);
    let rest = Ip::new(CLIENT, SERVER, IPPROTO_UDP, vec![0; 16]).fragment(2, false);
    let unknown = Verdict::Drop(DropReason::Fragment);
    sends(&model, &rest, unknown);
    sends(&model, &first(53), TO_SERVER);
    sends(&model, &rest, TO_SERVER);
    sends(&model, &Ip { id: 8, ..rest.clone() }, unknown);
    later(&model, FRAGMENT_NS + 1);
    sends(&model, &rest, unknown);
    sends(&model, &first(54), DENIED);
    sends(&model, &rest, DENIED);
}

#[test]
fn f58_a_later_fragment_without_its_first_needs_a_rule_for_every_port() {
    let mut model = node();
    let unknown = Verdict::Drop(DropReason::Fragment);
    let rest = |src, proto| Ip::new(src, SERVER, proto, vec![0; 16]).fragment(2, false);
    for proto in [1, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP] {
        sends(&model, &rest(CLIENT, proto), unknown);
    }
    model.groups.get_mut(&GROUP).unwrap().any_port = bit(70);
    for proto in [1, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP] {
        sends(&model, &rest(CLIENT, proto), TO_SERVER);
        sends(&model, &rest(OTHER, proto), unknown);
    }
    assert!(model.flows.borrow().is_empty() && model.fragments.borrow().is_empty());
    // A port list is not every port, even where it lists port 0 or the range of all.
    model.groups.get_mut(&GROUP).unwrap().any_port = Mask::default();
    model.groups.get_mut(&GROUP).unwrap().flags |= GROUP_HAS_RANGES;
    model.ports.insert(port(0, IPPROTO_UDP), bit(70));
    model.ranges.insert(range(GROUP, IPPROTO_UDP, 0, 72), bit(70));
    sends(&model, &rest(CLIENT, IPPROTO_UDP), unknown);
}

#[test]
fn e9_fragments_of_a_ping() {
    let mut model = node();
    model.groups.get_mut(&GROUP).unwrap().any_port = bit(70);
    sends(&model, &Ip::icmp(CLIENT, SERVER, 8, 3).fragment(0, true), TO_SERVER);
    let rest = Ip::new(CLIENT, SERVER, 1, vec![0; 8]).fragment(1, false);
    sends(&model, &rest, TO_SERVER);
    sends(&model, &Ip::icmp(SERVER, CLIENT, 0, 3), TO_CLIENT);
}
