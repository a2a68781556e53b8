//! How a pod ends (A58, A60, F32), orphans among them.

use super::*;

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
