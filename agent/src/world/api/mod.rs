//! The API server as the source of the world: two identities' watches → [`Store`].
//!
//! The node's own credential reads its pods, its Node, and the ConfigMaps and Secrets that they
//! name; the dataplane's reads Services, EndpointSlices, NetworkPolicies, Namespaces, other nodes
//! and their pods. An object vanishes only by its deletion or a complete list without it.
//! Deliberately absent: writes (effects) and static pods' files ([`super::static_pods`]).

pub mod checkpoint;
#[cfg(test)]
pub mod fake;
mod health;
mod needs;
mod pods;
mod slim;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use imbl::OrdMap;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::watcher::Config;
use kube::{Api, Client, Resource};
use longshore_core::model::{Change, ObjectKey, PodUid, World};
use longshore_core::standalone::Located;
use serde::de::DeserializeOwned;

use self::health::{Health, Identity};
use self::needs::Needs;
pub use self::pods::Pods;
use self::pods::replace;
use self::watch::{Seen, follow};
use super::static_pods::{StaticPath, StaticPods};
use super::store::Store;
use crate::supervise::{Policy, Scope};

/// How long the API server may take for its first answer before the checkpoint is used.
const PATIENCE: Duration = Duration::from_secs(3);

/// First wait after a watch failed.
const FIRST_MS: u64 = 500;
/// How long one watch lasts: a connection that went silent is noticed within a minute (F27). Those
/// of single ConfigMaps and Secrets are many and last as long as the library's.
const WATCH_TIMEOUT_S: u32 = 50;

/// What the source needs beside the two clients.
pub struct Settings {
    pub scope: Scope,
    /// Where the checkpoint is.
    pub state_dir: PathBuf,
    /// `staticPodPath`, if there is one.
    pub static_pods: Option<StaticPath>,
}

/// Asks the source; clones share it.
#[derive(Clone)]
pub struct Handle {
    pods: Pods,
    health: Health,
    static_problems: Arc<Mutex<Vec<Located>>>,
}

impl Handle {
    /// Nothing of the pod is left here: it is not shown again. [`Handle::own_pod`] still has it
    /// until the API server has deleted it.
    pub fn finish(&self, key: &ObjectKey, uid: &PodUid) {
        self.pods.finish(key, uid);
    }

    /// This node's pod as the API server has it: `None` for static pods and orphans.
    pub fn own_pod(&self, key: &ObjectKey, uid: &PodUid) -> Option<Arc<Pod>> {
        self.pods.own_pod(key, uid)
    }

    /// This node's pods were listed by the API server: it answers.
    pub fn listed(&self) -> bool {
        self.pods.listed()
    }

    /// What is wrong with the watches and with static pods now.
    pub fn problems(&self) -> Vec<Located> {
        let mut all = self.health.problems();
        all.extend(self.static_problems.lock().unwrap_or_else(PoisonError::into_inner).clone());
        all
    }
}

/// The part that runs.
pub struct Source {
    store: Store,
    clients: Clients,
    node_name: String,
    settings: Settings,
    handle: Handle,
    awaited: Awaited,
}

/// Who asks.
pub struct Clients {
    /// system:node:NAME.
    pub node: Client,
    /// The same for watches that last minutes.
    pub node_patient: Client,
    /// The second identity.
    pub dataplane: Client,
}

impl Source {
    /// Nothing is asked before [`Source::run`].
    pub fn new(store: Store, clients: Clients, node_name: &str, settings: Settings) -> Self {
        store.know_by_need();
        let handle = Handle {
            pods: Pods::new(store.clone()),
            health: Health::default(),
            static_problems: Arc::default(),
        };
        let awaited = Awaited { store: store.clone(), lists: Arc::default() };
        Self { store, clients, node_name: node_name.to_owned(), settings, handle, awaited }
    }

    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Follows the API server for ever; it may be away.
    pub async fn run(mut self) {
        self.awaited.expect(&[OWN_PODS, OWN_NODE, PODS, NODES]);
        self.awaited.expect(&[SERVICES, SLICES, POLICIES, NAMESPACES]);
        if let Some(path) = self.settings.static_pods.take() {
            self.awaited.expect(&[STATIC_PODS]);
            self.follow_static_pods(path);
        }
        self.follow_own();
        self.follow_cluster();
        let scope = self.settings.scope.clone();
        let needs = Needs::new(
            self.store.clone(),
            scope.clone(),
            self.clients.node_patient.clone(),
            self.handle.health.clone(),
            self.node_name.clone(),
        );
        scope.detach("watch inputs of pods", Policy::Critical, needs.run());
        tokio::time::sleep(PATIENCE).await;
        self.go_on_from_checkpoint().await;
        let (store, pods) = (self.store.clone(), self.handle.pods.clone());
        let (state_dir, name) = (self.settings.state_dir.clone(), self.node_name.clone());
        checkpoint::keep(state_dir, name, store, pods, scope).await;
    }

