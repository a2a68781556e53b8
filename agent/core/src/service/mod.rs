//! Services and EndpointSlices → frontends and their chosen backends.
//!
//! Per key: an index leads from a slice or a local pod to the Services that it touches;
//! [`compile_full`] is the oracle. Deliberately absent: NodePort, LoadBalancer and external
//! addresses, session affinity, SCTP and IPv6; each is told as a [`Problem`] with its field.

mod choose;
mod endpoints;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use self::endpoints::{Around, Locals};
use self::view::Compiled;
use crate::image::{Frontend, ImageChange, ServiceEntry};
use crate::model::{Change, Kind, NodeView, ObjectKey, Problem, Severity, World, labels};

/// Label that binds a slice to its Service (B5).
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label of a Node.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What a slice was when it was indexed.
#[derive(Clone, Debug, Default)]
struct SliceFacts {
    service: Option<ObjectKey>,
    ips: BTreeSet<IpAddr>,
}

/// All that [`apply`](Self::apply) remembers. Dropping it costs a full compile and nothing else.
#[derive(Clone, Debug, Default)]
pub struct ServiceCompiler {
    /// A complete World was seen; before that nothing is compiled (B9).
    started: bool,
    /// Name and zone of the node, which every choice depends on.
    node: (String, String),
    slices: BTreeMap<ObjectKey, SliceFacts>,
    slices_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    slices_at: BTreeSet<(IpAddr, ObjectKey)>,
    locals: Locals,
    compiled: BTreeMap<ObjectKey, Compiled>,
    /// Services that want a frontend; the first of them has it.
    claims: BTreeMap<Frontend, BTreeSet<ObjectKey>>,
}

impl ServiceCompiler {
    /// The image's changes and the problems of the Services that `changes` touch.
    ///
    /// Before the World is [synced](World::synced) nothing is compiled and nothing is deleted (B9).
    pub fn apply(
        &mut self,
        world: &World,
        changes: &BTreeSet<Change>,
        node: &NodeView,
    ) -> (Vec<ImageChange>, Vec<Problem>) {
        if !world.synced {
            return (Vec::new(), Vec::new());
        }
        let at = (node.name.clone(), zone_of(world, node).to_owned());
        let all = !self.started || self.node != at || changes.contains(&Change::Synced);
        let dirty = if all { self.reindex(world) } else { self.touched(world, changes) };
        self.started = true;
        self.node = at;
        self.recompile(world, dirty, node)
    }

    /// Problems of all Services as they were last compiled.
    pub fn problems(&self) -> Vec<Problem> {
        let own = self.compiled.values().flat_map(|compiled| compiled.problems.iter().cloned());
        own.chain(self.claims.iter().flat_map(|(at, claims)| conflicts(at, claims))).collect()
    }

    /// Everything anew: all Services that are or were.
    fn reindex(&mut self, world: &World) -> BTreeSet<ObjectKey> {
        self.slices.clear();
        self.slices_of.clear();
        self.slices_at.clear();
        for (key, slice) in &world.endpoint_slices {
            self.index_slice(key, Some(slice));
        }
        self.locals = Locals::of(&world.local);
        world.services.keys().cloned().chain(self.compiled.keys().cloned()).collect()
    }

    fn touched(&mut self, world: &World, changes: &BTreeSet<Change>) -> BTreeSet<ObjectKey> {
        let mut dirty = BTreeSet::new();
        for change in changes {
            match change {
                Change::Service(key) => {
                    dirty.insert(key.clone());
                }
                Change::EndpointSlice(key) => {
                    let slice = world.endpoint_slices.get(key).map(|slice| &**slice);
                    dirty.extend(self.index_slice(key, slice));
                }
                Change::Local(uid) => {
                    let pod = world.local.get(uid).map(|pod| &**pod);
                    for ip in self.locals.set(uid, pod) {
                        dirty.extend(self.services_at(ip));
                    }
                }
                _ => {}
            }
        }
        dirty
    }

