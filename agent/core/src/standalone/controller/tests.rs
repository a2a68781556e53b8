use std::fmt::Write as _;

use k8s_openapi::api::core::v1::PodStatus;
use proptest::prelude::*;

use super::super::{Catalog, parse, recover, state};
use super::*;
use crate::model::World;
use crate::standalone::hosts_entries;

/// A directory, the node and its pods, in one place.
struct Node {
    catalog: Catalog,
    state: State,
    live: OrdMap<PodUid, Arc<LocalPod>>,
    settings: Settings,
    now: Time,
    problems: Vec<Located>,
    wake_at: Option<Time>,
    desired: Desired,
}

impl Node {
    fn new() -> Self {
        Self {
            catalog: Catalog::default(),
            state: State::default(),
            live: OrdMap::new(),
            settings: Settings {
                node_name: "node-a".to_owned(),
                node_ips: vec!["192.0.2.1".parse().unwrap()],
                service_cidr: "10.96.0.0/24".parse().unwrap(),
            },
            now: Time::from_unix_ms(1_000_000_000_000),
            problems: Vec::new(),
            wake_at: None,
            desired: Desired::default(),
        }
    }

    fn file(&mut self, name: &str, text: &str) -> &mut Self {
        self.catalog.set(name, parse(name, text));
        self
    }

    fn outcome(&mut self) -> Outcome {
        let manifests = self.catalog.settle();
        let inputs = Inputs {
            manifests: &manifests,
            settings: &self.settings,
            live: &self.live,
            now: self.now,
        };
        reconcile(&inputs, &self.state)
    }

    fn reconcile(&mut self) -> &mut Self {
        let outcome = self.outcome();
        self.state = outcome.state;
        self.problems = outcome.problems;
        self.wake_at = outcome.wake_at;
        self.desired = outcome.desired;
        let again = self.outcome();
        assert!(again.state == self.state, "reconcile is idempotent");
        assert!(again.desired == self.desired, "reconcile is idempotent");
        self
    }

    fn pods(&self) -> Vec<String> {
        self.desired.pods.iter().map(|(key, pod)| describe(key, pod)).collect()
    }

    fn key(&self, prefix: &str) -> ObjectKey {
        self.desired.pods.keys().find(|key| key.name.starts_with(prefix)).unwrap().clone()
    }

    fn uid(&self, key: &ObjectKey) -> PodUid {
        PodUid::new(self.desired.pods[key].metadata.uid.clone().unwrap())
    }

    fn live(&mut self, key: &ObjectKey, ready: bool, phase: &str) {
        let n = self.live.len() + 1;
        let old = self.live.get(&self.uid(key)).map(|old| old.status.pod_ip.clone());
        let ip = old.flatten().unwrap_or_else(|| format!("10.85.0.{n}"));
        let status =
            PodStatus { phase: Some(phase.to_owned()), pod_ip: Some(ip), ..PodStatus::default() };
        let live = LocalPod { ready, status, ..LocalPod::default() };
        self.live.insert(self.uid(key), Arc::new(live));
    }

    fn finish(&mut self, key: &ObjectKey) -> bool {
        let uid = self.uid(key);
        finished(&mut self.state, key, &uid)
    }

    fn all_ready(&mut self) {
        for key in self.desired.pods.keys().cloned().collect::<Vec<_>>() {
            self.live(&key, true, "Running");
        }
    }

    fn finish_deleting(&mut self) {
        let deleting: Vec<ObjectKey> =
            self.state.pods.iter().filter(|(_, p)| p.deleting()).map(|(k, _)| k.clone()).collect();
        for key in deleting {
            assert!(self.finish(&key));
        }
    }
}

fn describe(key: &ObjectKey, pod: &Pod) -> String {
    let mut text = key.to_string();
    if let Some(at) = &pod.metadata.deletion_timestamp {
        let _ = write!(text, " until {}", Time::from_api(at).unix_ms() / 1000);
    }
    text
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 5\n  containers: [{{name: c, image: {image}, ports: [{{name: http, containerPort: 8080}}]}}]\n---\n"
    )
}

fn deployment(name: &str, replicas: u32, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n{more}  selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      containers: [{{name: c, image: {image}, ports: [{{name: http, containerPort: 8080}}]}}]\n---\n"
    )
}

fn service(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: http}}]{more}}}\n---\n"
    )
}

