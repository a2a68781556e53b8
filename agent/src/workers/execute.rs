//! Runs one action of a decision; every effect of a pod's start and stop passes here.
//!
//! Deliberately absent: order, retries and what failure means; `pod` and the core have them.

use std::path::Path;
use std::sync::Arc;

use longshore_core::model::{ObjectKey, PodUid};
use longshore_core::pod::action::Action;

use super::Shared;
use crate::effects::{logs, volumes};
use crate::failpoint;

/// Names of the failpoints around an action, before and after.
fn places(action: &Action) -> Option<(&'static str, &'static str)> {
    Some(match action {
        Action::EnsureCgroup(_) => ("pod.cgroup.before", "pod.cgroup.after"),
        Action::EnsureVolumes(_) => ("pod.volumes.before", "pod.volumes.after"),
        Action::PullImage { .. } => ("pod.pull.before", "pod.pull.after"),
        Action::RunSandbox { .. } => ("pod.run_sandbox.before", "pod.run_sandbox.after"),
        Action::CreateContainer { .. } => {
            ("pod.create_container.before", "pod.create_container.after")
        }
        Action::StartContainer { .. } => {
            ("pod.start_container.before", "pod.start_container.after")
        }
        Action::StopContainer { .. } => ("pod.stop_container.before", "pod.stop_container.after"),
        Action::RemoveContainer { .. } => {
            ("pod.remove_container.before", "pod.remove_container.after")
        }
        Action::StopSandbox { .. } => ("pod.stop_sandbox.before", "pod.stop_sandbox.after"),
        Action::RemoveSandbox { .. } => ("pod.remove_sandbox.before", "pod.remove_sandbox.after"),
        Action::RemoveVolumes { .. } => ("pod.remove_volumes.before", "pod.remove_volumes.after"),
        Action::RemoveCgroup(_) => ("pod.remove_cgroup.before", "pod.remove_cgroup.after"),
        Action::RemoveLogs { .. } => ("pod.remove_logs.before", "pod.remove_logs.after"),
        Action::Finish => ("pod.finish.before", "pod.finish.after"),
        Action::Event { .. } => return None,
    })
}

/// Executes `action` to its end. StopContainer waits here for the container's end: the worker runs
/// it beside itself.
///
/// # Errors
/// Text for the status and the event.
pub async fn run(
    shared: &Arc<Shared>,
    key: &ObjectKey,
    uid: &PodUid,
    action: &Action,
) -> Result<(), String> {
    let places = places(action);
    if let Some((before, _)) = places {
        failpoint::hit(before);
    }
    let result = effect(shared, key, uid, action).await;
    if let Some((_, after)) = places {
        failpoint::hit(after);
    }
    result
}

async fn effect(
    shared: &Arc<Shared>,
    key: &ObjectKey,
    uid: &PodUid,
    action: &Action,
) -> Result<(), String> {
    let cri = &shared.cri;
    match action {
        Action::EnsureCgroup(plan) => {
            let (cgroups, plan) = (shared.cgroups.clone(), plan.clone());
            blocking(shared, move || cgroups.ensure(&plan).map_err(|e| e.to_string())).await
        }
        Action::RemoveCgroup(plan) => {
            let (cgroups, plan) = (shared.cgroups.clone(), plan.clone());
            blocking(shared, move || cgroups.remove(&plan).map_err(|e| e.to_string())).await
        }
        Action::EnsureVolumes(plan) => {
            let (pods_dir, plan) = (shared.pods_dir(), plan.clone());
            let result = blocking(shared, move || {
                volumes::ensure(&pods_dir, &plan).map(drop).map_err(|e| e.to_string())
            });
            let result = result.await;
            if let Err(message) = &result {
                shared.event(key, uid, None, true, "FailedMount", message.clone());
            }
            result
        }
        Action::RemoveVolumes { pod_dir } => {
            let (pods_dir, pod_dir) = (shared.pods_dir(), pod_dir.clone());
            blocking(shared, move || {
                volumes::remove(&pods_dir, &pod_dir).map_err(|e| e.to_string())
            })
            .await
        }
        Action::RemoveLogs { directory } => {
            let (root, directory) = (shared.node.pod_logs_dir.clone(), directory.clone());
            blocking(shared, move || {
                logs::remove(Path::new(&root), Path::new(&directory)).map_err(|e| e.to_string())
            })
            .await
        }
        Action::PullImage { image, container } => {
            pull(shared, key, uid, image, container);
            Ok(())
        }
        Action::RunSandbox { config, runtime_handler } => {
            text(cri.run_sandbox((**config).clone(), runtime_handler.clone()).await)
        }
        Action::CreateContainer { sandbox_id, config, sandbox_config } => {
            let made = cri
                .create_container(sandbox_id, (**config).clone(), (**sandbox_config).clone())
                .await;
            if made.is_err()
                && let Some(image) = &config.image
            {
                // It may have been removed behind our back.
                shared.images.forget(&image.image);
                shared.images.forget(&image.user_specified_image);
            }
            text(made)
        }
        Action::StartContainer { id, .. } => text(cri.start_container(id).await),
        Action::StopContainer { id, grace_s, .. } => text(cri.stop_container(id, *grace_s).await),
        Action::RemoveContainer { id, .. } => text(cri.remove_container(id).await),
        Action::StopSandbox { id } => text(cri.stop_sandbox(id).await),
        Action::RemoveSandbox { id } => text(cri.remove_sandbox(id).await),
        Action::Finish => finish(shared, key, uid).await,
        Action::Event { warning, reason, message, container } => {
            shared.event(key, uid, container.as_deref(), *warning, reason, message.clone());
            Ok(())
        }
    }
}

fn text<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

async fn blocking(
    shared: &Arc<Shared>,
    call: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    shared.scope.blocking(call).await.map_err(|error| error.to_string())?
}

/// Starts the pull beside the worker, unless somebody is on it: its end wakes who waits for it.
fn pull(shared: &Arc<Shared>, key: &ObjectKey, uid: &PodUid, image: &str, container: &str) {
    if !shared.images.claim(image, crate::clock::now()) {
        return;
    }
    let (shared, image, container) = (shared.clone(), image.to_owned(), container.to_owned());
    let (key, uid) = (key.clone(), uid.clone());
    let scope = shared.scope.clone();
    scope.detach(format!("pull {image}"), crate::supervise::Policy::Finite, async move {
        match shared.images.pull(&image).await {
            Ok(pulled) => {
                let message = format!(
                    "Successfully pulled image {image:?} in {} ({} including waiting). \
                     Image size: {} bytes.",
                    seconds(pulled.took_ms),
                    seconds(pulled.waited_ms),
                    pulled.bytes
                );
                shared.event(&key, &uid, Some(&container), false, "Pulled", message);
            }
            // The decision that sees the failure tells the event, with its back-off.
            Err(error) => tracing::debug!(%image, %error, "pull failed"),
        }
        failpoint::hit("pod.pulled.after");
    });
}

fn seconds(ms: i64) -> String {
    if ms < 1000 { format!("{ms}ms") } else { format!("{}.{:03}s", ms / 1000, ms % 1000) }
}

/// The pod is gone: forget what is stored, then tell the source.
async fn finish(shared: &Arc<Shared>, key: &ObjectKey, uid: &PodUid) -> Result<(), String> {
    let (pods_dir, uid_owned) = (shared.pods_dir(), uid.clone());
    blocking(shared, move || {
        volumes::forget(&pods_dir, uid_owned.as_str()).map_err(|e| e.to_string())
    })
    .await?;
    shared.sink.finished(key, uid);
    Ok(())
}
