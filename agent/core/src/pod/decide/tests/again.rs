//! Containers that start again, and those that must not (A70, I2, I4, I5).

use super::*;

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
    // Nothing of it was here, now and later.
    assert_eq!(
        (&status.host_ip, &status.conditions, &status.container_statuses),
        (&None, &None, &None)
    );
    let mut later = case.clone();
    later.memory = told(&decision);
    later.previous = Some(status.clone());
    assert_eq!(decide(&later.input()).status, *status);
}
