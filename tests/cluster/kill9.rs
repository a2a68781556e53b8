//! kill -9 of a node's daemon, at every step that a pod and its node pass, while a control plane
//! keeps it busy (I1–I8).
//!
//! A first start without kills learns the names of the steps from `LONGSHORE_FAILPOINT_LOG`; they are
//! the ones written down here. Then each round starts the daemon so that it dies at one of them, and
//! gives it pods to start and to end until it does. Whatever the API server was told meanwhile is
//! recorded by two watches and judged at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_tests::cluster::Cluster;
use longshore_tests::failpoints;
use longshore_tests::process::Child;
use longshore_tests::summary::Summary;
use serde_json::Value;

use crate::script::*;

const KILLS: usize = 50;
/// What lives through all of it.
const STEADY: [&str; 4] = ["server", "client", "stranger", "remote"];
/// Passed once in a node's life, so there is a Node to delete before.
const REGISTRATION: [&str; 2] = ["api.node_create.after", "api.node_create.before"];
/// Failpoints of calls to the API server, beside those of each pod.
const API_STEPS: [&str; 16] = [
    "api.lease.after",
    "api.lease.before",
    "api.mirror_create.after",
    "api.mirror_create.before",
    "api.mirror_delete.after",
    "api.mirror_delete.before",
    "api.node_create.after",
    "api.node_create.before",
    "api.node_status.after",
    "api.node_status.before",
    "api.pod_delete.after",
    "api.pod_delete.before",
    "api.pod_status.after",
    "api.pod_status.before",
    "api.token.after",
    "api.token.before",
];

#[test]
fn i1_i2_i3_i4_i5_i6_i7_i8_fifty_kills_at_every_step_under_api_traffic_break_nothing() {
    let mut cluster = cluster("kill9", 2, |_| {});
    let markers = cluster.node(1).dir().join("markers");
    std::fs::create_dir_all(&markers).unwrap();
    e2e(&cluster).apply(&churn(&markers, 1));
    e2e(&cluster).wait_rolled_out("churn");
    let mut traffic = Traffic { markers, round: 0 };
    let every = failpoints::with(&API_STEPS);
    assert_eq!(learn_steps(&mut cluster, &mut traffic, &every), every);
    let mut hit = BTreeSet::new();
    for step in REGISTRATION {
        register_and_die(&mut cluster, step);
        hit.insert(step);
    }
    traffic.end(&cluster);
    write_steady(e2e(&cluster));
    let ip = e2e(&cluster).cluster_ip("server");
    let steady = processes(&cluster);
    let clean = [1, 2].map(|number| settled(cluster.node(number)));

    let space = e2e(&cluster);
    let stream = format!("stream-client {ip}:70 --stall 30");
    let mut streams = ["client", "remote"]
        .map(|name| space.start(&space.pod(name), &stream, &format!("{name}.log")));
    let stranger = format!("connect {ip}:70 --count 0 --interval 20 --timeout 0.5 --quiet");
    let mut stranger = space.start(&space.pod("stranger"), &stranger, "stranger.log");
    let mut pods = Watched::start(space, "pods", "watch-pods.log");
    let mut nodes = Watched::start(space, "nodes", "watch-nodes.log");

    e2e(&cluster).kubectl("scale deployment churn --replicas=1").check().unwrap();
    wait_churn(&cluster, 1);
    let mut kills = hit.len();
    let steps = every.iter().copied().filter(|step| !REGISTRATION.contains(step));
    let steps: Vec<&str> = steps.collect();
    for round in 0..steps.len().max(KILLS - kills) {
        let step = steps.get(round).copied();
        let when = format!("round {round}, killed at {}", step.unwrap_or("any step"));
        match step {
            Some(step) => {
                die_at(&mut cluster, &mut traffic, step);
                hit.insert(step);
            }
            None => {
                traffic.go_on(&cluster);
                std::thread::sleep(Duration::from_millis(round as u64 * 377 % 2500));
                assert_eq!(cluster.node_mut(1).agent_exited().unwrap(), None, "{when}: it died");
            }
        }
        kills += 1;
        restart(&mut cluster);
        assert_eq!(processes(&cluster), steady, "{when}");
        assert_no_duplicates(cluster.node(1), &when);
        assert_unbroken(&mut streams, &when);
        if round % 10 == 9 {
            // Now and then it comes to rest: nothing is lost for good.
            rest(&cluster);
            assert_no_duplicates(cluster.node(1), &when);
        }
    }
    println!("{kills} kills, at {} steps", hit.len());
    assert!(kills >= KILLS, "{kills}");
    assert_eq!(Vec::from_iter(hit), every, "never killed at the others");
    wait_answers(cluster.node(1));
    traffic.end(&cluster);

    // I7: the streams were never interrupted. I8: the stranger tried, and never came in.
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
    let tries = Summary::last(&stranger.log());
    assert!(tries.ok == 0 && tries.failed > KILLS as u64, "{tries:?}");

    let told = judge_pods(&pods.events());
    judge_nodes(&nodes.events());
    traffic.judge_markers(&told);
    for (number, clean) in [1, 2].into_iter().zip(&clean) {
        wait_same(cluster.node(number), clean);
    }
}

