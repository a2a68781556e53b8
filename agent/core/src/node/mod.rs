//! What a node says of itself: object, status, conditions, allocatable, Lease (A1–A19).
//!
//! Deliberately absent: reading the machine and talking to the API server (the shell's), and
//! everything that the cluster decides about a node (taints after the first, `spec.podCIDRs`).

mod conditions;
mod events;
mod images;
mod labels;
mod lease;
mod pressure;
mod publish;
mod resources;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::config::KubeletConfig;
use crate::model::{MachineFacts, RuntimeFacts, Time};

pub use conditions::{Health, STATUS_MAX_AGE_MS, ready_problems};
pub use events::{NodeEvent, disk, enforced, started, status_events};
pub use labels::{check_labels, label_repair};
pub use lease::lease;
pub use pressure::{Pressures, Signals};
pub use publish::{
    STARTING_MAX_MS, holds_back, is_ready, next_report, patch_due, register_difference, retry_ms,
    status_patch,
};
pub use resources::{allocatable, capacity};
pub use status::{KUBELET_VERSION, status};

/// `volumes.kubernetes.io/controller-managed-attach-detach`: attaching volumes is the controller
/// manager's (A15).
pub const ATTACH_DETACH: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// What the command line says of the node; it does not change while the daemon runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub name: String,
    /// `kubernetes.io/hostname`, and the Hostname address.
    pub hostname: String,
    /// InternalIPs, the first is the node's own; at most one of each family is published (A9).
    pub ips: Vec<IpAddr>,
    /// `--node-labels`, checked by [`check_labels`].
    pub labels: BTreeMap<String, String>,
    /// `--cloud-provider=external`: addresses are the cloud provider's (A4, A9).
    pub external_cloud: bool,
    /// `linux`'s name for the processor, as Go writes it: `amd64`, `arm64`.
    pub architecture: String,
}

/// All that a status is made from.
#[derive(Clone, Copy, Debug)]
pub struct NodeInputs<'a> {
    pub identity: &'a Identity,
    pub config: &'a KubeletConfig,
    pub machine: &'a MachineFacts,
    pub runtime: &'a RuntimeFacts,
    pub pressures: &'a Pressures,
    pub health: &'a Health,
}

/// Go's name of an architecture that Rust names.
pub fn architecture(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// The Node as it is created (A1): labels (A2), taints (A4), provider (A5), annotation (A15) and a
/// first status, so that nobody sees a node without one.
pub fn initial(inputs: &NodeInputs<'_>, now: Time) -> Node {
    let NodeInputs { identity, config, .. } = inputs;
    let mut taints = config.node.taints.clone();
    if identity.external_cloud {
        taints.push(Taint {
            key: "node.cloudprovider.kubernetes.io/uninitialized".into(),
            value: Some("true".into()),
            effect: "NoSchedule".into(),
            time_added: None,
        });
    }
    let provider = Some(config.node.provider_id.clone()).filter(|id| !id.is_empty());
    Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels::labels(identity)),
            annotations: Some(annotations(identity)),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: provider,
            taints: Some(taints).filter(|taints| !taints.is_empty()),
            ..NodeSpec::default()
        }),
        status: Some(status(inputs, &NodeStatus::default(), now)),
    }
}

/// Annotations that the node keeps (A9, A15).
fn annotations(identity: &Identity) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([(ATTACH_DETACH.to_owned(), "true".to_owned())]);
    if identity.external_cloud && !identity.ips.is_empty() {
        let ips: Vec<String> = identity.ips.iter().take(2).map(ToString::to_string).collect();
        annotations.insert("alpha.kubernetes.io/provided-node-ip".into(), ips.join(","));
    }
    annotations
}
