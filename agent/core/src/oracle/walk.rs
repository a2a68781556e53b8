//! One packet through one hook.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use longshore_abi::{DropReason, View};

use super::flows::{FlowKey, Flows, Known, Side};
use super::judge::{self, Asked};
use super::packet::{Fragment, Hop, Icmp, Packet, Quote, Scene, Shape, Transport};
use crate::image::{Backend, Endpoint, Frontend, Image};
use crate::model::ObjectKey;

/// What becomes of the packet at this hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// To the stack, or from the stack into the pod.
    Pass,
    /// Straight into the pod behind this interface.
    Redirect {
        ifindex: u32,
    },
    Drop(DropReason),
    /// The socket goes to one of these instead.
    Backends(BTreeSet<Backend>),
    /// ECONNREFUSED (B26).
    Refused,
}

/// Why, one fact each, in the order they were met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    NoService,
    Service {
        service: ObjectKey,
        port_name: String,
        backends: usize,
    },
    Arp,
    /// The other side is this node: always allowed (C12).
    Node,
    NoRow(IpAddr),
    /// The sender's interface is another than its address's.
    Spoofed(IpAddr),
    NotOpen(IpAddr),
    /// No policy selects either side.
    NotIsolated,
    /// A tracked flow covers it.
    Known,
    /// The error is about a flow that is allowed.
    Related,
    /// Policy lets the sender open such a flow.
    MayOpen,
    /// Policy would let the receiver open it, so this is a segment of an allowed connection.
    MayOpenBack,
    FirstFragmentUnknown,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Walk {
    pub verdict: Verdict,
    pub steps: Vec<Step>,
}

/// Takes `packet` through the hook `at`, and remembers in `flows` what the programs would.
pub fn walk(image: &Image, scene: &Scene, flows: &mut Flows, packet: &Packet, at: Hop) -> Walk {
    let mut walker = Walker { image, scene, flows, steps: Vec::new() };
    let verdict = match at {
        Hop::Socket => walker.socket(packet),
        Hop::PodOut { ifindex } => walker.pod_out(packet, ifindex),
        Hop::PodIn { ifindex, made_here } => walker.pod_in(packet, ifindex, made_here),
    };
    Walk { verdict: verdict.unwrap_or_else(Verdict::Drop), steps: walker.steps }
}

struct Walker<'a> {
    image: &'a Image,
    scene: &'a Scene,
    flows: &'a mut Flows,
    steps: Vec<Step>,
}

type Judged = Result<Verdict, DropReason>;

