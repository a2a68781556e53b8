//! Tables of single decisions.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::*;
use crate::model::{
    ContainerState, ImageState, ObservedContainer, ObservedPod, ObservedSandbox, ProbeKind,
    ProbeVerdict, SandboxState, Severity,
};
use crate::pod::action::{Action, Volume};
use crate::pod::testing::{self, Case};
use crate::pod::translate::hash;
use crate::pod::{Memory, Orphan};

fn image() -> ImageState {
    ImageState::Present { id: "sha256:1".into(), uid: None, username: String::new() }
}

fn sandbox(state: SandboxState) -> ObservedSandbox {
    ObservedSandbox {
        id: "s0".into(),
        attempt: 0,
        state,
        created_at: Time(0),
        ips: vec!["10.0.0.5".parse().unwrap()],
        host_network: false,
    }
}

fn instance(case: &Case, name: &str, state: ContainerState) -> ObservedContainer {
    let spec = case.pod.spec.as_ref().unwrap();
    let container = spec.init_containers.iter().flatten().chain(&spec.containers);
    let hash = container.filter(|c| c.name == name).map(hash::of).next().unwrap();
    ObservedContainer {
        user: None,
        id: format!("{name}-id"),
        name: name.into(),
        sandbox_id: "s0".into(),
        attempt: 0,
        state,
        created_at: Time(0),
        image: "x:1".into(),
        image_ref: "sha256:1".into(),
        hash,
        termination_message: String::new(),
        grace_s: None,
    }
}

/// A pod with a usable sandbox, its image, and no container yet.
fn prepared(spec: &str) -> Case {
    let mut case = Case::spec(spec);
    case.observed = ObservedPod {
        sandboxes: vec![sandbox(SandboxState::Ready)],
        images: BTreeMap::from([("x:1".into(), image()), ("x".into(), image())]),
        cgroup_ready: true,
        volumes_ready: true,
        network_programmed: true,
        network_ready: true,
        ..ObservedPod::default()
    };
    settle(&mut case);
    case
}

/// Lets the memory know the cgroup and the volumes as done.
fn settle(case: &mut Case) {
    let decision = decide(&case.input());
    let mut memory = decision.memory;
    for action in &decision.actions {
        if matches!(
            action,
            Action::EnsureCgroup(_) | Action::EnsureVolumes(_) | Action::Event { .. }
        ) {
            memory.done(action, case.now);
        }
    }
    case.memory = memory;
}

/// The memory after a decision of which nothing was done but its events told.
fn told(decision: &Decision) -> Memory {
    let mut memory = decision.memory.clone();
    for event in decision.actions.iter().filter(|a| matches!(a, Action::Event { .. })) {
        memory.done(event, Time(0));
    }
    memory
}

fn running(case: &Case) -> ContainerState {
    ContainerState::Running { started_at: case.now.plus_s(-60) }
}

fn words(decision: &Decision) -> Vec<String> {
    decision.actions.iter().map(word).collect()
}

fn word(action: &Action) -> String {
    match action {
        Action::EnsureCgroup(_) => "cgroup".into(),
        Action::EnsureVolumes(_) => "volumes".into(),
        Action::PullImage { container, .. } => format!("pull {container}"),
        Action::RunSandbox { config, .. } => {
            format!("sandbox {}", config.metadata.as_ref().unwrap().attempt)
        }
        Action::CreateContainer { config, .. } => {
            let metadata = config.metadata.as_ref().unwrap();
            format!("create {} {}", metadata.name, metadata.attempt)
        }
        Action::StartContainer { name, .. } => format!("start {name}"),
        Action::StopContainer { name, grace_s, .. } => format!("stop {name} {grace_s}"),
        Action::RemoveContainer { name, .. } => format!("remove {name}"),
        Action::StopSandbox { id } => format!("stop-sandbox {id}"),
        Action::RemoveSandbox { id } => format!("remove-sandbox {id}"),
        Action::RemoveVolumes { .. } => "remove-volumes".into(),
        Action::RemoveCgroup(plan) => format!("remove-cgroup {}", plan.path),
        Action::RemoveLogs { .. } => "remove-logs".into(),
        Action::Finish => "finish".into(),
        Action::Event { reason, .. } => format!("({reason})"),
    }
}

#[track_caller]
fn check(case: &Case, expect: &[&str]) -> Decision {
    let decision = decide(&case.input());
    assert_eq!(words(&decision), expect, "{:#?}", decision.why);
    decision
}

fn waiting(decision: &Decision, name: &str) -> (String, String) {
    let all = decision.status.container_statuses.iter().flatten();
    let status = all.into_iter().find(|status| status.name == name).unwrap();
    let waiting = status.state.as_ref().unwrap().waiting.clone().unwrap_or_default();
    (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default())
}

const APP: &str = "{containers: [{name: app, image: 'x:1'}]}";

#[test]
fn a40_a_fresh_pod_prepares_in_order() {
    let mut case = Case::spec(APP);
    case.observed.images.insert("x:1".into(), image());
    let decision = check(&case, &["cgroup", "volumes", "(Pulled)", "sandbox 0"]);
    assert_eq!(waiting(&decision, "app").0, "ContainerCreating");
    assert_eq!(decision.status.phase.as_deref(), Some("Pending"));
}

#[test]
fn a41_pods_with_a_network_wait_for_it_and_host_network_pods_do_not() {
    let mut case = Case::spec(APP);
    case.observed.network_ready = false;
    check(&case, &["cgroup", "volumes", "(NetworkNotReady)"]);
    let mut host = Case::spec("{hostNetwork: true, containers: [{name: app, image: 'x:1'}]}");
    host.observed.network_ready = false;
    host.observed.images.insert("x:1".into(), image());
    check(&host, &["cgroup", "volumes", "(Pulled)", "sandbox 0"]);
}

