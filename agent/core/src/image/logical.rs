//! The logical image: what the kernel's maps must mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
pub use longshore_abi::View;

use crate::model::ObjectKey;

/// Everything that must hold, in canonical order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    pub services: BTreeMap<Frontend, ServiceEntry>,
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    /// Prefixes that some policy names, with the class of addresses whose longest match this is.
    pub cidrs: BTreeMap<IpNet, CidrClass>,
    /// By [`Group::id`].
    pub groups: BTreeMap<u64, Group>,
}

/// One key's new content; `None` removes it. Compilers emit these per key, never whole images.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ImageChange {
    Service(Frontend, Option<ServiceEntry>),
    Endpoint(IpAddr, Option<Endpoint>),
    Cidr(IpNet, Option<CidrClass>),
    Group(u64, Option<Group>),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Where a Service answers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Frontend {
    pub addr: IpAddr,
    pub port: u16,
    pub proto: Protocol,
    pub view: View,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceEntry {
    /// The Service, and the name of its port (empty when it has none).
    pub service: ObjectKey,
    pub port_name: String,
    /// Chosen endpoints (B24–B29 are applied), sorted; empty: connections are refused (B26).
    pub backends: BTreeSet<Backend>,
    /// internalTrafficPolicy Local: only `Backend::local` ones may be chosen (B24).
    pub local_only: bool,
    /// Seconds; `None`: no affinity (B18).
    pub affinity_s: Option<u32>,
}

/// Ordered so that local backends come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    pub local: bool,
    pub addr: IpAddr,
    pub port: u16,
}

impl Ord for Backend {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (!self.local, self.addr, self.port).cmp(&(!other.local, other.addr, other.port))
    }
}

impl PartialOrd for Backend {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What is at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The pod; `None`: an address of this node.
    pub pod: Option<ObjectKey>,
    pub class: Class,
    /// A pod of this node whose interface exists.
    pub local: Option<LocalInterface>,
    /// Its policy is in the image: it may exchange packets with others than its node (C16).
    pub open: bool,
    /// [`Group::id`] that isolates it; `None`: not isolated in that direction (C1).
    pub ingress: Option<u64>,
    pub egress: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalInterface {
    pub ifindex: u32,
    pub mac: [u8; 6],
}

/// What a peer is to the policies of this node: the terms it satisfies.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Class {
    pub terms: BTreeSet<PeerTerm>,
}

/// The ipBlock terms that hold for every address whose longest prefix is this one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct CidrClass {
    pub terms: BTreeSet<PeerTerm>,
}

/// A set of peers, named by its canonical text so that equal selectors are one term.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PeerTerm {
    /// Pods: canonical texts of the namespace and the pod selector. A pod selector alone is bound
    /// to its policy's namespace in `namespaces` (C5); `named_port` narrows the term to pods where
    /// an egress rule's named port resolves to that number (C10).
    Pods { namespaces: String, pods: String, named_port: Option<(String, Protocol, u16)> },
    /// An ipBlock with its excepts (C7).
    Block { cidr: IpNet, except: BTreeSet<IpNet> },
}

/// The union of all rules that select one pod in one direction (C1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Group {
    /// Rules with equal port sets are merged; canonical order is mask bit order.
    pub rules: BTreeMap<PortSet, Rule>,
    /// Names for `explain`: the policies behind it. Not part of the id.
    pub policies: BTreeSet<ObjectKey>,
}

/// The peers of one port set.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Rule {
    /// No `from`/`to`: every peer.
    pub any_peer: bool,
    pub peers: BTreeSet<PeerTerm>,
    /// Policies that this rule comes from, for `explain`. Not part of the id.
    pub policies: BTreeSet<ObjectKey>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortSet {
    /// No `ports`: every port of every protocol, ICMP included (C8).
    Any,
    These(BTreeSet<PortTerm>),
}

/// Inclusive range of one protocol; a single port has `first == last`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortTerm {
    pub proto: Protocol,
    pub first: u16,
    pub last: u16,
}
