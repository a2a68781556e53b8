//! Images, ConfigMaps, Secrets and volumes that a start needs (A50, A52, A103, A124).

use super::*;

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
