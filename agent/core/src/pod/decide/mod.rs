//! What to do next for one pod. Level-triggered: every call looks only at its inputs, asks for the
//! next needed actions, and asks for nothing when nothing is needed (I14).
//!
//! The order of a start is A40: cgroup, volumes, sandbox, network in force (C16), init containers
//! and sidecars in order, app containers. Deliberately absent: lifecycle hooks, ephemeral
//! containers, resize (held by `unsupported`).

mod containers;
mod images;
mod init;
mod orphan;
mod probes;
mod sandbox;
mod steps;
mod termination;

pub use orphan::decide_orphan;

use super::action::Decision;
use super::view::View;
use super::{Input, admit, fit, paths, status, unsupported};
use crate::model::{Severity, Time};
use steps::Steps;

/// The next actions, the status to publish, and what to remember. The worker publishes (and keeps)
/// the status first, then executes the actions in order, tells the memory what became of each
/// ([`super::Memory::done`], [`super::Memory::failed`]), observes, and decides again.
pub fn decide(input: &Input<'_>) -> Decision {
    let view = View::new(input);
    let mut steps = Steps::new(view);
    run(&mut steps);
    steps.finish()
}

fn run(steps: &mut Steps<'_>) {
    let view = steps.view;
    let input = view.input;
    if let Err(error) = paths::check(input.key, input.uid) {
        // Nothing of such a pod was ever made.
        if view.deletion_deadline().is_some() {
            return steps.finish_pod();
        }
        return steps.hold("FailedValidation", "metadata", &error);
    }
    if let Some(at) = view.deletion_deadline() {
        let deadline = steps.memory.deletion_end(view.deletion_grace_s(), at, input.now);
        return termination::delete(steps, deadline);
    }
    steps.memory.seen_wanted = true;
    steps.memory.deletion = None;
    containers::tell_failed_starts(steps);
    if let Some(why) = over(steps) {
        return termination::settle(steps, &why);
    }
    let problems = unsupported::unsupported(input);
    for problem in &problems {
        steps.say_problem(problem);
    }
    if let Some(first) = problems.iter().find(|problem| problem.severity == Severity::Error) {
        return steps.hold(first.reason, &first.field, &first.message);
    }
    start(steps);
}

/// The pod is over for a reason that holds for good.
fn over(steps: &mut Steps<'_>) -> Option<String> {
    let view = steps.view;
    let input = view.input;
    if let Some(phase @ ("Succeeded" | "Failed")) =
        input.previous.and_then(|status| status.phase.as_deref())
    {
        return Some(format!("the pod is {phase}"));
    }
    // Somebody else may say so too, for example a garbage collector.
    if let Some(phase @ ("Succeeded" | "Failed")) =
        input.pod.status.as_ref().and_then(|status| status.phase.as_deref())
    {
        return Some(format!("the API server says that the pod is {phase}"));
    }
    // Admission is for pods of which nothing exists yet (A205).
    let fresh = input.observed.sandboxes.is_empty() && input.observed.containers.is_empty();
    if fresh
        && !view.containers().any(|(_, container)| view.ran_before(&container.name))
        && let Some((reason, message)) = admit::reject(input).or_else(|| first_look(input))
    {
        steps.say("admit", true, reason, message.clone(), None);
        steps.fail(reason, &format!("Pod was rejected: {message}"));
        steps.facts.rejected = true;
        return Some(message);
    }
    if let Some(message) = deadline_exceeded(steps) {
        return Some(message);
    }
    if let Some(phase) = status::outcome(&view) {
        return Some(format!("every container ended: {phase}"));
    }
    sandbox::lost_for_good(steps)
}

/// Who was let in once is not asked again, whoever comes later.
fn first_look(input: &Input<'_>) -> Option<(&'static str, String)> {
    let told = [input.previous, input.pod.status.as_ref()];
    let is_in = told.iter().flatten().any(|status| status.start_time.is_some());
    if is_in { None } else { fit::reject(input) }
}

/// A63.
fn deadline_exceeded(steps: &mut Steps<'_>) -> Option<String> {
    let seconds = steps.view.spec.active_deadline_seconds.filter(|s| *s > 0)?;
    let input = steps.view.input;
    let started = input.previous.and_then(|status| status.start_time.as_ref());
    let started_at = started.map_or(input.now, Time::from_api);
    let ends_at = started_at.plus_s(seconds.min(1 << 40));
    if input.now < ends_at {
        steps.wake(ends_at);
        return None;
    }
    let message = "Pod was active on the node longer than the specified deadline";
    steps.say("deadline", false, "DeadlineExceeded", message.into(), None);
    steps.fail("DeadlineExceeded", message);
    Some(message.into())
}

/// A40.
fn start(steps: &mut Steps<'_>) {
    if !steps.ensure_cgroup() || !steps.ensure_volumes() {
        return;
    }
    let Some(usable) = sandbox::ensure(steps) else { return };
    if steps.view.initialized() {
        init::tend_sidecars(steps, usable);
        containers::tend_apps(steps, usable);
    } else {
        init::tend(steps, usable);
    }
    steps.flush_creates();
    containers::prune(steps);
    sandbox::prune(steps);
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;
#[cfg(test)]
mod tests;
