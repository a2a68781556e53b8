//! The Node object, its status and its Lease (A1, A12, A13).

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{GetParams, Patch, PatchParams, PostParams};
use serde_json::Value;

use super::{Api, ApiError};

const LEASES: &str = "kube-node-lease";

impl Api {
    fn nodes(&self) -> kube::Api<Node> {
        kube::Api::all(self.client())
    }

    fn leases(&self) -> kube::Api<Lease> {
        kube::Api::namespaced(self.client(), LEASES)
    }

    /// # Errors
    /// [`ApiError::Conflict`]: there is one already.
    pub async fn create_node(&self, node: &Node) -> Result<Node, ApiError> {
        self.call(self.nodes().create(&PostParams::default(), node)).await
    }

    /// `cached`: the server's cache is new enough, which spares its store a read.
    ///
    /// # Errors
    /// [`ApiError::NotFound`]: there is none.
    pub async fn node(&self, name: &str, cached: bool) -> Result<Node, ApiError> {
        let params = match cached {
            true => GetParams::any(),
            false => GetParams::default(),
        };
        self.call(self.nodes().get_with(name, &params)).await
    }

    /// A strategic merge patch of the object without its status.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn patch_node(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        let patch = Patch::Strategic(patch);
        self.call(self.nodes().patch(name, &PatchParams::default(), &patch)).await
    }

    /// A strategic merge patch of the status.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn patch_node_status(&self, name: &str, patch: &Value) -> Result<Node, ApiError> {
        let patch = Patch::Strategic(patch);
        self.call(self.nodes().patch_status(name, &PatchParams::default(), &patch)).await
    }

    /// # Errors
    /// [`ApiError::NotFound`]: there is none.
    pub async fn node_lease(&self, node: &str) -> Result<Lease, ApiError> {
        self.call(self.leases().get(node)).await
    }

    /// # Errors
    /// [`ApiError::Conflict`]: there is one already.
    pub async fn create_node_lease(&self, lease: &Lease) -> Result<Lease, ApiError> {
        self.call(self.leases().create(&PostParams::default(), lease)).await
    }

    /// Writes `lease` over the one whose resource version it has.
    ///
    /// # Errors
    /// [`ApiError::Conflict`]: there is a newer one.
    pub async fn replace_node_lease(&self, lease: &Lease) -> Result<Lease, ApiError> {
        let name = lease.metadata.name.clone().unwrap_or_default();
        self.call(self.leases().replace(&name, &PostParams::default(), lease)).await
    }
}