#[test]
fn f29_an_edited_pod_is_replaced_only_when_the_old_one_is_gone() {
    let mut node = Node::new();
    node.file("p.yaml", &pod("a", "x:1")).reconcile();
    let key = ObjectKey::new("default", "a");
    let first = node.uid(&key);
    assert_eq!(node.pods(), ["default/a"]);
    node.file("p.yaml", &pod("a", "x:2")).reconcile();
    assert_eq!(node.pods(), ["default/a until 1000000005"]);
    assert_eq!(node.uid(&key), first);
    // The grace period is not prolonged, and the file's return does not revive the pod.
    node.now = node.now.plus_s(2);
    node.file("p.yaml", &pod("a", "x:1")).reconcile();
    assert_eq!(node.pods(), ["default/a until 1000000005"]);
    assert!(!finished(&mut node.state, &key, &PodUid::new("other")));
    assert!(node.finish(&key));
    node.reconcile();
    assert_eq!(node.pods(), ["default/a"]);
    assert_ne!(node.uid(&key), first, "the same text is another pod");
}

#[test]
fn f29_labels_change_in_place_and_meaningless_edits_change_nothing() {
    let mut node = Node::new();
    node.file("p.yaml", &pod("a", "x:1")).reconcile();
    let key = ObjectKey::new("default", "a");
    let first = node.uid(&key);
    node.file("p.yaml", &pod("a", "x:1").replace("app: a", "app: b")).reconcile();
    assert_eq!(node.uid(&key), first);
    assert_eq!(node.desired.pods[&key].metadata.labels.as_ref().unwrap()["app"], "b");
    node.file("p.yaml", &pod("a", "x:1").replace("spec:\n", "spec:\n  restartPolicy: Always\n"))
        .reconcile();
    assert_eq!((node.uid(&key), node.pods()), (first, vec!["default/a".to_owned()]));
}

#[test]
fn f67_a_removed_file_ends_its_pods_and_a_broken_one_does_not() {
    let mut node = Node::new();
    node.file("p.yaml", &pod("a", "x:1")).file("q.yaml", &pod("b", "x:1")).reconcile();
    node.file("p.yaml", "kind: [");
    node.catalog.remove("q.yaml");
    node.reconcile();
    assert_eq!(node.pods(), ["default/a", "default/b until 1000000005"]);
    let key = node.key("b");
    node.finish(&key);
    node.reconcile();
    assert_eq!(node.pods(), ["default/a"]);
}

#[test]
fn deployment_replicas_have_the_names_and_labels_of_a_replica_set() {
    let mut node = Node::new();
    node.file("d.yaml", &deployment("web", 3, "x:1", "")).reconcile();
    assert_eq!(node.desired.pods.len(), 3);
    for (key, pod) in &node.desired.pods {
        let labels = pod.metadata.labels.as_ref().unwrap();
        let hash = &labels["pod-template-hash"];
        assert!(key.name.starts_with(&format!("web-{hash}-")), "{key}");
        assert_eq!(key.name.len(), "web--".len() + 10 + 5);
        assert_eq!(pod.metadata.owner_references.as_ref().unwrap()[0].name, format!("web-{hash}"));
        assert_eq!(pod.spec.as_ref().unwrap().enable_service_links, Some(true));
    }
}

#[test]
fn deployment_rolls_with_surge_and_scales_in_place() {
    let mut node = Node::new();
    node.file("d.yaml", &deployment("web", 4, "x:1", "")).reconcile();
    node.all_ready();
    node.reconcile();
    node.file("d.yaml", &deployment("web", 4, "x:2", "")).reconcile();
    let deleting = |node: &Node| node.state.pods.values().filter(|pod| pod.deleting()).count();
    // 25 % of 4: one more (pods that are ending do not count), one less.
    assert_eq!((node.desired.pods.len(), deleting(&node)), (6, 1));
    for _ in 0..8 {
        node.all_ready();
        node.finish_deleting();
        node.reconcile();
    }
    assert_eq!((node.desired.pods.len(), deleting(&node)), (4, 0));
    let images: BTreeSet<_> = node
        .desired
        .pods
        .values()
        .map(|p| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap())
        .collect();
    assert_eq!(images, BTreeSet::from(["x:2".to_owned()]));
    let names: Vec<ObjectKey> = node.desired.pods.keys().cloned().collect();
    node.file("d.yaml", &deployment("web", 5, "x:2", "")).reconcile();
    assert!(names.iter().all(|name| node.desired.pods.contains_key(name)));
    assert_eq!(node.desired.pods.len(), 5);
    node.catalog.remove("d.yaml");
    node.reconcile();
    assert_eq!(deleting(&node), 5);
}

