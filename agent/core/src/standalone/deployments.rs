//! Deployments without ReplicaSets: replicas, their names, roll-outs and their replacement.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::controller::{Inputs, Notes, stable_uid};
use super::manifest::{Manifest, Object};
use super::pods;
use super::rollout::{self, Replica, Strategy};
use super::state::{DeploymentState, OwnedPod, State};
use crate::model::hash::safe_suffix;
use crate::model::{Kind, LocalPod, ObjectKey, Problem, Severity, Time};

/// Label of replicas: which template they were made from.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// First wait before an ended replica is replaced; doubles up to the last.
const BACKOFF_FIRST_MS: i64 = 10_000;
const BACKOFF_LAST_MS: i64 = 300_000;
/// After so long without an end the wait is the first again.
const BACKOFF_FORGET_MS: i64 = 600_000;

pub(super) fn reconcile(inputs: &Inputs, state: &mut State, notes: &mut Notes) {
    for owned in state.pods.values_mut() {
        let Some(deployment) = &owned.deployment else { continue };
        if inputs.manifest(Kind::Deployment, deployment).is_none() {
            pods::delete(owned, inputs.now);
        }
    }
    for manifest in inputs.of_kind(Kind::Deployment) {
        if let Object::Deployment(deployment) = &manifest.object {
            one(inputs, manifest, deployment, state, notes);
        }
    }
}

fn one(
    inputs: &Inputs,
    manifest: &Manifest,
    deployment: &Deployment,
    state: &mut State,
    notes: &mut Notes,
) {
    let key = manifest.object.key();
    let mut memory = state.deployments.remove(&key).unwrap_or_default();
    let retemplated = retemplate(&mut memory, manifest, deployment);
    if retemplated {
        memory.progressed_at = inputs.now;
        memory.available = 0;
    }
    bury(inputs, &key, &mut memory, state);
    let strategy = Strategy::of(&deployment.spec);
    let mut facts = facts(inputs, &key, deployment, &memory, state, notes);
    // What one step deletes makes room for the next one to create; it ends after a few.
    for _ in 0..8 {
        let others = state.pods.values().any(|owned| {
            owned.deployment.as_ref() == Some(&key) && owned.template_hash != memory.template_hash
        });
        let mut step = rollout::step(strategy, &facts, others);
        if let Some(at) = retry_at(&memory).filter(|at| *at > inputs.now && step.create > 0) {
            notes.wake(at);
            step.create = 0;
        }
        if step == rollout::Step::default() {
            break;
        }
        for name in &step.delete {
            if let Some(owned) = state.pods.get_mut(name) {
                pods::delete(owned, inputs.now);
            }
        }
        for _ in 0..step.create {
            create(inputs, manifest, deployment, &mut memory, state);
        }
        facts = self::facts(inputs, &key, deployment, &memory, state, notes);
    }
    progress(inputs, manifest, deployment, strategy, &facts, &mut memory, notes);
    state.deployments.insert(key, memory);
}

/// Follows the template; true when replicas of another template are wanted from now on.
fn retemplate(memory: &mut DeploymentState, manifest: &Manifest, deployment: &Deployment) -> bool {
    let digest = pods::digest(&deployment.spec.template);
    let other = memory.content != manifest.content && memory.digest != digest;
    if other || memory.template_hash.is_empty() {
        memory.template_hash = safe_suffix(&manifest.content, 10);
    }
    memory.content.clone_from(&manifest.content);
    memory.digest = digest;
    other
}

/// Replicas that ended by themselves make room, and are counted.
fn bury(inputs: &Inputs, key: &ObjectKey, memory: &mut DeploymentState, state: &mut State) {
    let mut ended = false;
    for owned in state.pods.values_mut() {
        let ours = owned.deployment.as_ref() == Some(key) && !owned.deleting();
        let live = inputs.live.get(&owned.uid());
        if ours && live.is_some_and(|live| is_terminal(live)) {
            pods::delete(owned, inputs.now);
            ended = true;
        }
    }
    if ended {
        let recent = memory.failed_at.is_some_and(|at| inputs.now - at < BACKOFF_FORGET_MS);
        memory.failures = if recent { memory.failures.saturating_add(1) } else { 1 };
        memory.failed_at = Some(inputs.now);
    }
}

fn retry_at(memory: &DeploymentState) -> Option<Time> {
    let doublings = memory.failures.checked_sub(1)?.min(16);
    let wait = (BACKOFF_FIRST_MS << doublings).min(BACKOFF_LAST_MS);
    memory.failed_at.map(|at| at + wait)
}

