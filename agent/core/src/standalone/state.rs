//! What must survive the process: pods as they were made, addresses that were given out, and the
//! last good manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, StoredCatalog};
use super::keyed;
use crate::model::{ObjectKey, PodUid, Time};

/// Version of the checkpoint's format. A file of another version is set aside, never guessed at.
pub const CHECKPOINT_VERSION: u32 = 1;

/// The controllers' memory. Holds no Secret data.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// Pods that exist or are being deleted, at most one by name.
    #[serde(with = "keyed")]
    pub pods: BTreeMap<ObjectKey, OwnedPod>,
    #[serde(with = "keyed")]
    pub deployments: BTreeMap<ObjectKey, DeploymentState>,
    /// Services as they were last published, each with its address.
    #[serde(with = "keyed")]
    pub services: BTreeMap<ObjectKey, Arc<Service>>,
    /// How many pods of a name there have been: names come back, UIDs do not (F29).
    #[serde(with = "keyed")]
    pub incarnations: BTreeMap<ObjectKey, u64>,
}

impl State {
    /// Takes from `found` what is not known yet.
    pub fn adopt(&mut self, found: State) {
        for (key, pod) in found.pods {
            self.pods.entry(key).or_insert(pod);
        }
        for (key, deployment) in found.deployments {
            self.deployments.entry(key).or_insert(deployment);
        }
        for (key, number) in found.incarnations {
            let known = self.incarnations.entry(key).or_default();
            *known = number.max(*known);
        }
    }
}

/// A pod that was made from a manifest.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct OwnedPod {
    pub pod: Arc<Pod>,
    /// Hash of what its author wrote ([`super::Manifest::content`]).
    pub content: String,
    /// Hash of the same with defaults.
    pub digest: String,
    /// The Deployment that it is a replica of.
    pub deployment: Option<ObjectKey>,
    /// `pod-template-hash` of a replica.
    pub template_hash: String,
}

impl OwnedPod {
    pub fn uid(&self) -> PodUid {
        PodUid::new(self.pod.metadata.uid.as_deref().unwrap_or_default())
    }

    pub fn deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// A Deployment between two looks at it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DeploymentState {
    pub content: String,
    pub digest: String,
    /// `pod-template-hash` that replicas should have.
    pub template_hash: String,
    /// Replicas made so far: part of their names, so that no name comes back.
    pub made: u64,
    /// Replicas that ended by themselves, and when the last one did.
    pub failures: u32,
    pub failed_at: Option<Time>,
    /// When the roll-out last came nearer to its end.
    pub progressed_at: Time,
    /// Available replicas of the wanted template at that time.
    pub available: usize,
}

/// The file `standalone.json`.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    version: u32,
    catalog: StoredCatalog,
    state: State,
}

/// Why a checkpoint cannot be used.
#[derive(thiserror::Error, Debug, PartialEq, Eq)]
pub enum CheckpointError {
    #[error("it is of version {0}; this release reads version {CHECKPOINT_VERSION}")]
    Version(u32),
    #[error("it is not a checkpoint: {0}")]
    Malformed(String),
}

/// Text of the checkpoint.
pub fn to_text(catalog: &Catalog, state: &State) -> String {
    let checkpoint = Checkpoint {
        version: CHECKPOINT_VERSION,
        catalog: catalog.to_stored(),
        state: state.clone(),
    };
    // Maps have text keys or are lists, and no number is infinite: this cannot fail; were it to,
    // the empty text is set aside as malformed at the next start.
    serde_json::to_string(&checkpoint).unwrap_or_default()
}

/// Reads a checkpoint.
///
/// # Errors
/// Another version, or anything that is not the whole text that [`to_text`] wrote.
pub fn from_text(text: &str) -> Result<(Catalog, State), CheckpointError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let malformed = |error: serde_json::Error| CheckpointError::Malformed(error.to_string());
    let head: Head = serde_json::from_str(text).map_err(malformed)?;
    if head.version != CHECKPOINT_VERSION {
        return Err(CheckpointError::Version(head.version));
    }
    let checkpoint: Checkpoint = serde_json::from_str(text).map_err(malformed)?;
    for (key, owned) in &checkpoint.state.pods {
        let metadata = &owned.pod.metadata;
        if super::manifest::key_of(metadata) != *key || metadata.uid.is_none() {
            return Err(CheckpointError::Malformed(format!("pod {key} has another name inside")));
        }
    }
    Ok((Catalog::from_stored(checkpoint.catalog), checkpoint.state))
}