#[test]
fn deployment_ended_replicas_are_replaced_under_back_off() {
    let mut node = Node::new();
    node.file("d.yaml", &deployment("web", 1, "x:1", "  progressDeadlineSeconds: 6000\n"))
        .reconcile();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let key = node.key("web");
        node.live(&key, false, "Failed");
        node.reconcile();
        node.finish_deleting();
        node.reconcile();
        assert_eq!(node.pods(), [""; 0]);
        waits.push((node.wake_at.unwrap() - node.now) / 1000);
        node.now = node.wake_at.unwrap();
        node.reconcile();
        assert_eq!(node.desired.pods.len(), 1);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
}

#[test]
fn deployment_waits_min_ready_seconds_and_says_when_nothing_progresses() {
    let mut node = Node::new();
    node.file("d.yaml", &deployment("web", 1, "x:1", "  progressDeadlineSeconds: 60\n"))
        .reconcile();
    assert_eq!(node.wake_at, Some(node.now.plus_s(60)));
    node.now = node.now.plus_s(60);
    node.reconcile();
    assert_eq!(node.problems[0].problem.reason, "ProgressDeadlineExceeded");
    node.all_ready();
    node.reconcile();
    assert_eq!(node.problems, []);
    // Scaling long after that starts a new time.
    node.now = node.now.plus_s(6000);
    node.file("d.yaml", &deployment("web", 2, "x:1", "  progressDeadlineSeconds: 60\n"))
        .reconcile();
    assert_eq!(node.problems, []);
}

#[test]
fn b_cluster_ips_are_stable_honoured_and_never_double() {
    let mut node = Node::new();
    let ip = |node: &Node, name: &str| {
        node.desired
            .services
            .get(&ObjectKey::new("default", name))
            .and_then(|s| s.spec.as_ref().unwrap().cluster_ip.clone())
    };
    node.file(
        "s.yaml",
        &(service("a", "") + &service("b", "") + &service("h", ", clusterIP: None")),
    )
    .reconcile();
    let (a, b) = (ip(&node, "a").unwrap(), ip(&node, "b").unwrap());
    assert_ne!(a, b);
    assert_eq!(ip(&node, "h").unwrap(), "None");
    // A new Service that asks for a taken address is refused; nobody else is harmed.
    node.file("t.yaml", &service("c", &format!(", clusterIP: {a}"))).reconcile();
    assert_eq!(ip(&node, "c"), None);
    assert_eq!(
        node.problems[0].to_string(),
        format!("t.yaml:1: Service default/c: spec.clusterIP: {a} belongs to Service default/a")
    );
    // An edit that cannot be honoured keeps the last good version.
    node.file("s.yaml", &(service("a", ", clusterIP: 10.97.0.1") + &service("b", ""))).reconcile();
    assert_eq!(ip(&node, "a"), Some(a.clone()));
    assert!(
        node.problems
            .iter()
            .any(|p| p.to_string().contains("not in the service range 10.96.0.0/24"))
    );
    // Moving frees the old address for the one that waits.
    node.file("s.yaml", &(service("a", ", clusterIP: 10.96.0.9") + &service("b", ""))).reconcile();
    assert_eq!(
        (ip(&node, "a").unwrap().as_str(), ip(&node, "c"), ip(&node, "b")),
        ("10.96.0.9", Some(a), Some(b.clone()))
    );
    assert_eq!(node.problems, []);
    // A restart keeps all of it.
    let (catalog, state) = state::from_text(&state::to_text(&node.catalog, &node.state)).unwrap();
    assert_eq!((&state, catalog.clone().settle()), (&node.state, node.catalog.settle()));
    // Gone is gone.
    node.catalog.remove("s.yaml");
    node.reconcile();
    assert_eq!(ip(&node, "b"), None);
}

