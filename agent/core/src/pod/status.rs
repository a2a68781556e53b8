//! PodStatus as the kubelet writes it (A64, A68–A71).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, PodIP,
    PodStatus, VolumeMount, VolumeMountStatus,
};

use super::view::{End, Restart, View};
use super::visit::Role;
use super::{conditions, qos};
use crate::model::{ContainerState, ObservedContainer};

/// Why a container is not running, as the decision found it (A70).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    pub reason: &'static str,
    pub message: String,
}

/// What the decision knows beside the observation.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    pub waits: BTreeMap<String, Wait>,
    /// The pod failed as a whole: reason and message.
    pub failed: Option<(String, String)>,
    /// It was never let in (A74, A75).
    pub rejected: bool,
    /// Nothing of the pod will be started again.
    pub ending: bool,
}

pub fn build(view: &View<'_>, facts: &Facts) -> PodStatus {
    let input = view.input;
    let previous = input.previous;
    if facts.rejected || previous.is_some_and(is_rejection) {
        return rejection(view, facts);
    }
    let mut status = previous.cloned().unwrap_or_default();
    let statuses = |init: bool| {
        let of_kind = view.containers().filter(move |(role, _)| (*role != Role::App) == init);
        of_kind.map(|(role, container)| container_status(view, facts, role, container)).collect()
    };
    let (init, app): (Vec<_>, Vec<_>) = (statuses(true), statuses(false));
    let phase = phase(view, facts, &init, &app);
    status.phase = Some(phase.to_owned());
    if let Some((reason, message)) = &facts.failed {
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    }
    status.host_ip = input.node.ips.first().map(ToString::to_string);
    status.host_ips = Some(input.node.ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect());
    let ips = match view.host_network() && view.newest_sandbox().is_none() {
        true => Vec::new(),
        false => view.ips(),
    };
    status.pod_ip = ips.first().map(ToString::to_string);
    status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect::<Vec<_>>())
        .filter(|ips| !ips.is_empty());
    status.start_time = status.start_time.or_else(|| Some(input.now.to_api()));
    status.qos_class = Some(
        previous
            .and_then(|status| status.qos_class.clone())
            .unwrap_or_else(|| qos::class(view.spec).name().into()),
    );
    status.observed_generation = input.pod.metadata.generation;
    status.conditions = Some(conditions::build(view, phase, &init, &app));
    status.init_container_statuses = (!init.is_empty()).then_some(init);
    status.container_statuses = Some(app);
    status
}

/// All that is said of a pod that was not let in: nothing of it was ever here.
fn rejection(view: &View<'_>, facts: &Facts) -> PodStatus {
    let previous = view.input.previous.cloned().unwrap_or_default();
    let (reason, message) = facts.failed.clone().unzip();
    let class = || qos::class(view.spec).name().to_owned();
    PodStatus {
        phase: Some("Failed".into()),
        reason: reason.or(previous.reason),
        message: message.or(previous.message),
        start_time: previous.start_time.or_else(|| Some(view.input.now.to_api())),
        qos_class: previous.qos_class.or_else(|| Some(class())),
        observed_generation: view.input.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// As [`rejection`] makes it.
fn is_rejection(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Failed")
        && status.reason.is_some()
        && status.host_ip.is_none()
        && status.container_statuses.as_ref().is_none_or(Vec::is_empty)
}

/// A64. A terminal phase is never left (I5).
fn phase(
    view: &View<'_>,
    facts: &Facts,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
) -> &'static str {
    match view.input.previous.and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if facts.failed.is_some() {
        return "Failed";
    }
    let running =
        |status: &ContainerStatus| status.state.as_ref().is_some_and(|s| s.running.is_some());
    let exit_code = |status: &ContainerStatus| {
        status.state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code)
    };
    if facts.ending && !init.iter().chain(app).any(running) {
        let well = !app.is_empty() && app.iter().all(|status| exit_code(status) == Some(0));
        return if well { "Succeeded" } else { "Failed" };
    }
    if let Some(outcome) = outcome(view) {
        return outcome;
    }
    let started_once = |status: &ContainerStatus| {
        running(status) || exit_code(status).is_some() || status.last_state.is_some()
    };
    if view.initialized() && !app.is_empty() && app.iter().all(started_once) {
        return "Running";
    }
    // A pod that ran once does not go back (a sandbox that is made again reruns init containers).
    match view.input.previous.and_then(|status| status.phase.as_deref()) {
        Some("Running") if app.iter().any(started_once) => "Running",
        _ => "Pending",
    }
}

