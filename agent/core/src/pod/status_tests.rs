use k8s_openapi::api::core::v1::PodCondition;

use super::*;
use crate::model::{ObservedPod, ObservedSandbox, SandboxState, Time};
use crate::pod::testing::Case;

fn observed(containers: Vec<ObservedContainer>) -> ObservedPod {
    ObservedPod {
        sandboxes: vec![ObservedSandbox {
            id: "s0".into(),
            attempt: 0,
            state: SandboxState::Ready,
            created_at: Time(0),
            ips: vec!["10.0.0.5".parse().unwrap()],
            host_network: false,
        }],
        containers,
        ..ObservedPod::default()
    }
}

fn instance(name: &str, attempt: u32, state: ContainerState) -> ObservedContainer {
    ObservedContainer {
        user: None,
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox_id: "s0".into(),
        attempt,
        state,
        created_at: Time(0),
        image: "x:1".into(),
        image_ref: "sha256:1".into(),
        hash: String::new(),
        termination_message: String::new(),
        grace_s: None,
    }
}

fn exited(exit_code: i32) -> ContainerState {
    ContainerState::Exited {
        started_at: Time(1_000),
        finished_at: Time(2_000),
        exit_code,
        reason: String::new(),
        message: String::new(),
    }
}

const RUNNING: ContainerState = ContainerState::Running { started_at: Time(1_000) };

fn status_of(case: &Case) -> PodStatus {
    build(&View::new(&case.input()), &Facts::default())
}

