//! The pod hooks over maps in memory: what passes, what is dropped, and why.

mod host;

use host::{ACK, Frame, Ip, Model, SYN, ethernet};
use longshore_abi::policy::{ISOLATED_EGRESS, ISOLATED_INGRESS, LOCAL, NODE, OPEN};
use longshore_abi::{Addr, DropReason, Endpoint, IPPROTO_TCP};
use longshore_packet::{Config, Verdict, pod_in, pod_out};

const NODE_IP: [u8; 4] = [192, 168, 0, 1];
const POD_A: [u8; 4] = [10, 0, 0, 1];
const POD_B: [u8; 4] = [10, 0, 0, 2];
const CLOSED: [u8; 4] = [10, 0, 0, 3];
const REMOTE: [u8; 4] = [10, 0, 1, 1];
const WORLD: [u8; 4] = [1, 1, 1, 1];
const SERVICE: [u8; 4] = [10, 96, 0, 10];
const ABSENT: [u8; 4] = [10, 0, 0, 9];

const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];

fn config() -> Config {
    Config {
        service_base: u32::from_ne_bytes([10, 96, 0, 0]),
        service_mask: u32::from_ne_bytes([255, 255, 0, 0]),
    }
}

fn row(ifindex: u32, flags: u32) -> Endpoint {
    Endpoint { class: 1, stamp: u64::from(ifindex), ifindex, flags, ..Endpoint::default() }
}

/// Pods A (ifindex 11), B (12) and a closed one (13), the node, and a pod of another node.
fn node() -> Model {
    let mut model = Model::default();
    let rows = [
        (NODE_IP, row(0, NODE)),
        (POD_A, row(11, LOCAL | OPEN)),
        (POD_B, Endpoint { mac: MAC_B, ..row(12, LOCAL | OPEN) }),
        (CLOSED, row(13, LOCAL)),
        (REMOTE, row(0, 0)),
    ];
    model.endpoints.extend(rows.map(|(addr, row)| (Addr::v4(addr), row)));
    model.now_ns.set(1_000_000_000_000);
    model
}

#[track_caller]
fn out(frame: &Frame, expect: Verdict) {
    assert_eq!(pod_out(frame, &node(), &config()), expect);
}

#[track_caller]
fn into(frame: &Frame, expect: Verdict) {
    assert_eq!(pod_in(frame, &node()), expect);
}

fn syn(src: [u8; 4], dst: [u8; 4]) -> Ip {
    Ip::tcp((src, 40_000), (dst, 80), SYN)
}

const DROP_CLOSED: Verdict = Verdict::Drop(DropReason::Closed);
const TO_B: Verdict = Verdict::Redirect { ifindex: 12, mac: MAC_B };

#[test]
fn c1_pods_that_no_policy_selects_exchange_everything() {
    out(&syn(POD_A, POD_B).at(11), TO_B);
    out(&syn(POD_A, REMOTE).at(11), Verdict::Pass);
    out(&syn(POD_A, WORLD).at(11), Verdict::Pass);
    out(&Ip::icmp(POD_A, WORLD, 8, 1).at(11), Verdict::Pass);
    into(&syn(REMOTE, POD_A).through(2, 11), Verdict::Pass);
    into(&syn(WORLD, POD_A).through(2, 11), Verdict::Pass);
}

#[test]
fn e0_pods_that_no_policy_selects_are_not_tracked() {
    let model = node();
    for frame in [syn(POD_A, POD_B).at(11), Ip::udp((POD_A, 1), (POD_B, 2)).at(11)] {
        assert_eq!(pod_out(&frame, &model, &config()), TO_B);
    }
    let first = Ip::udp((POD_A, 1), (POD_B, 2)).fragment(0, true);
    assert_eq!(pod_out(&first.at(11), &model, &config()), TO_B);
    let later = Ip::new(POD_A, POD_B, 17, vec![0; 8]).fragment(5, false);
    assert_eq!(pod_out(&later.at(11), &model, &config()), TO_B);
    assert!(model.flows.borrow().is_empty());
    assert!(model.fragments.borrow().is_empty());
}

