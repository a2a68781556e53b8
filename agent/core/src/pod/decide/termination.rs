//! The end of a pod: containers in order, sandbox, what is on disk (A58, A60–A64, F03).

use super::steps::Steps;
use crate::model::{
    ContainerState, ObservedContainer, ObservedPod, ObservedSandbox, SandboxState, Time,
};
use crate::pod::action::Action;
use crate::pod::memory::{Memory, step_of};
use crate::pod::visit::Role;
use crate::pod::{cgroup, paths};

/// Every stop leaves a process this long (A58).
const LEAST_GRACE_S: i64 = 2;
/// A stop that should be over by then is asked for again.
const OVERDUE_MS: i64 = 10_000;
/// Refusals to remove a container that never ran, some 15 s, after which its sandbox is stopped
/// all the same.
const REFUSALS_MAX: u32 = 5;

/// The pod is being deleted: everything goes, and then the pod itself (A62).
pub(super) fn delete(steps: &mut Steps<'_>, deadline: Time) {
    steps.facts.ending = true;
    steps.why(format!("the pod is being deleted, grace ends at {deadline}"));
    if !stop_all(steps, Some(deadline), "the pod is being deleted") {
        return;
    }
    if !remove_unstarted(steps) {
        return;
    }
    // The end of every container is in a published status before its record goes (F04).
    if !stop_sandboxes(steps) || !steps.actions.is_empty() {
        return;
    }
    let input = steps.view.input;
    let observed = input.observed;
    for container in &observed.containers {
        let (id, name) = (container.id.clone(), container.name.clone());
        steps.push(Action::RemoveContainer { id, name });
    }
    for sandbox in &observed.sandboxes {
        steps.push(Action::RemoveSandbox { id: sandbox.id.clone() });
    }
    if !observed.containers.is_empty() || !observed.sandboxes.is_empty() {
        return;
    }
    if let Some(until) = steps.memory.abandoned_until.filter(|until| *until > steps.now()) {
        steps.why("a sandbox that was being made when the pod was deleted may still appear");
        return steps.wake(until);
    }
    let directory = paths::log_dir(input.node, input.key, input.uid);
    if remove_leftovers(steps) && steps.push_in_order([Action::RemoveLogs { directory }]) {
        steps.finish_pod();
    }
}

/// The pod is over but still wanted: its sandbox, network, volumes and cgroup go, its records and
/// logs stay (A64).
pub(super) fn settle(steps: &mut Steps<'_>, why: &str) {
    steps.facts.ending = true;
    steps.why(why);
    if stop_all(steps, None, why) && stop_sandboxes(steps) && steps.actions.is_empty() {
        remove_leftovers(steps);
    }
}

/// False when a step has to be waited for.
fn remove_leftovers(steps: &mut Steps<'_>) -> bool {
    let input = steps.view.input;
    if !has_leftovers(steps) {
        return true;
    }
    let pod_dir = paths::pod_dir(input.node, input.uid);
    let plan = cgroup::plan(input.node, input.config, input.uid, steps.view.spec);
    steps.push_in_order([Action::RemoveVolumes { pod_dir }, Action::RemoveCgroup(plan)])
}

fn has_leftovers(steps: &Steps<'_>) -> bool {
    let observed = steps.view.input.observed;
    observed.leftovers || observed.volumes_ready || observed.cgroup_ready
}

/// Containers that never ran go before their sandbox is stopped. A daemon that died may have asked
/// for their start, and the runtime may be at it: it refuses then to remove them, while a sandbox
/// that is stopped under a start leaves containerd's shim process behind (F20). False when that has
/// to be waited for.
fn remove_unstarted(steps: &mut Steps<'_>) -> bool {
    let input = steps.view.input;
    let mut all = true;
    for container in unstarted(input.observed, &steps.memory) {
        let (id, name) = (container.id.clone(), container.name.clone());
        steps.push(Action::RemoveContainer { id, name });
        all = false;
    }
    all
}

/// Those in a ready sandbox that the runtime did not refuse to remove too often.
pub(super) fn unstarted<'a>(
    observed: &'a ObservedPod,
    memory: &Memory,
) -> Vec<&'a ObservedContainer> {
    let is_ready =
        |id: &str| observed.sandboxes.iter().any(|s| s.id == id && s.state == SandboxState::Ready);
    let refused = |container: &ObservedContainer| {
        let (id, name) = (container.id.clone(), container.name.clone());
        let step = step_of(&Action::RemoveContainer { id, name });
        memory.failures.get(&step).is_some_and(|failure| failure.count >= REFUSALS_MAX)
    };
    let created = observed.containers.iter().filter(|c| c.state == ContainerState::Created);
    created.filter(|c| is_ready(&c.sandbox_id) && !refused(c)).collect()
}

fn is_alive(container: &ObservedContainer) -> bool {
    matches!(container.state, ContainerState::Running { .. } | ContainerState::Unknown)
}

