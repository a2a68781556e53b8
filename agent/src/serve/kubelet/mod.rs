//! The node port :10250: what kubectl and the control plane ask of a node (A178–A185).
//!
//! Each request is parsed once, to a [`route::Route`]: what is authorized is what is answered.
//! Deliberately absent: the read-only port, profiling, files of the node (`/logs`), the container
//! statistics, and HTTP/2, whose limits would have to hold before anybody is known.

mod auth;
mod body;
mod cache;
mod exec;
mod health;
mod limits;
mod logs;
mod metrics;
mod peer;
mod pods;
mod proxy;
mod query;
mod questions;
mod route;
mod server;
#[cfg(test)]
mod tests;
mod websocket;

pub use auth::Identity;
pub use health::Health;
pub use metrics::Sample;
pub use server::{BindError, Server};

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::SubjectAccessReviewSpec;
use longshore_core::model::{PodUid, World};
use longshore_proto::cri;

use crate::observe::{ListedPod, SeenPod};

/// What the configuration says of the node port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    pub node_name: String,
    /// `address` and `port` (A178); port 0 takes any free one (tests).
    pub address: IpAddr,
    pub port: u16,
    /// `healthzBindAddress` and `healthzPort`; `None`: `healthzPort: 0`.
    pub healthz: Option<SocketAddr>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    /// `podLogsDir`.
    pub pod_logs_dir: PathBuf,
}

/// How callers without a certificate are known (A179).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authentication {
    /// `authentication.webhook.cacheTTL` where it is enabled: bearer tokens are asked about.
    pub webhook: Option<Duration>,
    /// `authentication.anonymous.enabled`.
    pub anonymous: bool,
}

/// Who may do what (A180).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authorization {
    /// Whoever is known may do all. Only on request.
    AlwaysAllow,
    /// SubjectAccessReview, its verdicts kept for so long.
    Webhook { allowed: Duration, denied: Duration },
}

/// The API server's word on who calls; the wiring implements it with the node's credential.
pub trait Reviews: Send + Sync + 'static {
    /// Whose token it is; `None`: nobody's. `Err`: nobody said.
    fn token(&self, token: String) -> BoxFuture<'_, Result<Option<UserInfo>, String>>;
    /// Whether the user may. `Err`: nobody said.
    fn access(&self, spec: SubjectAccessReviewSpec) -> BoxFuture<'_, Result<bool, String>>;
}

/// A call that the container runtime refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("{0}")]
    NotFound(String),
    /// gRPC ResourceExhausted: too many streams.
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    Other(String),
}

/// What the node port can show and reach; the wiring implements it.
pub trait KubeletViews: Send + Sync + 'static {
    fn world(&self) -> Arc<World>;
    /// The configuration in use, as `/configz` shows it: a KubeletConfiguration.
    fn configz(&self) -> serde_json::Value;
    /// Named checks of `/healthz`, in order; `Err`: what is wrong.
    fn health(&self) -> Vec<Health>;
    /// Further samples of `/metrics`: what other rooms count.
    fn samples(&self) -> Vec<Sample> {
        Vec::new()
    }
    /// Pods of the runtime's last list.
    fn listed(&self) -> BTreeMap<PodUid, ListedPod>;
    /// One pod in the runtime, now.
    fn pod(&self, uid: PodUid) -> BoxFuture<'_, Result<SeenPod, RuntimeError>>;
    /// The three streams of CRI: each answers the URL of the runtime's streaming server.
    fn exec(&self, request: cri::ExecRequest) -> BoxFuture<'_, Result<String, RuntimeError>>;
    fn attach(&self, request: cri::AttachRequest) -> BoxFuture<'_, Result<String, RuntimeError>>;
    fn port_forward(
        &self,
        request: cri::PortForwardRequest,
    ) -> BoxFuture<'_, Result<String, RuntimeError>>;
    /// Runs a command to its end.
    fn exec_sync(
        &self,
        container_id: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<cri::ExecSyncResponse, RuntimeError>>;
}