#[test]
fn b_a_full_service_range_is_said() {
    let mut node = Node::new();
    node.settings.service_cidr = "10.96.0.0/30".parse().unwrap();
    let text: String = ["a", "b", "c"].iter().map(|name| service(name, "")).collect();
    node.file("s.yaml", &text).reconcile();
    assert_eq!(node.desired.services.len(), 2);
    assert!(node.problems[0].problem.message.contains("no free address"));
}

fn endpoints(node: &Node) -> Vec<String> {
    let slices = node.desired.endpoint_slices.values();
    let mut lines: Vec<String> = slices
        .flat_map(|slice| {
            let ports: Vec<i32> =
                slice.ports.iter().flatten().filter_map(|port| port.port).collect();
            slice.endpoints.iter().flatten().map(move |endpoint| {
                let c = endpoint.conditions.clone().unwrap();
                let name = endpoint.target_ref.as_ref().and_then(|r| r.name.clone()).unwrap();
                format!(
                    "{name} {} {ports:?} {} {} {}",
                    endpoint.addresses[0],
                    c.ready.unwrap(),
                    c.serving.unwrap(),
                    c.terminating.unwrap()
                )
            })
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn b27_slices_follow_readiness_termination_and_named_ports() {
    let mut node = Node::new();
    let renamed = |name: &str| pod(name, "x").replace(&format!("app: {name}"), "app: web");
    let text =
        renamed("a") + &renamed("b").replace("8080", "9090") + &renamed("c") + &service("web", "");
    node.file("f.yaml", &text).reconcile();
    assert_eq!(endpoints(&node), [""; 0], "no address yet");
    let (a, b, c) = (node.key("a"), node.key("b"), node.key("c"));
    node.live(&a, true, "Running");
    node.live(&b, false, "Running");
    node.live(&c, true, "Succeeded");
    node.reconcile();
    assert_eq!(
        endpoints(&node),
        ["a 10.85.0.1 [8080] true true false", "b 10.85.0.2 [9090] false false false"]
    );
    node.file("f.yaml", &(renamed("b") + &service("web", ", publishNotReadyAddresses: true")))
        .reconcile();
    assert_eq!(
        endpoints(&node),
        ["a 10.85.0.1 [8080] true true true", "b 10.85.0.2 [9090] true false true"]
    );
}

#[test]
fn b23_host_network_pods_are_the_node_and_slices_have_100_endpoints() {
    let mut node = Node::new();
    node.file("d.yaml", &(deployment("web", 201, "x", "") + &service("web", ""))).reconcile();
    node.all_ready();
    node.reconcile();
    let sizes: Vec<usize> = node
        .desired
        .endpoint_slices
        .values()
        .map(|s| s.endpoints.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes.iter().sum::<usize>(), 201);
    assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    let mut node = Node::new();
    node.file(
        "p.yaml",
        &(pod("web", "x").replace("spec:\n", "spec:\n  hostNetwork: true\n") + &service("web", "")),
    )
    .reconcile();
    let key = node.key("web");
    node.live(&key, true, "Running");
    node.reconcile();
    assert_eq!(endpoints(&node), ["web 192.0.2.1 [8080] true true false"]);
}

#[test]
fn c6_namespaces_exist_by_name_with_their_label() {
    let mut node = Node::new();
    let shop = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {team: t}}\n---\n";
    node.file("f.yaml", &(pod("a", "x").replace("name: a,", "name: a, namespace: back,") + shop))
        .reconcile();
    let labels: Vec<String> = node
        .desired
        .namespaces
        .values()
        .map(|n| format!("{:?}", n.metadata.labels.as_ref().unwrap()))
        .collect();
    assert_eq!(
        labels,
        [
            r#"{"kubernetes.io/metadata.name": "back"}"#,
            r#"{"kubernetes.io/metadata.name": "default"}"#,
            r#"{"kubernetes.io/metadata.name": "shop", "team": "t"}"#,
        ]
    );
}

#[test]
fn a199_hosts_have_service_names_short_only_at_home() {
    let mut node = Node::new();
    let text = service("web", ", clusterIP: 10.96.0.5")
        + &service("db", ", clusterIP: None").replace("name: db", "name: db, namespace: back")
        + &pod("db", "x").replace("name: db,", "name: db, namespace: back,");
    node.file("f.yaml", &text).reconcile();
    let key = node.key("db");
    node.live(&key, true, "Running");
    node.reconcile();
    let world = World {
        services: node.desired.services.clone().into_iter().collect(),
        endpoint_slices: node.desired.endpoint_slices.clone().into_iter().collect(),
        ..World::default()
    };
    let lines = |namespace: &str| -> Vec<String> {
        hosts_entries(&world, namespace, "cluster.local")
            .iter()
            .map(|(ip, names)| format!("{ip} {}", names.join(" ")))
            .collect()
    };
    assert_eq!(
        lines("default"),
        [
            "10.85.0.1 db.back db.back.svc db.back.svc.cluster.local",
            "10.96.0.5 web web.default web.default.svc web.default.svc.cluster.local",
        ]
    );
    assert!(lines("back")[0].starts_with("10.85.0.1 db db.back "));
    assert!(lines("back")[1].starts_with("10.96.0.5 web.default "));
}

#[test]
fn f39_a_lost_checkpoint_adopts_running_pods_by_name_and_uid() {
    let mut node = Node::new();
    node.file("f.yaml", &(pod("a", "x:1") + &pod("b", "x:1") + &deployment("web", 3, "x:1", "")))
        .reconcile();
    node.all_ready();
    // The second incarnation of `a`, and a replica that was replaced.
    node.file("f.yaml", &(pod("a", "x:2") + &pod("b", "x:1") + &deployment("web", 3, "x:1", "")))
        .reconcile();
    let replica = node.key("web");
    node.live(&replica, false, "Failed");
    node.now = node.now.plus_s(1);
    node.reconcile();
    node.finish_deleting();
    node.now = node.now.plus_s(60);
    node.reconcile();
    let mut running: Vec<(ObjectKey, PodUid)> =
        node.state.pods.iter().map(|(k, p)| (k.clone(), p.uid())).collect();
    running.push((ObjectKey::new("default", "stranger"), PodUid::new("s")));
    let before: Vec<_> = node
        .desired
        .pods
        .iter()
        .map(|(key, pod)| (key.clone(), pod.metadata.uid.clone()))
        .collect();
    let manifests = node.catalog.settle();
    let inputs =
        Inputs { manifests: &manifests, settings: &node.settings, live: &node.live, now: node.now };
    node.state = recover(&inputs, &running);
    node.reconcile();
    let after: Vec<_> = node
        .desired
        .pods
        .iter()
        .map(|(key, pod)| (key.clone(), pod.metadata.uid.clone()))
        .collect();
    assert_eq!(before, after);
}

#[test]
fn f39_checkpoints_of_another_shape_are_refused() {
    let mut node = Node::new();
    node.file("f.yaml", &pod("a", "x:1")).reconcile();
    let text = state::to_text(&node.catalog, &node.state);
    for end in (0..text.len()).step_by(7) {
        assert!(state::from_text(&text[..end]).is_err());
    }
    let future = text.replacen("\"version\":1", "\"version\":2", 1);
    assert_eq!(state::from_text(&future).err(), Some(state::CheckpointError::Version(2)));
}

#[test]
fn f39_the_checkpoint_holds_no_secret_data() {
    let mut node = Node::new();
    node.file(
        "s.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}\n",
    )
    .reconcile();
    assert_eq!(node.desired.secrets.len(), 1);
    let text = state::to_text(&node.catalog, &node.state);
    assert!(!text.contains("password") && !text.contains("aHVudGVyMg"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random edits, ends and readiness: a name never has two lives at once, no address is given
    /// twice, reconciling again changes nothing, and a restart in between is not seen.
    #[test]
    fn f29_no_history_makes_two_pods_of_one_name(ops in proptest::collection::vec((0u8..8, 0usize..4, 0u32..4), 1..40)) {
        let mut node = Node::new();
        for (op, which, value) in ops {
            let before: BTreeMap<ObjectKey, PodUid> = node.state.pods.iter().map(|(k, p)| (k.clone(), p.uid())).collect();
            let names = ["a", "b", "c", "d"];
            let file = format!("{}.yaml", names[which]);
            let mut gone = None;
            match op {
                0 => { node.file(&file, &pod(names[which], &format!("x:{value}"))); }
                1 => { node.file(&file, &(deployment(names[which], value, "x:1", "") + &service(names[which], ""))); }
                2 => { node.file(&file, &deployment(names[which], value, "x:2", "")); }
                3 => node.catalog.remove(&file),
                4 => { node.file(&file, "{"); }
                5 => { node.all_ready(); }
                6 => {
                    let key = node.state.pods.keys().nth(which).cloned();
                    if let Some(key) = key {
                        let uid = node.state.pods[&key].uid();
                        finished(&mut node.state, &key, &uid).then(|| gone = Some(key));
                    }
                }
                _ => {
                    let (catalog, state) = state::from_text(&state::to_text(&node.catalog, &node.state)).unwrap();
                    prop_assert!(state == node.state);
                    let now = node.catalog.settle();
                    prop_assert!(catalog.clone().settle() == now);
                    node.catalog = catalog;
                }
            }
            node.now = node.now.plus_s(i64::from(value) * 20);
            node.reconcile();
            for (key, uid) in &before {
                if gone.as_ref() != Some(key) {
                    prop_assert_eq!(node.state.pods.get(key).map(|pod| pod.uid()), Some(uid.clone()));
                }
            }
            let ips: Vec<String> = node.desired.services.values().filter_map(|s| s.spec.clone()?.cluster_ip).collect();
            prop_assert_eq!(ips.iter().collect::<BTreeSet<_>>().len(), ips.len());
        }
    }

    /// The order in which files are read decides nothing.
    #[test]
    fn i15_the_order_of_files_decides_nothing(seed in proptest::collection::vec(0usize..100, 5)) {
        let texts = [
            pod("a", "x"),
            pod("a", "y") + &service("s", ", clusterIP: 10.96.0.7"),
            service("t", ", clusterIP: 10.96.0.7"),
            deployment("w", 2, "x", "") + &service("u", ""),
            "kind: [".to_owned(),
        ];
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|index| seed[*index]);
        let read = |order: &[usize]| {
            let mut node = Node::new();
            for index in order {
                node.file(&format!("{index}.yaml"), &texts[*index]);
            }
            node.reconcile();
            (node.desired, node.problems, node.catalog.problems())
        };
        prop_assert!(read(&order) == read(&[0, 1, 2, 3, 4]));
    }
}

/// One object of every kind, with most fields that are read.
const EVERYTHING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 2147483647
  volumes: [{name: v, configMap: {name: c, items: [{key: k, path: f}]}}, {name: e}]
  initContainers: [{name: i, image: x}]
  containers:
  - name: c
    image: reg/x:1
    env: [{name: A, value: "1"}, {name: B, valueFrom: {secretKeyRef: {name: s, key: k}}}]
    ports: [{name: http, containerPort: 8080}]
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 0.1}}
    volumeMounts: [{name: v, mountPath: /v}]
    readinessProbe: {httpGet: {port: http}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec: {replicas: 2, selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: x}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, clusterIP: 10.96.0.7, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: allow}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80, endPort: 90}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {k: v}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {k: aGV5}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"#;

