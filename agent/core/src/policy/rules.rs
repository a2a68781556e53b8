//! One NetworkPolicy read into rules, and everything that is wrong with it.
//!
//! What cannot be read allows nothing and the policy isolates all the same: an empty list and a
//! list of which nothing is left are different things here (CVE-2025-64715).

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::selector::{Namespaces, PodSelector, Selection};
use crate::image::{PortTerm, Protocol};
use crate::model::{Kind, ObjectKey, Problem, Severity};

/// A NetworkPolicy as its rules mean it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    pub key: ObjectKey,
    pub selects: Selection,
    /// `None`: does not isolate this direction.
    pub ingress: Option<Vec<PeerRule>>,
    pub egress: Option<Vec<PeerRule>>,
    pub problems: Vec<Problem>,
}

/// Traffic must match one peer and one port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PeerRule {
    pub peers: Peers,
    pub ports: Ports,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peers {
    Any,
    /// Empty: nobody.
    These(BTreeSet<Peer>),
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Peer {
    Pods(Selection),
    Block { cidr: IpNet, except: BTreeSet<IpNet> },
}

/// A port's name, as containers declare it.
pub type PortName = (String, Protocol);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Ports {
    Any,
    /// Both empty: none.
    These {
        numbers: BTreeSet<PortTerm>,
        names: BTreeSet<PortName>,
    },
}

/// A direction as seen from the selected pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Policy {
    pub fn rules(&self, direction: Direction) -> Option<&Vec<PeerRule>> {
        match direction {
            Direction::Ingress => self.ingress.as_ref(),
            Direction::Egress => self.egress.as_ref(),
        }
    }
}

/// Reads `policy`. Never fails: see the module.
pub fn parse(key: &ObjectKey, policy: &NetworkPolicy) -> Policy {
    let mut reader = Reader { key, problems: Vec::new() };
    let own = || Namespaces::Named(key.namespace.clone());
    let Some(spec) = &policy.spec else {
        // The API's default of an absent spec: an empty selector, and isolation of ingress (C3).
        return Policy {
            key: key.clone(),
            selects: Selection::new(own(), PodSelector::everything()),
            ingress: Some(Vec::new()),
            egress: None,
            problems: Vec::new(),
        };
    };
    let everything = LabelSelector::default();
    let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
    let (pods, wrong) = PodSelector::parse_valid_part(selector);
    let readable = wrong.is_empty();
    for (field, what) in wrong {
        reader.error(
            format!("spec.podSelector.{field}"),
            format!(
                "{what}; until then the policy isolates every pod that the rest of the selector \
                 matches, and allows nothing"
            ),
        );
    }
    let (isolates_ingress, isolates_egress) = reader
        .types(spec.policy_types.as_deref(), spec.egress.as_ref().is_some_and(|e| !e.is_empty()));
    let mut ingress = Vec::new();
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let at = format!("spec.ingress[{i}]");
        ingress.push(PeerRule {
            peers: reader.peers(&format!("{at}.from"), rule.from.as_deref()),
            ports: reader.ports(&format!("{at}.ports"), rule.ports.as_deref()),
        });
    }
    let mut egress = Vec::new();
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let at = format!("spec.egress[{i}]");
        let rule = PeerRule {
            peers: reader.peers(&format!("{at}.to"), rule.to.as_deref()),
            ports: reader.ports(&format!("{at}.ports"), rule.ports.as_deref()),
        };
        reader.warn_of_named_blocks(&at, &rule);
        egress.push(rule);
    }
    if !readable {
        ingress.clear();
        egress.clear();
    }
    Policy {
        key: key.clone(),
        selects: Selection::new(own(), pods),
        ingress: isolates_ingress.then_some(ingress),
        egress: isolates_egress.then_some(egress),
        problems: reader.problems,
    }
}

