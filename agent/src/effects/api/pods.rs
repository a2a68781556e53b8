//! Pods: status patches, the final delete, mirror pods (A62, A31).

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use longshore_core::model::ObjectKey;
use serde_json::Value;

use super::{Api, ApiError};

impl Api {
    fn pods(&self, namespace: &str) -> kube::Api<Pod> {
        kube::Api::namespaced(self.client(), namespace)
    }

    /// Strategic merge patch of `pods/status`; answers the pod as it is now.
    ///
    /// # Errors
    /// `Conflict`: another UID than the patch names.
    pub async fn patch_pod_status(&self, key: &ObjectKey, patch: &Value) -> Result<Pod, ApiError> {
        let pods = self.pods(&key.namespace);
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        self.call(pods.patch_status(&key.name, &params, &patch)).await
    }

    /// Grace 0, only the pod with this UID.
    ///
    /// # Errors
    /// `NotFound` and `Conflict`: it is gone already.
    pub async fn delete_pod(&self, key: &ObjectKey, uid: &str) -> Result<(), ApiError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
            ..DeleteParams::default()
        };
        let pods = self.pods(&key.namespace);
        self.call(pods.delete(&key.name, &params)).await.map(drop)
    }

    /// Creates a mirror pod.
    ///
    /// # Errors
    /// `Conflict`: there is a pod of that name.
    pub async fn create_pod(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ApiError> {
        let pods = self.pods(&key.namespace);
        self.call(pods.create(&PostParams::default(), pod)).await.map(drop)
    }
}
