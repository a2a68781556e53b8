//! Pod conditions that the node owns (A65–A67); foreign ones are kept as they are.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};

use super::view::View;

struct Verdict {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn yes(kind: &'static str) -> Verdict {
    Verdict { kind, status: true, reason: None, message: None }
}

fn no(kind: &'static str, reason: &'static str, message: Option<String>) -> Verdict {
    Verdict { kind, status: false, reason: Some(reason), message }
}

pub fn build(
    view: &View<'_>,
    phase: &str,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
) -> Vec<PodCondition> {
    let mut conditions = known(view);
    let containers_ready = containers_ready(phase, view, init, app);
    let ready = ready(view, &conditions, &containers_ready);
    let sandbox = match view.sandbox() {
        Some(_) => yes("PodReadyToStartContainers"),
        None => no(
            "PodReadyToStartContainers",
            "PodSandboxNotReady",
            Some("pod sandbox is not ready".into()),
        ),
    };
    for verdict in
        [sandbox, initialized(view, phase, init), ready, containers_ready, yes("PodScheduled")]
    {
        set(view, &mut conditions, verdict);
    }
    // In the kubelet's order, and behind it what others wrote.
    let place = |condition: &PodCondition| {
        OWNED.iter().position(|kind| *kind == condition.type_).unwrap_or(OWNED.len())
    };
    conditions.sort_by_key(place);
    conditions
}

/// Types that the node writes; all others belong to who wrote them (A65).
pub const OWNED: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// The node's own of the last status, and those of others as the source of the pod has them now;
/// as they were last seen while it does not say.
fn known(view: &View<'_>) -> Vec<PodCondition> {
    let previous = view.input.previous.and_then(|status| status.conditions.as_deref());
    let mut conditions: Vec<PodCondition> = previous.unwrap_or_default().to_vec();
    let told = view.input.pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    if let Some(told) = told {
        conditions.retain(|condition| OWNED.contains(&condition.type_.as_str()));
        let foreign = told.iter().filter(|condition| !OWNED.contains(&condition.type_.as_str()));
        conditions.extend(foreign.cloned());
    }
    conditions
}

/// `lastTransitionTime` moves only with the status (I6).
fn set(view: &View<'_>, conditions: &mut Vec<PodCondition>, verdict: Verdict) {
    let status = if verdict.status { "True" } else { "False" };
    let known = conditions.iter().position(|condition| condition.type_ == verdict.kind);
    let kept = known
        .map(|at| &conditions[at])
        .filter(|condition| condition.status == status)
        .and_then(|condition| condition.last_transition_time.clone());
    let condition = PodCondition {
        type_: verdict.kind.into(),
        status: status.into(),
        reason: verdict.reason.map(Into::into),
        message: verdict.message,
        last_transition_time: kept.or_else(|| Some(view.input.now.to_api())),
        last_probe_time: None,
        observed_generation: view.input.pod.metadata.generation,
    };
    match known {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn initialized(view: &View<'_>, phase: &str, init: &[ContainerStatus]) -> Verdict {
    if phase == "Succeeded" {
        return Verdict { reason: Some("PodCompleted"), ..yes("Initialized") };
    }
    if view.initialized() {
        return yes("Initialized");
    }
    let done = |status: &&ContainerStatus| {
        let restarts = view
            .spec
            .init_containers
            .iter()
            .flatten()
            .any(|c| c.name == status.name && super::qos::is_sidecar(c));
        if restarts { status.started == Some(true) } else { status.ready }
    };
    let open: Vec<_> = init.iter().filter(|s| !done(s)).map(|s| s.name.as_str()).collect();
    // After the pod is over nothing is left to initialize if every container got there once.
    if open.is_empty() {
        return yes("Initialized");
    }
    let message = format!("containers with incomplete status: {}", list(&open));
    no("Initialized", "ContainersNotInitialized", Some(message))
}

fn containers_ready(
    phase: &str,
    view: &View<'_>,
    init: &[ContainerStatus],
    app: &[ContainerStatus],
) -> Verdict {
    let kind = "ContainersReady";
    match phase {
        "Succeeded" => return no(kind, "PodCompleted", None),
        "Failed" => return no(kind, "PodFailed", None),
        _ => {}
    }
    // Sidecars count (A43).
    let sidecars = init.iter().filter(|status| {
        let mut all = view.spec.init_containers.iter().flatten();
        all.any(|c| c.name == status.name && super::qos::is_sidecar(c))
    });
    let unready: Vec<_> =
        sidecars.chain(app).filter(|status| !status.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() && !app.is_empty() {
        return yes(kind);
    }
    let message = format!("containers with unready status: {}", list(&unready));
    no(kind, "ContainersNotReady", Some(message))
}

/// A67: every gate's condition must be there and True.
fn ready(view: &View<'_>, conditions: &[PodCondition], containers: &Verdict) -> Verdict {
    if !containers.status {
        return Verdict { kind: "Ready", message: containers.message.clone(), ..*containers };
    }
    let open: Vec<String> = view
        .spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *name) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {name:?} does not exist."
                )),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate {name:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    match open.is_empty() {
        true => yes("Ready"),
        false => no("Ready", "ReadinessGatesNotReady", Some(open.join(", "))),
    }
}
