//! The current [`World`], and who must look again when a key of it changes.
//!
//! Subscribers get *keys*, coalesced: a slow reader misses no change and never makes a queue grow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use longshore_core::model::{Change, LocalPod, PodUid, World};
use tokio::sync::Notify;

/// Handle to the world; clones share it.
#[derive(Clone, Default)]
pub struct Store {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    world: Arc<World>,
    subscribers: Vec<Weak<Subscriber>>,
}

#[derive(Default)]
struct Subscriber {
    dirty: Mutex<BTreeSet<Change>>,
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    pub fn snapshot(&self) -> Arc<World> {
        lock(&self.inner).world.clone()
    }

    /// Edits the world in one step. `edit` returns the keys that it changed; none: no new revision.
    pub fn edit(&self, edit: impl FnOnce(&mut World) -> Vec<Change>) {
        let mut inner = lock(&self.inner);
        let mut world = World::clone(&inner.world);
        let changes = edit(&mut world);
        if changes.is_empty() {
            return;
        }
        world.revision += 1;
        inner.world = Arc::new(world);
        inner.subscribers.retain(|subscriber| match subscriber.upgrade() {
            Some(subscriber) => {
                lock(&subscriber.dirty).extend(changes.iter().cloned());
                subscriber.wake.notify_one();
                true
            }
            None => false,
        });
    }

    /// From now on only what a source says is known of ConfigMaps and Secrets ([`World::known`]).
    /// For the start, before anybody looks: no subscriber is woken.
    pub fn know_by_need(&self) {
        let mut inner = lock(&self.inner);
        let mut world = World::clone(&inner.world);
        world.known.get_or_insert_default();
        inner.world = Arc::new(world);
    }

    /// Publishes what this node knows of its own pod; `None` forgets it.
    pub fn set_local(&self, uid: &PodUid, local: Option<LocalPod>) {
        self.edit(|world| {
            if world.local.get(uid).map(|old| &**old) == local.as_ref() {
                return Vec::new();
            }
            match local {
                Some(local) => world.local.insert(uid.clone(), Arc::new(local)),
                None => world.local.remove(uid),
            };
            vec![Change::Local(uid.clone())]
        });
    }

    /// Changes from now on. Read [`Store::snapshot`] after subscribing to miss nothing.
    pub fn subscribe(&self) -> Changes {
        let subscriber = Arc::new(Subscriber::default());
        lock(&self.inner).subscribers.push(Arc::downgrade(&subscriber));
        Changes { subscriber }
    }
}

/// One subscriber's view of what changed since it last asked.
pub struct Changes {
    subscriber: Arc<Subscriber>,
}

impl Changes {
    /// Waits until something changed; never empty.
    pub async fn next(&mut self) -> BTreeSet<Change> {
        loop {
            let dirty = std::mem::take(&mut *lock(&self.subscriber.dirty));
            if !dirty.is_empty() {
                return dirty;
            }
            self.subscriber.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn i14_an_edit_that_changes_nothing_wakes_nobody() {
        let store = Store::default();
        let mut changes = store.subscribe();
        let uid = PodUid::new("u1");
        store.set_local(&uid, Some(LocalPod { ready: true, ..LocalPod::default() }));
        store.set_local(&uid, Some(LocalPod { ready: true, ..LocalPod::default() }));
        assert_eq!(store.snapshot().revision, 1);
        assert_eq!(changes.next().await, BTreeSet::from([Change::Local(uid)]));
        assert!(lock(&changes.subscriber.dirty).is_empty());
    }
}