#[test]
fn c16_no_container_is_created_before_the_policy_is_in_force() {
    let mut case = prepared(APP);
    case.observed.network_programmed = false;
    check(&case, &[]);
    case.observed.network_programmed = true;
    check(&case, &["volumes", "create app 0", "(Created)", "start app", "(Started)"]);
}

#[test]
fn a96_a_restart_pulls_nothing_and_tells_nothing_of_what_runs() {
    for policy in ["IfNotPresent", "Always"] {
        let spec =
            format!("{{containers: [{{name: app, image: 'x:1', imagePullPolicy: {policy}}}]}}");
        let mut case = prepared(&spec);
        let state = running(&case);
        case.observed.containers.push(instance(&case, "app", state));
        // A new daemon knows nothing, and its dataplane has not read the kernel yet.
        (case.memory, case.observed.network_programmed) = (Memory::default(), false);
        settle(&mut case);
        check(&case, &[]);
        case.observed.network_programmed = true;
        check(&case, &[]);
    }
}

#[test]
fn i2_f15_half_of_a_start_is_finished_and_never_doubled() {
    let mut case = prepared(APP);
    case.observed.containers.push(instance(&case, "app", ContainerState::Created));
    check(&case, &["start app", "(Started)"]);
    case.memory = Memory::default();
    check(&case, &["cgroup", "volumes", "start app", "(Started)"]);
    case.observed.containers[0].state = running(&case);
    settle(&mut case);
    check(&case, &[]);
}

#[test]
fn a39_more_than_one_ready_sandbox_or_no_address_starts_again() {
    let mut case = prepared(APP);
    case.observed.sandboxes[0].ips.clear();
    check(&case, &["volumes", "stop-sandbox s0", "sandbox 1"]);
    let mut case = prepared(APP);
    case.observed.sandboxes.push(ObservedSandbox {
        id: "s1".into(),
        attempt: 1,
        ..sandbox(SandboxState::Ready)
    });
    check(&case, &["volumes", "stop-sandbox s0", "stop-sandbox s1", "sandbox 2"]);
    let mut case = prepared(APP);
    case.observed.sandboxes[0].host_network = true;
    check(&case, &["volumes", "stop-sandbox s0", "sandbox 1"]);
    let mut case = prepared(APP);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    case.observed.sandboxes[0].state = SandboxState::NotReady;
    check(&case, &["volumes", "(SandboxChanged)", "stop app 30", "(Killing)"]);
}

#[test]
fn a39_a_sandbox_without_its_interface_is_made_anew() {
    let lost = |state| {
        let mut case = prepared(APP);
        case.observed.containers.push(instance(&case, "app", state));
        case.observed.lost_interfaces.insert("s0".into());
        case
    };
    let case = lost(running(&prepared(APP)));
    check(&case, &["volumes", "(SandboxChanged)", "stop app 30", "(Killing)"]);
    let exited = ContainerState::Exited {
        started_at: Time(0),
        finished_at: Time(1),
        exit_code: 137,
        reason: "Error".into(),
        message: String::new(),
    };
    check(&lost(exited), &["volumes", "(Pulled)", "stop-sandbox s0", "sandbox 1"]);
    // An old sandbox's interface goes with it.
    let mut case = prepared(APP);
    case.observed.lost_interfaces.insert("other".into());
    check(&case, &["volumes", "create app 0", "(Created)", "start app", "(Started)"]);
}

/// A start that a daemon asked for before it died may be under way: then the runtime refuses.
#[test]
fn f20_a_container_that_may_be_starting_goes_before_its_sandbox() {
    let mut case = prepared(APP);
    case.observed.containers.push(instance(&case, "app", ContainerState::Created));
    case.pod.metadata.deletion_timestamp = Some(case.now.to_api());
    case.memory = Memory::default();
    let remove = Action::RemoveContainer { id: "app-id".into(), name: "app".into() };
    let orphan = |case: &Case| {
        let (key, uid, node) = (&case.key, &case.uid, &case.node);
        let (observed, memory, now) = (&case.observed, &case.memory, case.now);
        words(&decide_orphan(&Orphan { key, uid, node, observed, memory, now }))
    };
    for _ in 0..5 {
        check(&case, &["remove app"]);
        assert_eq!(orphan(&case), ["remove app"]);
        case.memory.failed(&remove, "container is in starting state", case.now);
        case.now = case.now.plus_s(60);
    }
    check(&case, &["stop-sandbox s0"]);
    assert_eq!(orphan(&case), ["stop-sandbox s0"]);
}

/// The pod's directory, by which a late sandbox is known to be ours, stays for it.
#[test]
fn i2_the_end_of_a_pod_waits_for_a_sandbox_that_was_being_made() {
    let mut case = Case::spec(APP);
    let decision = decide(&case.input());
    let run = Action::RunSandbox { config: Box::default(), runtime_handler: String::new() };
    case.memory = decision.memory;
    case.memory.abandoned(&run, case.now);
    case.observed.leftovers = true;
    case.pod.metadata.deletion_timestamp = Some(case.now.to_api());
    let (key, uid) = (case.key.clone(), case.uid.clone());
    let orphan = |case: &Case| {
        let (node, observed, memory, now) = (&case.node, &case.observed, &case.memory, case.now);
        decide_orphan(&Orphan { key: &key, uid: &uid, node, observed, memory, now })
    };
    let until = case.now.plus_ms(5_000);
    assert_eq!(check(&case, &[]).wake_at, Some(until));
    assert_eq!((words(&orphan(&case)), orphan(&case).wake_at), (vec![], Some(until)));
    // It appears: it is ended like any other.
    let mut late = case.clone();
    late.observed.sandboxes.push(sandbox(SandboxState::Ready));
    check(&late, &["stop-sandbox s0"]);
    assert_eq!(words(&orphan(&late)), ["stop-sandbox s0"]);
    case.now = until;
    let decision = decide(&case.input());
    assert!(words(&decision).contains(&"remove-volumes".to_owned()), "{:?}", words(&decision));
    assert!(words(&orphan(&case)).contains(&"finish".to_owned()));
}

