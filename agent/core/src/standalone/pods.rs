//! Pods of the directory: one at a time by name, a new UID for each (A30, F29).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use super::controller::{Inputs, Notes, Settings};
use super::defaults;
use super::manifest::{Manifest, Object};
use super::state::{OwnedPod, State};
use crate::model::hash::uid_of;
use crate::model::{Kind, ObjectKey, Problem, Severity, Time};

pub(super) fn reconcile(inputs: &Inputs, state: &mut State, notes: &mut Notes) {
    for (key, owned) in &mut state.pods {
        if owned.deployment.is_some() || owned.deleting() {
            continue;
        }
        match inputs.manifest(Kind::Pod, key).map(|m| (m, &m.object)) {
            Some((manifest, Object::Pod(wanted))) => {
                keep_or_replace(owned, manifest, wanted, inputs.now)
            }
            _ => delete(owned, inputs.now),
        }
    }
    for manifest in inputs.of_kind(Kind::Pod) {
        let Object::Pod(wanted) = &manifest.object else { continue };
        let key = manifest.object.key();
        match state.pods.get(&key) {
            Some(owned) if owned.deployment.is_some() && !owned.deleting() => {
                notes.problems.push(
                    manifest.problem(Problem {
                        kind: Kind::Pod,
                        key: key.clone(),
                        severity: Severity::Error,
                        reason: "DuplicateName",
                        field: "metadata.name".to_owned(),
                        message: "is the name of a running replica of a Deployment; choose another"
                            .to_owned(),
                    }),
                );
            }
            Some(_) => {}
            None => {
                let incarnation = state.incarnations.entry(key.clone()).or_default();
                *incarnation += 1;
                let pod = make(
                    wanted,
                    &manifest.content,
                    &key,
                    *incarnation,
                    inputs.settings,
                    inputs.now,
                );
                let owned = OwnedPod {
                    pod: Arc::new(pod),
                    content: manifest.content.clone(),
                    digest: digest(wanted.spec.as_ref()),
                    deployment: None,
                    template_hash: String::new(),
                };
                state.pods.insert(key, owned);
            }
        }
    }
}

/// Labels and annotations change in place; another spec is another pod. A text that means the same
/// with defaults is no reason, nor is a release that knows more defaults.
fn keep_or_replace(owned: &mut OwnedPod, manifest: &Manifest, wanted: &Pod, now: Time) {
    let digest = digest(wanted.spec.as_ref());
    if owned.content != manifest.content && owned.digest != digest {
        return delete(owned, now);
    }
    owned.content.clone_from(&manifest.content);
    owned.digest = digest;
    let (have, want) = (&owned.pod.metadata, &wanted.metadata);
    if have.labels != want.labels || have.annotations != want.annotations {
        let pod = Arc::make_mut(&mut owned.pod);
        pod.metadata.labels.clone_from(&want.labels);
        pod.metadata.annotations.clone_from(&want.annotations);
    }
}

/// Asks for the end of a pod: from now on it has its grace period. Asking again changes nothing.
pub(super) fn delete(owned: &mut OwnedPod, now: Time) {
    if owned.deleting() {
        return;
    }
    let pod = Arc::make_mut(&mut owned.pod);
    let grace =
        pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod.metadata.deletion_timestamp = Some(now.plus_ms(grace.saturating_mul(1000)).to_api());
}

/// Hash of a defaulted part of an object.
pub(super) fn digest<T: serde::Serialize>(part: T) -> String {
    // Plain data with text keys: serialising cannot fail. Equal hashes would only keep a pod.
    uid_of(&[&serde_json::to_string(&part).unwrap_or_default()])
}

/// The pod that a manifest asks for.
pub(super) fn make(
    wanted: &Pod,
    content: &str,
    key: &ObjectKey,
    incarnation: u64,
    settings: &Settings,
    now: Time,
) -> Pod {
    let mut pod = wanted.clone();
    defaults::default_pod(&mut pod);
    let metadata = &mut pod.metadata;
    metadata.uid = Some(pod_uid(content, key, incarnation));
    metadata.creation_timestamp = Some(now.to_api());
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    spec.node_name = Some(settings.node_name.clone());
    if spec.service_account_name.is_none() {
        spec.service_account_name = Some("default".to_owned());
    }
    pod.status = None;
    pod
}

pub(super) fn pod_uid(content: &str, key: &ObjectKey, incarnation: u64) -> String {
    uid_of(&["Pod", content, &key.namespace, &key.name, &incarnation.to_string()])
}
