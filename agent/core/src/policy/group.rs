//! The policies of one pod in one direction → a [`Group`].

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{Direction, Peer, PeerRule, Peers, Policy, PortName, Ports};
use super::selector::{Namespaces, PodSelector, Selection};
use crate::image::{Group, PeerTerm, PortSet, PortTerm};
use crate::model::{Kind, ObjectKey, Problem, Severity};

/// Distinct port sets that one group can have: bits of a mask of the kernel's rows.
pub const PORT_SETS_MAX: usize = 256;

/// What decides a group: pods that agree in it share the group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupSpec {
    pub direction: Direction,
    /// All policies that select the pod and isolate this direction; never empty.
    pub policies: BTreeSet<ObjectKey>,
    /// Ingress: the pod's own numbers of the port names that the policies mention (C10).
    pub ports: BTreeMap<PortName, u16>,
}

impl GroupSpec {
    /// `None`: none of `policies` isolates this direction.
    pub fn of<'a>(
        direction: Direction,
        policies: impl IntoIterator<Item = &'a Policy>,
        own_ports: &BTreeMap<PortName, u16>,
    ) -> Option<Self> {
        let mut spec = Self { direction, policies: BTreeSet::new(), ports: BTreeMap::new() };
        for policy in policies {
            let Some(rules) = policy.rules(direction) else { continue };
            spec.policies.insert(policy.key.clone());
            if direction == Direction::Ingress {
                let names = rules.iter().flat_map(names_of);
                spec.ports.extend(names.filter_map(|n| Some((n.clone(), *own_ports.get(n)?))));
            }
        }
        (!spec.policies.is_empty()).then_some(spec)
    }
}

fn names_of(rule: &PeerRule) -> impl Iterator<Item = &PortName> {
    match &rule.ports {
        Ports::Any => None,
        Ports::These { names, .. } => Some(names.iter()),
    }
    .into_iter()
    .flatten()
}

/// A set of pods that a group asks for; with a name: by the number that each calls it.
pub type Wanted = (Selection, Option<PortName>);

/// Everything a group asks of pods, before any number is known.
pub fn wanted<'a>(
    direction: Direction,
    policies: impl IntoIterator<Item = &'a Policy>,
) -> BTreeSet<Wanted> {
    let mut wanted = BTreeSet::new();
    for rule in policies.into_iter().flat_map(|p| p.rules(direction).into_iter().flatten()) {
        for selection in selections(&rule.peers) {
            wanted.insert((selection, None));
        }
        if direction == Direction::Egress {
            for name in names_of(rule) {
                for selection in named_selections(&rule.peers) {
                    wanted.insert((selection, Some(name.clone())));
                }
            }
        }
    }
    wanted
}

fn selections(peers: &Peers) -> Vec<Selection> {
    let Peers::These(peers) = peers else { return Vec::new() };
    let pods = peers.iter().filter_map(|peer| match peer {
        Peer::Pods(selection) => Some(selection.clone()),
        Peer::Block { .. } => None,
    });
    pods.collect()
}

/// Pods that may answer to a port's name: all pods when the rule names no peer.
fn named_selections(peers: &Peers) -> Vec<Selection> {
    match peers {
        Peers::Any => vec![Selection::new(
            Namespaces::Selected(PodSelector::everything()),
            PodSelector::everything(),
        )],
        Peers::These(_) => selections(peers),
    }
}

pub fn term(selection: &Selection, named_port: Option<(&PortName, u16)>) -> PeerTerm {
    let (namespaces, pods) = selection.key().clone();
    let named_port = named_port.map(|((name, proto), number)| (name.clone(), *proto, number));
    PeerTerm::Pods { namespaces, pods, named_port }
}