#[test]
fn a50_pull_policies() {
    let check_image = |policy: &str, state: Option<ImageState>, expect: &[&str], reason: &str| {
        let spec = format!("{{containers: [{{name: app, image: x, imagePullPolicy: {policy}}}]}}");
        let mut case = prepared(&spec);
        case.memory.said.clear();
        case.observed.images = state.map(|state| ("x".to_owned(), state)).into_iter().collect();
        let decision = check(&case, expect);
        assert_eq!(waiting(&decision, "app").0, reason, "{policy}");
    };
    let created = ["(Pulled)", "volumes", "create app 0", "(Created)", "start app", "(Started)"];
    check_image("Never", Some(image()), &created, "ContainerCreating");
    check_image("Never", None, &["(ErrImageNeverPull)", "(Failed)"], "ErrImageNeverPull");
    check_image("IfNotPresent", Some(image()), &created, "ContainerCreating");
    check_image("IfNotPresent", None, &["(Pulling)", "pull app"], "ContainerCreating");
    check_image("Always", Some(image()), &["(Pulling)", "pull app"], "ContainerCreating");
}

#[test]
fn a50_always_pulls_once_per_instance() {
    let mut case = prepared("{containers: [{name: app, image: x}]}");
    let pull = Action::PullImage { image: "x".into(), container: "app".into() };
    case.memory.done(&pull, case.now);
    let decision = check(
        &case,
        &["(Pulled)", "volumes", "create app 0", "(Created)", "start app", "(Started)"],
    );
    case.memory = decision.memory.clone();
    for action in &decision.actions {
        case.memory.done(action, case.now);
    }
    check(&case, &["pull app"]);
}

#[test]
fn a52_a_runtime_that_does_not_say_is_asked_again_without_back_off() {
    let mut case = prepared(APP);
    for seconds in 0..3 {
        case.now = case.now.plus_s(seconds);
        let failed = ImageState::Failed {
            at: case.now,
            reason: "ImageInspectError",
            message: "unavailable".into(),
        };
        case.observed.images.insert("x:1".into(), failed);
        let decision = check(&case, if seconds == 0 { &["(InspectFailed)"] } else { &[] });
        assert_eq!(waiting(&decision, "app").0, "ImageInspectError");
        assert_eq!(decision.wake_at, Some(case.now.plus_s(2)));
        case.memory = told(&decision);
    }
}

#[test]
fn a58_a_stop_that_failed_is_asked_for_again_soon() {
    let mut case = prepared(APP);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    case.pod.metadata.deletion_timestamp = Some(case.now.to_api());
    let decision = check(&case, &["stop app 30", "(Killing)"]);
    case.memory = told(&decision);
    case.memory.done(&decision.actions[0], case.now);
    case.memory.failed(&decision.actions[0], "unavailable", case.now);
    let decision = check(&case, &["(FailedKillPod)"]);
    case.memory = told(&decision);
    case.now = case.now.plus_s(1);
    check(&case, &["stop app 29"]);
}

#[test]
fn a52_an_invalid_image_name_is_named() {
    let case = prepared("{containers: [{name: app, image: 'X y'}]}");
    let decision = decide(&case.input());
    assert_eq!(waiting(&decision, "app").0, "InvalidImageName");
    let fresh = Case { memory: Memory::default(), ..case };
    assert!(words(&decide(&fresh.input())).contains(&"(InspectFailed)".to_owned()));
}

#[test]
fn a124_a_missing_key_is_a_config_error_until_it_is_there() {
    let spec = "{containers: [{name: app, image: 'x:1',
        env: [{name: A, valueFrom: {configMapKeyRef: {name: map, key: a}}}]}]}";
    let mut case = prepared(spec);
    case.memory.said.clear();
    let decision = check(&case, &["(Pulled)", "(Failed)"]);
    let expect = ("CreateContainerConfigError".into(), "configmap \"map\" not found".into());
    assert_eq!(waiting(&decision, "app"), expect);
    case.memory = told(&decision);
    check(&case, &[]);
    check(
        &case.config_map("map", &[("a", "1")]),
        &["volumes", "create app 0", "(Created)", "start app", "(Started)"],
    );
}

#[test]
fn a124_a_volume_without_its_config_map_is_not_mounted_yet() {
    let spec =
        "{containers: [{name: app, image: 'x:1'}], volumes: [{name: v, configMap: {name: map}}]}";
    let mut case = Case::spec(spec);
    let decision = check(&case, &["cgroup", "(FailedMount)"]);
    assert_eq!(waiting(&decision, "app").0, "ContainerCreating");
    case.observed.images.insert("x:1".into(), image());
    check(&case.config_map("map", &[]), &["cgroup", "volumes", "(Pulled)", "sandbox 0"]);
}

/// A world that hears of objects one by one.
fn by_need(mut case: Case) -> Case {
    case.world.known = Some(imbl::OrdSet::new());
    case
}

const NEEDY: &str = "{containers: [{name: app, image: 'x:1', envFrom: [{secretRef: {name: keys, optional: true}}]}]}";