pub(super) fn is_terminal(live: &LocalPod) -> bool {
    matches!(live.status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn facts(
    inputs: &Inputs,
    key: &ObjectKey,
    deployment: &Deployment,
    memory: &DeploymentState,
    state: &State,
    notes: &mut Notes,
) -> Vec<Replica> {
    let wait_ms = i64::from(deployment.spec.min_ready_seconds.unwrap_or(0)) * 1000;
    let mut facts = Vec::new();
    for (name, owned) in &state.pods {
        if owned.deployment.as_ref() != Some(key) || owned.deleting() {
            continue;
        }
        let live = inputs.live.get(&owned.uid());
        let ready = live.is_some_and(|live| live.ready && !live.terminating);
        let available_at =
            live.filter(|_| ready).map(|live| ready_since(live, inputs.now, wait_ms) + wait_ms);
        let available = available_at.is_some_and(|at| at <= inputs.now);
        if let Some(at) = available_at.filter(|at| *at > inputs.now) {
            notes.wake(at);
        }
        facts.push(Replica {
            key: name.clone(),
            wanted: owned.template_hash == memory.template_hash,
            ready,
            available,
            order: order_of(owned),
        });
    }
    facts
}

/// Since when the pod is Ready, by its condition. Without one, readiness counts from now.
fn ready_since(live: &LocalPod, now: Time, wait_ms: i64) -> Time {
    if wait_ms == 0 {
        return now;
    }
    let conditions = live.status.conditions.iter().flatten();
    let ready = conditions
        .into_iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready.and_then(|condition| condition.last_transition_time.as_ref()).map_or(now, Time::from_api)
}

/// Replicas are numbered as they are made.
fn order_of(owned: &OwnedPod) -> u64 {
    let annotations = owned.pod.metadata.annotations.as_ref();
    annotations.and_then(|map| map.get(ORDINAL)).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Annotation of replicas: their number.
const ORDINAL: &str = "longshore.io/replica";

fn create(
    inputs: &Inputs,
    manifest: &Manifest,
    deployment: &Deployment,
    memory: &mut DeploymentState,
    state: &mut State,
) {
    let key = manifest.object.key();
    let name = loop {
        memory.made += 1;
        let name = replica_name(&key, &memory.template_hash, memory.made);
        let taken = state.pods.contains_key(&name) || inputs.manifest(Kind::Pod, &name).is_some();
        if !taken {
            break name;
        }
    };
    let content = memory.content.clone();
    let owned =
        replica(inputs, &key, deployment, &memory.template_hash, &content, &name, memory.made);
    state.pods.insert(name, OwnedPod { digest: memory.digest.clone(), ..owned });
}

/// `<deployment>-<template hash>-<suffix>`, cut as the API server cuts generated names.
pub(super) fn replica_name(key: &ObjectKey, hash: &str, number: u64) -> ObjectKey {
    let mut base = format!("{}-{hash}-", key.name);
    // Names are ASCII (validated), so that every byte is a boundary.
    base.truncate(58);
    let suffix = safe_suffix(&format!("{key}/{hash}/{number}"), 5);
    ObjectKey::new(key.namespace.clone(), format!("{base}{suffix}"))
}

#[allow(clippy::too_many_arguments)]
pub(super) fn replica(
    inputs: &Inputs,
    key: &ObjectKey,
    deployment: &Deployment,
    hash: &str,
    content: &str,
    name: &ObjectKey,
    number: u64,
) -> OwnedPod {
    let template = &deployment.spec.template;
    let given = template.metadata.clone().unwrap_or_default();
    let mut labels = given.labels.unwrap_or_default();
    labels.insert(TEMPLATE_HASH.to_owned(), hash.to_owned());
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(ORDINAL.to_owned(), number.to_string());
    let set = format!("{}-{hash}", key.name);
    let set_key = ObjectKey::new(key.namespace.clone(), set.as_str());
    let wanted = Pod {
        metadata: ObjectMeta {
            name: Some(name.name.to_string()),
            namespace: Some(name.namespace.to_string()),
            generate_name: Some(format!("{set}-")),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "apps/v1".to_owned(),
                kind: "ReplicaSet".to_owned(),
                uid: stable_uid("ReplicaSet", &set_key),
                name: set,
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        ..Pod::default()
    };
    OwnedPod {
        pod: Arc::new(pods::make(&wanted, content, name, number, inputs.settings, inputs.now)),
        content: content.to_owned(),
        digest: String::new(),
        deployment: Some(key.clone()),
        template_hash: hash.to_owned(),
    }
}

/// Says when a roll-out stands still for progressDeadlineSeconds.
fn progress(
    inputs: &Inputs,
    manifest: &Manifest,
    deployment: &Deployment,
    strategy: Strategy,
    facts: &[Replica],
    memory: &mut DeploymentState,
    notes: &mut Notes,
) {
    let available = facts.iter().filter(|replica| replica.wanted && replica.available).count();
    let complete = available >= strategy.replicas && facts.iter().all(|replica| replica.wanted);
    if complete {
        // The time counts from the next moment that something is missing.
        memory.progressed_at = Time::default();
        memory.available = available;
        return;
    }
    if available > memory.available || memory.progressed_at == Time::default() {
        memory.progressed_at = inputs.now;
    }
    memory.available = available;
    let seconds = deployment.spec.progress_deadline_seconds.unwrap_or(600);
    let deadline = memory.progressed_at.plus_s(seconds.into());
    if inputs.now < deadline {
        return notes.wake(deadline);
    }
    notes.problems.push(manifest.problem(Problem {
        kind: Kind::Deployment,
        key: manifest.object.key(),
        severity: Severity::Warning,
        reason: "ProgressDeadlineExceeded",
        field: String::new(),
        message: format!(
            "{available} of {} replicas are available and nothing got better in {seconds} s; \
             see `longshore explain pod` for those that are not",
            strategy.replicas
        ),
    }));
}
