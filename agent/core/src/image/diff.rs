//! Images as sums of changes: what leads from one image to another.

use std::collections::BTreeMap;

use super::{Image, ImageChange};

/// The changes that make `new` of `old`: in canonical order, nothing for what is equal.
pub fn diff(old: &Image, new: &Image) -> Vec<ImageChange> {
    let mut changes = Vec::new();
    each(&old.groups, &new.groups, |k, v| changes.push(ImageChange::Group(*k, v)));
    each(&old.cidrs, &new.cidrs, |k, v| changes.push(ImageChange::Cidr(*k, v)));
    each(&old.endpoints, &new.endpoints, |k, v| changes.push(ImageChange::Endpoint(*k, v)));
    each(&old.services, &new.services, |k, v| changes.push(ImageChange::Service(*k, v)));
    changes
}

fn each<K: Ord, V: Clone + PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    mut change: impl FnMut(&K, Option<V>),
) {
    for (key, value) in new {
        if old.get(key) != Some(value) {
            change(key, Some(value.clone()));
        }
    }
    for key in old.keys().filter(|key| !new.contains_key(key)) {
        change(key, None);
    }
}

impl Image {
    /// Takes one change in.
    pub fn apply(&mut self, change: &ImageChange) {
        fn set<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: &Option<V>) {
            match value {
                Some(value) => drop(map.insert(key.clone(), value.clone())),
                None => drop(map.remove(key)),
            }
        }
        match change {
            ImageChange::Service(key, value) => set(&mut self.services, key, value),
            ImageChange::Endpoint(key, value) => set(&mut self.endpoints, key, value),
            ImageChange::Cidr(key, value) => set(&mut self.cidrs, key, value),
            ImageChange::Group(key, value) => set(&mut self.groups, key, value),
        }
    }
}
