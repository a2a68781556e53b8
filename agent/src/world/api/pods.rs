//! Pods of all sources as one map: static ones, this node's of the API server, other nodes'.
//!
//! Each source has a map of its own, so that a late word of one never undoes another's: the same
//! name may leave one node and come to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use longshore_core::model::{Change, ObjectKey, PodUid};
use longshore_core::pod::mirror::{is_mirror, mark_api};
use tokio::sync::Notify;

use super::slim;
use super::watch::Seen;
use crate::world::store::Store;

type Map = BTreeMap<ObjectKey, Arc<Pod>>;

/// Clones share it.
#[derive(Clone)]
pub struct Pods {
    store: Store,
    inner: Arc<Mutex<Inner>>,
    static_finished: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    own: Map,
    mirrors: Map,
    statics: Map,
    others: Map,
    /// Own pods of which nothing is left here, until the API server has forgotten them too.
    finished: BTreeSet<PodUid>,
    /// The own pods come from the API server, not from the checkpoint.
    listed: bool,
    /// Grows when what the checkpoint holds of them may have changed.
    own_changes: u64,
}

impl Inner {
    fn take_own(&mut self, seen: Seen<Pod>, slim: impl Fn(Pod) -> Pod) -> BTreeSet<ObjectKey> {
        match seen {
            Seen::All(list) => {
                let (mirrors, own): (Vec<_>, Vec<_>) =
                    list.into_iter().map(slim).partition(is_mirror);
                self.listed = true;
                let uids: BTreeSet<_> = own.iter().filter_map(uid_of).collect();
                self.finished.retain(|uid| uids.contains(uid));
                let mut touched = replace_all(&mut self.own, own);
                touched.extend(replace_all(&mut self.mirrors, mirrors));
                touched
            }
            Seen::Put(pod) => {
                let pod = slim(pod);
                let (key, mirror) = (key_of(&pod), is_mirror(&pod));
                let (into, from) = match mirror {
                    true => (&mut self.mirrors, &mut self.own),
                    false => (&mut self.own, &mut self.mirrors),
                };
                from.remove(&key);
                into.insert(key.clone(), Arc::new(pod));
                BTreeSet::from([key])
            }
            Seen::Gone(pod) => {
                if let Some(uid) = uid_of(&pod) {
                    self.finished.remove(&uid);
                }
                let mut touched = gone(&mut self.own, &pod);
                touched.extend(gone(&mut self.mirrors, &pod));
                touched
            }
        }
    }

    fn shown(&self, key: &ObjectKey) -> Option<&Arc<Pod>> {
        let own = self
            .own
            .get(key)
            .filter(|pod| uid_of(pod).is_none_or(|uid| !self.finished.contains(&uid)));
        self.statics.get(key).or(own).or_else(|| self.others.get(key))
    }
}

