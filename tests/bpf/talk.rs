//! Random packets as plain data, alone and as conversations, and the frames that they stand for.

use std::net::{IpAddr, Ipv4Addr};

use longshore_core::oracle::{Fragment, Hop, Icmp, Packet, Quote, Shape, TcpFlags, Transport as T};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::cluster::{ifindex_of, ip};
use crate::clusters::{LOCALS, NODE, OUTSIDE, REMOTES};
use crate::host::{ACK, FIN, Frame, Ip, RST, SYN, ethernet};

/// A packet at a hook.
#[derive(Clone, Debug)]
pub struct Step {
    pub packet: Packet,
    pub at: Hop,
}

const SERVICE: &str = "10.96.0.10";

/// On both sides of every limit that policies and the ephemeral range have.
const PORTS: [u16; 9] = [53, 80, 80, 8080, 32_767, 40_000, 40_000, 50_000, 61_000];

fn pod() -> impl Strategy<Value = IpAddr> {
    select(LOCALS.map(|(_, addr)| ip(addr)).to_vec())
}

fn other() -> impl Strategy<Value = IpAddr> {
    let remotes = REMOTES.map(|(_, addr)| addr);
    let all: Vec<IpAddr> = remotes.iter().chain(&OUTSIDE).map(|addr| ip(addr)).collect();
    let rare = [NODE, SERVICE, "224.0.0.1", "255.255.255.255", "10.0.1.99"].map(ip);
    prop_oneof![6 => pod(), 4 => select(all), 1 => select(rare.to_vec())]
}

/// Two parties, one of them mostly a pod of this node.
fn ends() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![8 => (pod(), other()), 8 => (other(), pod()), 1 => (other(), other())]
}

fn port() -> impl Strategy<Value = u16> {
    select(PORTS.to_vec())
}

fn tcp_flags() -> impl Strategy<Value = TcpFlags> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(syn, ack, fin, rst)| TcpFlags { syn, ack, fin, rst })
}

fn plain_transport() -> impl Strategy<Value = T> {
    prop_oneof![
        5 => (port(), port(), tcp_flags())
            .prop_map(|(src_port, dst_port, flags)| T::Tcp { src_port, dst_port, flags }),
        3 => (port(), port()).prop_map(|(src_port, dst_port)| T::Udp { src_port, dst_port }),
        1 => (port(), port()).prop_map(|(src_port, dst_port)| T::Sctp { src_port, dst_port }),
        1 => (1..3_u16).prop_map(|id| T::Icmp(Icmp::Query { id })),
        1 => (1..3_u16).prop_map(|id| T::Icmp(Icmp::Answer { id })),
        1 => Just(T::Icmp(Icmp::Notice)),
        1 => Just(T::Icmp(Icmp::Error(None))),
        1 => select(vec![2_u8, 47, 50]).prop_map(T::Other),
    ]
}

fn quote_of(packet: &Packet) -> T {
    let Packet { src, dst, .. } = *packet;
    let transport = Box::new(packet.transport.clone());
    T::Icmp(Icmp::Error(Some(Quote { src, dst, transport })))
}

/// An error that `from` (else the receiver) sends about `packet`.
fn error_about(packet: &Packet, from: Option<IpAddr>) -> Packet {
    Packet::new(from.unwrap_or(packet.dst), packet.src, quote_of(packet))
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        40 => Just(Shape::Ip),
        1 => select(vec![Shape::Arp, Shape::NotIp, Shape::Malformed]),
    ]
}

fn fragment() -> impl Strategy<Value = Fragment> {
    prop_oneof![
        12 => Just(Fragment::Whole),
        1 => (0..3_u32).prop_map(|id| Fragment::First { id }),
        2 => (0..3_u32).prop_map(|id| Fragment::Later { id }),
    ]
}

fn plain_packet() -> impl Strategy<Value = Packet> {
    (ends(), plain_transport(), fragment(), shape()).prop_map(
        |((src, dst), transport, fragment, shape)| Packet { shape, src, dst, transport, fragment },
    )
}