/// Pods that come and go on n1: one of a Deployment is ended and replaced, one that runs once is
/// started, and a static one takes the place of another.
struct Traffic {
    markers: PathBuf,
    /// Of pods that run once: their names are `once-1` to this.
    round: usize,
}

impl Traffic {
    fn go_on(&mut self, cluster: &Cluster) {
        let space = e2e(cluster);
        self.write_static(cluster, self.round + 1);
        self.round += 1;
        space.apply(&once(&self.markers, self.round));
        let over = "--field-selector=status.phase!=Pending,status.phase!=Running";
        let ended = format!("delete pod -l app=once {over} --wait=false");
        for words in ["delete pod -l app=churn --wait=false", &ended] {
            space.kubectl(words).check().unwrap();
        }
    }

    /// In place of the one before.
    fn write_static(&self, cluster: &Cluster, number: usize) {
        let dir = cluster.node(1).manifests_dir();
        let hidden = dir.join(".new");
        let text = pod(&format!("static-{number}"), "sleep", "");
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(hidden, dir.join(format!("{number}.yaml"))).unwrap();
        let _ = std::fs::remove_file(dir.join(format!("{}.yaml", number - 1)));
    }

    /// Every pod that runs once is over; then nothing of the traffic is left.
    fn end(&self, cluster: &Cluster) {
        let space = e2e(cluster);
        rest(cluster);
        let last = cluster.node(1).manifests_dir().join(format!("{}.yaml", self.round));
        std::fs::remove_file(last).unwrap();
        space.kubectl("scale deployment churn --replicas=0").check().unwrap();
        space.delete("pod -l app=once");
        wait_churn(cluster, 0);
        poll("static pods and their mirrors to end", || {
            let mirrors = cluster.kubectl("get pods -n default -o name".split(' ')).check()?;
            Ok(mirrors.is_empty() && running(cluster.node(1), "default").is_empty())
        })
        .unwrap();
    }

    /// I2, I4: no instance ran twice, and what is said to have run did.
    fn judge_markers(&self, told: &Told) {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.markers).unwrap() {
            let entry = entry.unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            let most = 1 + told.restarts.get(&name).copied().unwrap_or(0);
            let lines = text.lines().count() as u64;
            assert!((1..=most).contains(&lines), "{name} was started {lines} times, not {most}");
            names.insert(name);
        }
        let succeeded = &told.succeeded;
        let never: Vec<&String> = succeeded.difference(&names).collect();
        assert!(never.is_empty(), "never ran: {never:?}");
        assert!(
            succeeded.len() * 2 > self.round,
            "few of {} ended well: {succeeded:?}",
            self.round
        );
    }
}

/// The Deployment has its pod, and every pod that runs once is over.
fn rest(cluster: &Cluster) {
    wait_churn(cluster, 1);
    e2e(cluster).wait("pods -l app=once", "all over", |list| items(list).iter().all(is_over));
}

fn is_over(pod: &Value) -> bool {
    match text(pod, "/status/phase").as_str() {
        "Succeeded" => true,
        "Failed" => is_cut_off(pod, "state"),
        _ => false,
    }
}

/// A kill within StartContainer makes the runtime give up a container that may have run: nobody
/// knows, so it counts as one that did.
fn is_cut_off(pod: &Value, state: &str) -> bool {
    let end = &pod["status"]["containerStatuses"][0][state]["terminated"];
    text(end, "/reason") == "StartError" && text(end, "/message").contains("context canceled")
}

/// Every failpoint that a registration, a start of the daemon and the traffic pass.
fn learn_steps(cluster: &mut Cluster, traffic: &mut Traffic, every: &[&str]) -> Vec<String> {
    let log = cluster.dir().join("steps");
    cluster.kill_agent(1).unwrap();
    delete_node(cluster);
    cluster.node_mut(1).agent_env("LONGSHORE_FAILPOINT_LOG", &log.display().to_string());
    cluster.start_agent(1).unwrap();
    cluster.wait_ready(LIMIT_S).unwrap();
    let mut steps = BTreeSet::new();
    // The first round has nothing to end; and one in which something ends early may miss a step.
    for round in 0..6 {
        rest(cluster);
        let text = std::fs::read_to_string(&log).unwrap();
        steps = text.lines().map(str::to_owned).collect();
        if round > 1 && every.iter().all(|step| steps.contains(*step)) {
            break;
        }
        traffic.go_on(cluster);
    }
    restart(cluster);
    steps.into_iter().collect()
}

/// The daemon's end when it registers its node.
fn register_and_die(cluster: &mut Cluster, step: &str) {
    cluster.kill_agent(1).unwrap();
    delete_node(cluster);
    cluster.node_mut(1).agent_env("LONGSHORE_FAILPOINT", step);
    cluster.start_agent(1).unwrap();
    wait_death(cluster, step, |_| {});
    restart(cluster);
    cluster.wait_ready(LIMIT_S).unwrap();
}