/// The terminal phase that the containers alone prove, if no container may run again (A64).
pub fn outcome(view: &View<'_>) -> Option<&'static str> {
    let init = view.containers().filter(|(role, _)| *role == Role::Init);
    let init_failed = |(role, container): (Role, &Container)| {
        view.restart(role, container) == Restart::Never
            && view.end(role, container) == (End::Final { success: false })
    };
    let mut init = init;
    if init.any(init_failed) {
        return Some("Failed");
    }
    if view.spec.containers.is_empty() {
        return None;
    }
    let mut all_well = true;
    for container in &view.spec.containers {
        match view.end(Role::App, container) {
            End::Open => return None,
            End::Final { success } => all_well &= success,
        }
    }
    Some(if all_well { "Succeeded" } else { "Failed" })
}

/// A69.
fn container_status(
    view: &View<'_>,
    facts: &Facts,
    role: Role,
    container: &Container,
) -> ContainerStatus {
    let previous = view.previous(&container.name);
    let instances = view.instances(&container.name);
    let newest = instances.first().copied();
    let observed = newest.map(|instance| state(view, instance));
    let lost = || {
        previous
            .filter(|_| view.ran_before(&container.name))
            .and_then(|status| status.state.clone())
            .map(ended)
    };
    let gone = newest.is_none();
    let current = match observed {
        Some(state) => Some(state),
        None => lost(),
    };
    let wait = facts.waits.get(&container.name);
    let is_over = current.as_ref().is_some_and(|state| state.terminated.is_some());
    let is_running = current.as_ref().is_some_and(|state| state.running.is_some());
    let older = || {
        let dead = instances.iter().skip(1).map(|instance| state(view, instance));
        dead.into_iter().find(|state| state.terminated.is_some())
    };
    let (state, last_state) = match (wait, current) {
        (Some(wait), current) if !is_running => {
            let last = current.filter(|_| is_over).or_else(older);
            (waiting(wait.reason, &wait.message), last)
        }
        (_, Some(current)) if is_over || is_running => (current, older()),
        _ => (waiting(default_reason(view), ""), older()),
    };
    let last_state = last_state.or_else(|| previous.and_then(|status| status.last_state.clone()));
    let attempt = newest.map_or(0, |instance| i32::try_from(instance.attempt).unwrap_or(i32::MAX));
    let started = newest.is_some_and(|instance| view.started(container, instance));
    let detail = detail(view, container, newest, previous);
    ContainerStatus {
        name: container.name.clone(),
        container_id: match newest {
            Some(instance) => Some(format!("{}://{}", view.input.runtime_name, instance.id)),
            None => previous.and_then(|status| status.container_id.clone()).filter(|_| gone),
        },
        image: container.image.clone().unwrap_or_default(),
        image_id: match newest {
            Some(instance) => instance.image_ref.clone(),
            None => previous.map(|status| status.image_id.clone()).unwrap_or_default(),
        },
        ready: match role {
            // Done is what an init container has to be.
            Role::Init => state.terminated.as_ref().is_some_and(|t| t.exit_code == 0),
            _ => newest.is_some_and(|instance| view.ready(role, container, instance)),
        },
        started: Some(started),
        restart_count: attempt.max(previous.map_or(0, |status| status.restart_count)),
        state: Some(state),
        last_state,
        ..detail
    }
}

/// What a container gets: its mounts, and once it is made its resources and its user. Of one that the
/// runtime has forgotten, what was said of it last.
fn detail(
    view: &View<'_>,
    container: &Container,
    newest: Option<&ObservedContainer>,
    previous: Option<&ContainerStatus>,
) -> ContainerStatus {
    let Some(instance) = newest else {
        return ContainerStatus {
            allocated_resources: previous.and_then(|told| told.allocated_resources.clone()),
            resources: previous.and_then(|told| told.resources.clone()),
            user: previous.and_then(|told| told.user.clone()),
            volume_mounts: mounts(view, container),
            ..ContainerStatus::default()
        };
    };
    let mut resources = container.resources.clone().unwrap_or_default();
    resources.claims = None;
    let linux = instance.user.as_ref().map(|user| LinuxContainerUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_groups: Some(user.supplemental_groups.clone()),
    });
    ContainerStatus {
        allocated_resources: resources.requests.clone().filter(|requests| !requests.is_empty()),
        resources: Some(resources),
        user: linux.map(|linux| ContainerUser { linux: Some(linux) }),
        volume_mounts: mounts(view, container),
        ..ContainerStatus::default()
    }
}

