//! Puts the desired objects into the world, touching only what is different.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdMap;
use longshore_core::model::{Change, ObjectKey, World};
use longshore_core::standalone::Desired;

/// Makes the world's objects those of `desired`; returns the keys that changed. Objects that are
/// equal keep their `Arc`.
pub fn publish(world: &mut World, desired: &Desired) -> Vec<Change> {
    let mut changes = Vec::new();
    put(&mut world.namespaces, &desired.namespaces, Change::Namespace, &mut changes);
    put(&mut world.config_maps, &desired.config_maps, Change::ConfigMap, &mut changes);
    put(&mut world.secrets, &desired.secrets, Change::Secret, &mut changes);
    put(&mut world.policies, &desired.policies, Change::Policy, &mut changes);
    put(&mut world.services, &desired.services, Change::Service, &mut changes);
    put(&mut world.endpoint_slices, &desired.endpoint_slices, Change::EndpointSlice, &mut changes);
    put(&mut world.pods, &desired.pods, Change::Pod, &mut changes);
    changes
}

fn put<T: PartialEq>(
    have: &mut OrdMap<ObjectKey, Arc<T>>,
    want: &BTreeMap<ObjectKey, Arc<T>>,
    change: impl Fn(ObjectKey) -> Change,
    changes: &mut Vec<Change>,
) {
    let gone: Vec<ObjectKey> =
        have.keys().filter(|key| !want.contains_key(*key)).cloned().collect();
    for key in gone {
        have.remove(&key);
        changes.push(change(key));
    }
    for (key, object) in want {
        let same = have.get(key).is_some_and(|old| Arc::ptr_eq(old, object) || old == object);
        if !same {
            have.insert(key.clone(), object.clone());
            changes.push(change(key.clone()));
        }
    }
}
