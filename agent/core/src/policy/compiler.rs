//! The incremental compiler: what changed → what it touches → new rows.
//!
//! A batch goes through fixed stages, so that its order never matters (I15): namespaces, pods,
//! policies; then who is in which selection; then which group each local pod has; then the groups;
//! last the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::blocks::{self, Blocks};
use super::facts::{self, PodFacts};
use super::full::Compiled;
use super::group::{self, GroupSpec, Wanted};
use super::index::SelectorIndex;
use super::memory::{Hold, Memory};
use super::rows;
use super::rules::{self, Direction, Policy, PortName};
use super::selections::Selections;
use super::selector::{Namespaces, Selection, SelectionKey};
use crate::image::identity::Numbers;
use crate::image::{Endpoint, Group, ImageChange};
use crate::model::labels::Labels;
use crate::model::{Change, NodeView, ObjectKey, PodUid, Problem, World};

/// Keeps what it compiled, and indexes from every key to what depends on it.
#[derive(Clone, Default)]
pub struct PolicyCompiler {
    synced: bool,
    addresses: BTreeSet<IpAddr>,
    namespaces: BTreeMap<Arc<str>, Labels>,
    policies: BTreeMap<ObjectKey, Arc<Policy>>,
    policy_index: SelectorIndex<ObjectKey>,
    memory: Memory,
    pods: BTreeMap<PodUid, Pod>,
    pods_by_key: BTreeMap<ObjectKey, BTreeSet<PodUid>>,
    /// By namespace: pods that have an interface here.
    attached: BTreeMap<Arc<str>, BTreeSet<PodUid>>,
    claims: BTreeMap<IpAddr, BTreeSet<PodUid>>,
    selections: Selections,
    groups: BTreeMap<Arc<GroupSpec>, Compilation>,
    specs_by_policy: BTreeMap<ObjectKey, BTreeSet<Arc<GroupSpec>>>,
    specs_by_id: BTreeMap<u64, BTreeSet<Arc<GroupSpec>>>,
    numbers: Numbers,
    blocks: Blocks,
    /// Addresses of local pods that others claim too.
    contested: BTreeSet<IpAddr>,
    compiled: Compiled,
    problems: BTreeMap<Source, Vec<Problem>>,
}

#[derive(Clone)]
struct Pod {
    facts: PodFacts,
    member_of: BTreeSet<SelectionKey>,
    /// Ports as the selections counted them.
    counted: BTreeMap<PortName, u16>,
    ingress: Option<Arc<GroupSpec>>,
    egress: Option<Arc<GroupSpec>>,
}

/// A group, and what it holds on to.
#[derive(Clone, Default)]
struct Compilation {
    group: Group,
    /// 0: not compiled yet.
    id: u64,
    wanted: BTreeSet<Wanted>,
    users: BTreeSet<PodUid>,
}

/// Whom a list of problems belongs to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Policy(ObjectKey),
    Address(IpAddr),
    Group(Arc<GroupSpec>),
}

#[derive(Default)]
struct Dirty {
    /// Pods whose membership must be looked at, and local pods whose policies must.
    pods: BTreeSet<PodUid>,
    selected: BTreeSet<PodUid>,
    specs: BTreeSet<Arc<GroupSpec>>,
    groups: BTreeSet<u64>,
    prefixes: BTreeSet<IpNet>,
    addresses: BTreeSet<IpAddr>,
    fresh: Vec<Problem>,
}

/// Every key of `world`: what a compiler that starts must be given.
pub fn everything(world: &World) -> BTreeSet<Change> {
    let pods = world.pods.keys().cloned().map(Change::Pod);
    let policies = world.policies.keys().cloned().map(Change::Policy);
    let namespaces = world.namespaces.keys().cloned().map(Change::Namespace);
    let local = world.local.keys().cloned().map(Change::Local);
    pods.chain(policies).chain(namespaces).chain(local).chain([Change::Synced]).collect()
}

impl PolicyCompiler {
    pub fn new() -> Self {
        Self::default()
    }