#[test]
fn a124_an_unknown_object_is_waited_for_in_silence_then_named() {
    let mut case = by_need(Case::spec(NEEDY));
    let decision = check(&case, &["cgroup"]);
    assert_eq!(waiting(&decision, "app").0, "ContainerCreating");
    assert_eq!(decision.wake_at, Some(case.now.plus_s(5)));
    (case.memory, case.now) = (decision.memory, case.now.plus_s(5));
    let decision = check(&case, &["cgroup"]);
    let (reason, message) = waiting(&decision, "app");
    assert_eq!(reason, "CreateContainerConfigError");
    assert!(message.contains("secret default/keys"), "{message}");
    // Known to be absent, and optional: nothing is in the way.
    let key = crate::model::ObjectKey::new("default", "keys");
    case.world.known.as_mut().unwrap().insert((crate::model::Kind::Secret, key));
    case.memory = decision.memory;
    case.observed.images.insert("x:1".into(), image());
    check(&case, &["cgroup", "volumes", "(Pulled)", "sandbox 0"]);
}

#[test]
fn i10_a_running_pod_goes_on_while_its_inputs_are_unknown() {
    let mut case = prepared(NEEDY);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    case.memory = Memory::default();
    let mut case = by_need(case);
    let decision = check(&case, &["cgroup", "volumes"]);
    let status = &decision.status.container_statuses.as_ref().unwrap()[0];
    assert!(status.state.as_ref().unwrap().running.is_some());
    // What ends is not started again before its inputs are known.
    case.observed.containers[0].state = ContainerState::Exited {
        started_at: Time(0),
        finished_at: case.now.plus_s(-600),
        exit_code: 1,
        reason: String::new(),
        message: String::new(),
    };
    (case.memory, case.now) = (decision.memory, case.now.plus_s(5));
    let decision = check(&case, &["cgroup", "volumes"]);
    assert_eq!(waiting(&decision, "app").0, "CreateContainerConfigError");
}

#[test]
fn i10_a_container_starts_again_with_the_volumes_that_were_made_before() {
    let spec = "{containers: [{name: app, image: 'x:1', volumeMounts: [{name: v, mountPath: /v}]}],
        volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: token}},
          {configMap: {name: kube-root-ca.crt}}, {secret: {name: keys}}]}}, {name: w, emptyDir: {}}]}";
    let mut case = by_need(prepared("{containers: [{name: app, image: 'x:1'}]}"));
    case.pod = testing::pod(spec);
    case.memory = Memory::default();
    let plan = |decision: &Decision| {
        let plans = decision.actions.iter().find_map(|action| match action {
            Action::EnsureVolumes(plan) => Some(plan.volumes.clone()),
            _ => None,
        });
        plans.unwrap_or_default()
    };
    // A daemon that knows nothing but its pods: nothing of the volume is written.
    let decision = decide(&case.input());
    let volumes = plan(&decision);
    assert_eq!((&volumes["v"].volume, &volumes["w"].volume), (&Volume::Kept, &Volume::EmptyDir));
    assert!(volumes["v"].path.ends_with("/volumes/kubernetes.io~projected/v"));
    let created = decision.actions.iter().any(|a| matches!(a, Action::CreateContainer { .. }));
    assert!(created, "{:?}", decision.why);
    // Before its first sandbox nothing was made, and a pod must not start without its inputs.
    case.observed.sandboxes.clear();
    let decision = decide(&case.input());
    assert!(plan(&decision).is_empty(), "{:?}", decision.why);
}

#[test]
fn a64_a_terminal_phase_of_the_api_server_ends_the_pod() {
    let mut case = prepared("{containers: [{name: app, image: 'x:1'}]}");
    case.observed.containers.push(instance(&case, "app", running(&case)));
    case.pod.status = Some(PodStatus { phase: Some("Failed".into()), ..PodStatus::default() });
    let decision = decide(&case.input());
    assert!(words(&decision).contains(&"stop app 30".to_owned()), "{:?}", words(&decision));
}

#[test]
fn a67_a_gate_that_somebody_sets_at_the_api_server_is_seen() {
    let spec = "{readinessGates: [{conditionType: g}], containers: [{name: app, image: 'x:1'}]}";
    let mut case = prepared(spec);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    let ready = |case: &Case| {
        let status = decide(&case.input()).status;
        let all = status.conditions.unwrap();
        all.iter().find(|c| c.type_ == "Ready").unwrap().status.clone()
    };
    assert_eq!(ready(&case), "False");
    case.pod.status = serde_json::from_value(
        serde_json::json!({"conditions": [{"type": "g", "status": "True"}]}),
    )
    .unwrap();
    assert_eq!(ready(&case), "True");
}

#[test]
fn a103_a_changed_config_map_reaches_the_volume_and_a_lost_one_stops_nothing() {
    let spec =
        "{containers: [{name: app, image: 'x:1'}], volumes: [{name: v, configMap: {name: map}}]}";
    let mut case = prepared(spec).config_map("map", &[("a", "1")]);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    settle(&mut case);
    check(&case, &[]);
    let changed = case.clone().config_map("map", &[("a", "2")]);
    check(&changed, &["volumes"]);
    case.world.config_maps.clear();
    let exited = ContainerState::Exited {
        started_at: Time(0),
        finished_at: case.now,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
    };
    case.observed.containers[0].state = exited;
    check(
        &case,
        &[
            "(FailedMount)",
            "(Pulled)",
            "volumes",
            "create app 1",
            "(Created)",
            "start app",
            "(Started)",
        ],
    );
}

#[test]
fn decision_13_an_unsupported_pod_is_held_pending_with_the_field() {
    let mut case = Case::spec("{containers: [{name: app, image: 'x:1'}], hostUsers: false}");
    let decision = check(&case, &["(UnsupportedField)"]);
    let (reason, message) = waiting(&decision, "app");
    assert_eq!(reason, "CreateContainerConfigError");
    assert!(message.starts_with("spec.hostUsers: "), "{message}");
    assert_eq!(decision.status.phase.as_deref(), Some("Pending"));
    case.memory = told(&decision);
    case.previous = Some(decision.status);
    check(&case, &[]);
    case.pod.metadata.deletion_timestamp = Some(case.now.to_api());
    check(&case, &["remove-logs", "finish"]);
}