#[test]
fn f65_everything_at_once_is_accepted() {
    let parsed = parse("all.yaml", EVERYTHING);
    assert_eq!(parsed.problems, []);
    assert_eq!(parsed.manifests.len(), 7);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a file says, the process lives, and what is accepted can be run.
    #[test]
    fn f65_no_text_stops_the_process(edits in proptest::collection::vec((0usize..2000, 0usize..24), 1..6)) {
        const WORDS: [&str; 24] = [
            "", "\n", " ", ":", "[", "{", "-", "null", "~", "-1", "1e308", "9999999999E", "99999999999999999999",
            "../..", "\u{0}", "\u{202e}", "&a", "*a", "<<: *a", "!!int x", "true", "'", "|", "0x7fffffffffffffff",
        ];
        let mut text = EVERYTHING.to_owned();
        for (at, word) in edits {
            let at = at % text.len();
            if let Some(line) = text.get(at..).and_then(|rest| rest.find([' ', '\n', ',', '}'])) {
                let start = at;
                let end = (at + line).max(start);
                if text.is_char_boundary(start) && text.is_char_boundary(end) {
                    text.replace_range(start..end, WORDS[word]);
                }
            }
        }
        let mut node = Node::new();
        node.file("all.yaml", &text).reconcile();
        node.all_ready();
        node.now = Time::from_unix_ms(i64::MAX / 4);
        node.catalog.remove("all.yaml");
        node.reconcile();
        prop_assert!(state::from_text(&state::to_text(&node.catalog, &node.state)).is_ok());
    }
}
