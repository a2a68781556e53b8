//! What the World no longer says and a pod that still runs must keep: policies of a namespace that
//! is being deleted (F54, CVE-2024-7598).
//!
//! Deleting a policy reopens traffic (C18). Deleting a *namespace* takes its policies away while
//! its pods still run, in an order nobody promises; until the last interface of the namespace is
//! gone, they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{ObjectKey, World};

#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Policies without an object that still hold.
    pub retained: BTreeMap<ObjectKey, Hold>,
    /// Namespaces that have an object, and those among them that were seen being deleted.
    seen: BTreeSet<Arc<str>>,
    deleting: BTreeSet<Arc<str>>,
    /// Namespaces that went without that, in this batch of changes and before.
    vanished: BTreeSet<Arc<str>>,
    gone: BTreeSet<Arc<str>>,
}

/// How long a policy without an object holds; in any case no longer than pods of its namespace
/// have interfaces here, or until the namespace lives again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Hold {
    /// Its namespace ends.
    Namespace,
    /// Its namespace ended earlier, and some pod there is being deleted. A directory of manifests
    /// may lose a Namespace and keep the pods, so this holds only while one is.
    TerminatingPods,
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

    /// How a policy that is gone holds on, if the end of the namespace and not the user's wish may
    /// have removed it. `terminating`: some pod there that still has an interface is being deleted.
    pub fn hold(&self, namespace: &str, terminating: bool) -> Option<Hold> {
        if self.deleting.contains(namespace) || self.vanished.contains(namespace) {
            Some(Hold::Namespace)
        } else if self.gone.contains(namespace) && terminating {
            Some(Hold::TerminatingPods)
        } else {
            None
        }
    }

    /// Ends a batch; namespaces that are gone and have no pod here are forgotten.
    pub fn forget(&mut self, in_use: impl Fn(&str) -> bool) {
        self.gone.append(&mut self.vanished);
        self.gone.retain(|name| !self.seen.contains(name) && in_use(name));
        self.deleting.retain(|name| self.seen.contains(name) || in_use(name));
    }
}
