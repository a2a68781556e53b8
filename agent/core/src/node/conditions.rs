//! The four conditions that a kubelet writes (A10), and when a node is ready (A11).

use k8s_openapi::api::core::v1::NodeCondition;

use super::NodeInputs;
use super::resources::{REQUIRED, Resources};
use crate::model::Time;

/// An answer of the runtime that is older counts for nothing (A11).
pub const STATUS_MAX_AGE_MS: i64 = 30_000;
/// A list of pods that is older means that they are not watched (A11).
const LIST_MAX_AGE_MS: i64 = 180_000;

/// What readiness depends on, as last seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// When the runtime last told its conditions, whatever they were.
    pub runtime_seen: Option<Time>,
    /// RuntimeReady of that answer, or why not.
    pub runtime: Result<(), String>,
    /// NetworkReady of that answer, or why not.
    pub network: Result<(), String>,
    /// The last complete list of pods.
    pub pods_listed: Option<Time>,
    /// The dataplane is loaded and means the present World, or why not.
    pub dataplane: Result<(), String>,
    /// Other reasons not to be ready.
    pub problems: Vec<String>,
}

/// Of a daemon that has seen nothing yet.
impl Default for Health {
    fn default() -> Self {
        let unknown = || Err("not known yet".to_owned());
        Self {
            runtime_seen: None,
            runtime: unknown(),
            network: unknown(),
            pods_listed: None,
            dataplane: unknown(),
            problems: Vec::new(),
        }
    }
}

/// Why the node is not ready, in the kubelet's words where it has them; empty: it is.
pub fn ready_problems(health: &Health, capacity: &Resources, now: Time) -> Vec<String> {
    let mut problems = Vec::new();
    let stale = |seen: Option<Time>, max_ms: i64| seen.is_none_or(|at| now.since_ms(at) > max_ms);
    if health.runtime_seen.is_none() {
        problems.push("container runtime status check may not have completed yet".into());
    } else if stale(health.runtime_seen, STATUS_MAX_AGE_MS) {
        problems.push("container runtime is down".into());
    } else {
        if let Err(why) = &health.runtime {
            problems.push(format!("container runtime not ready: {why}"));
        }
        if let Err(why) = &health.network {
            problems.push(format!("container runtime network not ready: {why}"));
        }
    }
    if stale(health.pods_listed, LIST_MAX_AGE_MS) {
        problems.push(match health.pods_listed {
            None => "PLEG is not healthy: pods have not been listed yet".into(),
            Some(at) => format!(
                "PLEG is not healthy: pods were last listed {} s ago; threshold is {} s",
                now.since_ms(at) / 1000,
                LIST_MAX_AGE_MS / 1000
            ),
        });
    }
    if let Err(why) = &health.dataplane {
        problems.push(format!("dataplane is not ready: {why}"));
    }
    let missing: Vec<&str> =
        REQUIRED.into_iter().filter(|name| !capacity.contains_key(*name)).collect();
    if !missing.is_empty() {
        problems.push(format!("missing node capacity for resources: {}", missing.join(", ")));
    }
    problems.extend(health.problems.iter().cloned());
    problems
}

/// `previous` with the node's own conditions as they are now. Conditions of others stay, Ready comes
/// last of ours; a transition time moves only with its status.
pub(super) fn conditions(
    inputs: &NodeInputs<'_>,
    capacity: &Resources,
    previous: &[NodeCondition],
    now: Time,
) -> Vec<NodeCondition> {
    let mut conditions = previous.to_vec();
    for (kind, status, reason, message) in wanted(inputs, capacity, now) {
        let old = conditions.iter().position(|condition| condition.type_ == kind);
        let since = old
            .map(|at| &conditions[at])
            .filter(|old| old.status == status)
            .and_then(|old| old.last_transition_time.clone());
        let condition = NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(now.to_api()),
            last_transition_time: Some(since.unwrap_or_else(|| now.to_api())),
        };
        match old {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

type Wanted = (&'static str, &'static str, &'static str, String);

fn wanted(inputs: &NodeInputs<'_>, capacity: &Resources, now: Time) -> [Wanted; 4] {
    let signals = inputs.pressures.signals();
    let either = |is: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (status, (reason, message)) = if is { ("True", yes) } else { ("False", no) };
        (status, reason, message.to_owned())
    };
    let memory = either(
        signals.memory,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let disk = either(
        signals.disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pid = either(
        signals.pid,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let problems = ready_problems(inputs.health, capacity, now);
    let ready = match problems.as_slice() {
        [] => ("True", "KubeletReady", "kubelet is posting ready status".to_owned()),
        [one] => ("False", "KubeletNotReady", one.clone()),
        many => ("False", "KubeletNotReady", format!("[{}]", many.join(", "))),
    };
    [
        ("MemoryPressure", memory.0, memory.1, memory.2),
        ("DiskPressure", disk.0, disk.1, disk.2),
        ("PIDPressure", pid.0, pid.1, pid.2),
        ("Ready", ready.0, ready.1, ready.2),
    ]
}
