//! What others may ask the daemon. For now: the admin socket, and the client that the command line
//! is made of.
//!
//! Read-only: nothing here changes the world. What can be shown comes through [`Views`].

pub mod admin;
pub mod client;
pub mod kubelet;
pub mod protocol;
pub mod render;
pub mod status;
mod words;

pub use admin::Admin;
pub use status::Status;

use std::sync::Arc;

use longshore_core::model::{ObjectKey, PodUid, Time, World};
use longshore_core::standalone::Located;
use protocol::{EventRow, FlowQuery};

/// What the daemon can show; the wiring implements it.
pub trait Views: Send + Sync + 'static {
    fn world(&self) -> Arc<World>;
    fn now(&self) -> Time;
    /// Name, addresses and role of the node, and what of it does not work now.
    fn node(&self) -> NodeFacts;
    /// Problems of the user's files.
    fn problems(&self) -> Vec<Located>;
    /// Newest last, at most `count`.
    fn events(&self, count: usize) -> Vec<EventRow>;
    /// Why a pod is as it is: the newest decision's own lines.
    fn why_pod(&self, uid: &PodUid) -> Vec<String>;
    /// What of a Service is in the kernel, as text.
    fn service_text(&self, key: &ObjectKey) -> Vec<String>;
    /// Walks a packet over the logical image; names the policy that decides.
    ///
    /// # Errors
    /// A name that does not exist, or an address that is no pod's.
    fn flow(&self, query: &FlowQuery) -> Result<Vec<String>, String>;
    /// The logical image: what must hold.
    fn maps_wanted(&self) -> String;
    /// The same text made from the kernel's rows.
    ///
    /// # Errors
    /// The maps cannot be read.
    fn maps_kernel(&self) -> Result<String, String>;
}

/// The node's own line in `status`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFacts {
    pub name: String,
    pub ips: Vec<String>,
    /// `standalone`, `node`, `dataplane`.
    pub role: String,
    pub version: String,
    pub runtime: String,
    pub started_at: Time,
    /// Tracked flows in the kernel when they were last counted.
    pub flows: Option<usize>,
    /// What does not work (`containerd does not answer: …`); empty: all does.
    pub degraded: Vec<String>,
}
