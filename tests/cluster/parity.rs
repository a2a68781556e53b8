//! The same pods on kubelet v1.37.1 and on Longshore: the same status, the same events, the same Node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use longshore_tests::cluster::{Agent, Cluster};
use serde_json::{Value, json};

use crate::script::*;

/// Values that may differ: where in a pod's status, and why. Only the value is excused, never that
/// the field is there.
const EXCUSED_IN_STATUS: &[(&str, &str)] = &[
    ("/startTime", "a time"),
    ("/conditions/*/lastTransitionTime", "a time"),
    ("/containerStatuses/*/state/*/startedAt", "a time"),
    ("/containerStatuses/*/state/*/finishedAt", "a time"),
    ("/containerStatuses/*/lastState/*/startedAt", "a time"),
    ("/containerStatuses/*/lastState/*/finishedAt", "a time"),
    ("/initContainerStatuses/*/state/*/startedAt", "a time"),
    ("/initContainerStatuses/*/state/*/finishedAt", "a time"),
    ("/containerStatuses/*/containerID", "an ID of the runtime"),
    ("/containerStatuses/*/state/*/containerID", "an ID of the runtime"),
    ("/containerStatuses/*/lastState/*/containerID", "an ID of the runtime"),
    ("/initContainerStatuses/*/containerID", "an ID of the runtime"),
    ("/initContainerStatuses/*/state/*/containerID", "an ID of the runtime"),
    ("/podIP", "an address"),
    ("/podIPs/*/ip", "an address"),
];

/// As [`EXCUSED_IN_STATUS`], in a Node without its `spec` and most of its metadata.
const EXCUSED_IN_NODE: &[(&str, &str)] = &[
    ("/status/conditions/*/lastHeartbeatTime", "a time"),
    ("/status/conditions/*/lastTransitionTime", "a time"),
    ("/status/nodeInfo/kubeletVersion", "it says that it is Longshore"),
    (
        "/status/images",
        "their order and digests are the runtime's; a13 and a14 have tests of their own",
    ),
    ("/status/capacity/ephemeral-storage", "kubelet measures the root of its image file system"),
    ("/status/allocatable/ephemeral-storage", "follows from its capacity"),
];

/// Left out on both sides: where in a pod's status, and why.
const LEFT_OUT_OF_STATUS: &[(&str, &str)] = &[
    (
        "/resources",
        "of the resize of whole pods, which is not declared: the kubelet reads it back from the pod's cgroup, on cgroup v1 a number in the place of no limit",
    ),
    ("/allocatedResources", "of the resize of whole pods"),
];

/// As [`LEFT_OUT_OF_STATUS`], of a Node.
const LEFT_OUT_OF_NODE: &[(&str, &str)] =
    &[("/status/declaredFeatures", "features that are not there are not declared")];

/// No excuse may be about one of these.
const NEVER_EXCUSED: [&str; 5] = ["phase", "reason", "exitCode", "restartCount", "Ready"];

/// What one agent made of it.
struct Seen {
    /// Pod name → status, with UIDs and names of pods made the same.
    statuses: BTreeMap<String, Value>,
    /// Pod name → type, reason and component of its events.
    events: BTreeMap<String, BTreeSet<String>>,
    node: Value,
}

fn seen() -> &'static [Seen; 2] {
    static SEEN: OnceLock<[Seen; 2]> = OnceLock::new();
    SEEN.get_or_init(|| [Agent::Kubelet, Agent::Longshore].map(look))
}

/// A pod, and when its status is the one to compare.
struct Case {
    name: &'static str,
    manifest: String,
    settled: fn(&Value) -> bool,
}

fn case(name: &'static str, manifest: String, settled: fn(&Value) -> bool) -> Case {
    Case { name, manifest, settled }
}