pub fn key_of(pod: &Pod) -> ObjectKey {
    let meta = &pod.metadata;
    ObjectKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn uid_of(pod: &Pod) -> Option<PodUid> {
    pod.metadata.uid.as_deref().map(PodUid::new)
}

impl Pods {
    pub fn new(store: Store) -> Self {
        Self { store, inner: Arc::default(), static_finished: Arc::new(Notify::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Edits the sources' maps, then shows the world what became of the keys that `edit` names.
    fn edit(&self, edit: impl FnOnce(&mut Inner) -> BTreeSet<ObjectKey>) {
        let mut inner = self.lock();
        let touched = edit(&mut inner);
        self.store.edit(|world| {
            let mut changes = Vec::new();
            for key in touched {
                if replace(&mut world.pods, &key, inner.shown(&key)) {
                    changes.push(Change::Pod(key.clone()));
                }
                if replace(&mut world.mirrors, &key, inner.mirrors.get(&key)) {
                    changes.push(Change::Mirror(key));
                }
            }
            changes
        });
    }

    /// This node's pods as the API server has them.
    pub fn take_own(&self, seen: Seen<Pod>) {
        let slim = |mut pod: Pod| {
            slim::metadata(&mut pod.metadata);
            mark_api(&mut pod);
            pod
        };
        self.edit(|inner| {
            inner.own_changes += 1;
            inner.take_own(seen, slim)
        });
    }
    /// Pods of other nodes.
    pub fn take_others(&self, seen: Seen<Pod>) {
        self.edit(|inner| match seen {
            Seen::All(list) => {
                replace_all(&mut inner.others, list.into_iter().map(slim::other_pod).collect())
            }
            Seen::Put(pod) => {
                let key = key_of(&pod);
                inner.others.insert(key.clone(), Arc::new(slim::other_pod(pod)));
                BTreeSet::from([key])
            }
            Seen::Gone(pod) => gone(&mut inner.others, &pod),
        });
    }

    /// The static pods, all of them.
    pub fn set_statics(&self, pods: BTreeMap<ObjectKey, Arc<Pod>>) {
        self.edit(|inner| {
            let mut touched: BTreeSet<_> = inner.statics.keys().cloned().collect();
            touched.extend(pods.keys().cloned());
            inner.statics = pods;
            touched
        });
    }

    /// Static pods that are still here, those that end included.
    pub fn statics(&self) -> BTreeMap<ObjectKey, Arc<Pod>> {
        self.lock().statics.clone()
    }

    /// Wakes when a static pod has ended.
    pub fn static_finished(&self) -> Arc<Notify> {
        self.static_finished.clone()
    }

    /// What a checkpoint says, unless the API server has spoken.
    pub fn remember(&self, pods: Vec<Pod>) {
        self.edit(|inner| match inner.listed {
            true => BTreeSet::new(),
            false => {
                let mut pods = pods;
                pods.iter_mut().for_each(mark_api);
                replace_all(&mut inner.own, pods)
            }
        });
    }

    pub fn listed(&self) -> bool {
        self.lock().listed
    }

    /// Grows with each change of what [`Pods::own`] gives.
    pub fn own_changes(&self) -> u64 {
        self.lock().own_changes
    }

    /// This node's pods of the API server that are not finished, for the checkpoint.
    pub fn own(&self) -> Vec<Arc<Pod>> {
        let inner = self.lock();
        let wanted =
            |pod: &&Arc<Pod>| uid_of(pod).is_some_and(|uid| !inner.finished.contains(&uid));
        inner.own.values().filter(wanted).cloned().collect()
    }

    /// The API server's pod of `key`, if it is this node's and has this UID.
    pub fn own_pod(&self, key: &ObjectKey, uid: &PodUid) -> Option<Arc<Pod>> {
        let inner = self.lock();
        inner.own.get(key).filter(|pod| uid_of(pod).as_ref() == Some(uid)).cloned()
    }

    /// Nothing of the pod is left here: it is shown no more, whatever the API server still has.
    pub fn finish(&self, key: &ObjectKey, uid: &PodUid) {
        let mut was_static = false;
        self.edit(|inner| {
            if inner.statics.get(key).is_some_and(|pod| uid_of(pod).as_ref() == Some(uid)) {
                inner.statics.remove(key);
                was_static = true;
            } else if inner.own.get(key).is_some_and(|pod| uid_of(pod).as_ref() == Some(uid)) {
                inner.finished.insert(uid.clone());
                inner.own_changes += 1;
            }
            BTreeSet::from([key.clone()])
        });
        if was_static {
            self.static_finished.notify_one();
        }
    }
}

/// True when the map changed.
pub fn replace<T: PartialEq>(
    map: &mut imbl::OrdMap<ObjectKey, Arc<T>>,
    key: &ObjectKey,
    wanted: Option<&Arc<T>>,
) -> bool {
    match (map.get(key), wanted) {
        (None, None) => false,
        (Some(old), Some(new)) if Arc::ptr_eq(old, new) || old == new => false,
        (_, Some(new)) => {
            map.insert(key.clone(), new.clone());
            true
        }
        (Some(_), None) => {
            map.remove(key);
            true
        }
    }
}

fn replace_all(map: &mut Map, pods: Vec<Pod>) -> BTreeSet<ObjectKey> {
    let mut touched: BTreeSet<_> = map.keys().cloned().collect();
    *map = pods.into_iter().map(|pod| (key_of(&pod), Arc::new(pod))).collect();
    touched.extend(map.keys().cloned());
    touched
}

/// A late word about an older pod of that name says nothing of the one that is there now.
fn gone(map: &mut Map, pod: &Pod) -> BTreeSet<ObjectKey> {
    let key = key_of(pod);
    if map.get(&key).is_some_and(|known| known.metadata.uid == pod.metadata.uid) {
        map.remove(&key);
    }
    BTreeSet::from([key])
}