#[test]
fn decision_13_a_pod_goes_on_without_its_ephemeral_containers() {
    let spec = "{containers: [{name: app, image: 'x:1'}], ephemeralContainers: [{name: debug, image: 'x:1', stdin: true}]}";
    let mut case = prepared(spec);
    let ended = ContainerState::Exited {
        started_at: Time(0),
        finished_at: Time(5_000),
        exit_code: 1,
        reason: "Error".into(),
        message: String::new(),
    };
    case.observed.containers.push(instance(&case, "app", ended));
    // It told of them when it was prepared; its own container is started again.
    check(&case, &["(Pulled)", "volumes", "create app 1", "(Created)", "start app", "(Started)"]);
    let told = case.memory.said.keys().any(|subject| subject == "problem/spec.ephemeralContainers");
    assert!(told, "{:?}", case.memory.said);
}

#[test]
fn a63_a_pod_past_its_deadline_fails_and_is_stopped() {
    let mut case = prepared("{activeDeadlineSeconds: 10, containers: [{name: app, image: 'x:1'}]}");
    case.observed.containers.push(instance(&case, "app", running(&case)));
    let first = decide(&case.input());
    assert_eq!(first.wake_at, Some(case.now.plus_s(10)));
    case.previous = Some(first.status);
    case.now = case.now.plus_s(10);
    let decision = check(&case, &["(DeadlineExceeded)", "stop app 30", "(Killing)"]);
    assert_eq!(decision.status.phase.as_deref(), Some("Failed"));
    assert_eq!(decision.status.reason.as_deref(), Some("DeadlineExceeded"));
}

#[test]
fn a75_a_rejected_pod_fails_and_nothing_is_made() {
    let case = Case::spec("{os: {name: windows}, containers: [{name: app, image: 'x:1'}]}");
    let decision = check(&case, &["(PodOSNotSupported)"]);
    assert_eq!(decision.status.phase.as_deref(), Some("Failed"));
    assert_eq!(decision.status.reason.as_deref(), Some("PodOSNotSupported"));
}

#[test]
fn a73_a_changed_image_restarts_the_container_in_place() {
    let mut case = prepared(APP);
    let mut old = instance(&case, "app", running(&case));
    old.hash = "other".into();
    case.observed.containers.push(old);
    check(&case, &["stop app 30", "(Killing)"]);
}

fn verdict(kind: ProbeKind, success: bool) -> ((String, ProbeKind), ProbeVerdict) {
    let container_id = "app-id".into();
    (("app".into(), kind), ProbeVerdict { container_id, success, message: String::new() })
}

const PROBED: &str =
    "{containers: [{name: app, image: 'x:1', ports: [{name: http, containerPort: 80}],
    env: [{name: A, value: x}],
    startupProbe: {exec: {command: [test, $(A)]}},
    livenessProbe: {httpGet: {port: http}, terminationGracePeriodSeconds: 7},
    readinessProbe: {tcpSocket: {port: 80}}}]}";

#[test]
fn a91_a92_a_startup_probe_gates_the_others() {
    let mut case = prepared(PROBED);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    let kinds = |case: &Case| {
        let decision = decide(&case.input());
        let status = decision.status.container_statuses.as_ref().unwrap()[0].clone();
        let kinds: Vec<_> = decision.probes.iter().map(|target| target.kind).collect();
        (kinds, status.started, status.ready)
    };
    assert_eq!(kinds(&case), (vec![ProbeKind::Startup], Some(false), false));
    let target = decide(&case.input()).probes.remove(0);
    assert_eq!((target.host.as_str(), target.ports["http"]), ("10.0.0.5", 80));
    assert_eq!(target.probe.exec.unwrap().command.unwrap(), ["test", "x"], "A88");
    case.observed.probes.extend([verdict(ProbeKind::Startup, true)]);
    let both = vec![ProbeKind::Liveness, ProbeKind::Readiness];
    assert_eq!(kinds(&case), (both.clone(), Some(true), false));
    case.observed.probes.extend([verdict(ProbeKind::Readiness, true)]);
    assert_eq!(kinds(&case), (both, Some(true), true));
    case.observed.probes.extend([verdict(ProbeKind::Startup, false)]);
    check(&case, &["stop app 30", "(Killing)"]);
}

#[test]
fn a94_a95_a_failed_liveness_probe_stops_the_container_once_with_its_own_grace() {
    let mut case = prepared(PROBED);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    case.observed.probes =
        [verdict(ProbeKind::Startup, true), verdict(ProbeKind::Liveness, false)].into();
    let decision = check(&case, &["stop app 7", "(Killing)"]);
    case.memory = told(&decision);
    case.memory.done(&decision.actions[0], case.now);
    check(&case, &[]);
    let other =
        ProbeVerdict { container_id: "older".into(), success: false, message: String::new() };
    case.memory = Memory::default();
    settle(&mut case);
    case.observed.probes = [verdict(ProbeKind::Startup, true)].into();
    case.observed.probes.insert(("app".into(), ProbeKind::Liveness), other);
    check(&case, &[]);
}

#[test]
fn a61_only_readiness_is_probed_while_a_pod_ends() {
    let mut case = prepared(PROBED);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    case.observed.probes.extend([verdict(ProbeKind::Startup, true)]);
    case.pod.metadata.deletion_timestamp = Some(case.now.to_api());
    let kinds: Vec<_> = decide(&case.input()).probes.iter().map(|target| target.kind).collect();
    assert_eq!(kinds, [ProbeKind::Readiness]);
}

