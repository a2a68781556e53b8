//! kill -9 of a node's daemon, fifty times, while a control plane keeps it busy (I1–I8).
//!
//! Each round scales a Deployment on the node and kills the daemon a moment later, never at the same
//! place: in its start, in a pod's start, in a pod's end. Whatever the API server was told meanwhile
//! is recorded by two watches and judged at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use longshore_tests::cluster::Cluster;
use longshore_tests::process::Child;
use serde_json::Value;

use crate::script::*;

const KILLS: u64 = 50;
/// What lives through all of it.
const STEADY: [&str; 4] = ["server", "client", "stranger", "remote"];

#[test]
fn i1_i2_i3_i5_i6_i7_i8_fifty_kills_under_api_traffic_break_nothing() {
    let mut cluster = cluster("kill9", 2, |_| {});
    let markers = cluster.node(1).dir().join("markers");
    std::fs::create_dir_all(&markers).unwrap();
    e2e(&cluster).apply(&churn(&markers, 1));
    e2e(&cluster).wait_rolled_out("churn");
    e2e(&cluster).kubectl("scale deployment churn --replicas=0").check().unwrap();
    wait_churn(&cluster, 0);
    write_steady(e2e(&cluster));
    let ip = e2e(&cluster).cluster_ip("server");
    let steady = processes(&cluster);
    let clean = settled(cluster.node(1));

    let space = e2e(&cluster);
    let stream = format!("stream-client {ip}:70 --stall 30");
    let mut streams = ["client", "remote"]
        .map(|name| space.start(&space.pod(name), &stream, &format!("{name}.log")));
    let stranger = format!("connect {ip}:70 --count 0 --interval 20 --timeout 0.5 --quiet");
    let mut stranger = space.start(&space.pod("stranger"), &stranger, "stranger.log");
    let mut pods = Watched::start(space, "pods", "watch-pods.log");
    let mut nodes = Watched::start(space, "nodes", "watch-nodes.log");

    let mut random = 0x9e37_79b9_u64;
    for round in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (replicas, pause_ms) = ((random >> 33) % 4, (random >> 40) % 2500);
        let scale = format!("scale deployment churn --replicas={replicas}");
        e2e(&cluster).kubectl(&scale).check().unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
        let node = cluster.node_mut(1);
        assert_eq!(node.agent_exited().unwrap(), None, "round {round}: it died by itself");
        cluster.kill_agent(1).unwrap();
        cluster.start_agent(1).unwrap();
        let when = format!("round {round}, {pause_ms} ms after a scale to {replicas}");
        assert_eq!(processes(&cluster), steady, "{when}");
        assert_no_duplicates(cluster.node(1), &when);
        assert_unbroken(&mut streams, &when);
        if round % 10 == 9 {
            // Now and then it comes to rest: nothing is lost for good.
            wait_churn(&cluster, replicas as usize);
            assert_no_duplicates(cluster.node(1), &when);
        }
    }
    wait_answers(cluster.node(1));
    e2e(&cluster).kubectl("scale deployment churn --replicas=0").check().unwrap();
    wait_churn(&cluster, 0);

    // I7: the streams were never interrupted. I8: the stranger never came in.
    assert_unbroken(&mut streams, "at the end");
    for node in cluster.nodes() {
        stop_workload(node, "stream-client");
        stop_workload(node, "connect ");
    }
    for stream in &mut streams {
        stream.wait(60).unwrap();
        assert!(stream.log().contains(" 0 gaps, 0 resets"), "{}", stream.log());
    }
    stranger.wait(60).unwrap();
    let refused = stranger.log();
    assert!(refused.lines().any(|line| line.starts_with("0 ok,")), "{refused}");

    judge_pods(&pods.events());
    judge_nodes(&nodes.events());
    // I2, I4: no instance ran twice. Each pod has left its marker under its own name.
    for entry in std::fs::read_dir(&markers).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap();
        assert_eq!(text.lines().count(), 1, "{:?} was started so often", entry.file_name());
    }
    wait_same(cluster.node(1), &clean);
}

/// Pods that come and go on n1; each instance leaves a line in the file of its pod's name.
fn churn(markers: &Path, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: churn}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: churn}}}}
  template:
    metadata: {{labels: {{app: churn}}}}
    spec:
      terminationGracePeriodSeconds: 2
      nodeSelector: {{kubernetes.io/hostname: n1}}
      containers:
        - name: main
          image: {WORKLOAD}
          args: [write-marker, /markers/$(NAME)]
          env: [{{name: NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]
          volumeMounts: [{{name: markers, mountPath: /markers}}, {{name: scratch, mountPath: /scratch}}]
      volumes:
        - {{name: markers, hostPath: {{path: {}}}}}
        - {{name: scratch, emptyDir: {{medium: Memory}}}}
",
        markers.display()
    )
}

