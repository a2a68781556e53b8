//! Mirror pods: what the API server should have of this node's static pods (A31).

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::model::{ObjectKey, World};

/// `file` on a static pod.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Identity of a static pod's content.
pub const HASH: &str = "kubernetes.io/config.hash";
/// On the copy: the hash of what it is a copy of.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
pub const SEEN: &str = "kubernetes.io/config.seen";

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Says where a pod of the API server comes from, whatever it says of itself: its users write its
/// annotations.
pub fn mark_api(pod: &mut Pod) {
    if !is_mirror(pod) && annotation(pod, SOURCE).is_some() {
        pod.metadata.annotations.get_or_insert_default().insert(SOURCE.into(), "api".into());
    }
}

/// A pod that comes from a file of this node, not from the API server.
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api") && !is_mirror(pod)
}

/// The API server's copy of a static pod: never one to run.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// One write that brings the mirrors nearer to what they should be.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    Create(ObjectKey, Box<Pod>),
    /// With grace 0 and this UID as precondition.
    Delete(ObjectKey, String),
}

impl Step {
    /// The pod that it is about.
    pub fn key(&self) -> &ObjectKey {
        match self {
            Self::Create(key, _) | Self::Delete(key, _) => key,
        }
    }
}

/// What is to be written now. A mirror that is not the copy of its pod is deleted first and made
/// again when it is gone. `node`: this node's name; without its Node nothing is created, because the
/// copy must name it as its owner.
pub fn steps(world: &World, node: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for (key, mirror) in &world.mirrors {
        let wanted = world.pods.get(key).filter(|pod| is_static(pod));
        let same = wanted.is_some_and(|pod| annotation(pod, HASH) == annotation(mirror, MIRROR));
        // One that somebody deletes waits for its node: the grace ends here at once.
        if (!same || mirror.metadata.deletion_timestamp.is_some())
            && let Some(uid) = &mirror.metadata.uid
        {
            steps.push(Step::Delete(key.clone(), uid.clone()));
        }
    }
    let owner = world.nodes.get(&ObjectKey::new("", node)).and_then(|n| n.metadata.uid.clone());
    let Some(owner) = owner else { return steps };
    for (key, pod) in &world.pods {
        let ending = pod.metadata.deletion_timestamp.is_some();
        if is_static(pod) && !ending && !world.mirrors.contains_key(key) {
            steps.push(Step::Create(key.clone(), Box::new(mirror_of(pod, node, &owner))));
        }
    }
    steps
}

fn mirror_of(pod: &Arc<Pod>, node: &str, node_uid: &str) -> Pod {
    let mut copy = Pod::clone(pod);
    let metadata = &mut copy.metadata;
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.creation_timestamp = None;
    let annotations = metadata.annotations.get_or_insert_default();
    let hash = annotations.get(HASH).cloned().unwrap_or_default();
    annotations.insert(MIRROR.into(), hash);
    metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.into(),
        uid: node_uid.into(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    copy.status = None;
    copy
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;
    use crate::pod::testing::pod_with;

    fn key() -> ObjectKey {
        ObjectKey::new("default", "web")
    }

    fn world() -> World {
        let mut world = World::default();
        let node: Node =
            serde_json::from_value(json!({"metadata": {"name": "n", "uid": "node-uid"}})).unwrap();
        world.nodes.insert(ObjectKey::new("", "n"), Arc::new(node));
        world
    }

    fn pod(annotations: serde_json::Value) -> Arc<Pod> {
        let metadata = json!({"name": "web", "namespace": "default", "uid": "u",
            "annotations": annotations});
        Arc::new(pod_with("{containers: [{name: a}]}", metadata))
    }

    fn static_pod(hash: &str) -> Arc<Pod> {
        pod(json!({SOURCE: "file", HASH: hash}))
    }

    #[test]
    fn a31_a_static_pod_gets_a_copy_that_the_node_owns() {
        let mut world = world();
        world.pods.insert(key(), static_pod("h"));
        let [Step::Create(_, copy)] = &steps(&world, "n")[..] else { panic!("no create") };
        assert!(is_mirror(copy) && !is_static(copy));
        assert_eq!(annotation(copy, MIRROR), Some("h"));
        assert_eq!(copy.metadata.uid, None);
        let owner = &copy.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((&*owner.kind, &*owner.uid, owner.controller), ("Node", "node-uid", Some(true)));
        // Not before the Node is there.
        world.nodes.clear();
        assert_eq!(steps(&world, "n"), []);
    }

    #[test]
    fn a31_a_copy_of_something_else_is_deleted_first() {
        let delete = vec![Step::Delete(key(), "u".into())];
        let mut world = world();
        world.mirrors.insert(key(), pod(json!({SOURCE: "file", HASH: "old", MIRROR: "old"})));
        assert_eq!(steps(&world, "n"), delete, "its pod is gone");
        world.pods.insert(key(), static_pod("new"));
        assert_eq!(steps(&world, "n"), delete, "its pod is another one");
        world.pods.insert(key(), static_pod("old"));
        assert_eq!(steps(&world, "n"), []);
        let mut ending = Pod::clone(&world.mirrors[&key()]);
        ending.metadata.deletion_timestamp = Some(crate::model::Time(0).to_api());
        world.mirrors.insert(key(), Arc::new(ending));
        assert_eq!(steps(&world, "n"), delete, "somebody deletes it");
    }

    #[test]
    fn a31_a_pod_of_the_api_server_cannot_call_itself_static() {
        let mut lies = Pod::clone(&pod(json!({SOURCE: "file", HASH: "h"})));
        mark_api(&mut lies);
        assert!(!is_static(&lies) && !is_mirror(&lies));
        let mut mirror = Pod::clone(&pod(json!({SOURCE: "file", MIRROR: "h"})));
        mark_api(&mut mirror);
        assert_eq!(annotation(&mirror, SOURCE), Some("file"));
    }

    #[test]
    fn a31_pods_of_the_api_server_have_no_copy() {
        let mut world = world();
        world.pods.insert(key(), pod(json!({SOURCE: "api"})));
        world.pods.insert(ObjectKey::new("default", "other"), pod(json!({})));
        assert_eq!(steps(&world, "n"), []);
    }
}