impl Walker<'_> {
    fn row(&self, addr: IpAddr) -> Option<&Endpoint> {
        self.image.endpoints.get(&addr)
    }

    fn is_node(&self, addr: IpAddr) -> bool {
        self.row(addr).is_some_and(|row| row.pod.is_none())
    }

    fn socket(&mut self, packet: &Packet) -> Judged {
        let found = packet.transport.ports().and_then(|(proto, _, port)| {
            let key = Frontend { addr: packet.dst, port, proto, view: View::Internal };
            self.image.services.get(&key)
        });
        let Some(entry) = found else {
            self.steps.push(Step::NoService);
            return Ok(Verdict::Pass);
        };
        let usable: BTreeSet<Backend> =
            entry.backends.iter().filter(|b| b.local || !entry.local_only).copied().collect();
        self.steps.push(Step::Service {
            service: entry.service.clone(),
            port_name: entry.port_name.clone(),
            backends: usable.len(),
        });
        match (entry.backends.is_empty(), usable.is_empty()) {
            (true, _) => Ok(Verdict::Refused),
            (false, true) => Err(DropReason::NoLocalEndpoint),
            (false, false) => Ok(Verdict::Backends(usable)),
        }
    }

    /// `Some`: decided by the shape of the frame alone.
    fn shape(&mut self, packet: &Packet) -> Result<Option<Verdict>, DropReason> {
        match packet.shape {
            Shape::Arp => {
                self.steps.push(Step::Arp);
                Ok(Some(Verdict::Pass))
            }
            Shape::NotIp => Err(DropReason::NotIp),
            Shape::Malformed => Err(DropReason::Malformed),
            Shape::Ip if packet.src.is_ipv6() || packet.dst.is_ipv6() => Err(DropReason::Ipv6),
            Shape::Ip => Ok(None),
        }
    }

    fn pod_out(&mut self, packet: &Packet, ifindex: u32) -> Judged {
        if let Some(verdict) = self.shape(packet)? {
            return Ok(verdict);
        }
        let broadcast = matches!(packet.dst, IpAddr::V4(dst) if dst.is_broadcast());
        if packet.dst.is_multicast() || broadcast {
            return Err(DropReason::Multicast);
        }
        let sender = self.row(packet.src).cloned();
        let behind = |row: &Endpoint| row.local.is_some_and(|local| local.ifindex == ifindex);
        if sender.as_ref().is_some_and(|row| !behind(row)) {
            self.steps.push(Step::Spoofed(packet.src));
            return Err(DropReason::SpoofedSource);
        }
        if self.is_node(packet.dst) {
            self.steps.push(Step::Node);
            return Ok(Verdict::Pass);
        }
        match sender {
            None => {
                self.steps.push(Step::NoRow(packet.src));
                return Err(DropReason::Closed);
            }
            Some(row) if !row.open => {
                self.steps.push(Step::NotOpen(packet.src));
                return Err(DropReason::Closed);
            }
            Some(_) => {}
        }
        if self.scene.service_cidr.is_some_and(|cidr| cidr.contains(&packet.dst)) {
            return Err(DropReason::UntranslatedService);
        }
        let receiver = self.row(packet.dst).filter(|row| row.local.is_some()).cloned();
        match receiver {
            Some(row) if !row.open => {
                // Before any policy: what it will say of the peer is not known yet.
                self.steps.push(Step::NotOpen(packet.dst));
                Err(DropReason::PeerClosed)
            }
            Some(Endpoint { local: Some(local), .. }) => {
                self.judge(packet).map(|()| Verdict::Redirect { ifindex: local.ifindex })
            }
            _ => self.judge(packet).map(|()| Verdict::Pass),
        }
    }

    fn pod_in(&mut self, packet: &Packet, ifindex: u32, made_here: bool) -> Judged {
        if let Some(verdict) = self.shape(packet)? {
            return Ok(verdict);
        }
        if made_here && self.is_node(packet.src) {
            self.steps.push(Step::Node);
            return Ok(Verdict::Pass);
        }
        let receiver = self.row(packet.dst);
        let here = |row: &&Endpoint| row.local.is_some_and(|local| local.ifindex == ifindex);
        let Some(row) = receiver.filter(here) else {
            self.steps.push(Step::NoRow(packet.dst));
            return Err(DropReason::Closed);
        };
        if !row.open {
            self.steps.push(Step::NotOpen(packet.dst));
            return Err(DropReason::Closed);
        }
        self.judge(packet).map(|()| Verdict::Pass)
    }

    /// Policy of both ends, with flows.
    fn judge(&mut self, packet: &Packet) -> Result<(), DropReason> {
        let isolated = |addr| judge::is_isolated(self.image, addr);
        if !isolated(packet.src) && !isolated(packet.dst) {
            self.steps.push(Step::NotIsolated);
            return Ok(());
        }
        let mut transport = packet.transport.clone();
        match packet.fragment {
            Fragment::Whole => {}
            // Nothing of its header is read, so every fragment is like the first.
            _ if matches!(transport, Transport::Other(_)) => {}
            Fragment::First { id } => {
                self.flows.first_fragment(packet, id, self.scene.now_ns);
                if matches!(transport, Transport::Icmp(Icmp::Error(_))) {
                    transport = Transport::Icmp(Icmp::Notice);
                }
            }
            Fragment::Later { id } => match self.flows.header_of(packet, id, self.scene.now_ns) {
                Some(first) => transport = continued(first),
                None => return self.headless(packet),
            },
        }
        match &transport {
            Transport::Tcp { src_port, dst_port, flags } => {
                self.tcp(packet, (*src_port, *dst_port), *flags)
            }
            Transport::Icmp(Icmp::Notice) => self.open(packet, None),
            Transport::Icmp(Icmp::Error(quote)) => {
                if quote.as_ref().is_some_and(|quote| self.is_related(packet, quote)) {
                    self.steps.push(Step::Related);
                    return Ok(());
                }
                self.open(packet, None)
            }
            Transport::Icmp(Icmp::Query { id }) => self.query(packet, *id),
            Transport::Icmp(Icmp::Answer { id }) => self.answer(packet, *id),
            Transport::Udp { src_port, dst_port } | Transport::Sctp { src_port, dst_port } => {
                let asked = transport.ports().map(|(proto, _, port)| (proto, port));
                self.datagram(packet, (*src_port, *dst_port), asked)
            }
            Transport::Other(_) => self.datagram(packet, (0, 0), None),
        }
    }

    /// A later fragment of nobody knows what: only a rule for every port covers it.
    fn headless(&mut self, packet: &Packet) -> Result<(), DropReason> {
        self.steps.push(Step::FirstFragmentUnknown);
        match judge::may_open(self.image, packet.src, packet.dst, None) {
            Ok(()) => Ok(()),
            Err(_) => Err(DropReason::Fragment),
        }
    }

    fn open(&mut self, packet: &Packet, asked: Asked) -> Result<(), DropReason> {
        judge::may_open(self.image, packet.src, packet.dst, asked)?;
        self.steps.push(Step::MayOpen);
        Ok(())
    }

    fn key(&self, packet: &Packet, ports: (u16, u16)) -> (FlowKey, Side, Side) {
        let (from, to) = ((packet.src, ports.0), (packet.dst, ports.1));
        (FlowKey::of(packet.transport.number(), from, to), from, to)
    }

    /// A SYN is judged as it goes and opens no flow. Any other segment passes if its connection
    /// might be opened: losing the flow loses nothing that is allowed, and a connection older than
    /// the policy that forbids it ends (C15). What counts is its opener: a SYN-ACK's receiver; of a
    /// known flow, who it was then; else who the ports tell, see [`openers`].
    fn tcp(
        &mut self,
        packet: &Packet,
        ports: (u16, u16),
        flags: super::TcpFlags,
    ) -> Result<(), DropReason> {
        let tcp = |port| Some((crate::image::Protocol::Tcp, port));
        if flags.syn && !flags.ack {
            return self.open(packet, tcp(ports.1));
        }
        let (forward, back) = (tcp(ports.1), tcp(ports.0));
        let (key, from, to) = self.key(packet, ports);
        let openers = match self.flows.find(self.image, &key, self.scene.now_ns) {
            Known::Current { .. } => return self.known(&key, from),
            _ if flags.syn => vec![to],
            Known::Stale { opener } => vec![opener],
            Known::No => openers(from, to),
        };
        self.judge_anew(packet, key, &openers, (from, forward), (to, back))
    }

    /// Everything without a handshake of its own: the first allowed packet opens the flow.
    fn datagram(
        &mut self,
        packet: &Packet,
        ports: (u16, u16),
        asked: Asked,
    ) -> Result<(), DropReason> {
        let back = asked.map(|(proto, _)| (proto, ports.0));
        let (key, from, to) = self.key(packet, ports);
        let opener = match self.flows.find(self.image, &key, self.scene.now_ns) {
            Known::Current { .. } => return self.known(&key, from),
            Known::Stale { opener } => opener,
            Known::No => from,
        };
        self.judge_anew(packet, key, &[opener], (from, asked), (to, back))
    }

    fn known(&mut self, key: &FlowKey, sender: Side) -> Result<(), DropReason> {
        self.flows.refresh(key, sender, self.scene.now_ns);
        self.steps.push(Step::Known);
        Ok(())
    }

    /// Whether one of `openers` may open the flow, asked in that order; the first that may is its
    /// opener. Denied: for the reason of the sender's own direction, if that was asked.
    fn judge_anew(
        &mut self,
        packet: &Packet,
        key: FlowKey,
        openers: &[Side],
        from: (Side, Asked),
        to: (Side, Asked),
    ) -> Result<(), DropReason> {
        let mut denied = None;
        for opener in openers {
            let forward = *opener == from.0;
            let judged = if forward {
                judge::may_open(self.image, packet.src, packet.dst, from.1)
            } else {
                judge::may_open(self.image, packet.dst, packet.src, to.1)
            };
            match judged {
                Ok(()) => {
                    self.steps.push(if forward { Step::MayOpen } else { Step::MayOpenBack });
                    self.flows.insert(self.image, key, *opener, !forward, self.scene.now_ns);
                    return Ok(());
                }
                Err(reason) if forward => denied = Some(reason),
                Err(reason) => denied = denied.or(Some(reason)),
            }
        }
        denied.map_or(Ok(()), Err)
    }

    /// A question is judged every time, so that nobody asks under another's flow
    /// (GHSA-c66w-hq56-4q97).
    fn query(&mut self, packet: &Packet, id: u16) -> Result<(), DropReason> {
        let now = self.scene.now_ns;
        let (key, from, _) = self.key(packet, (id, id));
        self.open(packet, None)?;
        match self.flows.find(self.image, &key, now) {
            Known::Current { opener } if opener == from => self.flows.refresh(&key, from, now),
            _ => self.flows.insert(self.image, key, from, false, now),
        }
        Ok(())
    }

    /// An answer needs the question's flow, or a rule of its own, which opens nothing.
    fn answer(&mut self, packet: &Packet, id: u16) -> Result<(), DropReason> {
        let (key, from, to) = self.key(packet, (id, id));
        match self.flows.find(self.image, &key, self.scene.now_ns) {
            Known::Current { opener } if opener == to => self.known(&key, from),
            Known::Stale { opener } if opener == to => {
                self.judge_anew(packet, key, &[to], (from, None), (to, None))
            }
            _ => self.open(packet, None),
        }
    }

    /// The receiver of the error sent the quoted packet, which was allowed; and a pod complains
    /// only about packets to itself.
    fn is_related(&self, packet: &Packet, quote: &Quote) -> bool {
        let from_pod = self.row(packet.src).is_some_and(|row| row.pod.is_some());
        if quote.src != packet.dst || (from_pod && quote.dst != packet.src) {
            return false;
        }
        let (asked, back, ports) = match quote.transport.as_ref() {
            Transport::Icmp(Icmp::Error(_)) => return false,
            Transport::Icmp(Icmp::Query { id } | Icmp::Answer { id }) => (None, None, (*id, *id)),
            Transport::Icmp(Icmp::Notice) | Transport::Other(_) => (None, None, (0, 0)),
            with_ports => match with_ports.ports() {
                Some((proto, src, dst)) => (Some((proto, dst)), Some((proto, src)), (src, dst)),
                None => return false,
            },
        };
        let proto = quote.transport.number();
        let key = FlowKey::of(proto, (quote.src, ports.0), (quote.dst, ports.1));
        let open = |a, b, asked| judge::may_open(self.image, a, b, asked).is_ok();
        matches!(self.flows.find(self.image, &key, self.scene.now_ns), Known::Current { .. })
            || open(quote.src, quote.dst, asked)
            || (proto == longshore_abi::IPPROTO_TCP && open(quote.dst, quote.src, back))
    }
}