#[test]
fn a96_readiness_and_started_survive_a_restart_of_the_daemon() {
    let mut case = prepared(PROBED);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    case.observed.probes =
        [verdict(ProbeKind::Startup, true), verdict(ProbeKind::Readiness, true)].into();
    case.previous = Some(decide(&case.input()).status);
    case.observed.probes.clear();
    case.memory = Memory::default();
    let status = decide(&case.input()).status;
    assert_eq!(Some(&status), case.previous.as_ref(), "I6: nothing changed, nothing is told");
    case.observed.probes = [verdict(ProbeKind::Readiness, false)].into();
    let status = decide(&case.input()).status;
    assert!(!status.container_statuses.unwrap()[0].ready);
}

#[test]
fn a58_grace_is_at_least_two_seconds_and_comes_from_the_api() {
    let grace = |deletion: Option<i64>, expect: &str| {
        let mut case = prepared(
            "{terminationGracePeriodSeconds: 40, containers: [{name: app, image: 'x:1'}]}",
        );
        case.observed.containers.push(instance(&case, "app", running(&case)));
        let seconds = deletion.unwrap_or(0);
        case.pod.metadata.deletion_timestamp = Some(case.now.plus_s(seconds).to_api());
        case.pod.metadata.deletion_grace_period_seconds = deletion;
        check(&case, &[expect, "(Killing)"]);
    };
    grace(Some(5), "stop app 5");
    grace(Some(0), "stop app 2");
    grace(None, "stop app 40");
}

#[test]
fn f32_grace_is_counted_by_this_nodes_clock() {
    let spec = "{containers: [{name: app, image: 'x:1'}]}";
    let deleted = |mut case: Case, ahead_s: i64, grace_s: i64| {
        case.pod.metadata.deletion_timestamp = Some(case.now.plus_s(grace_s - ahead_s).to_api());
        case.pod.metadata.deletion_grace_period_seconds = Some(grace_s);
        case
    };
    let mut case = prepared(spec);
    case.observed.containers.push(instance(&case, "app", running(&case)));
    // This node's clock is 35 s before the API server's, or behind it.
    for ahead_s in [35, -35] {
        let mut seen = case.clone();
        seen.memory = decide(&case.input()).memory;
        let seen = deleted(seen, ahead_s, 30);
        check(&seen, &["stop app 30", "(Killing)"]);
        // A shorter grace counts from when it is seen, too.
        let mut shorter = seen.clone();
        shorter.memory = decide(&seen.input()).memory;
        shorter.now = shorter.now.plus_s(3);
        check(&deleted(shorter, ahead_s, 5), &["stop app 5", "(Killing)"]);
    }
    // A daemon that starts now gives what is left of it, and no more (F03).
    case.memory.seen_wanted = false;
    check(&deleted(case.clone(), 20, 30), &["stop app 10", "(Killing)"]);
    check(&deleted(case, -35, 30), &["stop app 30", "(Killing)"]);
}

#[test]
fn a60_sidecars_end_after_the_apps_and_in_reverse() {
    let spec = "{initContainers: [{name: a, image: 'x:1', restartPolicy: Always}, {name: b, image: 'x:1', restartPolicy: Always}],
        containers: [{name: app, image: 'x:1'}]}";
    let mut case = prepared(spec);
    for name in ["a", "b", "app"] {
        case.observed.containers.push(instance(&case, name, running(&case)));
    }
    case.pod.metadata.deletion_timestamp = Some(case.now.plus_s(30).to_api());
    case.pod.metadata.deletion_grace_period_seconds = Some(30);
    check(&case, &["stop app 30", "(Killing)"]);
    let gone = |case: &mut Case, name: &str| case.observed.containers.retain(|c| c.name != name);
    let mut later = case.clone();
    gone(&mut later, "app");
    check(&later, &["stop b 30", "(Killing)"]);
    gone(&mut later, "b");
    check(&later, &["stop a 30", "(Killing)"]);
    case.memory.deletion = Some((30, case.now.plus_s(30)));
    case.now = case.now.plus_s(30);
    check(&case, &["stop a 2", "(Killing)", "stop b 2", "(Killing)", "stop app 2", "(Killing)"]);
}

#[test]
fn i4_any_instance_of_a_never_container_is_its_only_one() {
    let spec = "{restartPolicy: Never, containers: [{name: app, image: 'x:1'}]}";
    for state in [
        ContainerState::Unknown,
        ContainerState::Exited {
            started_at: Time(0),
            finished_at: Time(1),
            exit_code: 1,
            reason: String::new(),
            message: String::new(),
        },
    ] {
        let mut case = prepared(spec);
        case.observed.containers.push(instance(&case, "app", state));
        let decision = decide(&case.input());
        assert!(!words(&decision).iter().any(|word| word.starts_with("create")));
        assert_eq!(decision.status.phase.as_deref(), Some("Failed"));
    }
    let mut case = prepared(spec);
    let ran = ContainerStatus {
        name: "app".into(),
        container_id: Some("containerd://gone".into()),
        state: Some(k8s_openapi::api::core::v1::ContainerState {
            running: Some(Default::default()),
            ..Default::default()
        }),
        ..ContainerStatus::default()
    };
    case.previous = Some(PodStatus { container_statuses: Some(vec![ran]), ..PodStatus::default() });
    let decision = decide(&case.input());
    assert!(!words(&decision).iter().any(|word| word.starts_with("create")));
    assert_eq!(decision.status.phase.as_deref(), Some("Failed"));
}

