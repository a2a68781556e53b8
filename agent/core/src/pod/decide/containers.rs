//! One container: create, start, restart under back-off, or leave alone (A45, A48, A73, A94, I2, I4).

use k8s_openapi::api::core::v1::Container;

use super::steps::Steps;
use super::{images, termination};
use crate::model::{ContainerState, ObservedContainer, ObservedSandbox, ProbeKind, Time};
use crate::pod::action::Action;
use crate::pod::backoff;
use crate::pod::translate::{container, hash};
use crate::pod::view::{End, Restart};
use crate::pod::visit::Role;

/// All app containers, side by side.
pub(super) fn tend_apps(steps: &mut Steps<'_>, sandbox: &ObservedSandbox) {
    for app in &steps.view.spec.containers {
        tend(steps, Role::App, app, sandbox);
    }
}

/// The next step of one container in a usable sandbox.
pub(super) fn tend(
    steps: &mut Steps<'_>,
    role: Role,
    container: &Container,
    sandbox: &ObservedSandbox,
) {
    let view = steps.view;
    let Some(newest) = view.newest(&container.name) else {
        if view.end(role, container) == End::Open {
            create(steps, container, sandbox);
        }
        return;
    };
    let here = newest.sandbox_id == sandbox.id;
    match &newest.state {
        ContainerState::Running { .. } => keep(steps, role, container, newest),
        // Half of a start is finished, never done twice (I2, F15).
        ContainerState::Created if here && newest.hash == hash::of(container) => {
            start(steps, container, newest);
        }
        ContainerState::Created => {
            steps
                .push(Action::RemoveContainer { id: newest.id.clone(), name: newest.name.clone() });
        }
        ContainerState::Exited { finished_at, .. } => {
            if view.end(role, container) == End::Open {
                restart(steps, container, newest, *finished_at, sandbox);
            }
        }
        ContainerState::Unknown => {
            if view.restart(role, container) == Restart::Never {
                return;
            }
            // It may still live: it is ended and removed before there is another (I2).
            if termination::stop(steps, newest, 2, "its state is unknown") {
                steps.push(Action::RemoveContainer {
                    id: newest.id.clone(),
                    name: newest.name.clone(),
                });
            }
        }
    }
}

/// A running container is stopped when it is not the wanted one or a probe says so.
fn keep(steps: &mut Steps<'_>, role: Role, container: &Container, newest: &ObservedContainer) {
    let view = steps.view;
    let grace = view.grace_s();
    let failed = |kind| view.verdict(newest, kind).is_some_and(|verdict| !verdict.success);
    let probe_grace = |probe: &Option<k8s_openapi::api::core::v1::Probe>| {
        let own = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
        own.filter(|seconds| *seconds > 0).unwrap_or(grace)
    };
    let name = &container.name;
    let (why, grace) = if role != Role::Init && newest.hash != hash::of(container) {
        (format!("Container {name} definition changed, will be restarted"), grace)
    } else if role == Role::Init {
        return;
    } else if container.startup_probe.is_some() && failed(ProbeKind::Startup) {
        let grace = probe_grace(&container.startup_probe);
        (format!("Container {name} failed startup probe, will be restarted"), grace)
    } else if container.liveness_probe.is_some()
        && view.started(container, newest)
        && failed(ProbeKind::Liveness)
    {
        let grace = probe_grace(&container.liveness_probe);
        (format!("Container {name} failed liveness probe, will be restarted"), grace)
    } else {
        return;
    };
    termination::stop(steps, newest, grace, &why);
}

/// An init container that was done in a sandbox that is gone (A39).
pub(super) fn rerun(steps: &mut Steps<'_>, container: &Container, sandbox: &ObservedSandbox) {
    create(steps, container, sandbox);
}

