//! From nothing to a sandbox with its policy in force (A39–A41, C16).

use super::*;

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