#[test]
fn i8_a_pod_sends_from_its_own_address_only() {
    let spoofed = Verdict::Drop(DropReason::SpoofedSource);
    out(&syn(POD_B, WORLD).at(11), spoofed);
    out(&syn(NODE_IP, POD_B).at(11), spoofed);
    out(&syn(REMOTE, POD_B).at(11), spoofed);
    out(&syn(POD_B, NODE_IP).at(11), spoofed);
    out(&syn(ABSENT, POD_B).at(11), DROP_CLOSED);
}

#[test]
fn c16_a_pod_is_closed_until_its_row_opens_it() {
    out(&syn(CLOSED, POD_B).at(13), DROP_CLOSED);
    out(&syn(CLOSED, WORLD).at(13), DROP_CLOSED);
    out(&syn(ABSENT, WORLD).at(14), DROP_CLOSED);
    out(&syn(POD_A, CLOSED).at(11), Verdict::Drop(DropReason::PeerClosed));
    into(&syn(REMOTE, CLOSED).through(2, 13), DROP_CLOSED);
    into(&syn(REMOTE, ABSENT).through(2, 14), DROP_CLOSED);
    into(&syn(REMOTE, POD_A).through(2, 12), DROP_CLOSED);
}

#[test]
fn c12_the_node_and_its_pods_exchange_everything() {
    out(&syn(POD_A, NODE_IP).at(11), Verdict::Pass);
    out(&syn(CLOSED, NODE_IP).at(13), Verdict::Pass);
    out(&syn(ABSENT, NODE_IP).at(14), Verdict::Pass);
    into(&syn(NODE_IP, POD_A).through(0, 11), Verdict::Pass);
    into(&syn(NODE_IP, CLOSED).through(0, 13), Verdict::Pass);
    into(&syn(NODE_IP, ABSENT).through(0, 14), Verdict::Pass);
}

#[test]
fn c12_the_node_s_address_from_outside_is_not_the_node() {
    into(&syn(NODE_IP, CLOSED).through(2, 13), DROP_CLOSED);
    let mut model = node();
    let isolated = row(11, LOCAL | OPEN | ISOLATED_INGRESS);
    model.endpoints.insert(Addr::v4(POD_A), isolated);
    let denied = Verdict::Drop(DropReason::PolicyIngress);
    assert_eq!(pod_in(&syn(NODE_IP, POD_A).through(2, 11), &model), denied);
    assert_eq!(pod_in(&syn(NODE_IP, POD_A).through(0, 11), &model), Verdict::Pass);
}

#[test]
fn c12_a_pod_cannot_be_cut_off_from_itself() {
    let mut model = node();
    let isolated = row(11, LOCAL | OPEN | ISOLATED_INGRESS | ISOLATED_EGRESS);
    model.endpoints.insert(Addr::v4(POD_A), isolated);
    let verdict = pod_out(&syn(POD_A, POD_A).at(11), &model, &config());
    assert_eq!(verdict, Verdict::Redirect { ifindex: 11, mac: [0; 6] });
}

#[test]
fn i9_a_missing_group_denies() {
    let mut model = node();
    let isolated = Endpoint { egress: 77, ..row(11, LOCAL | OPEN | ISOLATED_EGRESS) };
    model.endpoints.insert(Addr::v4(POD_A), isolated);
    let verdict = pod_out(&syn(POD_A, WORLD).at(11), &model, &config());
    assert_eq!(verdict, Verdict::Drop(DropReason::PolicyEgress));
}

#[test]
fn e9_a_cluster_ip_that_no_hook_translated_is_dropped() {
    out(&syn(POD_A, SERVICE).at(11), Verdict::Drop(DropReason::UntranslatedService));
    let none = Config::default();
    assert_eq!(pod_out(&syn(POD_A, SERVICE).at(11), &node(), &none), Verdict::Pass);
}