/// Who may have opened the TCP connection of a segment, when nobody remembers it: clients get their
/// port from the kernel's range (32768–60999 unless configured), servers listen below it. Both, the
/// one with the likelier client port first, where that tells nothing.
fn openers(from: Side, to: Side) -> Vec<Side> {
    let is_client = |(_, port): Side| (32768..=60999).contains(&port);
    let is_server = |(_, port): Side| port < 32768;
    match (from, to) {
        (client, server) | (server, client) if is_client(client) && is_server(server) => {
            vec![client]
        }
        (from, to) if to.1 <= from.1 => vec![from, to],
        (from, to) => vec![to, from],
    }
}

/// What a later fragment is, given its first: never the start of a connection.
fn continued(first: Transport) -> Transport {
    match first {
        Transport::Tcp { src_port, dst_port, .. } => {
            Transport::Tcp { src_port, dst_port, flags: super::TcpFlags::default() }
        }
        Transport::Icmp(Icmp::Error(_)) => Transport::Icmp(Icmp::Notice),
        other => other,
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::NoService => f.write_str("no Service answers there"),
            Step::Service { service, port_name, backends } => {
                write!(f, "Service {service}")?;
                if !port_name.is_empty() {
                    write!(f, " port {port_name}")?;
                }
                write!(f, ": {backends} endpoint{}", if *backends == 1 { "" } else { "s" })
            }
            Step::Arp => f.write_str("ARP passes"),
            Step::Node => f.write_str("one side is this node: always allowed"),
            Step::NoRow(addr) => write!(f, "no pod of this node is known at {addr}"),
            Step::Spoofed(addr) => write!(f, "{addr} is not the address of the sender's interface"),
            Step::NotOpen(addr) => {
                write!(f, "the pod at {addr} is closed: its policy is not in force")
            }
            Step::NotIsolated => f.write_str("no policy selects either side"),
            Step::Known => f.write_str("an open flow covers it"),
            Step::Related => f.write_str("it is an error about an allowed flow"),
            Step::MayOpen => f.write_str("policy lets the sender open this"),
            Step::MayOpenBack => {
                f.write_str("policy lets the receiver have opened this connection")
            }
            Step::FirstFragmentUnknown => f.write_str("its first fragment was not seen"),
        }
    }
}