/// Mounts of volumes as they are in the container; what is below a read-only one is not.
fn mounts(view: &View<'_>, container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let volumes = view.spec.volumes.as_deref().unwrap_or_default();
    let of_volumes = |mount: &&VolumeMount| volumes.iter().any(|volume| volume.name == mount.name);
    let mounts: Vec<_> = container
        .volume_mounts
        .iter()
        .flatten()
        .filter(of_volumes)
        .map(|mount| {
            let read_only = mount.read_only.filter(|only| *only);
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only,
                recursive_read_only: read_only.map(|_| recursive(mount).into()),
                ..VolumeMountStatus::default()
            }
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// It is asked of the runtime only for a pod that wants nothing less.
fn recursive(mount: &VolumeMount) -> &'static str {
    match mount.recursive_read_only.as_deref() {
        Some("Enabled") => "Enabled",
        _ => "Disabled",
    }
}

fn default_reason(view: &View<'_>) -> &'static str {
    match view.spec.init_containers.as_ref().is_some_and(|init| !init.is_empty()) {
        true => "PodInitializing",
        false => "ContainerCreating",
    }
}

fn waiting(reason: &str, message: &str) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.into()),
            message: (!message.is_empty()).then(|| message.into()),
        }),
        ..ApiState::default()
    }
}

/// What a container that nobody saw end has become: failed (I5, F04).
const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
const UNKNOWN_MESSAGE: &str = "The container could not be located when the pod was observed";

fn ended(state: ApiState) -> ApiState {
    if state.running.is_none() {
        return state;
    }
    let started_at = state.running.and_then(|running| running.started_at);
    unknown(started_at, None)
}

fn unknown(
    started_at: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    container_id: Option<String>,
) -> ApiState {
    ApiState {
        terminated: Some(ContainerStateTerminated {
            container_id,
            exit_code: 137,
            reason: Some(UNKNOWN_REASON.into()),
            message: Some(UNKNOWN_MESSAGE.into()),
            started_at,
            ..ContainerStateTerminated::default()
        }),
        ..ApiState::default()
    }
}

/// State of one instance; a created one has none yet.
fn state(view: &View<'_>, instance: &ObservedContainer) -> ApiState {
    let id = format!("{}://{}", view.input.runtime_name, instance.id);
    match &instance.state {
        ContainerState::Created => ApiState::default(),
        ContainerState::Running { started_at } => ApiState {
            running: Some(ContainerStateRunning { started_at: Some(started_at.to_api()) }),
            ..ApiState::default()
        },
        ContainerState::Unknown => unknown(None, Some(id)),
        ContainerState::Exited { started_at, finished_at, exit_code, reason, message } => {
            let own = instance.termination_message.trim_end_matches('\0');
            let text = if own.is_empty() { message } else { own };
            let reason = match (reason.as_str(), exit_code) {
                ("", 0) => "Completed",
                ("", _) => "Error",
                (reason, _) => reason,
            };
            ApiState {
                terminated: Some(ContainerStateTerminated {
                    container_id: Some(id),
                    exit_code: *exit_code,
                    reason: Some(reason.into()),
                    message: kept_message(view, instance, text),
                    started_at: Some(started_at.to_api()),
                    finished_at: Some(finished_at.to_api()),
                    signal: None,
                }),
                ..ApiState::default()
            }
        }
    }
}

/// Most bytes of the message of one container, and of those of all containers of a pod (A71).
const MESSAGE_MAX: usize = 4096;
const MESSAGES_MAX: usize = 12 << 10;

/// The beginning of `text`: each container has an equal share of what a pod may say, so that which
/// of them speaks first does not matter.
fn cut_message(view: &View<'_>, text: &str) -> String {
    let share = MESSAGES_MAX / view.containers().count().max(1);
    let mut end = text.len().min(MESSAGE_MAX).min(share);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Cut to its share; when the file is gone with the pod's volumes, what was read before.
fn kept_message(view: &View<'_>, instance: &ObservedContainer, text: &str) -> Option<String> {
    if !text.is_empty() {
        return Some(cut_message(view, text));
    }
    let states = view.previous(&instance.name).map(|s| [&s.state, &s.last_state]);
    let ended = states.into_iter().flatten().flatten().filter_map(|s| s.terminated.as_ref());
    let same = |t: &&ContainerStateTerminated| {
        t.container_id.as_deref().map(super::view::bare_id) == Some(instance.id.as_str())
    };
    ended.into_iter().find(same).and_then(|terminated| terminated.message.clone())
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