#[test]
fn e9_multicast_and_broadcast_stay_in_the_pod() {
    for dst in [[224, 0, 0, 251], [239, 255, 255, 250], [255, 255, 255, 255]] {
        out(&syn(POD_A, dst).at(11), Verdict::Drop(DropReason::Multicast));
    }
}

#[test]
fn e9_what_is_not_ipv4() {
    let frame = |ethertype, ifindex| Frame {
        bytes: ethernet(ethertype, &[0; 46]),
        ifindex,
        ..Frame::default()
    };
    let ipv6 = Verdict::Drop(DropReason::Ipv6);
    let not_ip = Verdict::Drop(DropReason::NotIp);
    for (ethertype, expect) in
        [(0x0806, Verdict::Pass), (0x86dd, ipv6), (0x8100, not_ip), (0x88cc, not_ip), (46, not_ip)]
    {
        out(&frame(ethertype, 11), expect);
        into(&frame(ethertype, 11), expect);
    }
    let tagged = Frame { vlan: true, ..syn(POD_A, POD_B).at(11) };
    out(&tagged, not_ip);
    into(&tagged, not_ip);
}

#[test]
fn f57_malformed_packets_are_dropped_and_never_read_as_another_flow() {
    let good = syn(POD_A, POD_B).at(11).bytes;
    let change = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let cut = |len: usize| good[..len].to_vec();
    let mut short_options = Ip::new(POD_A, POD_B, IPPROTO_TCP, vec![0; 20]).at(11).bytes;
    short_options[14] = 0x46;
    let cases = [
        ("no ethertype", cut(13)),
        ("half an IPv4 header", cut(30)),
        ("version 6", change(14, 0x65)),
        ("header length 16", change(14, 0x44)),
        ("options into the transport header", short_options),
        ("header longer than the packet", change(14, 0x4f)),
        ("total length beyond the frame", change(17, 41)),
        ("total length within the header", change(17, 19)),
        ("total length within the TCP header", change(17, 39)),
        ("total length 0", { change(17, 0) }),
        ("TCP without flags", Ip::new(POD_A, POD_B, 6, vec![0; 13]).at(11).bytes),
        ("UDP of 7", Ip::new(POD_A, POD_B, 17, vec![0; 7]).at(11).bytes),
        ("ICMP of 7", Ip::new(POD_A, POD_B, 1, vec![0; 7]).at(11).bytes),
        ("SCTP of 11", Ip::new(POD_A, POD_B, 132, vec![0; 11]).at(11).bytes),
        ("first fragment without TCP flags (RFC 1858)", {
            Ip::new(POD_A, POD_B, 6, vec![0; 8]).fragment(0, true).at(11).bytes
        }),
        ("fragment over TCP flags (RFC 3128)", {
            Ip::new(POD_A, POD_B, 6, vec![0; 32]).fragment(1, false).at(11).bytes
        }),
    ];
    for (what, bytes) in cases {
        let frame = Frame { bytes, ifindex: 11, ..Frame::default() };
        let verdict = pod_out(&frame, &node(), &config());
        assert_eq!(verdict, Verdict::Drop(DropReason::Malformed), "{what}");
    }
}

#[test]
fn f57_padding_and_options_change_nothing() {
    let mut padded = syn(POD_A, POD_B).at(11);
    padded.bytes.extend([0; 6]);
    out(&padded, TO_B);
    let mut options = vec![0x46, 0, 0, 44, 0, 7, 0, 0, 64, 6, 0, 0];
    options.extend(POD_A);
    options.extend(POD_B);
    options.extend([1, 1, 1, 0]);
    options.extend(Ip::tcp((POD_A, 40_000), (POD_B, 80), ACK).payload);
    let bytes = ethernet(0x0800, &options);
    out(&Frame { bytes, ifindex: 11, ..Frame::default() }, TO_B);
}
