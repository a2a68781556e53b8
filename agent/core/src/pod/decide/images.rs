//! Images of the containers that come next (A50–A52).

use k8s_openapi::api::core::v1::Container;

use super::steps::Steps;
use crate::model::{ImageState, Time};
use crate::pod::action::Action;
use crate::pod::backoff::{self, Backoff};
use crate::pod::image_name::{self, PullPolicy};
use crate::pod::view::End;
use crate::pod::visit::Role;

/// How long a failed pull reads ErrImagePull before it reads ImagePullBackOff.
const FRESH_FAILURE_MS: i64 = 5_000;

/// When a runtime that did not say what it has is asked again.
const INSPECT_AGAIN_MS: i64 = 2_000;

static ABSENT: ImageState = ImageState::Absent;

/// The image if the container can be created now; else the next step and the reason to wait.
pub(super) fn ensure<'a>(steps: &mut Steps<'a>, container: &Container) -> Option<&'a ImageState> {
    let name = container.name.as_str();
    let image = container.image.as_deref().unwrap_or_default();
    let reference = match image_name::parse(image) {
        Ok(reference) => reference,
        Err(error) => {
            steps.say(&format!("image/{name}"), true, "InspectFailed", error.clone(), Some(name));
            steps.wait(name, "InvalidImageName", error);
            return None;
        }
    };
    let policy = image_name::policy(container.image_pull_policy.as_deref(), &reference);
    let observed = steps.view.input.observed;
    let state = observed.images.get(image).unwrap_or(&ABSENT);
    let asked = steps.memory.pulls.get(name).filter(|(asked, _)| asked == image).map(|(_, at)| *at);
    match (state, policy) {
        (ImageState::Present { .. }, PullPolicy::Always) if asked.is_none() => {
            pull(steps, name, image);
            None
        }
        (ImageState::Present { .. }, _) => {
            present(steps, name, image, asked);
            Some(state)
        }
        (_, PullPolicy::Never) => {
            let text =
                format!("Container image {image:?} is not present with pull policy of Never");
            steps.say(
                &format!("image/{name}"),
                true,
                "ErrImageNeverPull",
                text.clone(),
                Some(name),
            );
            failed_container(steps, name, "ErrImageNeverPull", "");
            steps.wait(name, "ErrImageNeverPull", text);
            None
        }
        (ImageState::Absent, _) => {
            pull(steps, name, image);
            None
        }
        (ImageState::Pulling { .. }, _) => {
            pulling(steps, name, image, asked);
            None
        }
        // The runtime did not answer: nothing was tried, so nothing backs off.
        (ImageState::Failed { reason: "ImageInspectError", message, .. }, _) => {
            let text = format!("Failed to inspect image {image:?}: {message}");
            steps.say(&format!("image/{name}"), true, "InspectFailed", text.clone(), Some(name));
            steps.wait(name, "ImageInspectError", text);
            steps.wake(steps.now().plus_ms(INSPECT_AGAIN_MS));
            None
        }
        (ImageState::Failed { at, reason, message }, _) => {
            failed(steps, name, image, (*at, *reason, message));
            None
        }
    }
}

fn present(steps: &mut Steps<'_>, name: &str, image: &str, asked: Option<Time>) {
    steps.memory.images.remove(image);
    let text = match asked {
        Some(at) => {
            let seconds = steps.now().since_ms(at).max(0) as f64 / 1000.0;
            format!("Successfully pulled image {image:?} in {seconds:.3}s")
        }
        None => format!(
            "Container image {image:?} already present on machine and can be accessed by the pod"
        ),
    };
    // Once per instance: the attempt is what makes the next one new.
    let mark = steps.view.next_attempt(name).to_string();
    steps.say_mark(&format!("pulled/{name}"), &mark, false, "Pulled", text, Some(name));
}

