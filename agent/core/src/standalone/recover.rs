//! A lost checkpoint: which running pods are those that the manifests ask for?
//!
//! A UID is a hash of what was written, the name and a counter, and a replica's name is a hash of a
//! counter too. Trying the first counters tells whether a running pod is ours and still wanted; its
//! containers then go on untouched. What matches nothing is an orphan, and the pod workers remove it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::controller::Inputs;
use super::manifest::Object;
use super::pods::{self, pod_uid};
use super::state::{DeploymentState, OwnedPod, State};
use super::{deployments, manifest::Manifest};
use crate::model::hash::safe_suffix;
use crate::model::{Kind, ObjectKey, PodUid};

/// Counters that are tried for a name.
const TRIES: u64 = 4096;

/// A state that adopts what runs. `running`: names and UIDs of pods as the runtime's labels have
/// them (A204).
pub fn recover(inputs: &Inputs, running: &[(ObjectKey, PodUid)]) -> State {
    let mut state = State::default();
    for (key, uid) in running {
        adopt_pod(inputs, key, uid, &mut state);
    }
    for manifest in inputs.of_kind(Kind::Deployment) {
        adopt_replicas(inputs, manifest, running, &mut state);
    }
    state
}

fn adopt_pod(inputs: &Inputs, key: &ObjectKey, uid: &PodUid, state: &mut State) {
    let Some(manifest) = inputs.manifest(Kind::Pod, key) else { return };
    let Object::Pod(wanted) = &manifest.object else { return };
    let found = (1..=TRIES).find(|n| pod_uid(&manifest.content, key, *n) == uid.as_str());
    let Some(incarnation) = found else { return };
    let pod = pods::make(wanted, &manifest.content, key, incarnation, inputs.settings, inputs.now);
    state.incarnations.insert(key.clone(), incarnation);
    let digest = pods::digest(wanted.spec.as_ref());
    let content = manifest.content.clone();
    let owned = OwnedPod {
        pod: Arc::new(pod),
        content,
        digest,
        deployment: None,
        template_hash: String::new(),
    };
    state.pods.insert(key.clone(), owned);
}

fn adopt_replicas(
    inputs: &Inputs,
    manifest: &Manifest,
    running: &[(ObjectKey, PodUid)],
    state: &mut State,
) {
    let Object::Deployment(deployment) = &manifest.object else { return };
    let key = manifest.object.key();
    let hash = safe_suffix(&manifest.content, 10);
    let digest = pods::digest(&deployment.spec.template);
    let names: BTreeMap<&ObjectKey, &PodUid> =
        running.iter().map(|(key, uid)| (key, uid)).collect();
    let mut left = names.keys().filter(|name| name.namespace == key.namespace).count();
    let mut made = 0;
    for number in 1..=TRIES {
        if left == 0 {
            break;
        }
        let name = deployments::replica_name(&key, &hash, number);
        let uid = names
            .get(&name)
            .filter(|uid| pod_uid(&manifest.content, &name, number) == uid.as_str());
        if uid.is_none() || state.pods.contains_key(&name) {
            continue;
        }
        left -= 1;
        made = number;
        let owned =
            deployments::replica(inputs, &key, deployment, &hash, &manifest.content, &name, number);
        state.pods.insert(name, OwnedPod { digest: digest.clone(), ..owned });
    }
    let content = manifest.content.clone();
    let memory = DeploymentState {
        content,
        digest,
        template_hash: hash,
        made,
        ..DeploymentState::default()
    };
    state.deployments.insert(key, memory);
}
