//! Packets as plain data.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::image::Protocol;

/// A packet, already parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub shape: Shape,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub transport: Transport,
    pub fragment: Fragment,
}

/// What the frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Ip,
    Arp,
    /// VLAN, LLDP, …: the other fields mean nothing.
    NotIp,
    /// An IPv4 frame that is too short or lies about a length.
    Malformed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    Tcp {
        src_port: u16,
        dst_port: u16,
        flags: TcpFlags,
    },
    Udp {
        src_port: u16,
        dst_port: u16,
    },
    Sctp {
        src_port: u16,
        dst_port: u16,
    },
    Icmp(Icmp),
    /// Any other protocol, by its IANA number.
    Other(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TcpFlags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Icmp {
    /// Echo or timestamp request.
    Query { id: u16 },
    /// The answer to one.
    Answer { id: u16 },
    /// Unreachable, time exceeded, parameter problem; `None`: the quote cannot be read.
    Error(Option<Quote>),
    /// Every other type.
    Notice,
}

/// The packet that an ICMP error quotes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quote {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// An error about an error is no error.
    pub transport: Box<Transport>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    Whole,
    First {
        id: u32,
    },
    /// Its transport header is not there: only the protocol of [`Packet::transport`] counts.
    Later {
        id: u32,
    },
}

/// Where the packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hop {
    /// A socket's connect or sendmsg: `dst` is what the application asked for.
    Socket,
    /// The pod behind this host-side interface sent it.
    PodOut { ifindex: u32 },
    /// The stack hands it to the pod behind this interface.
    PodIn { ifindex: u32, made_here: bool },
}

/// What the packet meets besides the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scene {
    pub service_cidr: Option<IpNet>,
    /// Any monotonic clock.
    pub now_ns: u64,
}

impl Transport {
    /// IANA number.
    pub fn number(&self) -> u8 {
        match self {
            Transport::Tcp { .. } => longshore_abi::IPPROTO_TCP,
            Transport::Udp { .. } => longshore_abi::IPPROTO_UDP,
            Transport::Sctp { .. } => longshore_abi::IPPROTO_SCTP,
            Transport::Icmp(_) => longshore_abi::IPPROTO_ICMP,
            Transport::Other(number) => *number,
        }
    }

    /// The protocol that port lists can name, and (source, destination) port.
    pub fn ports(&self) -> Option<(Protocol, u16, u16)> {
        match *self {
            Transport::Tcp { src_port, dst_port, .. } => Some((Protocol::Tcp, src_port, dst_port)),
            Transport::Udp { src_port, dst_port } => Some((Protocol::Udp, src_port, dst_port)),
            Transport::Sctp { src_port, dst_port } => Some((Protocol::Sctp, src_port, dst_port)),
            Transport::Icmp(_) | Transport::Other(_) => None,
        }
    }
}

impl Packet {
    /// An unfragmented IP packet.
    pub fn new(src: IpAddr, dst: IpAddr, transport: Transport) -> Self {
        Self { shape: Shape::Ip, src, dst, transport, fragment: Fragment::Whole }
    }

    /// The first packet of a connection.
    pub fn open(src: IpAddr, dst: IpAddr, proto: Protocol, src_port: u16, dst_port: u16) -> Self {
        let transport = match proto {
            Protocol::Tcp => Transport::Tcp {
                src_port,
                dst_port,
                flags: TcpFlags { syn: true, ..TcpFlags::default() },
            },
            Protocol::Udp => Transport::Udp { src_port, dst_port },
            Protocol::Sctp => Transport::Sctp { src_port, dst_port },
        };
        Self::new(src, dst, transport)
    }

    /// What the other side sends back: a segment with ACK, a datagram, an answer.
    pub fn reply(&self) -> Self {
        let transport = match self.transport.clone() {
            Transport::Tcp { src_port, dst_port, .. } => Transport::Tcp {
                src_port: dst_port,
                dst_port: src_port,
                flags: TcpFlags { ack: true, ..TcpFlags::default() },
            },
            Transport::Udp { src_port, dst_port } => {
                Transport::Udp { src_port: dst_port, dst_port: src_port }
            }
            Transport::Sctp { src_port, dst_port } => {
                Transport::Sctp { src_port: dst_port, dst_port: src_port }
            }
            Transport::Icmp(Icmp::Query { id }) => Transport::Icmp(Icmp::Answer { id }),
            other => other,
        };
        Self::new(self.dst, self.src, transport)
    }
}