fn packet() -> impl Strategy<Value = Packet> {
    let strange =
        (plain_packet(), ends(), fragment()).prop_map(|(quoted, (src, dst), fragment)| Packet {
            fragment,
            ..Packet::new(src, dst, quote_of(&quoted))
        });
    let v6 = plain_transport().prop_map(|t| Packet::new(ip("2001:db8::1"), ip("2001:db8::2"), t));
    prop_oneof![40 => plain_packet().boxed(), 2 => strange.boxed(), 1 => v6.boxed()]
}

/// A handshake, data and the end, of which some are lost.
fn tcp_talk() -> impl Strategy<Value = Vec<Packet>> {
    let flags = |bits: u8| TcpFlags {
        syn: bits & SYN != 0,
        ack: bits & ACK != 0,
        fin: bits & FIN != 0,
        rst: bits & RST != 0,
    };
    let script = vec![
        (true, SYN),
        (false, SYN | ACK),
        (true, ACK),
        (false, ACK),
        (true, ACK),
        (false, FIN | ACK),
        (true, RST),
    ];
    (ends(), port(), port(), subsequence(script, 2..=7)).prop_map(
        move |((client, server), client_port, server_port, script)| {
            let packet = |(forward, bits)| {
                let (src, dst, src_port, dst_port) = if forward {
                    (client, server, client_port, server_port)
                } else {
                    (server, client, server_port, client_port)
                };
                Packet::new(src, dst, T::Tcp { src_port, dst_port, flags: flags(bits) })
            };
            script.into_iter().map(packet).collect()
        },
    )
}

/// A question and answers, or the reverse; sometimes another question on the way back.
fn question() -> impl Strategy<Value = Vec<Packet>> {
    (ends(), plain_transport(), vec(any::<bool>(), 2..5)).prop_map(|((src, dst), t, turns)| {
        let ask = Packet::new(src, dst, t);
        let answer = ask.reply();
        turns
            .into_iter()
            .map(|ask_now| if ask_now { ask.clone() } else { answer.clone() })
            .collect()
    })
}

/// A few packets and an error about one of them.
fn complaint() -> impl Strategy<Value = Vec<Packet>> {
    let packets = prop_oneof![tcp_talk().boxed(), question().boxed()];
    (packets, any::<proptest::sample::Index>(), proptest::option::of(other())).prop_map(
        |(mut packets, index, from)| {
            packets.push(error_about(index.get(&packets), from));
            packets
        },
    )
}

/// One packet in pieces: the first is sometimes missing, or comes last.
fn pieces() -> impl Strategy<Value = Vec<Packet>> {
    (ends(), plain_transport(), 0..3_u32, select(vec!["fl", "fll", "l", "lf", "lfl"])).prop_map(
        |((src, dst), transport, id, order)| {
            let piece = |letter| match letter {
                'f' => Fragment::First { id },
                _ => Fragment::Later { id },
            };
            let whole = Packet::new(src, dst, transport);
            order.chars().map(|c| Packet { fragment: piece(c), ..whole.clone() }).collect()
        },
    )
}

/// Where this node sees the packet first: pods of one node are connected without the stack.
pub fn hook(packet: &Packet) -> Hop {
    let is_local = |addr| LOCALS.iter().any(|(_, local)| ip(local) == addr);
    let first = Hop::PodOut { ifindex: ifindex_of(ip(LOCALS[0].1)) };
    match (packet.src, packet.dst) {
        (src, _) if is_local(src) => Hop::PodOut { ifindex: ifindex_of(src) },
        (src, dst) if is_local(dst) => {
            Hop::PodIn { ifindex: ifindex_of(dst), made_here: src == ip(NODE) }
        }
        _ => first,
    }
}

fn odd_hook() -> impl Strategy<Value = Hop> {
    (pod(), any::<bool>(), any::<bool>()).prop_map(|(addr, is_out, made_here)| {
        let ifindex = ifindex_of(addr);
        if is_out { Hop::PodOut { ifindex } } else { Hop::PodIn { ifindex, made_here } }
    })
}