/// Stops app and init containers together, then sidecars one by one, last first; at the deadline
/// everything (A60). True when nothing runs.
pub(super) fn stop_all(steps: &mut Steps<'_>, deadline: Option<Time>, why: &str) -> bool {
    let view = steps.view;
    let now = steps.now();
    let remaining = match deadline {
        // Rounded up: a second that has begun is still the container's.
        Some(deadline) => (deadline.since_ms(now).max(0) + 999) / 1000,
        None => view.grace_s(),
    };
    let sidecars: Vec<&str> = view
        .containers()
        .filter(|(role, _)| *role == Role::Sidecar)
        .map(|(_, container)| container.name.as_str())
        .collect();
    let alive: Vec<_> = view.input.observed.containers.iter().filter(|c| is_alive(c)).collect();
    let position = |c: &ObservedContainer| sidecars.iter().position(|name| *name == c.name);
    let apps: Vec<_> = alive.iter().filter(|c| position(c).is_none()).collect();
    let expired = deadline.is_some_and(|deadline| now >= deadline);
    let next: Vec<_> = if expired {
        alive.iter().collect()
    } else if apps.is_empty() {
        let last = alive.iter().filter_map(|c| position(c)).max();
        alive.iter().filter(|c| position(c) == last).collect()
    } else {
        apps
    };
    let mut over = true;
    for container in &next {
        over &= stop(steps, container, remaining, why);
    }
    if let Some(deadline) = deadline.filter(|_| !alive.is_empty()) {
        steps.wake(deadline);
    }
    // What is of unknown state after its stop is ended with the sandbox.
    over && next.len() == alive.len()
}

/// Asks once for the end of a container; again when it is overdue. True when it has had its time
/// and its state is still unknown: the runtime will not say more.
pub(super) fn stop(
    steps: &mut Steps<'_>,
    container: &ObservedContainer,
    grace_s: i64,
    why: &str,
) -> bool {
    let now = steps.now();
    let mut grace_s = grace_s.max(LEAST_GRACE_S);
    let asked = steps.memory.stops.get(&container.id).copied();
    if let Some(ends_at) = asked {
        let shorter = now.plus_s(grace_s).plus_ms(1_000) < ends_at;
        let overdue_at = ends_at.plus_ms(OVERDUE_MS);
        if now < overdue_at && !shorter {
            steps.wake(overdue_at);
            return false;
        }
        if container.state == ContainerState::Unknown && now >= overdue_at {
            return true;
        }
        if now >= overdue_at {
            grace_s = LEAST_GRACE_S;
        }
    }
    let (id, name) = (container.id.clone(), container.name.clone());
    let text = format!("Stopping container {name}");
    steps.why(format!("stopping container {name} within {grace_s} s: {why}"));
    let message = if why.starts_with("Container ") { why.to_owned() } else { text };
    let subject = format!("killing/{id}");
    let count = steps.actions.len();
    let failure =
        steps.push(Action::StopContainer { id, name: name.clone(), grace_s, why: why.into() });
    if steps.actions.len() > count {
        steps.say_mark(&subject, "asked", false, "Killing", message, Some(&name));
    }
    if let Some(failure) = failure {
        let text = format!("error killing pod: {}", failure.message);
        steps.say_mark(
            "FailedKillPod",
            &failure.count.to_string(),
            true,
            "FailedKillPod",
            text,
            None,
        );
    }
    false
}

/// Frees the network of every sandbox. False when that has to be waited for.
pub(super) fn stop_sandboxes(steps: &mut Steps<'_>) -> bool {
    let mut all = true;
    for sandbox in &steps.view.input.observed.sandboxes {
        if is_stopped(steps, sandbox) {
            continue;
        }
        let asked = steps.actions.len();
        if let Some(failure) = steps.push(Action::StopSandbox { id: sandbox.id.clone() }) {
            let text = format!("error killing pod: {}", failure.message);
            let mark = failure.count.to_string();
            steps.say_mark("FailedKillPod", &mark, true, "FailedKillPod", text, None);
        }
        all &= steps.actions.len() > asked;
    }
    all
}

/// StopSandbox was done: by this process, or by one before it. A sandbox that ended by itself is
/// NotReady too, but its network and what is on disk go only after StopSandbox.
fn is_stopped(steps: &Steps<'_>, sandbox: &ObservedSandbox) -> bool {
    let input = steps.view.input;
    let local = input.world.local.get(input.uid).and_then(|local| local.attachment.as_ref());
    let attached = local.is_some_and(|attachment| attachment.sandbox_id == sandbox.id);
    let nothing_left = sandbox.ips.is_empty() && !attached && !has_leftovers(steps);
    sandbox.state == SandboxState::NotReady
        && (nothing_left || steps.memory.stopped_sandboxes.contains(&sandbox.id))
}
