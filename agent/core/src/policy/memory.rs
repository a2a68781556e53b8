//! What the World no longer says and a pod that still runs must keep: policies of a namespace that
//! is being deleted (F54, CVE-2024-7598).
//!
//! Deleting a policy reopens traffic (C18). Deleting a *namespace* takes its policies away while
//! its pods still run, in an order nobody promises; until the last interface of the namespace is
//! gone, they hold.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{ObjectKey, World};

#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Policies without an object that still hold.
    pub retained: BTreeSet<ObjectKey>,
    /// Namespaces that have an object, and those among them that were seen being deleted.
    seen: BTreeSet<Arc<str>>,
    deleting: BTreeSet<Arc<str>>,
    /// Namespaces that went without that, in this batch of changes.
    vanished: BTreeSet<Arc<str>>,
}

impl Memory {
    /// Notes what became of namespace `name`.
    pub fn namespace(&mut self, world: &World, name: &Arc<str>) {
        match world.namespaces.get(&ObjectKey::new("", name.clone())) {
            Some(object) => {
                self.seen.insert(name.clone());
                if object.metadata.deletion_timestamp.is_some() {
                    self.deleting.insert(name.clone());
                } else {
                    self.deleting.remove(name);
                }
            }
            None if self.seen.remove(name) => drop(self.vanished.insert(name.clone())),
            None => {}
        }
    }

    /// True when the end of the namespace, and not the user's wish, may have removed its policies.
    pub fn ends(&self, namespace: &str) -> bool {
        self.deleting.contains(namespace) || self.vanished.contains(namespace)
    }

    /// Ends a batch; namespaces that are gone and have no pod here are forgotten.
    pub fn forget(&mut self, in_use: impl Fn(&str) -> bool) {
        self.vanished.clear();
        self.deleting.retain(|name| self.seen.contains(name) || in_use(name));
    }
}
