//! The pod's sandbox: when a new one is needed, and what goes with the old (A39, A41, I4).

use super::steps::Steps;
use super::{images, termination};
use crate::model::{ContainerState, ObservedSandbox};
use crate::pod::action::Action;
use crate::pod::translate;
use crate::pod::view::Restart;
use crate::pod::visit::Role;

/// The sandbox that containers may be put into now, or the next step towards one. A sandbox whose
/// network policy is not in force yet is not given out: containers wait for it (C16).
pub(super) fn ensure<'a>(steps: &mut Steps<'a>) -> Option<&'a ObservedSandbox> {
    let view = steps.view;
    let observed = view.input.observed;
    if let Some(usable) = view.sandbox() {
        if observed.network_programmed || view.host_network() {
            return Some(usable);
        }
        steps.why("waiting for the pod's network policy to be in force");
        images::prefetch(steps);
        return None;
    }
    // Graceful end of what still runs in sandboxes that cannot be used any more.
    if observed.containers.iter().any(|c| matches!(c.state, ContainerState::Running { .. })) {
        let text = "Pod sandbox changed, it will be killed and re-created.";
        steps.say("sandbox-changed", false, "SandboxChanged", text.into(), None);
        steps.why("stopping the containers of a sandbox that cannot be used any more");
        termination::stop_all(steps, None, "the pod's sandbox changed");
        return None;
    }
    if !view.host_network() && !observed.network_ready {
        let text = "network is not ready: the container runtime has no CNI network yet";
        steps.say("NetworkNotReady", true, "NetworkNotReady", text.into(), None);
        steps.why(text);
        return None;
    }
    steps.memory.said.remove("NetworkNotReady");
    images::prefetch(steps);
    if !termination::stop_sandboxes(steps) {
        return None;
    }
    run(steps);
    None
}

/// `runtimeClassName` is taken as the handler's name: there are no RuntimeClass objects here.
fn run(steps: &mut Steps<'_>) {
    let view = steps.view;
    let attempt = view.newest_sandbox().map_or(0, |newest| newest.attempt.saturating_add(1));
    let config = translate::sandbox::config(view.input, view.spec, attempt);
    for (reason, text) in crate::pod::dns::config(view.input, view.spec).1 {
        steps.say(reason, true, reason, text, None);
    }
    let runtime_handler = view.spec.runtime_class_name.clone().unwrap_or_default();
    let failure = steps.push(Action::RunSandbox { config: Box::new(config), runtime_handler });
    steps.why(format!("no usable sandbox: attempt {attempt} is next"));
    if let Some(failure) = failure {
        let text = format!("Failed to create pod sandbox: {}", failure.message);
        steps.why(text.clone());
        let mark = failure.count.to_string();
        steps.say_mark("sandbox", &mark, true, "FailedCreatePodSandBox", text, None);
    }
}

/// A pod that may not run twice does not survive its sandbox: with restartPolicy Never and
/// something that ran, there is no way to go on that runs nothing again (I4).
pub(super) fn lost_for_good(steps: &mut Steps<'_>) -> Option<String> {
    let view = steps.view;
    if view.sandbox().is_some() {
        return None;
    }
    let never = |role: Role, container: &k8s_openapi::api::core::v1::Container| {
        role != Role::Sidecar && view.restart(role, container) == Restart::Never
    };
    let alive = view
        .input
        .observed
        .containers
        .iter()
        .any(|container| matches!(container.state, ContainerState::Running { .. }));
    let ran = view.containers().any(|(role, container)| {
        let newest = view.newest(&container.name).is_some_and(|newest| view.counts(newest));
        never(role, container) && (newest || view.ran_before(&container.name))
    });
    // Containers with a policy of their own end alone; the pod goes on.
    let whole_pod = view.spec.restart_policy.as_deref() == Some("Never");
    if alive || !ran || !whole_pod {
        return None;
    }
    let text = "the pod's sandbox was lost after a container ran, and restartPolicy Never forbids to run it again";
    steps.fail("SandboxLost", text);
    Some(text.into())
}

/// Old sandboxes go when nothing is left in them; containers are kept for status and as the proof
/// that they ran (A170, I4).
pub(super) fn prune(steps: &mut Steps<'_>) {
    let view = steps.view;
    let Some(usable) = view.sandbox() else { return };
    let observed = view.input.observed;
    for old in observed.sandboxes.iter().filter(|sandbox| sandbox.id != usable.id) {
        if observed.containers.iter().any(|container| container.sandbox_id == old.id) {
            continue;
        }
        if !steps.memory.stopped_sandboxes.contains(&old.id) {
            steps.push(Action::StopSandbox { id: old.id.clone() });
        }
        steps.push(Action::RemoveSandbox { id: old.id.clone() });
    }
}