fn write_steady(space: Space<'_>) {
    space.apply(&pod("server", "stream-server --port 7000", &on("n1")));
    space.apply(&pod("client", "sleep", &on("n1")));
    space.apply(&pod("stranger", "sleep", &on("n1")));
    space.apply(&pod("remote", "sleep", &on("n2")));
    space.apply(&service("server", 70, "7000"));
    space.apply(&allow("server", &["client", "remote"]));
    for name in STEADY {
        space.wait_ready(name);
    }
    let connect = format!("connect {}:70 --timeout 1", space.cluster_ip("server"));
    space.wait_ok(&space.pod("client"), &connect);
    space.wait_ok(&space.pod("remote"), &connect);
    space.wait_fails(&space.pod("stranger"), &connect, "timed out");
}

/// As many churn pods as asked for, all Ready, no other one in the API or in the runtime.
fn wait_churn(cluster: &Cluster, count: usize) {
    e2e(cluster).wait("pods -l app=churn", &format!("{count}, all Ready"), |list| {
        items(list).len() == count
            && items(list).iter().all(|pod| is_ready(pod) && !is_deleting(pod))
    });
    let churn = |name: &str| name.starts_with("churn-");
    poll("the runtime to have as many", || {
        let running = running(cluster.node(1), E2E);
        Ok(running.keys().filter(|(pod, _)| churn(pod)).count() == count)
    })
    .unwrap();
}

/// The processes of the pods that stay, of both nodes.
fn processes(cluster: &Cluster) -> BTreeMap<(String, String), (String, i32)> {
    let all = cluster.nodes().iter().flat_map(|node| running(node, E2E));
    all.filter(|((pod, _), _)| STEADY.contains(&pod.as_str())).collect()
}

fn assert_unbroken(streams: &mut [Child], when: &str) {
    for stream in streams {
        assert_eq!(stream.exited().unwrap(), None, "{when}: {}", stream.log());
    }
}

/// I5, I6: what the API server was told about a pod only ever goes forward.
fn judge_pods(events: &[(String, Value)]) {
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (kind, pod) in events {
        let (name, uid) = (text(pod, "/metadata/name"), text(pod, "/metadata/uid"));
        seen.insert(name.clone());
        if let Some(before) = last.get(&uid) {
            let steps =
                format!("{name} ({kind}):\nfrom {:#}\nto {:#}", before["status"], pod["status"]);
            let steady = STEADY.contains(&name.as_str());
            // Ready goes only with a cause, and the only one here is deletion.
            if is_ready(before) {
                let same = condition(before, "Ready") == condition(pod, "Ready");
                assert!(same || is_deleting(pod) && !steady, "Ready {steps}");
            }
            let phase = |pod: &Value| match text(pod, "/status/phase").as_str() {
                "Pending" => 0,
                "Running" => 1,
                _ => 2,
            };
            assert!(phase(before) <= phase(pod), "phase {steps}");
            for field in ["/status/startTime", "/status/podIP", "/status/hostIP"] {
                let (old, new) = (text(before, field), text(pod, field));
                // Addresses go when a sandbox ends, and never become others.
                assert!(
                    old.is_empty() || old == new || new.is_empty() && !steady,
                    "{field} {steps}"
                );
            }
            let restarts =
                |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
            assert!(restarts(before) <= restarts(pod), "restarts {steps}");
            assert!(restarts(pod).unwrap_or(0) == 0, "restarted {steps}");
            let id = |pod: &Value| text(pod, "/status/containerStatuses/0/containerID");
            // One whose start a kill cut off never ran, and is made again.
            let ran = !before["status"]["containerStatuses"][0]["state"]["waiting"].is_object();
            assert!(!ran || id(before) == id(pod) || id(before).is_empty(), "another {steps}");
        }
        last.insert(uid, pod.clone());
    }
    assert!(STEADY.iter().all(|name| seen.contains(*name)), "{seen:?}");
    assert!(seen.len() > STEADY.len() + 10, "too little happened: {seen:?}");
}

/// A restart is no reason for a node to be anything else than Ready.
fn judge_nodes(events: &[(String, Value)]) {
    let ready = |node: &Value| {
        let ready = condition(node, "Ready");
        (text(ready, "/status"), text(ready, "/lastTransitionTime"), text(ready, "/reason"))
    };
    let mut first: BTreeMap<String, (String, String, String)> = BTreeMap::new();
    for (kind, node) in events {
        assert_ne!(kind, "DELETED");
        let name = text(node, "/metadata/name");
        let was = first.entry(name.clone()).or_insert_with(|| ready(node));
        assert_eq!(*was, ready(node), "{name}: {:#}", node["status"]["conditions"]);
    }
    assert_eq!(first.len(), 2);
}