    fn follow_static_pods(&self, path: StaticPath) {
        let awaited = self.awaited.clone();
        let source = StaticPods::new(
            path,
            self.node_name.clone(),
            self.handle.pods.clone(),
            self.handle.static_problems.clone(),
            Box::new(move || awaited.arrived(STATIC_PODS)),
        );
        self.settings.scope.detach("static pods", Policy::Critical, source.run());
    }

    /// What the node's own credential reads.
    fn follow_own(&self) {
        let (pods, awaited) = (self.handle.pods.clone(), self.awaited.clone());
        let here = Config::default().fields(&format!("spec.nodeName={}", self.node_name));
        self.watch(
            OWN_PODS,
            Identity::Node,
            Api::<Pod>::all(self.clients.node.clone()),
            here,
            move |seen| {
                let first = matches!(seen, Seen::All(_));
                pods.take_own(seen);
                if first {
                    awaited.arrived(OWN_PODS);
                }
            },
        );
        let own = Config::default().fields(&format!("metadata.name={}", self.node_name));
        let (name, kept) = (self.node_name.clone(), |node: Node| node);
        let take = self.taker(
            OWN_NODE,
            |world| &mut world.nodes,
            Change::Node,
            move |key| *key.name == *name,
            kept,
        );
        self.watch(
            OWN_NODE,
            Identity::Node,
            Api::<Node>::all(self.clients.node.clone()),
            own,
            take,
        );
    }

    /// What the dataplane's identity reads.
    fn follow_cluster(&self) {
        let name = self.node_name.clone();
        let (pods, awaited) = (self.handle.pods.clone(), self.awaited.clone());
        // Pods without a node have no address and no place in the world.
        let elsewhere = Config::default().fields(&format!("spec.nodeName!={name},spec.nodeName!="));
        let api = Api::<Pod>::all(self.clients.dataplane.clone());
        self.watch(PODS, Identity::Dataplane, api, elsewhere, move |seen| {
            let first = matches!(seen, Seen::All(_));
            pods.take_others(seen);
            if first {
                awaited.arrived(PODS);
            }
        });
        let others = Config::default().fields(&format!("metadata.name!={name}"));
        let not_own = move |key: &ObjectKey| *key.name != *name;
        let take = self.taker(NODES, |w| &mut w.nodes, Change::Node, not_own, slim::other_node);
        self.watch(
            NODES,
            Identity::Dataplane,
            Api::<Node>::all(self.clients.dataplane.clone()),
            others,
            take,
        );
        self.all::<Service>(SERVICES, |w| &mut w.services, Change::Service);
        self.all::<EndpointSlice>(SLICES, |w| &mut w.endpoint_slices, Change::EndpointSlice);
        self.all::<NetworkPolicy>(POLICIES, |w| &mut w.policies, Change::Policy);
        self.all::<Namespace>(NAMESPACES, |w| &mut w.namespaces, Change::Namespace);
    }

    /// Every object of a kind.
    fn all<K: Kept>(
        &self,
        what: &'static str,
        map: fn(&mut World) -> &mut OrdMap<ObjectKey, Arc<K>>,
        change: fn(ObjectKey) -> Change,
    ) {
        let take = self.taker(what, map, change, |_| true, |object| object);
        let api = Api::<K>::all(self.clients.dataplane.clone());
        self.watch(what, Identity::Dataplane, api, Config::default(), take);
    }

