//! ConfigMaps and Secrets, each watched alone while a pod of this node names it: a node's credential
//! may read no others (A24, A103).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use longshore_core::model::{Change, Kind, ObjectKey, World};
use longshore_core::pod::References;
use longshore_core::pod::mirror::is_static;

use super::health::{Health, Identity};
use super::pods::replace;
use super::slim;
use super::watch::{Seen, follow};
use crate::supervise::{Policy, Scope, Task};
use crate::world::store::Store;

/// The authorizer learns of a new pod a few milliseconds later than this node: a start must not wait
/// long for that.
const FIRST_MS: u64 = 5;

type Need = (Kind, ObjectKey);

/// Runs the watches that this node's pods need.
pub struct Needs {
    pub store: Store,
    pub scope: Scope,
    pub client: Client,
    pub health: Health,
    pub node_name: String,
    running: BTreeMap<Need, Watch>,
    /// What each of this node's pods names.
    by_pod: BTreeMap<ObjectKey, BTreeSet<Need>>,
}

struct Watch {
    stopped: Arc<AtomicBool>,
    _task: Task,
}

impl Needs {
    pub fn new(
        store: Store,
        scope: Scope,
        client: Client,
        health: Health,
        node_name: String,
    ) -> Self {
        let (running, by_pod) = (BTreeMap::new(), BTreeMap::new());
        Self { store, scope, client, health, node_name, running, by_pod }
    }

    /// Follows the world's pods for ever.
    pub async fn run(mut self) {
        let mut changes = self.store.subscribe();
        let mut keys: BTreeSet<ObjectKey> = self.store.snapshot().pods.keys().cloned().collect();
        loop {
            self.look(&keys);
            keys.clear();
            for change in changes.next().await {
                if let Change::Pod(key) = change {
                    keys.insert(key);
                }
            }
        }
    }

    fn look(&mut self, keys: &BTreeSet<ObjectKey>) {
        let world = self.store.snapshot();
        let mut changed = false;
        for key in keys {
            let pod = world.pods.get(key).filter(|pod| needs_inputs(pod, &self.node_name));
            let needs = pod.map(|pod| References::of(pod).keys(&key.namespace).collect());
            changed |= match needs {
                Some(needs) => {
                    self.by_pod.insert(key.clone(), needs) != self.by_pod.get(key).cloned()
                }
                None => self.by_pod.remove(key).is_some(),
            };
        }
        if changed {
            self.start_and_stop();
        }
    }

    fn start_and_stop(&mut self) {
        let wanted: BTreeSet<Need> = self.by_pod.values().flatten().cloned().collect();
        let unneeded: Vec<Need> =
            self.running.keys().filter(|need| !wanted.contains(*need)).cloned().collect();
        for need in unneeded {
            self.stop(&need);
        }
        for need in wanted {
            if !self.running.contains_key(&need) {
                self.start(need);
            }
        }
    }

    fn start(&mut self, need: Need) {
        let stopped = Arc::new(AtomicBool::new(false));
        let (kind, key) = &need;
        let what = what(&need);
        let follower =
            Follower { store: self.store.clone(), key: key.clone(), stopped: stopped.clone() };
        let config = Config::default().fields(&format!("metadata.name={}", key.name));
        let (client, health) = (self.client.clone(), self.health.clone());
        let namespace = key.namespace.clone();
        let policy = Policy::Finite;
        let task = if *kind == Kind::ConfigMap {
            let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
            let take = move |seen| follower.config_map(seen);
            let run = follow(what.clone(), FIRST_MS, Identity::Node, api, config, health, take);
            self.scope.spawn(format!("watch {what}"), policy, run)
        } else {
            let api: Api<Secret> = Api::namespaced(client, &namespace);
            let take = move |seen| follower.secret(seen);
            let run = follow(what.clone(), FIRST_MS, Identity::Node, api, config, health, take);
            self.scope.spawn(format!("watch {what}"), policy, run)
        };
        self.running.insert(need, Watch { stopped, _task: task });
    }

    /// The watch may be in the middle of a change: it looks at `stopped` under the world's lock.
    fn stop(&mut self, need: &Need) {
        let Some(watch) = self.running.remove(need) else { return };
        watch.stopped.store(true, Ordering::SeqCst);
        drop(watch);
        self.health.forget(&what(need));
        self.store.edit(|world| {
            let (kind, key) = need;
            let known = world.known.as_mut().is_some_and(|known| known.remove(need).is_some());
            let was_there = match kind {
                Kind::ConfigMap => world.config_maps.remove(key).is_some(),
                _ => world.secrets.remove(key).is_some(),
            };
            if known || was_there { vec![change(*kind, key)] } else { Vec::new() }
        });
    }
}

fn what((kind, key): &Need) -> String {
    format!("{kind:?} {key}").to_lowercase()
}

fn change(kind: Kind, key: &ObjectKey) -> Change {
    match kind {
        Kind::ConfigMap => Change::ConfigMap(key.clone()),
        _ => Change::Secret(key.clone()),
    }
}

fn needs_inputs(pod: &Pod, node_name: &str) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node_name);
    here && !is_static(pod) && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Puts one object, or its absence, into the world.
struct Follower {
    store: Store,
    key: ObjectKey,
    stopped: Arc<AtomicBool>,
}

impl Follower {
    fn config_map(&self, seen: Seen<ConfigMap>) {
        let found = self.found(seen, |map| &mut map.metadata);
        self.set(Kind::ConfigMap, |world, key| {
            replace(&mut world.config_maps, key, found.as_ref())
        });
    }

    fn secret(&self, seen: Seen<Secret>) {
        let found = self.found(seen, |secret| &mut secret.metadata);
        self.set(Kind::Secret, |world, key| replace(&mut world.secrets, key, found.as_ref()));
    }

    fn found<K>(
        &self,
        seen: Seen<K>,
        metadata: impl Fn(&mut K) -> &mut ObjectMeta,
    ) -> Option<Arc<K>> {
        let object = match seen {
            Seen::All(list) => list.into_iter().next(),
            Seen::Put(object) => Some(object),
            Seen::Gone(_) => None,
        };
        object.map(|mut object| {
            slim::plain_metadata(metadata(&mut object));
            Arc::new(object)
        })
    }

    fn set(&self, kind: Kind, put: impl FnOnce(&mut World, &ObjectKey) -> bool) {
        self.store.edit(|world| {
            if self.stopped.load(Ordering::SeqCst) {
                return Vec::new();
            }
            let new = world
                .known
                .as_mut()
                .is_some_and(|known| known.insert((kind, self.key.clone())).is_none());
            let changed = put(world, &self.key);
            if new || changed { vec![change(kind, &self.key)] } else { Vec::new() }
        });
    }
}
