//! kill -9 of the daemon, fifty times, at every step of a pod's start and stop (I1, I2, I3, I7, I8).
//!
//! A first round without kills learns the names of the steps from `LONGSHORE_FAILPOINT_LOG`. Then
//! each round kills at one step while a pod is started and removed, starts the daemon again and
//! looks: a pod that stays kept its processes, the pod of the round ran at most once, nothing is
//! doubled in the cgroups, the stream through the Service is unbroken, the stranger stays out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use longshore_tests::cgroup;
use longshore_tests::failpoints;
use longshore_tests::lab::{PULLED_IMAGE, WORKLOAD_IMAGE};
use longshore_tests::leak::Snapshot;
use longshore_tests::node::Node;
use longshore_tests::process::{Child, wait_for};
use longshore_tests::registry::Registry;
use longshore_tests::summary::Summary;

use crate::rollout::stop_workload;
use crate::script::*;

const KILLS: usize = 50;
const STREAM_IP: &str = "10.97.0.70";

/// Failpoints of a pod whose image is pulled, beside those of each pod.
const PULLS: [&str; 3] = ["pod.pull.after", "pod.pull.before", "pod.pulled.after"];

#[test]
fn i1_i2_i3_i7_i8_fifty_kills_at_every_step_break_nothing() {
    let mut node = node("kill9");
    let _registry = Registry::start(&node).unwrap();
    let empty = Snapshot::take(&node).unwrap();
    let markers = node.dir().join("markers");
    std::fs::create_dir_all(&markers).unwrap();
    write_steady(&node);
    let steady = pids(&node);
    let clean = settled(&node);

    let mut stream = start(&node, "client", &format!("stream-client {STREAM_IP}:70"), "stream.log");
    let stranger = format!("connect {STREAM_IP}:70 --count 0 --interval 20 --timeout 0.5 --quiet");
    let mut stranger = start(&node, "stranger", &stranger, "stranger.log");

    let steps = learn_steps(&mut node, &markers);
    assert_eq!(steps, failpoints::with(&PULLS), "left: passed, right: wanted");

    let mut hit: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..KILLS.max(steps.len()) {
        let step = &steps[round % steps.len()];
        // The second time around, the step's second hit: another moment of the same churn.
        let at = 1 + round / steps.len();
        if kill_at(&mut node, &markers, round, step, at) {
            *hit.entry(step.clone()).or_default() += 1;
        }
        // I1, I2: what stays is the same processes, and nothing runs twice.
        assert_eq!(pids(&node), steady, "round {round}, killed at {step}");
        assert_no_duplicates(&node, &format!("round {round}, killed at {step}"));
        assert_eq!(stream.exited().unwrap(), None, "{}", stream.log());
    }
    println!("kills by step: {hit:?}");
    let missed: BTreeSet<&String> = steps.iter().filter(|step| !hit.contains_key(*step)).collect();
    assert!(missed.is_empty(), "never killed at {missed:?}");
    let kills: usize = hit.values().sum();
    for extra in kills..KILLS {
        kill_anywhere(&mut node, &markers, extra);
    }

    // I7: the stream was never interrupted. I8: the stranger never came in.
    stop_workload(&node, "stream-client");
    stream.wait(20).unwrap();
    assert!(stream.log().contains(" 0 gaps, 0 resets"), "{}", stream.log());
    stop_workload(&node, "connect ");
    stranger.wait(20).unwrap();
    let text = stranger.log();
    let sum = Summary::last(&text);
    assert!(sum.ok == 0 && sum.failed >= KILLS as u64, "fewer tries than kills, or let in: {text}");

    // I3: with the same pods as before, the machine is as before; and empty when they are gone.
    wait_same(&node, &clean);
    node.remove_all().unwrap();
    wait_empty(&node);
    std::fs::remove_dir_all(&markers).unwrap();
    wait_same(&node, &empty);
}

/// Pods that live through all kills: a server, its client, and one that must stay out.
fn write_steady(node: &Node) {
    node.write("server.yaml", &pod("server", "stream-server --port 7000")).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    node.write("stranger.yaml", &pod("stranger", "sleep")).unwrap();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: server, namespace: e2e}}\nspec:\n  \
         clusterIP: {STREAM_IP}\n  selector: {{app: server}}\n  ports: [{{port: 70, targetPort: 7000}}]\n"
    );
    node.write("service.yaml", &service).unwrap();
    node.write("policy.yaml", &allow("server", "server", &["client"])).unwrap();
    for name in ["server", "client", "stranger"] {
        wait_running(node, name, 1);
    }
    wait_ok(node, "client", &format!("connect {STREAM_IP}:70 --timeout 1"));
    wait_fails(node, "stranger", &format!("connect {STREAM_IP}:70 --timeout 1"), "timed out");
}

/// The pod that comes and goes. Its image is asked for each time; it leaves one line each time it
/// is started.
fn churn(round: usize, markers: &Path) -> String {
    pod("churn", &format!("write-marker /markers/{round}")).replace(WORKLOAD_IMAGE, PULLED_IMAGE)
        + &format!(
            "      imagePullPolicy: Always\n      volumeMounts: [{{name: markers, mountPath: /markers}}, {{name: scratch, mountPath: /scratch}}]\n  \
             volumes:\n    - name: markers\n      hostPath: {{path: {}}}\n    - name: scratch\n      emptyDir: {{medium: Memory}}\n",
            markers.display()
        )
}

