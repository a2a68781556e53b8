//! Replacing pods while clients connect.

use longshore_tests::process::wait_for;
use longshore_tests::summary::Summary;

use crate::script::*;

#[test]
fn a_rolling_replace_fails_no_connection() {
    let node = node("rollout");
    node.write("web.yaml", &web(3, "one", "")).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    wait_running(&node, "web", 3);
    wait_running(&node, "client", 1);
    wait_ok(&node, "client", &format!("get http://{WEB_IP}/ --timeout 1"));
    let first = running(&node, "web");

    let load = format!("get http://{WEB_IP}/ --count 0 --interval 2 --quiet --timeout 5");
    let mut load =
        node.exec_run("e2e", "client", &load).unwrap().start(&node.dir().join("load.log")).unwrap();
    node.write("web.yaml", &web(3, "two", "")).unwrap();
    wait_for("three new pods and no old one", 60, || {
        let now = running(&node, "web");
        Ok(now.len() == 3 && now.is_disjoint(&first))
    })
    .unwrap();
    // The request in flight ends, the summary is printed.
    stop_workload(&node, "get http");
    load.wait(10).unwrap();
    let text = load.log();
    let sum = Summary::last(&text);
    // A few requests would prove nothing: three pods each wait for a probe a second apart.
    assert!(sum.failed == 0 && sum.ok > 100, "{text}");
}

/// SIGTERM to the workload commands in this node's pods whose command line has `words`.
pub fn stop_workload(node: &longshore_tests::node::Node, words: &str) {
    use nix::sys::signal::{Signal, kill};
    for pid in longshore_tests::cgroup::processes(&node.cgroup_root()).into_keys() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).replace('\0', " ").contains(words) {
            // One that ended meanwhile is what is wanted.
            let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
        }
    }
}