    fn watch<K>(
        &self,
        what: &'static str,
        identity: Identity,
        api: Api<K>,
        config: Config,
        take: impl FnMut(Seen<K>) + Send + 'static,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let health = self.handle.health.clone();
        let config = config.timeout(WATCH_TIMEOUT_S);
        let run = follow(what.to_owned(), FIRST_MS, identity, api, config, health, take);
        self.settings.scope.detach(format!("watch {what}"), Policy::Critical, run);
    }

    /// Puts what a watch saw into one map of the world. `mine`: keys of that map that are this
    /// watch's; others are not touched.
    fn taker<K: Kept>(
        &self,
        what: &'static str,
        map: fn(&mut World) -> &mut OrdMap<ObjectKey, Arc<K>>,
        change: fn(ObjectKey) -> Change,
        mine: impl Fn(&ObjectKey) -> bool + Send + 'static,
        slim: fn(K) -> K,
    ) -> impl FnMut(Seen<K>) + Send + 'static {
        let (store, awaited) = (self.store.clone(), self.awaited.clone());
        let kept = move |object: K| {
            let mut object = slim(object);
            slim::plain_metadata(object.meta_mut());
            (key_of(object.meta()), Arc::new(object))
        };
        move |seen| {
            let first = matches!(seen, Seen::All(_));
            store.edit(|world| {
                let map = map(world);
                let mut keys = Vec::new();
                match seen {
                    Seen::All(list) => {
                        let list: std::collections::BTreeMap<_, _> =
                            list.into_iter().map(&kept).filter(|(key, _)| mine(key)).collect();
                        keys.extend(map.keys().filter(|key| mine(key)).cloned());
                        keys.retain(|key| !list.contains_key(key) && replace(map, key, None));
                        let new =
                            list.iter().filter(|(key, object)| replace(map, key, Some(object)));
                        keys.extend(new.map(|(key, _)| key.clone()));
                    }
                    Seen::Put(object) => {
                        let (key, object) = kept(object);
                        if mine(&key) && replace(map, &key, Some(&object)) {
                            keys.push(key);
                        }
                    }
                    Seen::Gone(object) => {
                        let (key, _) = kept(object);
                        if mine(&key) && replace(map, &key, None) {
                            keys.push(key);
                        }
                    }
                }
                keys.into_iter().map(change).collect()
            });
            if first {
                awaited.arrived(what);
            }
        }
    }

    /// Shows the pods and the Node of the last run, if the API server has not spoken yet. They are
    /// not complete: `synced` stays false, nothing is deleted (A38).
    async fn go_on_from_checkpoint(&self) {
        if self.handle.pods.listed() {
            return;
        }
        let state_dir = self.settings.state_dir.clone();
        let loaded = self.settings.scope.blocking(move || checkpoint::load(&state_dir)).await;
        let Ok(Some(known)) = loaded else { return };
        tracing::warn!(
            pods = known.pods.len(),
            "The API server does not answer; going on with the pods of the last run"
        );
        self.handle.pods.remember(known.pods);
        let Some(node) = known.node else { return };
        let key = ObjectKey::new("", self.node_name.as_str());
        self.store.edit(|world| {
            if world.nodes.contains_key(&key) {
                return Vec::new();
            }
            world.nodes.insert(key.clone(), Arc::new(node));
            vec![Change::Node(key)]
        });
    }
}

const OWN_PODS: &str = "this node's pods";
const OWN_NODE: &str = "this node";
const PODS: &str = "pods of other nodes";
const NODES: &str = "other nodes";
const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
const POLICIES: &str = "networkpolicies";
const NAMESPACES: &str = "namespaces";
const STATIC_PODS: &str = "static pods";

/// Kinds that are kept whole.
trait Kept:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + PartialEq + Send + Sync + 'static
{
}

impl<K> Kept for K where
    K: Resource<DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + PartialEq
        + Send
        + Sync
        + 'static
{
}

fn key_of(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

/// First complete lists that are still to come; with the last of them the world is synced (A38).
#[derive(Clone)]
struct Awaited {
    store: Store,
    lists: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Awaited {
    fn expect(&self, lists: &[&'static str]) {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).extend(lists);
    }

    fn arrived(&self, list: &'static str) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if !lists.remove(list) || !lists.is_empty() {
            return;
        }
        drop(lists);
        tracing::info!("Everything of the API server was listed once");
        self.store.edit(|world| {
            world.synced = true;
            vec![Change::Synced]
        });
    }
}
