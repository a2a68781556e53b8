//! What the node port shows and reaches, read from the rooms that have it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::SubjectAccessReviewSpec;
use longshore_core::model::{PodUid, World};
use longshore_proto::cri;
use tonic::Code;

use crate::clock;
use crate::effects::api::Api;
use crate::effects::cri::{Cri, CriError};
use crate::observe::{ListedPod, Observer, SeenPod};
use crate::serve::kubelet::{Health, KubeletViews, Reviews, RuntimeError, Sample};
use crate::workers::heartbeat::Heartbeat;
use crate::world::Store;

/// How long a command of `/run` may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// Asks with the node's own credential.
pub struct ApiReviews(pub Api);

impl Reviews for ApiReviews {
    fn token(&self, token: String) -> BoxFuture<'_, Result<Option<UserInfo>, String>> {
        Box::pin(async move { self.0.review_token(&token).await.map_err(|e| e.to_string()) })
    }

    fn access(&self, spec: SubjectAccessReviewSpec) -> BoxFuture<'_, Result<bool, String>> {
        Box::pin(async move { self.0.review_access(spec).await.map_err(|e| e.to_string()) })
    }
}

/// Handles to what the node port is about.
pub struct Port {
    pub store: Store,
    pub observer: Observer,
    pub heartbeat: Heartbeat,
    pub cri: Cri,
    /// The KubeletConfiguration in use.
    pub configz: serde_json::Value,
    /// Further samples of `/metrics`.
    pub samples: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

fn refused(error: CriError) -> RuntimeError {
    let text = error.to_string();
    match error.code {
        Code::NotFound => RuntimeError::NotFound(text),
        Code::ResourceExhausted => RuntimeError::Busy(text),
        _ => RuntimeError::Other(text),
    }
}

impl KubeletViews for Port {
    fn world(&self) -> Arc<World> {
        self.store.snapshot()
    }

    fn configz(&self) -> serde_json::Value {
        self.configz.clone()
    }

    /// A runtime that does not answer makes the node NotReady, not the daemon unhealthy: a
    /// supervisor that restarted it would mend nothing.
    fn health(&self) -> Vec<Health> {
        // `log`: lines are written as they come, nothing holds them back.
        vec![
            Health { name: "ping", state: Ok(()) },
            Health { name: "log", state: Ok(()) },
            Health { name: "syncloop", state: self.heartbeat.check(clock::now()) },
        ]
    }

    fn samples(&self) -> Vec<Sample> {
        (self.samples)()
    }

    fn listed(&self) -> BTreeMap<PodUid, ListedPod> {
        self.observer.pods()
    }

    fn pod(&self, uid: PodUid) -> BoxFuture<'_, Result<SeenPod, RuntimeError>> {
        Box::pin(async move {
            self.observer.pod(&uid).await.map_err(|error| RuntimeError::Other(error.to_string()))
        })
    }

    fn exec(&self, request: cri::ExecRequest) -> BoxFuture<'_, Result<String, RuntimeError>> {
        Box::pin(async move { self.cri.exec(request).await.map_err(refused) })
    }

    fn attach(&self, request: cri::AttachRequest) -> BoxFuture<'_, Result<String, RuntimeError>> {
        Box::pin(async move { self.cri.attach(request).await.map_err(refused) })
    }

    fn port_forward(
        &self,
        request: cri::PortForwardRequest,
    ) -> BoxFuture<'_, Result<String, RuntimeError>> {
        Box::pin(async move { self.cri.port_forward(request).await.map_err(refused) })
    }

    fn exec_sync(
        &self,
        container_id: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<cri::ExecSyncResponse, RuntimeError>> {
        Box::pin(async move {
            self.cri.exec_sync(&container_id, command, RUN_TIMEOUT).await.map_err(refused)
        })
    }
}
