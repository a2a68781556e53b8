//! This node's pods: `/pods`, `/runningpods` (A181), and the pod that a path names.

use std::sync::Arc;

use hyper::StatusCode;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use longshore_core::model::{ObjectKey, PodUid, World};
use serde_json::{Value, json};

use super::body::{Answer, json};
use super::route::PodPath;
use super::server::Shared;

/// A pod of this node and what is known of it here.
pub struct Found {
    pub key: ObjectKey,
    pub uid: PodUid,
    pub pod: Arc<Pod>,
    pub status: PodStatus,
}

/// The pod that a path names, by its own UID or that of its mirror.
pub fn find(shared: &Shared, path: &PodPath) -> Option<Found> {
    let world = shared.views.world();
    let pod = world.pods.get(&path.key).filter(|pod| is_own(shared, &world, pod))?;
    let uid = PodUid::new(pod.metadata.uid.clone()?);
    if let Some(wanted) = &path.uid {
        let mirror = world.mirrors.get(&path.key).and_then(|pod| pod.metadata.uid.as_deref());
        if *wanted != uid && mirror != Some(wanted.as_str()) {
            return None;
        }
    }
    let status = status_of(&world, pod);
    Some(Found { key: path.key.clone(), uid, pod: pod.clone(), status })
}

/// The world has other nodes' pods too, for policy.
fn is_own(shared: &Shared, world: &World, pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    match node {
        Some(node) => node == shared.settings.node_name,
        None => {
            let uid = pod.metadata.uid.as_deref().map(PodUid::new);
            uid.is_some_and(|uid| world.local.contains_key(&uid))
        }
    }
}

/// What this node knows comes before what the API server has.
fn status_of(world: &World, pod: &Pod) -> PodStatus {
    let uid = pod.metadata.uid.as_deref().map(PodUid::new);
    let local = uid.and_then(|uid| world.local.get(&uid));
    match local {
        Some(local) if local.status.phase.is_some() => local.status.clone(),
        _ => pod.status.clone().unwrap_or_default(),
    }
}

pub fn has_container(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.iter().flatten().map(|one| &one.name);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|one| &one.name);
    spec.containers.iter().map(|one| &one.name).chain(init).chain(ephemeral).any(|one| one == name)
}

/// This node's pods with their status of now.
pub fn own(shared: &Shared) -> Vec<Pod> {
    let world = shared.views.world();
    let own = world.pods.values().filter(|pod| is_own(shared, &world, pod));
    own.map(|pod| Pod { status: Some(status_of(&world, pod)), ..(**pod).clone() }).collect()
}

fn list(items: impl serde::Serialize) -> Value {
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

pub fn answer(shared: &Shared) -> Answer {
    json(StatusCode::OK, &list(own(shared)))
}

/// Pods that the runtime has, wanted or not; containers as far as their status is known.
pub fn running(shared: &Shared) -> Answer {
    let world = shared.views.world();
    let items: Vec<Value> = shared
        .views
        .listed()
        .into_iter()
        .map(|(uid, listed)| {
            let local = world.local.get(&uid);
            let containers: Vec<Value> = local
                .into_iter()
                .flat_map(|local| local.status.container_statuses.iter().flatten())
                .filter(|one| one.state.as_ref().is_some_and(|state| state.running.is_some()))
                .map(|one| json!({"name": one.name, "image": one.image, "resources": {}}))
                .collect();
            json!({
                "metadata": {"name": &*listed.key.name, "namespace": &*listed.key.namespace, "uid": uid.as_str()},
                "spec": {"containers": containers},
                "status": {},
            })
        })
        .collect();
    json(StatusCode::OK, &list(items))
}