/// Compiles `spec`. `numbers`: what the pods of a selection call a port, over all of them.
pub fn build<'a>(
    spec: &GroupSpec,
    policies: impl IntoIterator<Item = &'a Policy>,
    numbers: impl Fn(&Selection, &PortName) -> BTreeSet<u16>,
) -> (Group, Vec<Problem>) {
    let mut group = Group { policies: spec.policies.clone(), ..Group::default() };
    for policy in policies {
        for rule in policy.rules(spec.direction).into_iter().flatten() {
            let mut add = |ports: PortSet, peers: &Peers| add(&mut group, ports, peers, policy);
            match &rule.ports {
                Ports::Any => add(PortSet::Any, &rule.peers),
                Ports::These { numbers: terms, names } => {
                    let mut terms = terms.clone();
                    if spec.direction == Direction::Ingress {
                        terms.extend(names.iter().filter_map(|name| {
                            let number = *spec.ports.get(name)?;
                            Some(PortTerm { proto: name.1, first: number, last: number })
                        }));
                    }
                    if !terms.is_empty() {
                        add(PortSet::These(terms), &rule.peers);
                    }
                }
            }
            if spec.direction == Direction::Egress {
                for name in names_of(rule) {
                    for selection in named_selections(&rule.peers) {
                        for number in numbers(&selection, name) {
                            let port = PortTerm { proto: name.1, first: number, last: number };
                            let rule = group
                                .rules
                                .entry(PortSet::These(BTreeSet::from([port])))
                                .or_default();
                            rule.peers.insert(term(&selection, Some((name, number))));
                            rule.policies.insert(policy.key.clone());
                        }
                    }
                }
            }
        }
    }
    let problems = limit(&mut group);
    (group, problems)
}

fn add(group: &mut Group, ports: PortSet, peers: &Peers, policy: &Policy) {
    // A list of which nothing could be read names nobody: no rule (CVE-2025-64715).
    if matches!(peers, Peers::These(peers) if peers.is_empty()) {
        return;
    }
    let rule = group.rules.entry(ports).or_default();
    rule.policies.insert(policy.key.clone());
    match peers {
        Peers::Any => rule.any_peer = true,
        Peers::These(peers) => rule.peers.extend(peers.iter().map(|peer| match peer {
            Peer::Pods(selection) => term(selection, None),
            Peer::Block { cidr, except } => PeerTerm::Block { cidr: *cidr, except: except.clone() },
        })),
    }
}

/// Fits `group` into one mask: first without a loss, by uniting the ports of equal peers, then by
/// leaving rules out, which allows less (I9).
fn limit(group: &mut Group) -> Vec<Problem> {
    if group.rules.len() <= PORT_SETS_MAX {
        return Vec::new();
    }
    let mut by_peers: BTreeMap<(bool, BTreeSet<PeerTerm>), (PortSet, BTreeSet<ObjectKey>)> =
        BTreeMap::new();
    for (ports, rule) in std::mem::take(&mut group.rules) {
        match by_peers.entry((rule.any_peer, rule.peers)) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert((ports, rule.policies));
            }
            std::collections::btree_map::Entry::Occupied(mut slot) => {
                let (united, policies) = slot.get_mut();
                policies.extend(rule.policies);
                match (&mut *united, ports) {
                    (PortSet::These(united), PortSet::These(ports)) => united.extend(ports),
                    (united, _) => *united = PortSet::Any,
                }
            }
        }
    }
    for ((any_peer, peers), (ports, policies)) in by_peers {
        let rule = group.rules.entry(ports).or_default();
        rule.any_peer |= any_peer;
        rule.peers.extend(peers);
        rule.policies.extend(policies);
    }
    let mut lost = BTreeSet::new();
    while group.rules.len() > PORT_SETS_MAX {
        if let Some((_, rule)) = group.rules.pop_last() {
            lost.extend(rule.policies);
        }
    }
    lost.into_iter()
        .map(|key| Problem {
            kind: Kind::NetworkPolicy,
            key,
            severity: Severity::Error,
            reason: "TooManyPortSets",
            field: String::new(),
            message: format!(
                "the policies of one pod have more than {PORT_SETS_MAX} different lists of ports, \
                 and rules of this one are left out, which denies their traffic; use equal port \
                 lists for more peers, or ranges (endPort)"
            ),
        })
        .collect()
}

/// One group of several specs with the same rules: the names of all of them.
pub fn merge<'a>(groups: impl IntoIterator<Item = &'a Group>) -> Option<Group> {
    let mut groups = groups.into_iter();
    let mut merged = groups.next()?.clone();
    for group in groups {
        merged.policies.extend(group.policies.iter().cloned());
        for (ports, rule) in &group.rules {
            if let Some(known) = merged.rules.get_mut(ports) {
                known.policies.extend(rule.policies.iter().cloned());
            }
        }
    }
    Some(merged)
}
