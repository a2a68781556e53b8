//! Small adapters between rooms that must not know each other.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodStatus;
use longshore_core::model::observed::Attachment;
use longshore_core::model::{Change, LocalPod, ObjectKey, PodUid};

use crate::cni::{AttachmentSink, Hooks};
use crate::dataplane::Dataplane;
use crate::workers::PodSink;
use crate::world::Store;
use crate::world::files::Files;

/// The CNI room's interfaces, published into the World. The other half of a [`LocalPod`] (status,
/// readiness) is its worker's: each writes its own fields only.
pub struct Attachments(pub Store);

impl AttachmentSink for Attachments {
    fn attached(&self, key: &ObjectKey, uid: &PodUid, attachment: &Attachment) {
        self.0.edit(|world| {
            let mut local =
                world.local.get(uid).map(|old| LocalPod::clone(old)).unwrap_or_default();
            local.key = Some(key.clone());
            local.uid = Some(uid.clone());
            local.attachment = Some(attachment.clone());
            if world.local.get(uid).is_some_and(|old| **old == local) {
                return Vec::new();
            }
            world.local.insert(uid.clone(), Arc::new(local));
            vec![Change::Local(uid.clone())]
        });
    }

    fn detached(&self, uid: &PodUid, sandbox_id: &str) {
        self.0.edit(|world| {
            let Some(old) = world.local.get(uid) else { return Vec::new() };
            // A newer sandbox of the pod may have its interface already.
            if old.attachment.as_ref().is_none_or(|a| a.sandbox_id != sandbox_id) {
                return Vec::new();
            }
            let local = LocalPod { attachment: None, ..LocalPod::clone(old) };
            // No worker will forget what only the interface has left behind.
            let wanted = local.key.as_ref().is_some_and(|key| world.pod_of(key, uid).is_some());
            if wanted || local.status != PodStatus::default() {
                world.local.insert(uid.clone(), Arc::new(local));
            } else {
                world.local.remove(uid);
            }
            vec![Change::Local(uid.clone())]
        });
    }
}

/// The dataplane's hooks, for the CNI room.
pub struct PodHooks(pub Arc<Dataplane>);

impl Hooks for PodHooks {
    fn attach(&self, ifname: &str) -> Result<(), String> {
        self.0.attach_pod(ifname).map_err(|error| error.to_string())
    }
}

impl PodSink for Files {
    fn finished(&self, key: &ObjectKey, uid: &PodUid) {
        Files::finished(self, key, uid);
    }
}