    /// Recompiles what `changes` touch. `world` already has them. Returns the rows that changed, in
    /// an order in which nothing is removed that a later row refers to, and the problems that are
    /// new.
    ///
    /// Before [`World::synced`] no pod has a row: new pods are closed (C16, CVE-2024-42488), and
    /// the rows of an earlier run must be left alone by the caller until then (A38).
    pub fn apply(
        &mut self,
        world: &World,
        changes: &BTreeSet<Change>,
        node: &NodeView,
    ) -> (Vec<ImageChange>, Vec<Problem>) {
        let mut dirty = Dirty::default();
        self.node(world, node, &mut dirty);
        self.ingest(world, changes, node, &mut dirty);
        self.release_retained(world, &mut dirty);
        for uid in std::mem::take(&mut dirty.pods) {
            self.membership(&uid, &mut dirty);
        }
        for uid in std::mem::take(&mut dirty.selected) {
            self.select(&uid, &mut dirty);
        }
        for spec in std::mem::take(&mut dirty.specs) {
            self.compile(&spec, &mut dirty);
        }
        let changes = self.emit(&mut dirty);
        (changes, dirty.fresh)
    }

    /// All problems of all policies and pods, sorted.
    pub fn problems(&self) -> Vec<Problem> {
        let all: BTreeSet<_> = self.problems.values().flatten().cloned().collect();
        all.into_iter().collect()
    }

    /// What holds now; `problems` are all of them.
    pub fn compiled(&self) -> Compiled {
        let problems: BTreeSet<_> = self.problems.values().flatten().cloned().collect();
        Compiled { problems: problems.into_iter().collect(), ..self.compiled.clone() }
    }

    fn node(&mut self, world: &World, node: &NodeView, dirty: &mut Dirty) {
        let addresses: BTreeSet<IpAddr> = node.addresses.iter().copied().collect();
        if addresses != self.addresses {
            dirty.addresses.extend(self.addresses.symmetric_difference(&addresses));
            self.addresses = addresses;
        }
        if world.synced && !self.synced {
            self.synced = true;
            dirty.addresses.extend(self.claims.keys());
        }
    }

    fn ingest(
        &mut self,
        world: &World,
        changes: &BTreeSet<Change>,
        node: &NodeView,
        dirty: &mut Dirty,
    ) {
        for change in changes {
            if let Change::Namespace(key) = change {
                self.namespace(world, &key.name, dirty);
            }
        }
        for change in changes {
            match change {
                Change::Pod(key) => {
                    let mut uids = self.pods_by_key.get(key).cloned().unwrap_or_default();
                    uids.extend(world.pods.get(key).map(|pod| facts::uid_of(key, pod)));
                    for uid in uids {
                        self.pod(world, node, key, &uid, dirty);
                    }
                }
                Change::Local(uid) => {
                    let known = self.pods.get(uid).map(|pod| pod.facts.key.clone());
                    let key = known.unwrap_or_else(|| facts::local_key(world, uid));
                    self.pod(world, node, &key, uid, dirty);
                }
                _ => {}
            }
        }
        // After the pods: whether a policy may go depends on which of them still run.
        for change in changes {
            if let Change::Policy(key) = change {
                self.policy(world, key, dirty);
            }
        }
    }

    fn namespace(&mut self, world: &World, name: &Arc<str>, dirty: &mut Dirty) {
        self.memory.namespace(world, name);
        let labels = facts::namespace_labels(world, name);
        let pods: BTreeSet<PodUid> = self.pods_of(name).cloned().collect();
        if self.namespaces.get(name) != Some(&labels) {
            dirty.pods.extend(pods);
        }
        if world.namespaces.contains_key(&ObjectKey::new("", name.clone())) {
            self.namespaces.insert(name.clone(), labels);
        } else {
            self.namespaces.remove(name);
        }
    }

    fn pods_of(&self, namespace: &Arc<str>) -> impl Iterator<Item = &PodUid> {
        let namespace = namespace.clone();
        let from = ObjectKey::new(namespace.clone(), "");
        let keys = self.pods_by_key.range(from..);
        keys.take_while(move |(key, _)| key.namespace == namespace).flat_map(|(_, uids)| uids)
    }

    fn attached(&self, namespace: &str) -> impl Iterator<Item = (&PodUid, &PodFacts)> {
        let uids = self.attached.get(namespace).into_iter().flatten();
        uids.map(|uid| (uid, &self.pods[uid].facts))
    }

