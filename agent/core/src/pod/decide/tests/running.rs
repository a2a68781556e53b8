//! Pods that are held, refused, over, or that run with probes (A63, A73, A91–A96).

use super::*;

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