/// A48: waits count from the end of the last instance.
fn restart(
    steps: &mut Steps<'_>,
    container: &Container,
    last: &ObservedContainer,
    finished_at: Time,
    sandbox: &ObservedSandbox,
) {
    let name = &container.name;
    let ready_at = backoff::crash_ready_at(steps.memory.crashes.get(name), finished_at);
    if steps.now() < ready_at {
        let wait_s = ready_at.since_ms(finished_at) / 1000;
        let input = steps.view.input;
        let pod = format!("{}_{}({})", input.key.name, input.key.namespace, input.uid);
        let text = format!("Back-off restarting failed container {name} in pod {pod}");
        let mark = last.id.clone();
        steps.say_mark(&format!("crash/{name}"), &mark, true, "BackOff", text, Some(name));
        steps.wake(ready_at);
        let text = format!("back-off {wait_s}s restarting failed container={name} pod={pod}");
        steps.wait(name, "CrashLoopBackOff", text);
        wait_for_start(steps, name, last);
        return;
    }
    wait_for_start(steps, name, last);
    // Counted when the new instance is created.
    steps.memory.finished.insert(name.clone(), finished_at);
    create(steps, container, sandbox);
}

fn create(steps: &mut Steps<'_>, container: &Container, sandbox: &ObservedSandbox) {
    let view = steps.view;
    let name = container.name.as_str();
    if let Some(cut_off) = view.cut_off(name) {
        steps.why(format!("container {name}: its start was cut off, it is made again"));
        steps.push(Action::RemoveContainer { id: cut_off.id.clone(), name: name.into() });
        return;
    }
    if steps.lacks_inputs(container) {
        return;
    }
    let Some(image) = images::ensure(steps, container) else { return };
    let attempt = view.next_attempt(name);
    let ips = view.ips();
    let sources = container::Sources { volumes: &steps.volumes, ips: &ips, image };
    let config = container::config(view.input, view.spec, container, attempt, &sources);
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            let text = format!("Error: {error}");
            steps.say(&format!("config/{name}"), true, "Failed", text, Some(name));
            steps.wait(name, "CreateContainerConfigError", error);
            return;
        }
    };
    steps.memory.said.remove(&format!("config/{name}"));
    let failure = steps.create(&sandbox.id, sandbox.attempt, container, config);
    steps.why(format!("container {name}: attempt {attempt} is next"));
    if let Some(failure) = failure {
        let mark = failure.count.to_string();
        let text = format!("Error: {}", failure.message);
        steps.say_mark(&format!("create/{name}"), &mark, true, "Failed", text, Some(name));
        steps.wait(name, "CreateContainerError", failure.message);
    }
}

fn start(steps: &mut Steps<'_>, container: &Container, created: &ObservedContainer) {
    let name = &container.name;
    let asked = steps.actions.len();
    let action = Action::StartContainer { id: Some(created.id.clone()), name: name.clone() };
    steps.push(action);
    if steps.actions.len() > asked {
        steps.event(false, "Started", "Container started".into(), Some(name));
    }
    wait_for_start(steps, name, created);
}

/// Why it does not run, if it could not be started: that says more than that it is waited (A70).
fn wait_for_start(steps: &mut Steps<'_>, name: &str, last: &ObservedContainer) {
    if let Some(failure) = steps.memory.failed_start(&last.id) {
        let message = failure.message.clone();
        steps.wait(name, "RunContainerError", message);
    }
}

/// Containers that could not be started: for a runtime they are ones that ended, and a pod may be
/// over with them.
pub(super) fn tell_failed_starts(steps: &mut Steps<'_>) {
    for container in &steps.view.input.observed.containers {
        let Some(failure) = steps.memory.failed_start(&container.id) else { continue };
        let (name, mark) = (&container.name, format!("{} {}", container.id, failure.count));
        let text = format!("Error: {}", failure.message);
        steps.say_mark(&format!("start/{name}"), &mark, true, "Failed", text, Some(name));
    }
}

/// Beside the newest instance one that ended is kept for `lastState` and its logs (A170).
pub(super) fn prune(steps: &mut Steps<'_>) {
    let view = steps.view;
    let mut names: Vec<&str> =
        view.input.observed.containers.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let instances = view.instances(name);
        // While a restart waits, the newest is the dead one.
        let newest_ended = instances.first().is_some_and(|c| is_dead(&c.state));
        let kept = if newest_ended { 1 } else { 2 };
        for old in instances.iter().skip(kept).filter(|c| is_dead(&c.state)) {
            steps.push(Action::RemoveContainer { id: old.id.clone(), name: name.into() });
        }
    }
}

fn is_dead(state: &ContainerState) -> bool {
    matches!(state, ContainerState::Exited { .. } | ContainerState::Unknown)
}
