//! Tables of single decisions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::*;
use crate::model::{
    ContainerState, ImageState, ObservedContainer, ObservedPod, ObservedSandbox, ProbeKind,
    ProbeVerdict, SandboxState, Severity,
};
use crate::pod::action::{Action, Volume};
use crate::pod::testing::{self, Case};
use crate::pod::translate::hash;
use crate::pod::{Memory, Orphan};

mod again;
mod ends;
mod inputs;
mod running;
mod start;

fn image() -> ImageState {
    ImageState::Present { id: "sha256:1".into(), uid: None, username: String::new() }
}

fn sandbox(state: SandboxState) -> ObservedSandbox {
    ObservedSandbox {
        id: "s0".into(),
        attempt: 0,
        state,
        created_at: Time(0),
        ips: vec!["10.0.0.5".parse().unwrap()],
        host_network: false,
    }
}

fn instance(case: &Case, name: &str, state: ContainerState) -> ObservedContainer {
    let spec = case.pod.spec.as_ref().unwrap();
    let container = spec.init_containers.iter().flatten().chain(&spec.containers);
    let hash = container.filter(|c| c.name == name).map(hash::of).next().unwrap();
    ObservedContainer {
        user: None,
        id: format!("{name}-id"),
        name: name.into(),
        sandbox_id: "s0".into(),
        attempt: 0,
        state,
        created_at: Time(0),
        image: "x:1".into(),
        image_ref: "sha256:1".into(),
        hash,
        termination_message: String::new(),
        grace_s: None,
    }
}

/// A pod with a usable sandbox, its image, and no container yet.
fn prepared(spec: &str) -> Case {
    let mut case = Case::spec(spec);
    case.observed = ObservedPod {
        sandboxes: vec![sandbox(SandboxState::Ready)],
        images: BTreeMap::from([("x:1".into(), image()), ("x".into(), image())]),
        cgroup_ready: true,
        volumes_ready: true,
        network_programmed: true,
        network_ready: true,
        ..ObservedPod::default()
    };
    settle(&mut case);
    case
}

/// Lets the memory know the cgroup and the volumes as done.
fn settle(case: &mut Case) {
    let decision = decide(&case.input());
    let mut memory = decision.memory;
    for action in &decision.actions {
        if matches!(
            action,
            Action::EnsureCgroup(_) | Action::EnsureVolumes(_) | Action::Event { .. }
        ) {
            memory.done(action, case.now);
        }
    }
    case.memory = memory;
}

/// The memory after a decision of which nothing was done but its events told.
fn told(decision: &Decision) -> Memory {
    let mut memory = decision.memory.clone();
    for event in decision.actions.iter().filter(|a| matches!(a, Action::Event { .. })) {
        memory.done(event, Time(0));
    }
    memory
}

fn running(case: &Case) -> ContainerState {
    ContainerState::Running { started_at: case.now.plus_s(-60) }
}

fn words(decision: &Decision) -> Vec<String> {
    decision.actions.iter().map(word).collect()
}

fn word(action: &Action) -> String {
    match action {
        Action::EnsureCgroup(_) => "cgroup".into(),
        Action::EnsureVolumes(_) => "volumes".into(),
        Action::PullImage { container, .. } => format!("pull {container}"),
        Action::RunSandbox { config, .. } => {
            format!("sandbox {}", config.metadata.as_ref().unwrap().attempt)
        }
        Action::CreateContainer { config, .. } => {
            let metadata = config.metadata.as_ref().unwrap();
            format!("create {} {}", metadata.name, metadata.attempt)
        }
        Action::StartContainer { name, .. } => format!("start {name}"),
        Action::StopContainer { name, grace_s, .. } => format!("stop {name} {grace_s}"),
        Action::RemoveContainer { name, .. } => format!("remove {name}"),
        Action::StopSandbox { id } => format!("stop-sandbox {id}"),
        Action::RemoveSandbox { id } => format!("remove-sandbox {id}"),
        Action::RemoveVolumes { .. } => "remove-volumes".into(),
        Action::RemoveCgroup(plan) => format!("remove-cgroup {}", plan.path),
        Action::RemoveLogs { .. } => "remove-logs".into(),
        Action::Finish => "finish".into(),
        Action::Event { reason, .. } => format!("({reason})"),
    }
}

#[track_caller]
fn check(case: &Case, expect: &[&str]) -> Decision {
    let decision = decide(&case.input());
    assert_eq!(words(&decision), expect, "{:#?}", decision.why);
    decision
}

fn waiting(decision: &Decision, name: &str) -> (String, String) {
    let all = decision.status.container_statuses.iter().flatten();
    let status = all.into_iter().find(|status| status.name == name).unwrap();
    let waiting = status.state.as_ref().unwrap().waiting.clone().unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

const APP: &str = "{containers: [{name: app, image: 'x:1'}]}";