fn pull(steps: &mut Steps<'_>, name: &str, image: &str) {
    let mark = steps.view.next_attempt(name).to_string();
    let text = format!("Pulling image {image:?}");
    steps.say_mark(&format!("pulling/{name}"), &mark, false, "Pulling", text, Some(name));
    let action = Action::PullImage { image: image.into(), container: name.into() };
    match steps.push(action) {
        Some(failure) => steps.wait(name, "ErrImagePull", failure.message),
        None => steps.why(format!("container {name}: pulling {image}")),
    }
}

/// A pull is on its way: of this container, or of another with the same credentials, which then
/// counts for this one too.
fn pulling(steps: &mut Steps<'_>, name: &str, image: &str, asked: Option<Time>) {
    if asked.is_none() {
        let now = steps.now();
        steps.memory.pulls.insert(name.into(), (image.into(), now));
    }
    match steps.memory.images.get(image).copied() {
        // A retry keeps its reason until it worked.
        Some(_) => {
            steps.wait(name, "ImagePullBackOff", format!("Back-off pulling image {image:?}"))
        }
        None => steps.why(format!("container {name}: {image} is being pulled")),
    }
}

fn failed(steps: &mut Steps<'_>, name: &str, image: &str, failure: (Time, &'static str, &str)) {
    let (at, reason, message) = failure;
    let entry = match steps.memory.images.get(image).copied() {
        Some(entry) if entry.tried_at >= at => entry,
        last => {
            let next: Backoff =
                backoff::after_failure(last.as_ref(), at, backoff::FIRST_MS, backoff::LONGEST_MS);
            steps.memory.images.insert(image.into(), next);
            next
        }
    };
    // If the image appears without a pull of ours, nothing was pulled.
    steps.memory.pulls.remove(name);
    let reason = if reason.is_empty() { "ErrImagePull" } else { reason };
    let mark = at.to_string();
    let text = format!("Failed to pull image {image:?}: {message}");
    steps.say_mark(&format!("image/{name}"), &mark, true, "Failed", text.clone(), Some(name));
    failed_container(steps, name, reason, &mark);
    if steps.now() >= entry.ready_at() {
        steps.wait(
            name,
            "ImagePullBackOff",
            format!("Back-off pulling image {image:?}: {message}"),
        );
        let action = Action::PullImage { image: image.into(), container: name.into() };
        steps.push(action);
        return;
    }
    steps.wake(entry.ready_at());
    let stale_at = at.plus_ms(FRESH_FAILURE_MS);
    if steps.now() < stale_at {
        steps.wake(stale_at);
        steps.wait(name, reason, message);
        return;
    }
    let text = format!("Back-off pulling image {image:?}");
    steps.say_mark(&format!("backoff/{name}"), &mark, false, "BackOff", text.clone(), Some(name));
    failed_container(steps, name, "ImagePullBackOff", &mark);
    steps.wait(name, "ImagePullBackOff", format!("{text}: {message}"));
}

/// As the kubelet says it beside what it says of the image.
fn failed_container(steps: &mut Steps<'_>, name: &str, reason: &str, mark: &str) {
    let subject = format!("failed/{reason}/{name}");
    steps.say_mark(&subject, mark, true, "Failed", format!("Error: {reason}"), Some(name));
}

/// Starts the pulls of the containers that come first while the sandbox is being made. One that is
/// in a usable sandbox already has its image: after a restart it needs no pull and no event (A96).
pub(super) fn prefetch(steps: &mut Steps<'_>) {
    let view = steps.view;
    let first_init = view.containers().find(|(role, _)| *role != Role::App);
    let next: Vec<_> = match first_init {
        Some((_, container)) => vec![(Role::Init, container)],
        None => view.containers().collect(),
    };
    let is_made = |name: &str| {
        let newest = view.newest(name);
        newest.is_some_and(|newest| view.sandbox().is_some_and(|s| s.id == newest.sandbox_id))
    };
    for (role, container) in next {
        if !is_made(&container.name) && view.end(role, container) == End::Open {
            ensure(steps, container);
        }
    }
}