    /// The Services that the slice was of and is of.
    fn index_slice(&mut self, key: &ObjectKey, slice: Option<&EndpointSlice>) -> Vec<ObjectKey> {
        let facts = slice.map(facts_of).unwrap_or_default();
        let old = match slice {
            Some(_) => self.slices.insert(key.clone(), facts.clone()),
            None => self.slices.remove(key),
        }
        .unwrap_or_default();
        for ip in &old.ips {
            self.slices_at.remove(&(*ip, key.clone()));
        }
        self.slices_at.extend(facts.ips.iter().map(|ip| (*ip, key.clone())));
        if let Some(service) = &old.service
            && let Some(slices) = self.slices_of.get_mut(service)
        {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(service);
            }
        }
        if let Some(service) = &facts.service {
            self.slices_of.entry(service.clone()).or_default().insert(key.clone());
        }
        old.service.into_iter().chain(facts.service).collect()
    }

    fn services_at(&self, ip: IpAddr) -> impl Iterator<Item = ObjectKey> {
        let first = (ip, ObjectKey::new("", ""));
        let slices = self.slices_at.range(first..).take_while(move |(at, _)| *at == ip);
        slices.filter_map(|(_, slice)| self.slices.get(slice)?.service.clone())
    }

    fn recompile(
        &mut self,
        world: &World,
        dirty: BTreeSet<ObjectKey>,
        node: &NodeView,
    ) -> (Vec<ImageChange>, Vec<Problem>) {
        let zone = zone_of(world, node);
        let mut problems = Vec::new();
        let mut before: BTreeMap<Frontend, Option<ServiceEntry>> = BTreeMap::new();
        for key in dirty {
            let slices = self.slices_of.get(&key).into_iter().flatten();
            let compiled = compile_one(world, &key, slices, &self.locals, (node, zone));
            problems.extend(compiled.iter().flat_map(|compiled| compiled.problems.iter().cloned()));
            let old = self.compiled.get(&key);
            let frontends = old.into_iter().chain(&compiled).flat_map(|c| c.entries.keys());
            for at in frontends {
                before.entry(*at).or_insert_with(|| self.published(at).cloned());
            }
            self.claim(&key, compiled);
        }
        for at in before.keys() {
            problems.extend(self.claims.get(at).into_iter().flat_map(|all| conflicts(at, all)));
        }
        let changes = before.into_iter().filter_map(|(at, old)| {
            let new = self.published(&at);
            (old.as_ref() != new).then(|| ImageChange::Service(at, new.cloned()))
        });
        (changes.collect(), problems)
    }

    fn claim(&mut self, key: &ObjectKey, compiled: Option<Compiled>) {
        for at in self.compiled.remove(key).iter().flat_map(|old| old.entries.keys()) {
            if let Some(claims) = self.claims.get_mut(at) {
                claims.remove(key);
                if claims.is_empty() {
                    self.claims.remove(at);
                }
            }
        }
        let Some(compiled) = compiled else { return };
        for at in compiled.entries.keys() {
            self.claims.entry(*at).or_default().insert(key.clone());
        }
        self.compiled.insert(key.clone(), compiled);
    }

    fn published(&self, at: &Frontend) -> Option<&ServiceEntry> {
        let owner = self.claims.get(at)?.first()?;
        self.compiled.get(owner)?.entries.get(at)
    }
}

/// Every frontend of a World: the oracle of [`ServiceCompiler`], and its first compile.
///
/// It does not look at [`World::synced`]: who deletes what is not in it must.
pub fn compile_full(
    world: &World,
    node: &NodeView,
) -> (BTreeMap<Frontend, ServiceEntry>, Vec<Problem>) {
    let (locals, zone) = (Locals::of(&world.local), zone_of(world, node));
    let mut slices_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>> = BTreeMap::new();
    for (key, slice) in &world.endpoint_slices {
        if let Some(service) = facts_of(slice).service {
            slices_of.entry(service).or_default().insert(key.clone());
        }
    }
    let mut frontends = BTreeMap::new();
    let mut claims: BTreeMap<Frontend, BTreeSet<ObjectKey>> = BTreeMap::new();
    let mut problems = Vec::new();
    // In key order, so the first claim is the one that counts.
    for key in world.services.keys() {
        let slices = slices_of.get(key).into_iter().flatten();
        let Some(compiled) = compile_one(world, key, slices, &locals, (node, zone)) else {
            continue;
        };
        problems.extend(compiled.problems);
        for (at, entry) in compiled.entries {
            claims.entry(at).or_default().insert(key.clone());
            frontends.entry(at).or_insert(entry);
        }
    }
    problems.extend(claims.iter().flat_map(|(at, claims)| conflicts(at, claims)));
    (frontends, problems)
}

fn compile_one<'a>(
    world: &World,
    key: &ObjectKey,
    slices: impl Iterator<Item = &'a ObjectKey>,
    locals: &Locals,
    (node, zone): (&NodeView, &str),
) -> Option<Compiled> {
    let service = world.services.get(key)?;
    let slices: Vec<(&ObjectKey, &EndpointSlice)> = slices
        .filter_map(|key| world.endpoint_slices.get_key_value(key))
        .map(|(key, slice)| (key, &**slice))
        .collect();
    let spec = service.spec.as_ref();
    let publish_not_ready = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let around = Around { node, zone, locals, pods: &world.local, publish_not_ready };
    Some(view::compile(key, service, &slices, &around))
}

/// Where the cloud's controller or the administrator says that this node is; it may change.
fn zone_of<'a>(world: &'a World, node: &NodeView) -> &'a str {
    let own = world.nodes.get(&ObjectKey::new("", node.name.as_str()));
    own.and_then(|own| labels::of(&own.metadata).get(ZONE)).map_or("", String::as_str)
}

fn facts_of(slice: &EndpointSlice) -> SliceFacts {
    let name = labels::of(&slice.metadata).get(SERVICE_NAME).filter(|name| !name.is_empty());
    let namespace = slice.metadata.namespace.as_deref().unwrap_or("");
    SliceFacts {
        service: name.map(|name| ObjectKey::new(namespace, name.as_str())),
        ips: slice.endpoints.iter().flatten().filter_map(endpoints::address).collect(),
    }
}

/// Two Services with one address and port: the API server never allots it, a directory may.
fn conflicts(at: &Frontend, claims: &BTreeSet<ObjectKey>) -> Vec<Problem> {
    let Some(owner) = claims.first() else { return Vec::new() };
    let losers = claims.iter().skip(1);
    losers
        .map(|key| Problem {
            kind: Kind::Service,
            key: key.clone(),
            severity: Severity::Error,
            reason: "ClusterIPConflict",
            field: "spec.clusterIP".to_owned(),
            message: format!("{at} belongs to {owner}; choose another ClusterIP or port"),
        })
        .collect()
}
