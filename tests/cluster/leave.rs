//! What is left when pods, the Node or the daemon go.

use std::collections::{BTreeMap, BTreeSet};

use longshore_tests::cluster::Cluster;
use longshore_tests::leak::Snapshot;
use longshore_tests::process::Output;

use crate::script::*;

const NODES: [&str; 2] = ["n1", "n2"];

/// A bit of everything that touches the machine, on each node.
fn populate(space: Space<'_>) {
    space.apply(&netexec("web", 2, "", ""));
    space.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text}\ndata: {a: one}\n");
    let extra = "  volumes: [{name: text, configMap: {name: text}}, {name: disk, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}]\n";
    for node in NODES {
        space.apply(&(pod(&format!("volumes-{node}"), "sleep", &(extra.to_owned() + &on(node))).trim_end().to_owned()
            + "\n      volumeMounts: [{name: text, mountPath: /text}, {name: disk, mountPath: /disk}, {name: memory, mountPath: /memory}]\n"));
        space.apply(&pod(&format!("client-{node}"), "sleep", &on(node)));
        let never = on(node) + "  restartPolicy: Never\n";
        space.apply(&pod(&format!("fails-{node}"), "exit 3", &never));
        space.apply(&pod(&format!("crashes-{node}"), "exit 3", &on(node)));
    }
    space.apply(&allow(
        "web",
        &NODES.map(|node| format!("client-{node}")).each_ref().map(String::as_str),
    ));
    space.wait_rolled_out("web");
    for node in NODES {
        for pod in ["volumes", "client"] {
            space.wait_ready(&format!("{pod}-{node}"));
        }
        space
            .wait(&format!("pod fails-{node}"), "failed", |pod| pod["status"]["phase"] == "Failed");
        space.wait(&format!("pod crashes-{node}"), "crashed", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"].as_u64() > Some(0)
        });
    }
    wait_each_from_each(space);
}

/// Each pod behind the Service answers a client on each node.
fn wait_each_from_each(space: Space<'_>) {
    for node in NODES {
        wait_each_from(space, &format!("client-{node}"));
    }
}

fn wait_each_from(space: Space<'_>, client: &str) {
    let web: BTreeSet<String> = space.pods("web").into_iter().map(|pod| pod.name).collect();
    assert_eq!(web.len(), 2);
    let request = format!("get http://{}/hostname --timeout 2", space.cluster_ip("web"));
    let pod = space.pod(client);
    space.wait_ok(&pod, &request);
    let all = |output: &Output| output.ok() && answers(output) == web;
    wait_output(&format!("all of {web:?} to answer {client}"), all, || {
        Ok(space.exec(&pod, &format!("{request} --count 20")))
    });
}

/// What runs for the test on both nodes.
fn all_running(cluster: &Cluster) -> [BTreeMap<(String, String), (String, i32)>; 2] {
    [1, 2].map(|number| running(cluster.node(number), E2E))
}

#[test]
fn i3_deleting_everything_leaves_the_machine_as_before() {
    let mut cluster = cluster("leave", 2, |_| {});
    // The first pod makes what stays: directories, the conflist, the cgroups of the classes.
    for node in NODES {
        e2e(&cluster).apply(&pod(&format!("first-{node}"), "sleep", &on(node)));
        e2e(&cluster).wait_ready(&format!("first-{node}"));
    }
    e2e(&cluster).delete("pod --all");
    let empty = [1, 2].map(|number| settled(cluster.node(number)));
    populate(e2e(&cluster));
    let full = [1, 2].map(|number| Snapshot::take(cluster.node(number)).unwrap());
    e2e(&cluster).delete("deployment,service,networkpolicy,pod --all");
    e2e(&cluster).delete("configmap text");
    for number in [1, 2] {
        assert_ne!(empty[number - 1], full[number - 1], "n{number} was given nothing");
        wait_same(cluster.node(number), &empty[number - 1]);
    }

    // `longshore cleanup` takes the rest, and with it pods that still ran.
    for (number, name) in (1..).zip(NODES) {
        let last = format!("last-{name}");
        e2e(&cluster).apply(&pod(&last, "sleep", &on(name)));
        e2e(&cluster).wait_ready(&last);
        let refused = cluster.node(number).longshore("cleanup").output().unwrap();
        assert!(!refused.ok(), "a daemon runs: {}", refused.text);
        cluster.stop_agent(number).unwrap();
        let node = cluster.node(number);
        assert_eq!(running(node, E2E).len(), 1, "stopping ends no pod");
        let output = node.longshore("cleanup").limit_s(60).output().unwrap();
        assert!(output.ok(), "{}", output.text);
        assert!(running(node, E2E).is_empty());
        for dir in [node.pod_logs_dir(), node.log_links_dir()] {
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "{}", dir.display());
        }
        let links = node.netns().ip("-o link").unwrap();
        let own = |line: &str| line.contains(": lo:") || line.contains(": up0@");
        assert!(links.lines().all(own), "{links}");
    }
    cluster.down().unwrap();
}

#[test]
fn a1_a_deleted_node_is_registered_again_and_its_pods_go_on() {
    let cluster = cluster("again", 2, |_| {});
    let space = e2e(&cluster);
    space.apply(&netexec("web", 2, "", ""));
    for node in NODES {
        space.apply(&pod(&format!("client-{node}"), "sleep", &on(node)));
        space.wait_ready(&format!("client-{node}"));
    }
    space.wait_rolled_out("web");
    wait_each_from_each(space);
    let (before, tasks) = (space.get("node n1"), all_running(&cluster));

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
    assert_eq!(all_running(&cluster), tasks, "no container was restarted");
    space.wait("pods", "all Ready", |list| {
        items(list).len() == 4 && items(list).iter().all(is_ready)
    });
    // What starts now works with what ran before.
    space.apply(&pod("late", "sleep", &on("n1")));
    space.wait_ready("late");
    wait_each_from(space, "late");
    for name in ["late", "client-n1"] {
        assert!(space.kubectl(&format!("logs {name}")).output().unwrap().ok());
    }
    // The new Node has another range, and the old one may become somebody else's: other nodes reach
    // its pods again when they have been replaced.
    space.kubectl("rollout restart deployment/web").check().unwrap();
    space.wait_rolled_out("web");
    space.delete("pod client-n1");
    space.apply(&pod("client-n1", "sleep", &on("n1")));
    space.wait_ready("client-n1");
    wait_each_from_each(space);
}
