//! Everything compiled from the start: the oracle of [`super::PolicyCompiler`], without an index.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::{self, PodFacts};
use super::group::{self, GroupSpec, Wanted};
use super::rules::{self, Direction, Policy, PortName};
use super::selector::Selection;
use super::{blocks, rows, selections};
use crate::image::{CidrClass, Class, Endpoint, Group};
use crate::model::{NodeView, ObjectKey, PodUid, Problem, World};

/// The policy half of an image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compiled {
    pub endpoints: BTreeMap<IpAddr, Endpoint>,
    pub cidrs: BTreeMap<IpNet, CidrClass>,
    pub groups: BTreeMap<u64, Group>,
    /// Sorted, each once.
    pub problems: Vec<Problem>,
}

/// Compiles `world` for `node`, in time proportional to pods × policies.
///
/// It knows the present only: a pod whose object is gone is closed here, where the compiler with a
/// memory keeps its last policy.
pub fn compile_full(world: &World, node: &NodeView) -> Compiled {
    let policies: BTreeMap<ObjectKey, Policy> =
        world.policies.iter().map(|(key, p)| (key.clone(), rules::parse(key, p))).collect();
    let pods = pods(world, node);
    let mut compiled = Compiled::default();
    let mut problems: BTreeSet<Problem> =
        policies.values().flat_map(|policy| policy.problems.iter().cloned()).collect();

    let (specs, wanted) = specs(&policies, &pods);
    let members = members(world, &pods, &wanted);
    let mut ids: BTreeMap<&GroupSpec, u64> = BTreeMap::new();
    let mut by_id: BTreeMap<u64, Vec<Group>> = BTreeMap::new();
    for spec in specs.values().flat_map(|pair| [&pair.0, &pair.1]).flatten() {
        if ids.contains_key(spec) {
            continue;
        }
        let behind = spec.policies.iter().filter_map(|key| policies.get(key));
        let (group, told) = group::build(spec, behind, |selection, name| {
            let uids = members.get(selection).into_iter().flatten();
            uids.filter_map(|uid| pods[uid].ports.get(name).copied()).collect()
        });
        problems.extend(told);
        ids.insert(spec, group.id());
        by_id.entry(group.id()).or_default().push(group);
    }
    cidrs(by_id.values().flatten(), &mut compiled);

    for (addr, claimants) in claims(&pods) {
        if node.addresses.contains(&addr) {
            problems.extend(rows::conflict(addr, None, claimants.into_values()));
            continue;
        }
        let Some((uid, facts)) = rows::winner(claimants.iter().map(|(u, f)| (*u, *f))) else {
            continue;
        };
        let losers = claimants.iter().filter(|(other, _)| **other != uid).map(|(_, f)| *f);
        let told = rows::conflict(addr, Some(facts), losers);
        let contested = (!told.is_empty()).then(|| rows::nobody().id());
        if contested.is_some() && facts.local.is_some() && world.synced {
            by_id.entry(rows::nobody().id()).or_default().push(rows::nobody());
        }
        problems.extend(told);
        if !world.synced {
            continue;
        }
        let id = |spec: &Option<GroupSpec>| spec.as_ref().and_then(|s| ids.get(s).copied());
        let groups = specs.get(uid).map_or((None, None), |pair| (id(&pair.0), id(&pair.1)));
        let class = class(uid, facts, &wanted, &members);
        compiled.endpoints.insert(addr, rows::pod(facts, class, groups, contested));
    }
    for addr in &node.addresses {
        compiled.endpoints.insert(*addr, rows::node());
    }
    for (id, groups) in by_id {
        compiled.groups.extend(group::merge(&groups).map(|group| (id, group)));
    }
    compiled.problems = problems.into_iter().collect();
    compiled
}