fn delete_node(cluster: &Cluster) {
    e2e(cluster).delete("node n1");
}

/// A daemon that dies at `step`, whatever traffic that takes.
fn die_at(cluster: &mut Cluster, traffic: &mut Traffic, step: &str) {
    cluster.kill_agent(1).unwrap();
    cluster.node_mut(1).agent_env("LONGSHORE_FAILPOINT", step);
    cluster.start_agent(1).unwrap();
    wait_death(cluster, step, |cluster| traffic.go_on(cluster));
}

/// Waits until a failpoint has ended the daemon; what makes it pass there is done now and again.
fn wait_death(cluster: &mut Cluster, step: &str, mut meanwhile: impl FnMut(&Cluster)) {
    let mut asked = 0;
    poll(&format!("the daemon to pass {step}"), || {
        if asked % 12 == 0 {
            meanwhile(cluster);
        }
        asked += 1;
        let exited = cluster.node_mut(1).agent_exited()?;
        assert!(matches!(exited, None | Some(None)), "{step}: it ended by itself: {exited:?}");
        Ok(exited.is_some())
    })
    .unwrap();
}

/// Kills the daemon if it is not dead yet, and starts one that dies nowhere.
fn restart(cluster: &mut Cluster) {
    cluster.kill_agent(1).unwrap();
    cluster.node_mut(1).agent_as_usual();
    cluster.start_agent(1).unwrap();
}

/// Its line in the file of its name says that it ran.
fn once(markers: &Path, number: usize) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: once-{number}, labels: {{app: once}}}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 2
  nodeSelector: {{kubernetes.io/hostname: n1}}
  containers:
    - name: main
      image: {AGNHOST}
      command: [/bin/sh, -c, 'echo ran >>/markers/once-{number}']
      volumeMounts: [{{name: markers, mountPath: /markers}}]
  volumes: [{{name: markers, hostPath: {{path: {}}}}}]
",
        markers.display()
    )
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

/// By the names of pods.
#[derive(Default)]
struct Told {
    /// They were to run once.
    succeeded: BTreeSet<String>,
    restarts: BTreeMap<String, u64>,
}

/// I5, I6: what the API server was told about a pod only ever goes forward.
fn judge_pods(events: &[(String, Value)]) -> Told {
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let (mut seen, mut told) = (BTreeSet::new(), Told::default());
    for (kind, pod) in events {
        let (name, uid) = (text(pod, "/metadata/name"), text(pod, "/metadata/uid"));
        seen.insert(name.clone());
        if name.starts_with("once-") && pod["status"]["phase"] == "Succeeded" {
            told.succeeded.insert(name.clone());
        }
        if let Some(before) = last.get(&uid) {
            let steps =
                format!("{name} ({kind}):\nfrom {:#}\nto {:#}", before["status"], pod["status"]);
            let steady = STEADY.contains(&name.as_str());
            // Ready goes only with a cause: deletion here, or the end of a pod that runs once.
            if is_ready(before) {
                let same = condition(before, "Ready") == condition(pod, "Ready");
                let over = name.starts_with("once-") && is_over(pod);
                assert!(same || (is_deleting(pod) || over) && !steady, "Ready {steps}");
            }
            let phase = |pod: &Value| match text(pod, "/status/phase").as_str() {
                "Pending" => 0,
                "Running" => 1,
                _ => 2,
            };
            assert!(phase(before) <= phase(pod), "phase {steps}");
            for field in ["/status/startTime", "/status/podIP", "/status/hostIP"] {
                let (old, new) = (text(before, field), text(pod, field));
                // Addresses go when a sandbox ends. They become others only where a kill cut a sandbox
                // off before anything ran in it.
                let another = field == "/status/podIP" && phase(before) == 0;
                assert!(
                    old.is_empty() || old == new || (new.is_empty() || another) && !steady,
                    "{field} {steps}"
                );
            }
            let restarts =
                |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_u64();
            assert!(restarts(before) <= restarts(pod), "restarts {steps}");
            if restarts(before) < restarts(pod) && restarts(pod) > Some(0) {
                assert!(!steady && is_cut_off(pod, "lastState"), "restarted {steps}");
                told.restarts.insert(name.clone(), restarts(pod).unwrap_or(0));
            }
            let id = |pod: &Value| text(pod, "/status/containerStatuses/0/containerID");
            // One whose start a kill cut off is made again.
            let ran = !before["status"]["containerStatuses"][0]["state"]["waiting"].is_object()
                && !is_cut_off(before, "state");
            assert!(!ran || id(before) == id(pod) || id(before).is_empty(), "another {steps}");
        }
        last.insert(uid, pod.clone());
    }
    assert!(STEADY.iter().all(|name| seen.contains(*name)), "{seen:?}");
    assert!(seen.len() > STEADY.len() + 10, "too little happened: {seen:?}");
    told
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
