//! What is left when pods, the Node or the daemon go.

use crate::script::*;

/// A bit of everything that touches the machine.
fn populate(space: Space<'_>) {
    space.apply(&netexec("web", 2, "", ""));
    space.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text}\ndata: {a: one}\n");
    let extra = "  volumes: [{name: text, configMap: {name: text}}, {name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]\n";
    space.apply(&(pod("volumes", "sleep", extra).trim_end().to_owned()
        + "\n      volumeMounts: [{name: text, mountPath: /text}, {name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]\n"));
    space.apply(&pod("client", "sleep", ""));
    space.apply(&pod("fails", "exit 3", "  restartPolicy: Never\n"));
    space.apply(&pod("crashes", "exit 3", ""));
    space.apply(&allow("web", &["client"]));
    space.wait_rolled_out("web");
    for pod in ["volumes", "client"] {
        space.wait_ready(pod);
    }
    space.wait("pod fails", "failed", |pod| pod["status"]["phase"] == "Failed");
    space.wait("pod crashes", "crashed", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0)
    });
    let client = space.pod("client");
    space.wait_ok(&client, &format!("get http://{}/hostname --timeout 2", space.cluster_ip("web")));
}

#[test]
fn i3_deleting_everything_leaves_the_machine_as_before() {
    let mut cluster = cluster("leave", 1, |_| {});
    // The first pod makes what stays: directories, the conflist, the cgroups of the classes.
    e2e(&cluster).apply(&pod("first", "sleep", ""));
    e2e(&cluster).wait_ready("first");
    e2e(&cluster).delete("pod first");
    let empty = settled(cluster.node(1));
    populate(e2e(&cluster));
    e2e(&cluster).delete("deployment,service,networkpolicy,pod --all");
    e2e(&cluster).delete("configmap text");
    wait_same(cluster.node(1), &empty);

    // `longshore cleanup` takes the rest, and with it pods that still ran.
    e2e(&cluster).apply(&pod("last", "sleep", ""));
    e2e(&cluster).wait_ready("last");
    let refused = cluster.node(1).longshore("cleanup").output().unwrap();
    assert!(!refused.ok(), "a daemon runs: {}", refused.text);
    cluster.stop_agent(1).unwrap();
    assert_eq!(running(cluster.node(1), E2E).len(), 1, "stopping ends no pod");
    let output = cluster.node(1).longshore("cleanup").limit_s(60).output().unwrap();
    assert!(output.ok(), "{}", output.text);
    assert!(running(cluster.node(1), E2E).is_empty());
    for dir in [cluster.node(1).pod_logs_dir(), cluster.node(1).log_links_dir()] {
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "{}", dir.display());
    }
    let links = cluster.node(1).netns().ip("-o link").unwrap();
    assert!(links.lines().all(|line| line.contains(": lo:") || line.contains(": up0@")), "{links}");
    cluster.down().unwrap();
}

#[test]
fn a1_a_deleted_node_is_registered_again_and_its_pods_go_on() {
    let cluster = cluster("again", 1, |_| {});
    let space = e2e(&cluster);
    space.apply(&netexec("web", 2, "", ""));
    space.apply(&pod("client", "sleep", ""));
    space.wait_rolled_out("web");
    space.wait_ready("client");
    let request = format!("get http://{}/hostname --timeout 2", space.cluster_ip("web"));
    space.wait_ok(&space.pod("client"), &request);
    let (before, tasks) = (space.get("node n1"), running(cluster.node(1), E2E));

    space.kubectl("delete node n1 --wait=false").check().unwrap();
    let after = space.wait("node n1", "another Node, Ready", |node| {
        node["metadata"]["uid"] != before["metadata"]["uid"] && is_ready(node)
    });
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    assert_eq!(after["status"]["addresses"], before["status"]["addresses"]);
    let leases = Space { cluster: &cluster, name: "kube-node-lease" };
    leases.wait("lease n1", "of the new Node", |lease| {
        lease["metadata"]["ownerReferences"][0]["uid"] == after["metadata"]["uid"]
    });
    assert_eq!(running(cluster.node(1), E2E), tasks, "no container was restarted");
    space.wait("pods", "all Ready", |list| {
        items(list).len() == 3 && items(list).iter().all(is_ready)
    });
    // What starts now works with what ran before.
    space.apply(&pod("late", "sleep", ""));
    space.wait_ready("late");
    for name in ["late", "client"] {
        space.wait_ok(&space.pod(name), &request);
    }
    assert!(space.kubectl("logs client").output().unwrap().ok());
}