fn pods(world: &World, node: &NodeView) -> BTreeMap<PodUid, PodFacts> {
    let objects = world.pods.iter().map(|(key, pod)| (facts::uid_of(key, pod), key.clone()));
    let mut keys: BTreeMap<PodUid, ObjectKey> = objects.collect();
    for uid in world.local.keys() {
        keys.entry(uid.clone()).or_insert_with(|| facts::local_key(world, uid));
    }
    let read = |(uid, key): (PodUid, ObjectKey)| {
        let facts = facts::read(world, node, &key, &uid, None)?;
        Some((uid, facts))
    };
    keys.into_iter().filter_map(read).collect()
}

fn claims(pods: &BTreeMap<PodUid, PodFacts>) -> BTreeMap<IpAddr, BTreeMap<&PodUid, &PodFacts>> {
    let mut claims: BTreeMap<IpAddr, BTreeMap<&PodUid, &PodFacts>> = BTreeMap::new();
    for (uid, facts) in pods {
        for addr in &facts.claims {
            claims.entry(*addr).or_default().insert(uid, facts);
        }
    }
    claims
}

type Specs = BTreeMap<PodUid, (Option<GroupSpec>, Option<GroupSpec>)>;

/// The groups of each local pod, and what all groups ask for.
fn specs(
    policies: &BTreeMap<ObjectKey, Policy>,
    pods: &BTreeMap<PodUid, PodFacts>,
) -> (Specs, BTreeSet<Wanted>) {
    let (mut specs, mut wanted) = (Specs::new(), BTreeSet::new());
    for (uid, facts) in pods.iter().filter(|(_, facts)| facts.local.is_some() && facts.known) {
        let selecting = || {
            policies.values().filter(|policy| {
                policy.key.namespace == facts.key.namespace
                    && policy.selects.pods.matches(&facts.labels)
            })
        };
        let spec = |direction| GroupSpec::of(direction, selecting(), &facts.ports);
        specs.insert(uid.clone(), (spec(Direction::Ingress), spec(Direction::Egress)));
        for direction in [Direction::Ingress, Direction::Egress] {
            wanted.extend(group::wanted(direction, selecting()));
        }
    }
    (specs, wanted)
}

fn members(
    world: &World,
    pods: &BTreeMap<PodUid, PodFacts>,
    wanted: &BTreeSet<Wanted>,
) -> BTreeMap<Selection, BTreeSet<PodUid>> {
    let labels: BTreeMap<&str, _> = pods
        .values()
        .map(|facts| &*facts.key.namespace)
        .map(|name| (name, facts::namespace_labels(world, name)))
        .collect();
    let inside = |selection: &Selection, facts: &PodFacts| {
        facts.known
            && !facts.claims.is_empty()
            && selection.in_namespace(&facts.key.namespace, &labels[&*facts.key.namespace])
            && selection.pods.matches(&facts.labels)
    };
    let mut members: BTreeMap<Selection, BTreeSet<PodUid>> = BTreeMap::new();
    for (selection, _) in wanted {
        let found = pods.iter().filter(|(_, facts)| inside(selection, facts));
        members
            .entry(selection.clone())
            .or_insert_with(|| found.map(|(uid, _)| uid.clone()).collect());
    }
    members
}

fn class(
    uid: &PodUid,
    facts: &PodFacts,
    wanted: &BTreeSet<Wanted>,
    members: &BTreeMap<Selection, BTreeSet<PodUid>>,
) -> Class {
    let inside = wanted.iter().filter(|(selection, _)| {
        members.get(selection).is_some_and(|members| members.contains(uid))
    });
    let term = |(selection, name): &Wanted| -> Option<_> {
        selections::term(selection, name as &Option<PortName>, &facts.ports)
    };
    Class { terms: inside.filter_map(term).collect() }
}

fn cidrs<'a>(groups: impl Iterator<Item = &'a Group>, compiled: &mut Compiled) {
    let used: BTreeSet<_> = groups.flat_map(blocks::of_group).collect();
    for prefix in used.iter().flat_map(blocks::prefixes) {
        let holding = used.iter().filter(|block| blocks::holds(block, &prefix));
        let terms = holding.cloned().map(blocks::into_term).collect();
        compiled.cidrs.insert(prefix, CidrClass { terms });
    }
}
