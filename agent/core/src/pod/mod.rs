//! Pods: what to do next ([`decide`]), what to report, and how a spec becomes CRI messages.
//!
//! Deliberately absent: any effect. [`action::Action`] is data; the shell executes it, tells
//! [`Memory`] what became of it, observes, and asks again.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::config::KubeletConfig;
use crate::model::{NodeView, ObjectKey, ObservedPod, PodUid, Time, World};

pub mod action;
pub mod admit;
pub mod backoff;
pub mod cgroup;
pub mod conditions;
pub mod credentials;
pub mod decide;
pub mod dns;
pub mod env;
pub mod expand;
pub mod fields;
pub mod fit;
pub mod hosts;
pub mod image_name;
pub mod inputs;
pub mod memory;
pub mod mirror;
pub mod paths;
pub mod probe;
pub mod qos;
pub mod references;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
pub mod translate;
pub mod unsupported;
pub mod upload;
pub mod view;
pub mod visit;
pub mod volumes;

pub use decide::{decide, decide_orphan};
pub use memory::Memory;
pub use references::References;

/// All that a decision about one pod looks at.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// What should be. With `metadata.deletionTimestamp` it should end: as in the API, the
    /// timestamp is the end of the grace period when `deletionGracePeriodSeconds` is set too, and
    /// the moment of the request when it is not.
    pub pod: &'a Pod,
    pub key: &'a ObjectKey,
    pub uid: &'a PodUid,
    /// ConfigMaps, Secrets and Services.
    pub world: &'a World,
    pub node: &'a NodeView,
    pub config: &'a KubeletConfig,
    pub observed: &'a ObservedPod,
    /// The status of the last decision, kept across restarts of the daemon by the shell (A96, F04).
    pub previous: Option<&'a PodStatus>,
    pub memory: &'a Memory,
    /// Lines for the pod's /etc/hosts beside its own (standalone: names of Services).
    pub extra_hosts: &'a [(IpAddr, Vec<String>)],
    /// `runtime_name` of the CRI Version reply: the scheme of `containerID` (A69).
    pub runtime_name: &'a str,
    pub now: Time,
}

/// What a decision about a pod that no source names looks at.
#[derive(Clone, Copy)]
pub struct Orphan<'a> {
    pub key: &'a ObjectKey,
    pub uid: &'a PodUid,
    pub node: &'a NodeView,
    pub observed: &'a ObservedPod,
    pub memory: &'a Memory,
    pub now: Time,
}