#[test]
fn a64_phases() {
    let check = |spec: &str, states: &[(&str, ContainerState)], expect: &str| {
        let mut case = Case::spec(spec);
        let containers = states.iter().map(|(name, state)| instance(name, 0, state.clone()));
        case.observed = observed(containers.collect());
        assert_eq!(status_of(&case).phase.as_deref(), Some(expect), "{spec} {states:?}");
    };
    for (policy, code, expect) in [
        ("Always", 0, "Running"),
        ("Always", 1, "Running"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
    ] {
        let spec = format!("{{restartPolicy: {policy}, containers: [{{name: a}}]}}");
        check(&spec, &[("a", exited(code))], expect);
        check(&spec, &[], "Pending");
        check(&spec, &[("a", RUNNING)], "Running");
        check(&spec, &[("a", ContainerState::Created)], "Pending");
    }
    let two = "{restartPolicy: Never, containers: [{name: a}, {name: b}]}";
    check(two, &[("a", exited(0)), ("b", RUNNING)], "Running");
    check(two, &[("a", exited(0)), ("b", exited(1))], "Failed");
    check(two, &[("a", exited(0)), ("b", ContainerState::Unknown)], "Failed");
    check(two, &[("a", RUNNING)], "Pending");
    let init = "{restartPolicy: Never, initContainers: [{name: i}], containers: [{name: a}]}";
    check(init, &[("i", RUNNING)], "Pending");
    check(init, &[("i", exited(1))], "Failed");
    let retry = "{initContainers: [{name: i}], containers: [{name: a}]}";
    check(retry, &[("i", exited(1))], "Pending");
}

#[test]
fn a65_a66_conditions_and_their_reasons() {
    let text = |case: &Case| {
        let conditions = status_of(case).conditions.unwrap();
        let word = |c: &PodCondition| {
            format!("{}={} {}", c.type_, c.status, c.reason.clone().unwrap_or_default())
        };
        conditions.iter().map(word).collect::<Vec<_>>()
    };
    let mut case = Case::spec("{initContainers: [{name: i}], containers: [{name: a}]}");
    assert_eq!(
        text(&case),
        [
            "PodReadyToStartContainers=False PodSandboxNotReady",
            "Initialized=False ContainersNotInitialized",
            "Ready=False ContainersNotReady",
            "ContainersReady=False ContainersNotReady",
            "PodScheduled=True "
        ]
    );
    case.observed = observed(vec![instance("i", 0, exited(0)), instance("a", 0, RUNNING)]);
    let all_true = [
        "PodReadyToStartContainers=True ",
        "Initialized=True ",
        "Ready=True ",
        "ContainersReady=True ",
        "PodScheduled=True ",
    ];
    assert_eq!(text(&case), all_true);
    let mut done = Case::spec("{restartPolicy: Never, containers: [{name: a}]}");
    done.observed = observed(vec![instance("a", 0, exited(0))]);
    assert!(text(&done).contains(&"Ready=False PodCompleted".to_owned()));
    assert!(text(&done).contains(&"Initialized=True PodCompleted".to_owned()));
}

#[test]
fn a65_i6_transition_times_move_with_the_status_and_foreign_conditions_stay() {
    let mut case = Case::spec("{containers: [{name: a}]}");
    let mut first = status_of(&case);
    let foreign = PodCondition {
        type_: "example.org/gate".into(),
        status: "True".into(),
        ..PodCondition::default()
    };
    first.conditions.as_mut().unwrap().push(foreign.clone());
    case.previous = Some(first.clone());
    case.now = case.now.plus_s(100);
    assert_eq!(status_of(&case), first, "nothing changed");
    case.observed = observed(vec![instance("a", 0, RUNNING)]);
    let second = status_of(&case).conditions.unwrap();
    let time = |kind: &str| {
        let found = second.iter().find(|condition| condition.type_ == kind).unwrap();
        Time::from_api(found.last_transition_time.as_ref().unwrap())
    };
    assert_eq!(time("Ready"), case.now);
    assert_eq!(time("PodScheduled"), case.now.plus_s(-100));
    assert!(second.contains(&foreign));
}

#[test]
fn a67_readiness_gates() {
    let mut case = Case::spec("{readinessGates: [{conditionType: g}], containers: [{name: a}]}");
    case.observed = observed(vec![instance("a", 0, RUNNING)]);
    let ready = |case: &Case| {
        let conditions = status_of(case).conditions.unwrap();
        let found = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        (found.status, found.reason.unwrap_or_default())
    };
    assert_eq!(ready(&case), ("False".into(), "ReadinessGatesNotReady".into()));
    let gate = |status: &str| PodStatus {
        conditions: Some(vec![PodCondition {
            type_: "g".into(),
            status: status.into(),
            ..PodCondition::default()
        }]),
        ..PodStatus::default()
    };
    case.previous = Some(gate("Unknown"));
    assert_eq!(ready(&case).0, "False");
    case.previous = Some(gate("True"));
    assert_eq!(ready(&case).0, "True");
}

#[test]
fn a68_addresses_times_and_class() {
    let mut case = Case::spec("{containers: [{name: a}]}");
    case.observed = observed(vec![]);
    let status = status_of(&case);
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.5"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(status.start_time, Some(case.now.to_api()));
    let mut host = Case::spec("{hostNetwork: true, containers: [{name: a}]}");
    assert_eq!(status_of(&host).pod_ip, None);
    host.observed = observed(vec![]);
    assert_eq!(status_of(&host).pod_ip.as_deref(), Some("192.0.2.1"));
}

#[test]
fn a69_i5_states_restart_counts_and_last_states() {
    let mut case = Case::spec("{containers: [{name: a, image: 'x:1'}]}");
    case.observed = observed(vec![instance("a", 2, RUNNING), instance("a", 1, exited(3))]);
    let status = status_of(&case).container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 2);
    assert_eq!(status.container_id.as_deref(), Some("containerd://a2"));
    assert_eq!((status.image.as_str(), status.image_id.as_str()), ("x:1", "sha256:1"));
    assert!(status.ready && status.started == Some(true));
    let last = status.last_state.clone().unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.reason.as_deref()), (3, Some("Error")));

    let before = status_of(&case);
    case.previous = Some(before);
    case.observed = observed(vec![]);
    let status = status_of(&case).container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 2, "never falls");
    let lost = status.state.unwrap().terminated.unwrap();
    assert_eq!((lost.exit_code, lost.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
}

#[test]
fn a69_a70_a_waiting_reason_keeps_the_last_end() {
    let mut case = Case::spec("{containers: [{name: a}]}");
    case.observed = observed(vec![instance("a", 0, exited(1))]);
    let wait = Wait { reason: "CrashLoopBackOff", message: "back-off 10s".into() };
    let facts = Facts { waits: [("a".to_owned(), wait)].into(), ..Facts::default() };
    let status = build(&View::new(&case.input()), &facts);
    let app = &status.container_statuses.as_ref().unwrap()[0];
    let waiting = app.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    assert_eq!(app.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    assert_eq!(status.phase.as_deref(), Some("Running"));
}

#[test]
fn a71_termination_messages_are_cut_and_kept() {
    let mut case = Case::spec("{restartPolicy: Never, containers: [{name: a}]}");
    let mut ended = instance("a", 0, exited(1));
    ended.termination_message = "é".repeat(4096);
    case.observed = observed(vec![ended.clone()]);
    let status = status_of(&case);
    let message = |status: &PodStatus| {
        let state = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
        state.terminated.unwrap().message.unwrap_or_default()
    };
    assert_eq!(message(&status).len(), 4096);
    case.previous = Some(status);
    ended.termination_message.clear();
    case.observed = observed(vec![ended]);
    assert_eq!(message(&status_of(&case)).len(), 4096);
}

#[test]
fn a71_the_messages_of_a_pod_have_12_kib_in_all() {
    for (containers, each) in [(1, 4096), (3, 4096), (4, 3072), (7, 1755), (100, 122)] {
        let names: Vec<String> = (0..containers).map(|n| format!("c{n}")).collect();
        let list: Vec<String> = names.iter().map(|name| format!("{{name: {name}}}")).collect();
        let (init, apps) = list.split_at(containers / 2);
        let mut case = Case::spec(&format!(
            "{{restartPolicy: Never, initContainers: [{}], containers: [{}]}}",
            init.join(", "),
            apps.join(", ")
        ));
        let ended = names.iter().map(|name| {
            let mut ended = instance(name, 0, exited(1));
            ended.termination_message = "x".repeat(5000);
            ended
        });
        case.observed = observed(ended.collect());
        let status = status_of(&case);
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let lengths: Vec<usize> = all
            .map(|status| {
                let ended = status.state.clone().unwrap().terminated.unwrap();
                ended.message.unwrap().len()
            })
            .collect();
        assert_eq!(lengths, vec![each; containers]);
        assert!(lengths.iter().sum::<usize>() <= 12 << 10);
    }
}