#[test]
fn i5_attempts_go_on_from_the_status_when_the_records_are_gone() {
    let mut case = prepared(APP);
    let mut third = instance(&case, "app", running(&case));
    third.attempt = 2;
    case.observed.containers.push(third);
    case.previous = Some(decide(&case.input()).status);
    case.observed.containers.clear();
    let decision = check(
        &case,
        &["(Pulled)", "volumes", "create app 3", "(Created)", "start app", "(Started)"],
    );
    assert_eq!(decision.status.container_statuses.unwrap()[0].restart_count, 2);
}

#[test]
fn f01_i4_a_start_that_was_cut_off_is_made_again_as_if_it_had_not_been() {
    let spec = "{restartPolicy: Never, containers: [{name: app, image: 'x:1'}]}";
    let mut case = prepared(spec);
    let cut_off = |message: &str| ContainerState::Exited {
        started_at: Time(0),
        finished_at: Time(5_000),
        exit_code: 128,
        reason: "StartError".into(),
        message: message.into(),
    };
    let canceled = "failed to create containerd task: failed to create shim task: context canceled";
    case.observed.containers.push(instance(&case, "app", cut_off(canceled)));
    let decision = check(&case, &["remove app"]);
    assert_eq!(decision.status.phase.as_deref(), Some("Pending"));
    assert_eq!(waiting(&decision, "app").0, "ContainerCreating");
    let mut gone = case.clone();
    gone.observed.containers.clear();
    check(&gone, &["volumes", "create app 0", "(Created)", "start app", "(Started)"]);
    // What this daemon saw fail, and a program that is not there, are failures.
    let mut seen = case.clone();
    let start = Action::StartContainer { id: Some("app-id".into()), name: "app".into() };
    seen.memory.failed(&start, canceled, case.now);
    assert_eq!(decide(&seen.input()).status.phase.as_deref(), Some("Failed"));
    let missing = "failed to create containerd task: exec: \"x\": not found";
    case.observed.containers[0].state = cut_off(missing);
    assert_eq!(decide(&case.input()).status.phase.as_deref(), Some("Failed"));
}

#[test]
fn i2_an_unknown_container_is_ended_before_there_is_another() {
    let mut case = prepared(APP);
    case.observed.containers.push(instance(&case, "app", ContainerState::Unknown));
    let decision = check(&case, &["stop app 2", "(Killing)"]);
    case.memory = told(&decision);
    case.memory.done(&decision.actions[0], case.now);
    check(&case, &[]);
    case.now = case.now.plus_s(13);
    check(&case, &["remove app"]);
}

#[test]
fn a70_failed_calls_back_off_and_name_the_reason() {
    let mut case = prepared(APP);
    let decision = decide(&case.input());
    let create = decision.actions.iter().find(|a| matches!(a, Action::CreateContainer { .. }));
    let mut memory = told(&decision);
    memory.failed(create.unwrap(), "no space left", case.now);
    case.memory = memory;
    let decision = check(&case, &["(Failed)"]);
    assert_eq!(waiting(&decision, "app"), ("CreateContainerError".into(), "no space left".into()));
    assert_eq!(decision.wake_at, Some(case.now.plus_s(1)));
    case.memory = told(&decision);
    case.now = case.now.plus_s(1);
    check(&case, &["volumes", "create app 0", "(Created)", "start app", "(Started)"]);
}

#[test]
fn a70_a_container_that_cannot_be_started_says_why() {
    let missing = "exec: \"/nosuch\": no such file or directory";
    let mut case = prepared(APP);
    let ended = ContainerState::Exited {
        started_at: Time(0),
        finished_at: case.now,
        exit_code: 128,
        reason: "StartError".into(),
        message: missing.into(),
    };
    let start = Action::StartContainer { id: Some("app-id".into()), name: "app".into() };
    case.observed.containers.push(instance(&case, "app", ended.clone()));
    case.memory.failed(&start, missing, case.now);
    // Once more at once (A48), and what is wrong is told.
    let decision = decide(&case.input());
    let create = decision.actions.iter().find(|a| matches!(a, Action::CreateContainer { .. }));
    assert_eq!(words(&decision)[0], "(Failed)");
    let why = ("RunContainerError".to_owned(), missing.to_owned());
    assert_eq!(waiting(&decision, "app"), why);
    let last = &decision.status.container_statuses.as_ref().unwrap()[0].last_state;
    let last = last.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (128, Some("StartError")));
    case.memory = told(&decision);
    case.memory.done(create.unwrap(), case.now);
    let decision = check(&case, &["(BackOff)"]);
    assert_eq!(waiting(&decision, "app"), why);
    // Where nothing is started again the pod is over, and the reason is told all the same.
    let mut case = prepared("{restartPolicy: Never, containers: [{name: app, image: 'x:1'}]}");
    case.observed.containers.push(instance(&case, "app", ended));
    case.memory.failed(&start, missing, case.now);
    let decision = decide(&case.input());
    assert_eq!(decision.status.phase.as_deref(), Some("Failed"));
    assert!(words(&decision).contains(&"(Failed)".to_owned()), "{:?}", words(&decision));
}

#[test]
fn a74_who_was_let_in_stays() {
    let spec = "{nodeName: node-a, nodeSelector: {a: b}, containers: [{name: app, image: 'x:1'}]}";
    let mut case = Case::spec(spec);
    let node = serde_json::json!({"metadata": {"name": "node-a"}, "status": {"allocatable": {}}});
    let node = std::sync::Arc::new(serde_json::from_value(node).unwrap());
    case.world.nodes.insert(crate::model::ObjectKey::new("", "node-a"), node);
    let mut known = case.clone();
    known.previous =
        Some(PodStatus { start_time: Some(case.now.to_api()), ..PodStatus::default() });
    assert_eq!(decide(&known.input()).status.phase.as_deref(), Some("Pending"));
    let decision = check(&case, &["(NodeAffinity)"]);
    let status = &decision.status;
    assert_eq!(
        (status.phase.as_deref(), status.reason.as_deref()),
        (Some("Failed"), Some("NodeAffinity"))
    );
    let message = status.message.as_deref().unwrap();
    assert!(message.starts_with("Pod was rejected: Predicate NodeAffinity failed"), "{message}");
}

