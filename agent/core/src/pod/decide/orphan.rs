//! A pod in the runtime that no source names: it is ended and nothing of it stays.
//!
//! The shell asks only when every source has delivered a complete list (A38).

use super::termination::unstarted;
use crate::model::{ContainerState, SandboxState, Time};
use crate::pod::action::{Action, CgroupPlan, Decision};
use crate::pod::memory::step_of;
use crate::pod::qos::Qos;
use crate::pod::{Orphan, cgroup, paths};

/// Grace when a container has no annotation (A58).
const DEFAULT_GRACE_S: i64 = 30;

/// Ends with [`Action::Finish`], after which the shell forgets the pod.
pub fn decide_orphan(orphan: &Orphan<'_>) -> Decision {
    let mut decision = Decision {
        actions: Vec::new(),
        status: orphan_status(),
        memory: orphan.memory.clone(),
        wake_at: late_sandbox(orphan),
        why: vec!["no source names this pod: it is being removed".into()],
        probes: Vec::new(),
    };
    if paths::check(orphan.key, orphan.uid).is_err() {
        decision
            .why
            .push("its name or UID cannot be a path: its directories are left alone".into());
    }
    for action in next(orphan) {
        let failure = decision.memory.failures.get(&step_of(&action));
        match failure.map(|failure| failure.backoff.ready_at()).filter(|at| *at > orphan.now) {
            Some(at) => {
                decision.wake_at = Some(decision.wake_at.map_or(at, |known| known.min(at)));
                // Later steps need this one.
                break;
            }
            None => decision.actions.push(action),
        }
    }
    for ends_at in decision.memory.stops.values().map(|at| at.plus_s(10)) {
        if ends_at > orphan.now {
            decision.wake_at = Some(decision.wake_at.map_or(ends_at, |known| known.min(ends_at)));
        }
    }
    decision
}

fn orphan_status() -> k8s_openapi::api::core::v1::PodStatus {
    k8s_openapi::api::core::v1::PodStatus {
        phase: Some("Failed".into()),
        ..k8s_openapi::api::core::v1::PodStatus::default()
    }
}

/// Until then a sandbox that was being made when the pod was deleted may still appear.
fn late_sandbox(orphan: &Orphan<'_>) -> Option<Time> {
    orphan.memory.abandoned_until.filter(|until| *until > orphan.now)
}

fn next(orphan: &Orphan<'_>) -> Vec<Action> {
    let (observed, memory) = (orphan.observed, orphan.memory);
    let mut actions = Vec::new();
    let mut alive = false;
    for container in &observed.containers {
        let running = matches!(container.state, ContainerState::Running { .. });
        let unknown = container.state == ContainerState::Unknown;
        let asked = memory.stops.get(&container.id).copied();
        let overdue = asked.is_some_and(|ends_at| orphan.now >= ends_at.plus_s(10));
        if !(running || (unknown && !overdue)) {
            continue;
        }
        alive = true;
        if asked.is_none() || overdue {
            let grace_s = container.grace_s.unwrap_or(DEFAULT_GRACE_S).clamp(2, 31_536_000);
            actions.push(Action::StopContainer {
                id: container.id.clone(),
                name: container.name.clone(),
                grace_s: if overdue { 2 } else { grace_s },
                why: "no source names the pod".into(),
            });
        }
    }
    if alive {
        return actions;
    }
    for container in unstarted(observed, memory) {
        let (id, name) = (container.id.clone(), container.name.clone());
        actions.push(Action::RemoveContainer { id, name });
    }
    if !actions.is_empty() {
        return actions;
    }
    for sandbox in &observed.sandboxes {
        let stopped = sandbox.state == SandboxState::NotReady
            && memory.stopped_sandboxes.contains(&sandbox.id);
        if !stopped {
            actions.push(Action::StopSandbox { id: sandbox.id.clone() });
        }
    }
    if !actions.is_empty() {
        return actions;
    }
    for container in &observed.containers {
        let (id, name) = (container.id.clone(), container.name.clone());
        actions.push(Action::RemoveContainer { id, name });
    }
    let sandboxes = observed.sandboxes.iter();
    actions.extend(sandboxes.map(|sandbox| Action::RemoveSandbox { id: sandbox.id.clone() }));
    if actions.is_empty() && late_sandbox(orphan).is_none() {
        actions = rest(orphan);
    }
    actions
}

fn rest(orphan: &Orphan<'_>) -> Vec<Action> {
    let (node, uid) = (orphan.node, orphan.uid);
    let mut actions = Vec::new();
    if paths::check(orphan.key, uid).is_ok() {
        actions.push(Action::RemoveVolumes { pod_dir: paths::pod_dir(node, uid) });
        // Its class is not known any more: whichever of the three exists.
        for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            let path = cgroup::path(node, uid, class);
            actions.push(Action::RemoveCgroup(CgroupPlan { path, ..CgroupPlan::default() }));
        }
        let directory = paths::log_dir(node, orphan.key, uid);
        actions.push(Action::RemoveLogs { directory });
    }
    actions.push(Action::Finish);
    actions
}
