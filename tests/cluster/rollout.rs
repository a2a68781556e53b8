//! Replacing pods while clients connect.

use std::collections::BTreeSet;

use longshore_tests::summary::Summary;

use crate::script::*;

/// Replaces all pods and waits until the old ones are gone.
fn replace(space: &Shared, deployment: &str) {
    let old: BTreeSet<String> = space.pods(deployment).into_iter().map(|pod| pod.name).collect();
    space.kubectl(&format!("rollout restart deployment/{deployment}")).check().unwrap();
    space.wait_rolled_out(deployment);
    space.wait(&format!("pods -l app={deployment}"), "no old one", |list| {
        items(list).iter().all(|pod| !old.contains(&text(pod, "/metadata/name")))
    });
}

#[test]
fn b28_a_rolling_update_fails_no_request() {
    let space = Shared::new("rollout");
    space.apply(&netexec("web", 4, "--delay-shutdown=5", ""));
    for node in ["n1", "n2"] {
        space.apply(&pod(&format!("client-{node}"), "sleep", &on(node)));
        space.wait_ready(&format!("client-{node}"));
    }
    space.wait_rolled_out("web");
    let request = format!("get http://{}/hostname --timeout 5", space.cluster_ip("web"));
    let load = format!("{request} --count 0 --interval 5 --quiet");
    let mut clients = Vec::new();
    for node in ["n1", "n2"] {
        let client = space.pod(&format!("client-{node}"));
        space.wait_ok(&client, &request);
        clients.push(space.start(&client, &load, &format!("rollout-{node}.log")));
    }
    replace(&space, "web");
    // The request in flight ends, the summary is printed.
    for node in space.cluster.nodes() {
        stop_workload(node, &request);
    }
    for client in &mut clients {
        client.wait(60).unwrap();
        let tries = Summary::last(&client.log());
        assert!(tries.failed == 0 && tries.ok > 100, "{tries:?}: {}", client.log());
    }
}

#[test]
fn b28_a_client_on_the_pods_own_node_is_never_refused() {
    let space = Shared::new("local-rollout");
    let extra = on("n1").replace("  node", "      node");
    // These end at once with SIGTERM.
    space.apply(&netexec("web", 3, "", &extra));
    space.apply(&pod("client", "sleep", &on("n1")));
    space.wait_ready("client");
    space.wait_rolled_out("web");
    let client = space.pod("client");
    let connect = format!("connect {}:80 --timeout 5", space.cluster_ip("web"));
    space.wait_ok(&client, &connect);
    let load = format!("{connect} --count 0 --interval 2 --quiet");
    let mut load = space.start(&client, &load, "local-rollout.log");
    let host_load = space
        .cluster
        .node(1)
        .on_host(&format!("{connect} --count 0 --interval 2 --quiet"))
        .own_group();
    let mut host_load = host_load.start(&space.cluster.dir().join("host-rollout.log")).unwrap();
    for _ in 0..2 {
        replace(&space, "web");
    }
    stop_workload(space.cluster.node(1), &connect);
    host_load.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
    for load in [&mut load, &mut host_load] {
        load.wait(60).unwrap();
        let tries = Summary::last(&load.log());
        assert!(tries.failed == 0 && tries.ok > 100, "{tries:?}: {}", load.log());
    }
}