    fn is_attached(&self, namespace: &str) -> bool {
        self.attached.contains_key(namespace)
    }

    fn is_terminating(&self, namespace: &str) -> bool {
        self.attached(namespace).any(|(_, facts)| facts.terminating)
    }

    fn policy(&mut self, world: &World, key: &ObjectKey, dirty: &mut Dirty) {
        let new = world.policies.get(key).map(|policy| rules::parse(key, policy));
        if new.is_none() && self.policies.contains_key(key) && self.is_attached(&key.namespace) {
            let terminating = self.is_terminating(&key.namespace);
            if let Some(hold) = self.memory.hold(&key.namespace, terminating) {
                self.memory.retained.insert(key.clone(), hold);
                return;
            }
        }
        self.memory.retained.remove(key);
        self.replace_policy(key, new, dirty);
    }

    fn replace_policy(&mut self, key: &ObjectKey, new: Option<Policy>, dirty: &mut Dirty) {
        if self.policies.get(key).map(|old| &**old) == new.as_ref() {
            return;
        }
        let namespace = &key.namespace;
        let old = self.policies.remove(key);
        let selects = |policy: Option<&Policy>, facts: &PodFacts| {
            policy.is_some_and(|policy| policy.selects.pods.matches(&facts.labels))
        };
        let pods: Vec<PodUid> = self
            .attached(namespace)
            .filter(|(uid, _)| !dirty.selected.contains(*uid))
            .filter(|(_, facts)| selects(old.as_deref(), facts) || selects(new.as_ref(), facts))
            .map(|(uid, _)| uid.clone())
            .collect();
        dirty.selected.extend(pods);
        dirty.specs.extend(self.specs_by_policy.get(key).into_iter().flatten().cloned());
        if let Some(old) = &old {
            self.policy_index.remove(Some(namespace), &old.selects.pods, key);
        }
        let told = new.as_ref().map(|new| new.problems.clone()).unwrap_or_default();
        self.tell(Source::Policy(key.clone()), told, dirty);
        if let Some(new) = new {
            self.policy_index.insert(Some(namespace), &new.selects.pods, key);
            self.policies.insert(key.clone(), Arc::new(new));
        }
    }

    /// Lets policies go whose namespace lives on or has no pod here any more.
    fn release_retained(&mut self, world: &World, dirty: &mut Dirty) {
        for (key, hold) in self.memory.retained.clone() {
            let object = world.namespaces.get(&ObjectKey::new("", key.namespace.clone()));
            let lives = object.is_some_and(|object| object.metadata.deletion_timestamp.is_none());
            let ended = match hold {
                Hold::Namespace => !self.is_attached(&key.namespace),
                Hold::TerminatingPods => !self.is_terminating(&key.namespace),
            };
            if lives || ended {
                self.memory.retained.remove(&key);
                self.replace_policy(&key, None, dirty);
            }
        }
        let mut memory = std::mem::take(&mut self.memory);
        memory.forget(|name| self.is_attached(name));
        self.memory = memory;
    }

    fn pod(
        &mut self,
        world: &World,
        node: &NodeView,
        key: &ObjectKey,
        uid: &PodUid,
        dirty: &mut Dirty,
    ) {
        let before = self.pods.get(uid).map(|pod| &pod.facts);
        let after = facts::read(world, node, key, uid, before);
        if before == after.as_ref() {
            return;
        }
        let old_claims = before.map(|facts| facts.claims.clone()).unwrap_or_default();
        let new_claims = after.as_ref().map(|facts| facts.claims.clone()).unwrap_or_default();
        dirty.addresses.extend(old_claims.iter().chain(&new_claims));
        for addr in old_claims.difference(&new_claims) {
            detach(&mut self.claims, addr, uid);
        }
        for addr in new_claims.difference(&old_claims) {
            self.claims.entry(*addr).or_default().insert(uid.clone());
        }
        if let Some(before) = before.map(|facts| facts.key.clone()) {
            detach(&mut self.pods_by_key, &before, uid);
            detach(&mut self.attached, &before.namespace, uid);
        }
        dirty.pods.insert(uid.clone());
        dirty.selected.insert(uid.clone());
        match (after, self.pods.get_mut(uid)) {
            (Some(facts), known) => {
                self.pods_by_key.entry(facts.key.clone()).or_default().insert(uid.clone());
                if facts.local.is_some() {
                    let attached = self.attached.entry(facts.key.namespace.clone());
                    attached.or_default().insert(uid.clone());
                }
                match known {
                    Some(pod) => pod.facts = facts,
                    None => drop(self.pods.insert(uid.clone(), Pod::new(facts))),
                }
            }
            // The stages to come take it out of its selections and groups, `select` forgets it.
            (None, Some(pod)) => {
                pod.facts = PodFacts { known: false, local: None, ..pod.facts.clone() };
                pod.facts.claims.clear();
                pod.facts.labels.clear();
            }
            (None, None) => {}
        }
    }

