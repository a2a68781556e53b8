//! Runs one action of a decision; every effect of a pod's start and stop passes here.
//!
//! Deliberately absent: order, retries and what failure means; `pod` and the core have them.

use std::path::Path;
use std::sync::Arc;

use longshore_core::model::{ObjectKey, PodUid};
use longshore_core::pod::action::Action;
use longshore_core::pod::{credentials, paths};

use super::Shared;
use super::jobs::{Jobs, Place};
use crate::effects::images::Pull;
use crate::effects::{logs, lost, volumes};
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

/// Executes `action` to its end, and gives the ID of the container that it made. StopContainer waits
/// here for the container's end: the worker runs it beside itself.
///
/// # Errors
/// Text for the status and the event.
pub async fn run(
    shared: &Arc<Shared>,
    jobs: &Jobs,
    key: &ObjectKey,
    uid: &PodUid,
    action: &Action,
) -> Result<Option<String>, String> {
    let effect = Box::pin(effect(shared, jobs, key, uid, action));
    match places(action) {
        Some(places) => failpoint::around(places, effect).await,
        None => effect.await,
    }
}

async fn effect(
    shared: &Arc<Shared>,
    jobs: &Jobs,
    key: &ObjectKey,
    uid: &PodUid,
    action: &Action,
) -> Result<Option<String>, String> {
    let cri = &shared.cri;
    let done = match action {
        Action::EnsureCgroup(plan) => {
            let (cgroups, plan) = (shared.cgroups.clone(), plan.clone());
            jobs.run(move |place| {
                place.at(&plan.path);
                cgroups.ensure(&plan).map_err(|e| e.to_string())
            })
            .await
        }
        Action::RemoveCgroup(plan) => {
            let (cgroups, plan) = (shared.cgroups.clone(), plan.clone());
            jobs.run(move |place| {
                place.at(&plan.path);
                cgroups.remove(&plan).map_err(|e| e.to_string())
            })
            .await
        }
        Action::EnsureVolumes(plan) => {
            let (pods_dir, plan) = (shared.pods_dir(), plan.clone());
            jobs.run(move |place| {
                let made = volumes::ensure(&pods_dir, &plan, &|path| place.at(path));
                made.map(drop).map_err(|e| e.to_string())
            })
            .await
        }
        Action::RemoveVolumes { pod_dir } => {
            let (pods_dir, pod_dir) = (shared.pods_dir(), pod_dir.clone());
            jobs.run(move |place| {
                place.at(&pod_dir);
                volumes::remove(&pods_dir, &pod_dir).map_err(|e| e.to_string())
            })
            .await
        }
        Action::RemoveLogs { directory } => {
            let (root, directory) = (shared.node.pod_logs_dir.clone(), directory.clone());
            jobs.run(move |place| {
                place.at(&directory);
                logs::remove(Path::new(&root), Path::new(&directory)).map_err(|e| e.to_string())
            })
            .await
        }
        Action::PullImage { image, .. } => {
            pull(shared, key, uid, image);
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
            return made.map(Some).map_err(|error| error.words());
        }
        Action::StartContainer { id: Some(id), .. } => {
            cri.start_container(id).await.map_err(|error| error.words())
        }
        Action::StartContainer { id: None, name } => {
            Err(format!("container {name} was not created"))
        }
        Action::StopContainer { id, grace_s, .. } => text(cri.stop_container(id, *grace_s).await),
        Action::RemoveContainer { id, .. } => {
            let removed = cri.remove_container(id).await;
            if removed.as_ref().is_err_and(|error| error.is_of_a_running_task()) {
                let ended = lost::end_task(cri.channel(), id).await?;
                tracing::warn!(container = id, ended, "The runtime had lost a running task");
                return text(cri.remove_container(id).await).map(|()| None);
            }
            text(removed)
        }
        Action::StopSandbox { id } => text(cri.stop_sandbox(id).await),
        Action::RemoveSandbox { id } => {
            // First: one of a RunPodSandbox that was cut off is removed by CRI without its task, and
            // then nobody would know it any more.
            if lost::end_task(cri.channel(), id).await? {
                tracing::warn!(sandbox = id, "The runtime had lost a running sandbox");
            }
            text(cri.remove_sandbox(id).await)?;
            lost::forget_container(cri.channel(), id).await
        }
        Action::Finish => finish(shared, jobs, key, uid).await,
        Action::Event { warning, reason, message, container, .. } => {
            shared.event(key, uid, container.as_deref(), *warning, reason, message.clone());
            Ok(())
        }
    };
    done.map(|()| None)
}

fn text<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// Starts the pull beside the worker, unless somebody is on it with the same credentials: its end
/// wakes who waits for it.
fn pull(shared: &Arc<Shared>, key: &ObjectKey, uid: &PodUid, image: &str) {
    let (auths, problems) = credentials_of(shared, key, uid, image);
    let pull = Pull::of(image, &auths);
    if !shared.images.claim(&pull, crate::clock::now()) {
        return;
    }
    if !problems.is_empty() {
        let text = format!(
            "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
            problems.join("; ")
        );
        shared.event(key, uid, None, true, "FailedToRetrieveImagePullSecret", text);
    }
    let (shared, image) = (shared.clone(), image.to_owned());
    let scope = shared.scope.clone();
    scope.detach(format!("pull {image}"), crate::supervise::Policy::Finite, async move {
        // The decision that sees the outcome tells the event, and after a failure when to retry.
        match shared.images.pull(&pull, auths).await {
            Ok(pulled) => tracing::info!(
                image,
                took_ms = pulled.took_ms,
                waited_ms = pulled.waited_ms,
                bytes = pulled.bytes,
                "pulled"
            ),
            Err(error) => tracing::debug!(image, %error, "pull failed"),
        }
        failpoint::hit("pod.pulled.after");
    });
}

/// From the pod's imagePullSecrets, and what is wrong with one that cannot be used: the pull is
/// tried with the others (A53).
pub fn credentials_of(
    shared: &Shared,
    key: &ObjectKey,
    uid: &PodUid,
    image: &str,
) -> (Vec<longshore_proto::cri::AuthConfig>, Vec<String>) {
    let world = shared.store.snapshot();
    match world.pod_of(key, uid) {
        Some(pod) => credentials::of(&world, pod, &key.namespace, image),
        None => (Vec::new(), Vec::new()),
    }
}

/// The pod is gone: forget what is stored, unless its end is told only later, then tell the source.
async fn finish(
    shared: &Arc<Shared>,
    jobs: &Jobs,
    key: &ObjectKey,
    uid: &PodUid,
) -> Result<(), String> {
    // A UID that cannot be a path never had a directory.
    if paths::is_path_name(uid.as_str()) && !shared.sink.keeps(key, uid) {
        let (pods_dir, uid) = (shared.pods_dir(), uid.clone());
        let forget = move |place: &Place| {
            place.at(&pods_dir.join(uid.as_str()).to_string_lossy());
            volumes::forget(&pods_dir, uid.as_str()).map_err(|e| e.to_string())
        };
        jobs.run(forget).await?;
    }
    shared.sink.finished(key, uid);
    Ok(())
}