/// The five of every comparison first, then what else has a reason of its own. A crash loop is not
/// among them: the kubelet of now looks at such a pod again only when its wait is over, and does not
/// show CrashLoopBackOff by itself.
fn cases() -> Vec<Case> {
    let with =
        |manifest: String, container: &str| manifest.trim_end().to_owned() + "\n" + container;
    let never = "  restartPolicy: Never\n";
    let init =
        format!("  initContainers: [{{name: first, image: {WORKLOAD}, args: [exit, '0']}}]\n");
    let flip = shell("flip", "touch /tmp/ready; sleep 1000000", "");
    let probe = "      readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1, failureThreshold: 1}\n";
    let oom = pod_of("oom", "", AGNHOST, never)
        .replace("args: ['']", "command: [/bin/dd, if=/dev/zero, of=/dev/null, bs=200M, count=1]");
    let missing = pod("noimage", "sleep", "").replace("workload:1", "is-not-there:1");
    let rich =
        "      resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {cpu: 500m, memory: 64Mi}}
      ports: [{containerPort: 8080}]
      livenessProbe: {httpGet: {path: /healthz, port: 8080}}
      startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
      volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]\n";
    vec![
        case("always", pod("always", "sleep", ""), is_ready),
        case("never", pod("never", "exit 3 --after 1", never), |pod| is_over(pod, "Failed")),
        case("init", pod("init", "sleep", &init), is_ready),
        case("flip", with(flip, probe), |pod| has_run(pod) && !is_ready(pod)),
        case("oom", with(oom, "      resources: {limits: {memory: 24Mi}}\n"), |pod| {
            is_over(pod, "Failed")
        }),
        case(
            "succeeds",
            pod("succeeds", "exit 0 --after 1", "  restartPolicy: OnFailure\n"),
            |pod| is_over(pod, "Succeeded"),
        ),
        case("noimage", with(missing, "      imagePullPolicy: Never\n"), |pod| {
            waits(pod) == "ErrImageNeverPull" && !text(pod, "/status/podIP").is_empty()
        }),
        case(
            "noconfig",
            with(
                pod("noconfig", "sleep", ""),
                "      envFrom: [{configMapRef: {name: is-not-there}}]\n",
            ),
            |pod| waits(pod) == "CreateContainerConfigError",
        ),
        case(
            "nostart",
            pod("nostart", "", never).replace("args: ['']", "command: [/is-not-there]"),
            |pod| is_over(pod, "Failed"),
        ),
        case(
            "toobig",
            with(
                pod("toobig", "sleep", "  nodeName: n1\n"),
                "      resources: {requests: {cpu: '1000'}}\n",
            ),
            |pod| text(pod, "/status/phase") == "Failed",
        ),
        case("rich", with(pod("rich", "web --port 8080", ""), rich), is_ready),
    ]
}

fn container(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

/// In that phase, and its sandbox is stopped: the kubelet says both at once.
fn is_over(pod: &Value, phase: &str) -> bool {
    let sandbox = &condition(pod, "PodReadyToStartContainers")["status"];
    text(pod, "/status/phase") == phase && sandbox == "False"
}

/// The reason for which its container waits.
fn waits(pod: &Value) -> String {
    text(container(pod), "/state/waiting/reason")
}

fn has_run(pod: &Value) -> bool {
    container(pod)["state"]["running"].is_object()
}

fn look(agent: Agent) -> Seen {
    let cluster = cluster("parity", 1, |options| options.agent = agent);
    let space = e2e(&cluster);
    let mut seen = Seen { statuses: BTreeMap::new(), events: BTreeMap::new(), node: Value::Null };
    for Case { name, manifest, settled } in cases() {
        space.apply(&manifest);
        if name == "flip" {
            space.wait_ready(name);
            space.kubectl("exec flip -- rm /tmp/ready").check().unwrap();
        }
        let pod = space.wait(&format!("pod {name}"), "to compare", settled);
        let mut status = replace_text(pod["status"].clone(), &text(&pod, "/metadata/uid"), "UID");
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            // Admission makes it up for each pod.
            let volume = text(volume, "/name");
            if volume.starts_with("kube-api-access-") {
                status = replace_text(status, &volume, "TOKENS");
            }
        }
        seen.statuses.insert(name.to_owned(), status);
        seen.events.insert(name.to_owned(), events(&space, name));
    }
    seen.node = node_object(&cluster);
    seen
}