    fn labels_of(&self, namespace: &Arc<str>) -> Labels {
        match self.namespaces.get(namespace) {
            Some(labels) => labels.clone(),
            None => facts::namespace_labels(&World::default(), namespace),
        }
    }

    fn membership(&mut self, uid: &PodUid, dirty: &mut Dirty) {
        let Some(pod) = self.pods.get(uid) else { return };
        let facts = &pod.facts;
        let member_of = if is_peer(facts) {
            self.selections.matching(facts, &self.labels_of(&facts.key.namespace))
        } else {
            BTreeSet::new()
        };
        let ports = facts.ports.clone();
        if member_of == pod.member_of && ports == pod.counted {
            return;
        }
        let touched =
            self.selections.move_pod(uid, (&pod.member_of, &pod.counted), (&member_of, &ports));
        dirty.specs.extend(touched);
        dirty.addresses.extend(&facts.claims);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.member_of = member_of;
            pod.counted = ports;
        }
    }

    /// Finds the policies of a pod; forgets the pod if nothing is left of it.
    fn select(&mut self, uid: &PodUid, dirty: &mut Dirty) {
        let Some(pod) = self.pods.get(uid) else { return };
        let facts = &pod.facts;
        let (mut ingress, mut egress) = (None, None);
        if facts.local.is_some() && facts.known {
            let keys = self.policy_index.candidates(&facts.key.namespace, &facts.labels);
            let selecting = || {
                let policies = keys.iter().filter_map(|key| self.policies.get(key).map(|p| &**p));
                policies.filter(|policy| policy.selects.pods.matches(&facts.labels))
            };
            let spec = |direction| GroupSpec::of(direction, selecting(), &facts.ports);
            ingress = spec(Direction::Ingress).map(Arc::new);
            egress = spec(Direction::Egress).map(Arc::new);
        }
        let gone = !facts.known && facts.local.is_none() && facts.claims.is_empty();
        let old = (pod.ingress.clone(), pod.egress.clone());
        for (old, new) in [(old.0, &ingress), (old.1, &egress)] {
            if old.as_ref() != new.as_ref() {
                dirty.addresses.extend(&self.pods[uid].facts.claims);
                self.leave(old, uid, dirty);
                self.join(new, uid, dirty);
            }
        }
        if gone {
            self.pods.remove(uid);
        } else if let Some(pod) = self.pods.get_mut(uid) {
            pod.ingress = ingress;
            pod.egress = egress;
        }
    }

    fn join(&mut self, spec: &Option<Arc<GroupSpec>>, uid: &PodUid, dirty: &mut Dirty) {
        let Some(spec) = spec else { return };
        if !self.groups.contains_key(spec) {
            for policy in &spec.policies {
                self.specs_by_policy.entry(policy.clone()).or_default().insert(spec.clone());
            }
            dirty.specs.insert(spec.clone());
        }
        self.groups.entry(spec.clone()).or_default().users.insert(uid.clone());
    }

    fn leave(&mut self, spec: Option<Arc<GroupSpec>>, uid: &PodUid, dirty: &mut Dirty) {
        let Some(spec) = spec else { return };
        if let Some(state) = self.groups.get_mut(&spec) {
            state.users.remove(uid);
            if state.users.is_empty() {
                dirty.specs.insert(spec);
            }
        }
    }

    /// Compiles the group of `spec`, or drops it when no pod has it.
    fn compile(&mut self, spec: &Arc<GroupSpec>, dirty: &mut Dirty) {
        let Some(mut state) = self.groups.remove(spec) else { return };
        let used = !state.users.is_empty();
        let policies: Vec<Arc<Policy>> = if used {
            spec.policies.iter().filter_map(|key| self.policies.get(key)).cloned().collect()
        } else {
            Vec::new()
        };
        let wanted = group::wanted(spec.direction, policies.iter().map(|p| &**p));
        for wanted in wanted.difference(&state.wanted) {
            self.acquire(wanted, spec, dirty);
        }
        let (group, told) = if used {
            group::build(spec, policies.iter().map(|p| &**p), |selection, name| {
                self.selections.numbers(selection, name)
            })
        } else {
            Default::default()
        };
        for wanted in state.wanted.difference(&wanted) {
            self.release(wanted, spec, dirty);
        }
        self.reblock(&state.group, &group, dirty);
        self.tell(Source::Group(spec.clone()), told, dirty);
        let id = if used { self.numbers.number(&group.to_string()) } else { 0 };
        if id != state.id {
            detach(&mut self.specs_by_id, &state.id, spec);
            let claims = state.users.iter().flat_map(|uid| &self.pods[uid].facts.claims);
            dirty.addresses.extend(claims);
        }
        dirty.groups.extend([state.id, id]);
        if used {
            self.specs_by_id.entry(id).or_default().insert(spec.clone());
            (state.group, state.id, state.wanted) = (group, id, wanted);
            self.groups.insert(spec.clone(), state);
        } else {
            for policy in &spec.policies {
                detach(&mut self.specs_by_policy, policy, spec);
            }
        }
    }

    fn acquire(&mut self, wanted: &Wanted, spec: &Arc<GroupSpec>, dirty: &mut Dirty) {
        let mut selections = std::mem::take(&mut self.selections);
        let find = |selection: &Selection| match &selection.namespaces {
            Namespaces::Named(name) => self.peers_in(name, selection).collect(),
            Namespaces::Selected(_) => {
                let names: BTreeSet<_> =
                    self.pods_by_key.keys().map(|key| &key.namespace).collect();
                let found = names
                    .into_iter()
                    .filter(|name| selection.in_namespace(name, &self.labels_of(name)));
                found.flat_map(|name| self.peers_in(name, selection)).collect()
            }
        };
        let counted = |uid: &PodUid| self.pods.get(uid).map(|pod| pod.counted.clone());
        let acquired = selections.acquire(wanted, spec, find, counted);
        self.selections = selections;
        for uid in acquired.joined {
            if let Some(pod) = self.pods.get_mut(&uid) {
                pod.member_of.insert(wanted.0.key().clone());
            }
        }
        for uid in acquired.reclassed {
            dirty.addresses.extend(&self.pods[&uid].facts.claims);
        }
    }

    fn peers_in(
        &self,
        namespace: &Arc<str>,
        selection: &Selection,
    ) -> impl Iterator<Item = PodUid> {
        let facts = self.pods_of(namespace).map(|uid| (uid, &self.pods[uid].facts));
        let inside = facts.filter(|(_, f)| is_peer(f) && selection.pods.matches(&f.labels));
        inside.map(|(uid, _)| uid.clone())
    }

    fn release(&mut self, wanted: &Wanted, spec: &Arc<GroupSpec>, dirty: &mut Dirty) {
        let (members, gone) = self.selections.release(wanted, spec);
        for uid in members {
            if let Some(pod) = self.pods.get_mut(&uid) {
                dirty.addresses.extend(&pod.facts.claims);
                if gone {
                    pod.member_of.remove(wanted.0.key());
                }
            }
        }
    }

    fn reblock(&mut self, old: &Group, new: &Group, dirty: &mut Dirty) {
        let (old, new) = (blocks::of_group(old), blocks::of_group(new));
        for block in new.difference(&old) {
            dirty.prefixes.extend(self.blocks.acquire(block));
        }
        for block in old.difference(&new) {
            dirty.prefixes.extend(self.blocks.release(block));
        }
    }

    fn tell(&mut self, source: Source, told: Vec<Problem>, dirty: &mut Dirty) {
        let before = self.problems.remove(&source).unwrap_or_default();
        dirty.fresh.extend(told.iter().filter(|problem| !before.contains(problem)).cloned());
        if !told.is_empty() {
            self.problems.insert(source, told);
        }
    }

    fn emit(&mut self, dirty: &mut Dirty) -> Vec<ImageChange> {
        let (mut first, mut last) = (Vec::new(), Vec::new());
        let mut rows = Vec::new();
        for addr in std::mem::take(&mut dirty.addresses) {
            let row = self.row(addr, dirty);
            if self.compiled.endpoints.get(&addr) != row.as_ref() {
                put(&mut self.compiled.endpoints, addr, row.clone());
                rows.push(ImageChange::Endpoint(addr, row));
            }
        }
        for id in std::mem::take(&mut dirty.groups) {
            let group = self.group(id);
            if group.is_none() {
                self.numbers.forget(id);
            }
            if self.compiled.groups.get(&id) != group.as_ref() {
                put(&mut self.compiled.groups, id, group.clone());
                let list = if group.is_some() { &mut first } else { &mut last };
                list.push(ImageChange::Group(id, group));
            }
        }
        for prefix in std::mem::take(&mut dirty.prefixes) {
            let class = self.blocks.class(&prefix);
            if self.compiled.cidrs.get(&prefix) != class.as_ref() {
                put(&mut self.compiled.cidrs, prefix, class.clone());
                let list = if class.is_some() { &mut first } else { &mut last };
                list.push(ImageChange::Cidr(prefix, class));
            }
        }
        first.into_iter().chain(rows).chain(last).collect()
    }

    fn group(&self, id: u64) -> Option<Group> {
        let specs = self.specs_by_id.get(&id).into_iter().flatten();
        let merged = group::merge(specs.map(|spec| &self.groups[spec].group));
        let contested = !self.contested.is_empty() && id == rows::nobody().id();
        merged.or_else(|| contested.then(rows::nobody))
    }

    fn row(&mut self, addr: IpAddr, dirty: &mut Dirty) -> Option<Endpoint> {
        let uids = self.claims.get(&addr).cloned().unwrap_or_default();
        let claimants: Vec<(&PodUid, &PodFacts)> =
            uids.iter().map(|uid| (uid, &self.pods[uid].facts)).collect();
        let winner = rows::winner(claimants.iter().copied());
        let nodes = self.addresses.contains(&addr);
        let owner = if nodes { None } else { winner };
        let losers = claimants.iter().filter(|(uid, _)| owner.is_none_or(|(w, _)| w != *uid));
        let told = rows::conflict(addr, owner.map(|(_, f)| f), losers.map(|(_, f)| *f));
        let nobody = rows::nobody().id();
        let contested = (!told.is_empty() && !nodes).then_some(nobody);
        let local = self.synced && owner.is_some_and(|(_, facts)| facts.local.is_some());
        let row = match owner {
            _ if nodes => Some(rows::node()),
            Some((uid, facts)) if self.synced => {
                let pod = &self.pods[uid];
                let id = |spec: &Option<Arc<GroupSpec>>| {
                    spec.as_ref().and_then(|spec| Some(self.groups.get(spec)?.id))
                };
                let class = self.selections.class(&pod.member_of, &facts.ports);
                Some(rows::pod(facts, class, (id(&pod.ingress), id(&pod.egress)), contested))
            }
            _ => None,
        };
        let changed = if contested.is_some() && local {
            self.contested.insert(addr)
        } else {
            self.contested.remove(&addr)
        };
        if changed {
            dirty.groups.insert(nobody);
        }
        self.tell(Source::Address(addr), told, dirty);
        row
    }
}

impl Pod {
    fn new(facts: PodFacts) -> Self {
        Self {
            facts,
            member_of: BTreeSet::new(),
            counted: BTreeMap::new(),
            ingress: None,
            egress: None,
        }
    }
}

/// Pods that can be peers: known, and somewhere on the network.
fn is_peer(facts: &PodFacts) -> bool {
    facts.known && !facts.claims.is_empty()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn detach<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}