/// Packets one after another, about 50.
pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let talk = prop_oneof![
        3 => packet().prop_map(|packet| vec![packet]).boxed(),
        4 => tcp_talk().boxed(),
        2 => question().boxed(),
        2 => complaint().boxed(),
        2 => pieces().boxed(),
    ];
    let step = |(packet, odd): (Packet, Option<Hop>)| {
        let at = odd.unwrap_or_else(|| hook(&packet));
        Step { packet, at }
    };
    let talk = talk.prop_flat_map(move |packets| {
        let odd = proptest::option::weighted(0.06, odd_hook());
        vec(odd, packets.len())
            .prop_map(move |odds| packets.iter().cloned().zip(odds).map(step).collect::<Vec<_>>())
    });
    vec(talk, 10..20).prop_map(|talks| talks.concat())
}

fn v4(addr: IpAddr) -> [u8; 4] {
    match addr {
        IpAddr::V4(addr) => addr.octets(),
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED.octets(),
    }
}

/// The IPv4 packet that `packet` describes.
fn ip_of(packet: &Packet) -> Ip {
    let (src, dst) = (v4(packet.src), v4(packet.dst));
    let whole = match &packet.transport {
        T::Tcp { src_port, dst_port, flags } => {
            let bit = |set, bit| if set { bit } else { 0 };
            let bits = [(flags.syn, SYN), (flags.ack, ACK), (flags.fin, FIN), (flags.rst, RST)];
            let bits = bits.into_iter().fold(0, |all, (set, one)| all | bit(set, one));
            Ip::tcp((src, *src_port), (dst, *dst_port), bits)
        }
        T::Udp { src_port, dst_port } => Ip::udp((src, *src_port), (dst, *dst_port)),
        T::Sctp { src_port, dst_port } => {
            Ip { proto: packet.transport.number(), ..Ip::udp((src, *src_port), (dst, *dst_port)) }
        }
        T::Icmp(Icmp::Query { id }) => Ip::icmp(src, dst, if id % 2 == 0 { 8 } else { 13 }, *id),
        T::Icmp(Icmp::Answer { id }) => Ip::icmp(src, dst, if id % 2 == 0 { 0 } else { 14 }, *id),
        T::Icmp(Icmp::Notice) => Ip::icmp(src, dst, 5, 0),
        T::Icmp(Icmp::Error(None)) => Ip::icmp(src, dst, 3, 0),
        T::Icmp(Icmp::Error(Some(quote))) => {
            let inner = Packet::new(quote.src, quote.dst, (*quote.transport).clone());
            Ip::icmp_error(src, dst, 11, &ip_of(&inner))
        }
        T::Other(number) => Ip::new(src, dst, *number, vec![0; 8]),
    };
    match packet.fragment {
        Fragment::Whole => whole,
        Fragment::First { id } => Ip { id: id as u16, ..whole.fragment(0, true) },
        Fragment::Later { id } => {
            let rest = Ip::new(src, dst, packet.transport.number(), vec![0; 16]);
            Ip { id: id as u16, ..rest.fragment(3, id == 0) }
        }
    }
}

/// The frame of the step, at its hook.
pub fn frame(step: &Step) -> Frame {
    let (ifindex, ingress_ifindex) = match step.at {
        Hop::PodOut { ifindex } => (ifindex, ifindex),
        Hop::PodIn { ifindex, made_here } => (ifindex, if made_here { 0 } else { 1 }),
        Hop::Socket => unreachable!("no frame is at a socket"),
    };
    let ip = ip_of(&step.packet).bytes();
    let mut bytes = match step.packet.shape {
        Shape::Arp => ethernet(0x0806, &ip),
        Shape::NotIp => ethernet(0x88cc, &ip),
        Shape::Ip if step.packet.src.is_ipv6() => ethernet(0x86dd, &[0x60; 40]),
        Shape::Ip | Shape::Malformed => ethernet(0x0800, &ip),
    };
    if step.packet.shape == Shape::Malformed {
        // A header of 16 bytes.
        bytes[14] = 0x44;
    }
    Frame { bytes, vlan: false, ifindex, ingress_ifindex }
}