fn events(space: &Space<'_>, name: &str) -> BTreeSet<String> {
    // The last of them may follow the status by a moment.
    let mut last = BTreeSet::new();
    poll("events that do not change", || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let list = space.get(&format!("events --field-selector involvedObject.name={name}"));
        let one = |event: &Value| {
            ["/type", "/reason", "/source/component", "/involvedObject/fieldPath"]
                .map(|field| text(event, field))
                .join(" ")
        };
        // Controllers have theirs, whoever runs the pod.
        let is_nodes = |event: &&Value| text(event, "/source/component") == "kubelet";
        let now: BTreeSet<String> = items(&list).iter().filter(is_nodes).map(one).collect();
        let same = now == last;
        last = now;
        Ok(same)
    })
    .unwrap();
    last
}

fn node_object(cluster: &Cluster) -> Value {
    let node = e2e(cluster).get("node n1");
    let metadata = &node["metadata"];
    json!({
        "labels": metadata["labels"],
        "annotations": metadata["annotations"],
        "taints": node["spec"]["taints"],
        "status": node["status"],
    })
}

fn replace_text(value: Value, from: &str, to: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(from, to)),
        Value::Array(items) => items.into_iter().map(|item| replace_text(item, from, to)).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, replace_text(value, from, to))).collect()
        }
        other => other,
    }
}

/// Puts a word in the place of what a pattern names. `*` is any element or field.
pub fn excuse(value: &mut Value, pattern: &str) {
    let Some(rest) = pattern.strip_prefix('/') else {
        *value = Value::String("excused".to_owned());
        return;
    };
    let (head, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match value {
        Value::Array(items) if head == "*" => items.iter_mut().for_each(|item| excuse(item, tail)),
        Value::Object(fields) if head == "*" => {
            fields.values_mut().for_each(|field| excuse(field, tail));
        }
        Value::Object(fields) => {
            if let Some(field) = fields.get_mut(head) {
                excuse(field, tail);
            }
        }
        _ => {}
    }
}

/// Takes a field away.
fn leave_out(value: &mut Value, pattern: &str) {
    let (parent, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if let Some(fields) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
        fields.remove(name);
    }
}

/// One line for each place where they are not the same.
pub fn differences(at: &str, wanted: &Value, got: &Value, found: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let (one, two) = (&wanted[key.as_str()], &got[key.as_str()]);
                differences(&format!("{at}/{key}"), one, two, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (one, two)) in a.iter().zip(b).enumerate() {
                differences(&format!("{at}/{index}"), one, two, found);
            }
        }
        (one, two) if one == two => {}
        (one, two) => found.push(format!("{at}: wanted {one}, got {two}")),
    }
}

#[test]
fn a64_a65_a66_a68_a69_a70_a_pods_status_is_the_kubelets() {
    for (pattern, _) in EXCUSED_IN_STATUS.iter().chain(LEFT_OUT_OF_STATUS) {
        assert!(NEVER_EXCUSED.iter().all(|word| !pattern.contains(word)), "{pattern}");
    }
    let [kubelet, longshore] = seen();
    let mut found = Vec::new();
    for (name, wanted) in &kubelet.statuses {
        let (mut wanted, mut got) = (wanted.clone(), longshore.statuses[name].clone());
        for (pattern, _) in EXCUSED_IN_STATUS {
            excuse(&mut wanted, pattern);
            excuse(&mut got, pattern);
        }
        for (pattern, _) in LEFT_OUT_OF_STATUS {
            leave_out(&mut wanted, pattern);
            leave_out(&mut got, pattern);
        }
        differences(name, &wanted, &got, &mut found);
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a194_a_pods_events_are_the_kubelets() {
    let [kubelet, longshore] = seen();
    let mut found = Vec::new();
    for (name, wanted) in &kubelet.events {
        let got = &longshore.events[name];
        found.extend(wanted.difference(got).map(|one| format!("{name}: not told: {one}")));
        found.extend(got.difference(wanted).map(|one| format!("{name}: not the kubelet's: {one}")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a2_a6_a8_a9_a10_a15_a16_the_node_is_the_kubelets() {
    let [kubelet, longshore] = seen();
    let (mut wanted, mut got) = (kubelet.node.clone(), longshore.node.clone());
    for (pattern, _) in EXCUSED_IN_NODE {
        excuse(&mut wanted, pattern);
        excuse(&mut got, pattern);
    }
    for (pattern, _) in LEFT_OUT_OF_NODE {
        leave_out(&mut wanted, pattern);
        leave_out(&mut got, pattern);
    }
    let mut found = Vec::new();
    differences("node", &wanted, &got, &mut found);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