fn start(node: &Node, pod: &str, command: &str, log: &str) -> Child {
    node.exec_run("e2e", pod, command).unwrap().start(&node.dir().join(log)).unwrap()
}

/// Every failpoint that one pod's start and stop passes, and one start of the daemon.
fn learn_steps(node: &mut Node, markers: &Path) -> Vec<String> {
    let log = node.dir().join("steps");
    node.set_env("LONGSHORE_FAILPOINT_LOG", log.display().to_string());
    node.kill9().unwrap();
    node.start_daemon().unwrap();
    node.write("churn.yaml", &churn(9999, markers)).unwrap();
    wait_running(node, "churn", 1);
    node.remove("churn.yaml").unwrap();
    wait_gone(node);
    node.kill9().unwrap();
    node.clear_env("LONGSHORE_FAILPOINT_LOG");
    node.start_daemon().unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    let steps: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    steps.into_iter().map(str::to_owned).collect()
}

/// One round: start and removal of the pod with a daemon that dies at the `at`-th hit of `step`.
/// False: the churn had no such hit, and the daemon was killed at its end instead.
fn kill_at(node: &mut Node, markers: &Path, round: usize, step: &str, at: usize) -> bool {
    node.kill9().unwrap();
    node.set_env("LONGSHORE_FAILPOINT", format!("{step}:{at}"));
    node.start_daemon_unready().unwrap();
    node.write("churn.yaml", &churn(round, markers)).unwrap();
    let mut died = died_or(node, |node| Ok(running(node, "churn").len() == 1));
    if died {
        restart_without(node);
        wait_running(node, "churn", 1);
        assert_no_duplicates(node, step);
    }
    node.remove("churn.yaml").unwrap();
    if !died {
        died = died_or(node, |node| Ok(is_gone(node)));
    }
    if !died {
        node.kill9().unwrap();
    }
    if node.daemon_exited().unwrap().is_some() {
        restart_without(node);
    }
    wait_gone(node);
    let text = std::fs::read_to_string(markers.join(round.to_string())).unwrap_or_default();
    assert_eq!(text.lines().count(), 1, "round {round}, killed at {step}: the pod ran so often");
    died
}

/// A kill at no particular step.
fn kill_anywhere(node: &mut Node, markers: &Path, round: usize) {
    node.write("churn.yaml", &churn(20_000 + round, markers)).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20 * (round as u64 % 30)));
    node.kill9().unwrap();
    node.start_daemon().unwrap();
    wait_running(node, "churn", 1);
    assert_no_duplicates(node, "anywhere");
    node.remove("churn.yaml").unwrap();
    wait_gone(node);
}

fn restart_without(node: &mut Node) {
    node.clear_env("LONGSHORE_FAILPOINT");
    node.start_daemon().unwrap();
}

/// Waits for the daemon's death (true) or for `done` (false).
fn died_or(node: &mut Node, mut done: impl FnMut(&Node) -> anyhow::Result<bool>) -> bool {
    let mut died = false;
    wait_for("the daemon to die or the churn to end", 30, || {
        died = node.daemon_exited()?.is_some();
        Ok(died || done(node)?)
    })
    .unwrap();
    // The last steps follow what was waited for by moments.
    died || wait_for("the last steps", 1, || Ok(node.daemon_exited()?.is_some())).is_ok()
}

/// Gone from the runtime, and from the daemon's table of pods: every step of its end was passed.
fn is_gone(node: &Node) -> bool {
    let in_runtime =
        node.ctr().containers().map_or(true, |all| all.iter().any(|one| one.pod == "churn"));
    let listed = node.status().is_ok_and(|status| {
        status.stdout.lines().any(|line| line.starts_with("e2e ") && line.contains(" churn "))
    });
    !in_runtime && !listed
}

fn wait_gone(node: &Node) {
    wait_for("the churn pod to be gone", 30, || Ok(is_gone(node))).unwrap();
}

/// The processes of the pods that stay: container id → pid.
fn pids(node: &Node) -> BTreeMap<String, Option<i32>> {
    let all = node.ctr().containers().unwrap();
    all.into_iter().filter(|one| one.pod != "churn").map(|one| (one.id, one.pid)).collect()
}

/// I2 by the kernel's count: no pod cgroup has two live containers with one command line.
fn assert_no_duplicates(node: &Node, when: &str) {
    let mut seen = BTreeSet::new();
    for (id, live) in cgroup::containers(&node.cgroup_root()) {
        assert!(
            seen.insert((live.pod.clone(), live.command.clone())),
            "{when}: {id} doubles {live:?}"
        );
    }
}

fn settled(node: &Node) -> Snapshot {
    // Readiness and the last map writes follow the first answer by moments.
    let mut last = Snapshot::take(node).unwrap();
    wait_for("the node to settle", 20, || {
        std::thread::sleep(std::time::Duration::from_millis(500));
        let now = Snapshot::take(node)?;
        let same = last == now;
        last = now;
        Ok(same)
    })
    .unwrap();
    last
}

fn wait_same(node: &Node, wanted: &Snapshot) {
    let mut left = Vec::new();
    let same = wait_for("the machine to be as before", 30, || {
        left = wanted.differences(&Snapshot::take(node)?);
        Ok(left.is_empty())
    });
    let log = node.containerd().log();
    let errors = log.lines().filter(|line| line.contains("level=error")).collect::<Vec<_>>();
    assert!(same.is_ok(), "{}\ncontainerd's errors:\n{}", left.join("\n"), errors.join("\n"));
}