#[test]
fn cve22_a_pod_whose_name_is_a_path_is_held_and_can_be_deleted() {
    let mut case = Case::spec(APP);
    case.uid = crate::model::PodUid::new("../../etc");
    let decision = check(&case, &["(FailedValidation)"]);
    assert_eq!(waiting(&decision, "app").0, "CreateContainerConfigError");
    case.pod.metadata.deletion_timestamp = Some(case.now.to_api());
    check(&case, &["finish"]);
}

#[test]
fn a38_a204_an_orphan_is_ended_with_the_grace_of_its_annotation() {
    let case = prepared(APP);
    let mut observed = case.observed.clone();
    let mut container = instance(&case, "app", running(&case));
    container.grace_s = Some(9);
    observed.containers.push(container);
    let (mut memory, mut now) = (Memory::default(), case.now);
    let mut log = Vec::new();
    for _ in 0..10 {
        let (key, uid, node) = (&case.key, &case.uid, &case.node);
        let orphan = Orphan { key, uid, node, observed: &observed, memory: &memory, now };
        let decision = decide_orphan(&orphan);
        log.extend(words(&decision));
        let mut next = decision.memory;
        for action in &decision.actions {
            next.done(action, now);
            match action {
                Action::StopSandbox { .. } => observed.sandboxes[0].state = SandboxState::NotReady,
                Action::RemoveContainer { .. } => observed.containers.clear(),
                Action::RemoveSandbox { .. } => observed.sandboxes.clear(),
                _ => {}
            }
        }
        if decision.actions.is_empty() {
            observed.containers[0].state = ContainerState::Unknown;
            now = decision.wake_at.unwrap();
        }
        if decision.actions.contains(&Action::Finish) {
            break;
        }
        memory = next;
    }
    assert_eq!(
        log.join(", "),
        "stop app 9, stop-sandbox s0, remove app, remove-sandbox s0, remove-volumes, \
         remove-cgroup /kubepods/poduid-1, remove-cgroup /kubepods/burstable/poduid-1, \
         remove-cgroup /kubepods/besteffort/poduid-1, remove-logs, finish"
    );
}

#[test]
fn f65_hostile_numbers_change_nothing_but_the_pod() {
    let spec = "{terminationGracePeriodSeconds: -9223372036854775808, activeDeadlineSeconds: 9223372036854775807,
        containers: [{name: app, image: 'x:1', resources: {limits: {memory: '1e308'}},
          livenessProbe: {tcpSocket: {port: -1}, periodSeconds: -5}, ports: [{containerPort: -1}]}]}";
    let decision = decide(&prepared(spec).input());
    assert_eq!(decision.status.phase.as_deref(), Some("Pending"));
    let problems = crate::pod::unsupported::unsupported(&prepared(spec).input());
    assert!(problems.iter().all(|problem| problem.severity == Severity::Error));
    assert!(problems.len() >= 3, "{problems:?}");
}

#[test]
fn a194_an_event_behind_a_failed_step_is_told_later() {
    let mut case = Case::spec(APP);
    case.observed.network_ready = false;
    let decision = check(&case, &["cgroup", "volumes", "(NetworkNotReady)"]);
    // The worker stops at the first action that fails: nobody was told anything.
    case.memory = decision.memory;
    case.memory.failed(&decision.actions[0], "no space left", case.now);
    let decision = check(&case, &["(FailedCreatePodContainer)"]);
    case.memory = told(&decision);
    case.now = case.now.plus_s(2);
    let decision = check(&case, &["cgroup", "volumes", "(NetworkNotReady)"]);
    case.memory = decision.memory.clone();
    for action in &decision.actions {
        case.memory.done(action, case.now);
    }
    (case.observed.cgroup_ready, case.observed.volumes_ready) = (true, true);
    check(&case, &[]);
}

#[test]
fn a64_a205_a_restart_stops_no_sandbox_that_was_stopped() {
    let mut case = prepared("{restartPolicy: Never, containers: [{name: app, image: 'x:1'}]}");
    let end = ContainerState::Exited {
        started_at: Time(0),
        finished_at: Time(1),
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
    };
    case.observed.containers.push(instance(&case, "app", end));
    case.memory = Memory::default();
    (case.observed.cgroup_ready, case.observed.volumes_ready) = (false, false);
    case.observed.sandboxes[0].state = SandboxState::NotReady;
    check(&case, &["stop-sandbox s0"]);
    case.observed.sandboxes[0].ips.clear();
    check(&case, &[]);
    // Anything of what goes after the sandbox, or with it, says that nobody stopped it.
    case.observed.leftovers = true;
    check(&case, &["stop-sandbox s0"]);
    case.observed.leftovers = false;
    let attachment = crate::model::observed::Attachment {
        ip: "10.0.0.5".parse().unwrap(),
        ifindex: 7,
        ifname: "ls0".into(),
        mac: [2; 6],
        sandbox_id: "s0".into(),
    };
    let local = crate::model::LocalPod {
        attachment: Some(attachment),
        ..crate::model::LocalPod::default()
    };
    case.world.local.insert(case.uid.clone(), std::sync::Arc::new(local));
    check(&case, &["stop-sandbox s0"]);
    // Ready: whatever else is seen.
    case.world.local.clear();
    case.observed.sandboxes[0].state = SandboxState::Ready;
    check(&case, &["stop-sandbox s0"]);
}