struct Reader<'a> {
    key: &'a ObjectKey,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn error(&mut self, field: String, message: String) {
        self.problem(Severity::Error, "InvalidNetworkPolicy", field, message);
    }

    fn problem(
        &mut self,
        severity: Severity,
        reason: &'static str,
        field: String,
        message: String,
    ) {
        self.problems.push(Problem {
            kind: Kind::NetworkPolicy,
            key: self.key.clone(),
            severity,
            reason,
            field,
            message,
        });
    }

    /// (isolates ingress, isolates egress) (C3).
    fn types(&mut self, types: Option<&[String]>, has_egress_rules: bool) -> (bool, bool) {
        let types = types.unwrap_or_default();
        let mut isolates = (false, false);
        let mut by_sections = types.is_empty();
        for (i, name) in types.iter().enumerate() {
            match name.as_str() {
                "Ingress" => isolates.0 = true,
                "Egress" => isolates.1 = true,
                other => {
                    by_sections = true;
                    self.error(
                        format!("spec.policyTypes[{i}]"),
                        format!(
                            "{other:?} is not a policy type; use Ingress or Egress; until then the \
                             policy isolates what its sections say"
                        ),
                    );
                }
            }
        }
        if by_sections { (true, isolates.1 || has_egress_rules) } else { isolates }
    }

    fn peers(&mut self, at: &str, peers: Option<&[NetworkPolicyPeer]>) -> Peers {
        match peers {
            None | Some([]) => Peers::Any,
            Some(peers) => Peers::These(
                peers
                    .iter()
                    .enumerate()
                    .filter_map(|(i, peer)| self.peer(&format!("{at}[{i}]"), peer))
                    .collect(),
            ),
        }
    }

    fn peer(&mut self, at: &str, peer: &NetworkPolicyPeer) -> Option<Peer> {
        let selectors = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match (&peer.ip_block, selectors) {
            (Some(_), true) => {
                self.error(
                    at.to_owned(),
                    "ipBlock cannot stand beside podSelector or namespaceSelector; make two items \
                     of it; until then this item allows nothing"
                        .to_owned(),
                );
                None
            }
            (Some(block), false) => self.block(&format!("{at}.ipBlock"), block),
            (None, true) => {
                let namespaces = match &peer.namespace_selector {
                    None => Some(Namespaces::Named(self.key.namespace.clone())),
                    Some(selector) => self
                        .selector(&format!("{at}.namespaceSelector"), selector)
                        .map(Namespaces::Selected),
                };
                let pods = match &peer.pod_selector {
                    None => Some(PodSelector::everything()),
                    Some(selector) => self.selector(&format!("{at}.podSelector"), selector),
                };
                Some(Peer::Pods(Selection::new(namespaces?, pods?)))
            }
            (None, false) => {
                self.error(
                    at.to_owned(),
                    "names no peer; give a podSelector, a namespaceSelector or an ipBlock ({} as a \
                     selector means all); until then this item allows nothing"
                        .to_owned(),
                );
                None
            }
        }
    }

    fn selector(&mut self, at: &str, selector: &LabelSelector) -> Option<PodSelector> {
        match PodSelector::parse(selector) {
            Ok(selector) => Some(selector),
            Err(wrong) => {
                for (field, what) in wrong {
                    self.error(
                        format!("{at}.{field}"),
                        format!("{what}; until then this item allows nothing"),
                    );
                }
                None
            }
        }
    }

    fn block(&mut self, at: &str, block: &IPBlock) -> Option<Peer> {
        let cidr = self.cidr(format!("{at}.cidr"), &block.cidr);
        let mut except = BTreeSet::new();
        let mut readable = true;
        for (i, text) in block.except.iter().flatten().enumerate() {
            let field = format!("{at}.except[{i}]");
            let inner = self.cidr(field.clone(), text);
            readable &= inner.is_some();
            let (Some(cidr), Some(inner)) = (cidr, inner) else { continue };
            if cidr.contains(&inner) && cidr != inner {
                except.insert(inner);
            } else {
                readable = false;
                self.error(
                    field,
                    format!(
                        "{inner} is not a part of {cidr}; name a smaller block inside it; until \
                         then this item allows nothing"
                    ),
                );
            }
        }
        readable.then_some(Peer::Block { cidr: cidr?, except })
    }

    fn cidr(&mut self, field: String, text: &str) -> Option<IpNet> {
        match text.parse::<IpNet>() {
            Ok(net) if mapped(&net) => {
                self.error(
                    field,
                    format!(
                        "{text:?} is an IPv4 block in IPv6 clothes; write it as IPv4; until then \
                         this item allows nothing"
                    ),
                );
                None
            }
            Ok(net) => Some(net.trunc()),
            Err(_) => {
                self.error(
                    field,
                    format!(
                        "{text:?} is not a block of addresses; write it like 10.0.0.0/8 or \
                         2001:db8::/32; until then this item allows nothing"
                    ),
                );
                None
            }
        }
    }

    fn ports(&mut self, at: &str, ports: Option<&[NetworkPolicyPort]>) -> Ports {
        let (mut numbers, mut names) = (BTreeSet::new(), BTreeSet::new());
        match ports {
            None | Some([]) => return Ports::Any,
            Some(ports) => {
                for (i, port) in ports.iter().enumerate() {
                    match self.port(&format!("{at}[{i}]"), port) {
                        Some(OnePort::Number(term)) => drop(numbers.insert(term)),
                        Some(OnePort::Name(name)) => drop(names.insert(name)),
                        None => {}
                    }
                }
            }
        }
        Ports::These { numbers, names }
    }

    fn port(&mut self, at: &str, port: &NetworkPolicyPort) -> Option<OnePort> {
        let proto = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(other) => {
                return self.no_port(
                    format!("{at}.protocol"),
                    format!("{other:?} is not a protocol of policies; use TCP, UDP or SCTP"),
                );
            }
        };
        match (&port.port, port.end_port) {
            (None, None) => Some(OnePort::Number(PortTerm { proto, first: 0, last: u16::MAX })),
            (Some(IntOrString::String(name)), None) if is_port_name(name) => {
                Some(OnePort::Name((name.clone(), proto)))
            }
            (Some(IntOrString::String(name)), None) => self.no_port(
                format!("{at}.port"),
                format!(
                    "{name:?} cannot be the name of a port (at most 15 of a-z, 0-9 and -, with a \
                     letter); write a number without quotes"
                ),
            ),
            (None | Some(IntOrString::String(_)), Some(_)) => self.no_port(
                format!("{at}.endPort"),
                "needs a port that is a number; set port to the first of the range".to_owned(),
            ),
            (Some(IntOrString::Int(first)), last) => {
                let number = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0);
                let Some(low) = number(*first) else {
                    return self.no_port(
                        format!("{at}.port"),
                        format!("{first} is not a port; use 1 to 65535"),
                    );
                };
                match number(last.unwrap_or(*first)) {
                    Some(high) if high >= low => {
                        Some(OnePort::Number(PortTerm { proto, first: low, last: high }))
                    }
                    _ => self.no_port(
                        format!("{at}.endPort"),
                        format!("must be from port ({low}) to 65535"),
                    ),
                }
            }
        }
    }

    fn no_port(&mut self, field: String, what: String) -> Option<OnePort> {
        self.error(field, format!("{what}; until then this item allows nothing"));
        None
    }

    /// Names are resolved by destination pod (C10), so addresses of a block have none.
    fn warn_of_named_blocks(&mut self, at: &str, rule: &PeerRule) {
        let Ports::These { names, .. } = &rule.ports else { return };
        let Peers::These(peers) = &rule.peers else { return };
        let block = peers.iter().any(|peer| matches!(peer, Peer::Block { .. }));
        if let (true, Some((name, _))) = (block, names.first()) {
            self.problem(
                Severity::Warning,
                "NamedPortOfBlock",
                format!("{at}.ports"),
                format!(
                    "port {name:?} is a name, which only pods have: it never matches an ipBlock; \
                     use the number"
                ),
            );
        }
    }
}

enum OnePort {
    Number(PortTerm),
    Name(PortName),
}

/// `::ffff:0:0/96` and what is inside: keys of the kernel's maps carry IPv4 that way.
fn mapped(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(_) => false,
        IpAddr::V6(addr) => net.prefix_len() >= 96 && addr.to_ipv4_mapped().is_some(),
    }
}

/// IANA_SVC_NAME, as the API server asks for it.
fn is_port_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=15).contains(&name.len())
        && name.chars().all(legal)
        && name.chars().any(|c| c.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
