//! What is asked of a node itself, past the API server: its runtime, its kernel, its daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use longshore_tests::cgroup;
use longshore_tests::cluster::ClusterNode;
use longshore_tests::leak::Snapshot;
use longshore_tests::process::Output;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::script::{poll, wait_output};

pub fn wait_host_ok(node: &ClusterNode, command: &str) -> Output {
    wait_output(&format!("`{command}` on {} to work", node.name()), Output::ok, || {
        node.on_host(command).output()
    })
}

pub fn wait_host_fails(node: &ClusterNode, command: &str, how: &str) {
    let fails = |output: &Output| !output.ok() && output.text.contains(how);
    wait_output(&format!("`{command}` on {} to fail: {how}", node.name()), fails, || {
        node.on_host(command).output()
    });
}

/// Running containers of a namespace on a node: pod and container name → id and first process.
pub fn running(node: &ClusterNode, namespace: &str) -> BTreeMap<(String, String), (String, i32)> {
    let all = node.ctr().containers().unwrap();
    all.into_iter()
        .filter(|one| one.namespace == namespace)
        .filter_map(|one| Some(((one.pod, one.container), (one.id, one.pid?))))
        .collect()
}

/// I2 by the kernel's count: no pod cgroup has two live containers with one command line.
pub fn assert_no_duplicates(node: &ClusterNode, when: &str) {
    let mut seen = BTreeSet::new();
    for (id, live) in cgroup::containers(&node.cgroup_root()) {
        assert!(
            seen.insert((live.pod.clone(), live.command.clone())),
            "{when}: {id} doubles {live:?}"
        );
    }
}

/// SIGTERM to the workload commands in a node's pods whose command line has `words`.
pub fn stop_workload(node: &ClusterNode, words: &str) {
    signal_workload(node, words, Signal::SIGTERM);
}

pub fn signal_workload(node: &ClusterNode, words: &str, signal: Signal) {
    for pid in cgroup::processes(&node.cgroup_root()).into_keys() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).replace('\0', " ").contains(words) {
            // One that ended meanwhile is what is wanted.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// A snapshot after which nothing moves by itself any more.
pub fn settled(node: &ClusterNode) -> Snapshot {
    let mut last = Snapshot::take(node).unwrap();
    poll("the node to settle", || {
        std::thread::sleep(Duration::from_millis(750));
        let now = Snapshot::take(node)?;
        let same = last == now;
        last = now;
        Ok(same)
    })
    .unwrap();
    last
}

/// Waits until the machine is as it was.
pub fn wait_same(node: &ClusterNode, wanted: &Snapshot) {
    let mut left = Vec::new();
    let same = poll("the machine to be as before", || {
        left = wanted.differences(&Snapshot::take(node)?);
        Ok(left.is_empty())
    });
    assert!(same.is_ok(), "{}", left.join("\n"));
}

/// Waits until a node's daemon answers questions.
pub fn wait_answers(node: &ClusterNode) {
    poll(&format!("`longshore status` on {}", node.name()), || {
        Ok(node.longshore("status").output().is_ok_and(|out| matches!(out.code, Some(0 | 1))))
    })
    .unwrap();
}

/// `longshore status -o json` of a node: the row of one pod.
pub fn own_status(node: &ClusterNode, namespace: &str, pod: &str) -> Value {
    let text = node.longshore("status -o json").output().map(|out| out.stdout).unwrap_or_default();
    let status: Value = serde_json::from_str(&text).unwrap_or_default();
    let rows = status["pods"].as_array().cloned().unwrap_or_default();
    rows.into_iter()
        .find(|row| row["namespace"] == namespace && row["name"] == pod)
        .unwrap_or_default()
}
