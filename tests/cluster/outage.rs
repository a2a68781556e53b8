//! The API server goes away and comes back: what runs goes on, and nobody is told a change that was
//! none (I6, I10).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longshore_tests::cluster::Cluster;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::script::*;

const OUTAGE: Duration = Duration::from_secs(60);
/// Pods to which nothing happens; the Deployment's are added.
const STEADY: [&str; 3] = ["server", "client", "remote"];

/// Ready while the file is there.
fn flipping() -> String {
    shell("flip", "touch /tmp/ready; sleep 1000000", &on("n1")).trim_end().to_owned()
        + "\n      readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}\n"
}

#[test]
fn i6_i10_without_the_api_server_everything_goes_on_and_nothing_is_rewritten() {
    let mut cluster = cluster("outage", 2, |options| {
        options.node_monitor_grace_period_s = Some(180);
    });
    let space = e2e(&cluster);
    populate(space);
    let ip = space.cluster_ip("web");
    let stream = format!("stream-client {}:70 --stall 30", space.cluster_ip("server"));
    let mut streams = ["client", "remote"]
        .map(|name| space.start(&space.pod(name), &stream, &format!("{name}.log")));
    let (client, remote) = (space.pod("client"), space.pod("remote"));
    let web = space.pods("web");
    let steady: Vec<String> = STEADY
        .iter()
        .map(|name| (*name).to_owned())
        .chain(web.iter().map(|pod| pod.name.clone()))
        .collect();
    // What follows the last Ready by moments must not be taken for a change of later.
    let before = quiet(space, &steady);
    let nodes = readiness(&space.get("nodes"));
    let tasks = own_tasks(&cluster, &steady);

    cluster.stop_apiserver().unwrap();
    let gone = Instant::now();
    let check = |cluster: &Cluster, when: &str| {
        let space = e2e(cluster);
        let request = format!("get http://{ip}/hostname --count 40 --timeout 5");
        for pod in [&client, &remote] {
            let output = space.exec(pod, &request);
            assert!(output.ok(), "{when}, {}: {}", pod.name, output.text);
            assert_eq!(answers(&output).len(), web.len(), "{when}: {}", output.text);
        }
        let output = cluster.node(1).on_host(&request).output().unwrap();
        assert!(output.ok(), "{when}, host: {}", output.text);
        assert_eq!(own_tasks(cluster, &steady), tasks, "{when}");
        for node in cluster.nodes() {
            assert_no_duplicates(node, when);
        }
    };
    check(&cluster, "without an API server");
    flip(&cluster, "without an API server");
    crash(&cluster, 1);

    // A restart knows its pods, their readiness and the Services from what is on the node.
    cluster.kill_agent(1).unwrap();
    check(&cluster, "without a daemon");
    cluster.start_agent(1).unwrap();
    wait_answers(cluster.node(1));
    wait_own_ready(&cluster, "flip", true);
    check(&cluster, "after a restart");
    flip(&cluster, "after a restart");
    crash(&cluster, 2);
    // It needs a ConfigMap to be made again, and nobody can say what is in it.
    signal_workload(cluster.node(1), "web --name given", Signal::SIGKILL);
    poll("the pod that needs the API to say so", || {
        let row = own_status(cluster.node(1), E2E, "needs");
        Ok(row.to_string().contains("CreateContainerConfigError"))
    })
    .unwrap();
    // The last state of the flipping pod is one that the API server has not heard of.
    set_ready(&cluster, false);
    wait_own_ready(&cluster, "flip", false);
    check(&cluster, "before the return");
    while gone.elapsed() < OUTAGE {
        check(&cluster, "during the outage");
        std::thread::sleep(Duration::from_secs(2));
    }
    for stream in &mut streams {
        assert_eq!(stream.exited().unwrap(), None, "{}", stream.log());
    }

    cluster.start_apiserver().unwrap();
    let space = e2e(&cluster);
    space.wait("pod flip", "not Ready, as it is", |pod| {
        let ready = condition(pod, "Ready");
        ready["status"] == "False" && ready["reason"] == "ContainersNotReady"
    });
    space.wait("pod crash", "its two restarts", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 2 && is_ready(pod)
    });
    space.wait("pod needs", "running again", |pod| {
        is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    // All that was to be told has been told: nothing was told about the others.
    let leases = Space { cluster: &cluster, name: "kube-node-lease" };
    for node in ["n1", "n2"] {
        let first = text(&leases.get(&format!("lease {node}")), "/spec/renewTime");
        leases
            .wait(&format!("lease {node}"), "renewed", |one| text(one, "/spec/renewTime") > first);
    }
    let after = objects(space, &steady);
    for (name, pod) in &after {
        let old = &before[name];
        assert_eq!(
            pod["metadata"]["resourceVersion"], old["metadata"]["resourceVersion"],
            "{name} was written to:\nfrom {old:#}\nto {pod:#}"
        );
    }
    assert_eq!(readiness(&space.get("nodes")), nodes);
    check(&cluster, "with the API server again");
    // And it still follows: a new pod, a deleted one.
    space.apply(&pod("late", "sleep", &on("n1")));
    space.wait_ready("late");
    space.delete("pod late");
    for node in cluster.nodes() {
        stop_workload(node, "stream-client");
    }
    for stream in &mut streams {
        stream.wait(60).unwrap();
        assert!(stream.log().contains(" 0 gaps, 0 resets"), "{}", stream.log());
    }
}

fn populate(space: Space<'_>) {
    space.apply(&netexec("web", 4, "", ""));
    space.apply(&pod("server", "stream-server --port 7000", &on("n1")));
    space.apply(&service("server", 70, "7000"));
    space.apply(&pod("client", "sleep", &on("n1")));
    space.apply(&pod("remote", "sleep", &on("n2")));
    space.apply(&flipping());
    space.apply(&pod("crash", "web --name crash", &on("n1")));
    space.kubectl("create configmap words --from-literal=word=given").check().unwrap();
    let needs = pod("needs", "web --name $(WORD)", &on("n1"));
    space.apply(&(needs.trim_end().to_owned()
        + "\n      env: [{name: WORD, valueFrom: {configMapKeyRef: {name: words, key: word}}}]\n"));
    space.wait_rolled_out("web");
    for name in ["server", "client", "remote", "flip", "crash", "needs"] {
        space.wait_ready(name);
    }
    let request = format!("get http://{}/hostname --timeout 2", space.cluster_ip("web"));
    space.wait_ok(&space.pod("client"), &request);
}

/// Probes work: the readiness of a pod follows its file, as its node sees it.
fn flip(cluster: &Cluster, when: &str) {
    println!("flips {when}");
    for ready in [false, true] {
        set_ready(cluster, ready);
        wait_own_ready(cluster, "flip", ready);
    }
}

fn set_ready(cluster: &Cluster, ready: bool) {
    let node = cluster.node(1);
    let container = node.ctr().find(E2E, "flip").unwrap();
    let program = if ready { "/bin/touch" } else { "/bin/rm" };
    node.ctr().exec(&container.id, &[program, "/tmp/ready"]).check().unwrap();
}

fn wait_own_ready(cluster: &Cluster, pod: &str, ready: bool) {
    poll(&format!("{pod} to be ready: {ready}"), || {
        Ok(own_status(cluster.node(1), E2E, pod)["ready"] == ready)
    })
    .unwrap();
}

/// A container that dies is started again, without anybody being asked.
fn crash(cluster: &Cluster, restarts: u64) {
    signal_workload(cluster.node(1), "web --name crash", Signal::SIGKILL);
    poll("the crashed container to run again", || {
        let row = own_status(cluster.node(1), E2E, "crash");
        Ok(row["restarts"] == restarts && row["ready"] == true)
    })
    .unwrap();
}

fn own_tasks(cluster: &Cluster, pods: &[String]) -> BTreeMap<(String, String), (String, i32)> {
    let all = cluster.nodes().iter().flat_map(|node| running(node, E2E));
    all.filter(|((pod, _), _)| pods.contains(pod)).collect()
}

fn objects(space: Space<'_>, pods: &[String]) -> BTreeMap<String, Value> {
    let list = space.get("pods");
    let named = items(&list).iter().map(|pod| (text(pod, "/metadata/name"), pod.clone()));
    named.filter(|(name, _)| pods.contains(name)).collect()
}

/// The pods' objects once two looks some time apart give the same.
fn quiet(space: Space<'_>, pods: &[String]) -> BTreeMap<String, Value> {
    let mut last = objects(space, pods);
    poll("pods that nobody writes to", || {
        std::thread::sleep(Duration::from_secs(3));
        let now = objects(space, pods);
        let same = now == last;
        last = now;
        Ok(same)
    })
    .unwrap();
    last
}

/// Ready of each node, without its heartbeat.
fn readiness(list: &Value) -> Vec<(String, String, String)> {
    let one = |node: &Value| {
        let ready = condition(node, "Ready");
        let at = text(ready, "/lastTransitionTime");
        (text(node, "/metadata/name"), text(ready, "/status"), at)
    };
    items(list).iter().map(one).collect()
}
