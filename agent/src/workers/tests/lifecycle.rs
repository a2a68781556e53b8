//! Whole pods: from the world through decisions into the runtime, and back.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use longshore_core::model::{Change, ObjectKey, PodUid, Time};
use longshore_proto::cri;
use tonic::Code;

use super::Node;
use super::fake::Fault;
use crate::supervise::{Policy, Task};
use crate::workers::{Programmed, Shared, pods};

/// Runs the daemon's loops; dropping them is its death.
pub(super) fn start(shared: &Arc<Shared>) -> Vec<Task> {
    let scope = shared.scope.clone();
    let (a, b) = (shared.observer.clone(), shared.observer.clone());
    vec![
        scope.spawn("watch", Policy::Finite, async move { a.watch_pods().await }),
        scope.spawn("status", Policy::Finite, async move { b.watch_status().await }),
        scope.spawn("pods", Policy::Finite, pods::run(shared.clone())),
    ]
}

fn key() -> ObjectKey {
    ObjectKey::new("ns", "web")
}

pub(super) fn pod(uid: &str, more: serde_json::Value) -> Pod {
    let mut spec = serde_json::json!({
        "hostNetwork": true,
        "terminationGracePeriodSeconds": 3,
        "containers": [{"name": "app", "image": "app:1"}],
    });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let metadata = serde_json::json!({"name": "web", "namespace": "ns", "uid": uid});
    serde_json::from_value(serde_json::json!({"metadata": metadata, "spec": spec})).unwrap()
}

pub(super) fn apply(shared: &Shared, pod: Pod) {
    shared.store.edit(|world| {
        world.pods.insert(key(), Arc::new(pod));
        world.synced = true;
        vec![Change::Pod(key()), Change::Synced]
    });
}

pub(super) fn delete(shared: &Shared) {
    shared.store.edit(|world| {
        let mut pod = Pod::clone(&world.pods[&key()]);
        pod.metadata.deletion_timestamp = Some(crate::clock::now().to_api());
        world.pods.insert(key(), Arc::new(pod));
        vec![Change::Pod(key())]
    });
}

pub(super) fn with_image(name: &str) -> Node {
    let node = Node::new(name);
    node.fake.with(|r| r.registry.push("app:1".into()));
    node
}

pub(super) fn is_ready(shared: &Shared, uid: &str) -> bool {
    shared.store.snapshot().local.get(&PodUid::new(uid)).is_some_and(|local| local.ready)
}

fn running(node: &Node) -> usize {
    node.fake.with(|r| {
        let states = r.containers.values().map(cri::ContainerStatus::state);
        states.filter(|state| *state == cri::ContainerState::ContainerRunning).count()
    })
}

/// Calls that change something.
fn writes(node: &Node) -> u32 {
    let methods = [
        "RunPodSandbox",
        "StopPodSandbox",
        "RemovePodSandbox",
        "CreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
        "PullImage",
    ];
    methods.iter().map(|method| node.fake.calls(method)).sum()
}

pub(super) fn nothing_left(node: &Node) -> bool {
    node.fake.with(|r| r.sandboxes.is_empty() && r.containers.is_empty())
        && node.cgroups.paths.lock().unwrap().is_empty()
        && std::fs::read_dir(node.dir.join("pods")).is_ok_and(|mut dir| dir.next().is_none())
        && std::fs::read_dir(node.dir.join("logs")).is_ok_and(|mut dir| dir.next().is_none())
}

#[tokio::test]
async fn a189_the_loop_over_pods_is_seen_to_go_round() {
    let node = with_image("a189");
    let _daemon = start(&node.shared);
    let seen = |node: &Node| node.shared.heartbeat.check(Time(i64::MAX)).is_err();
    node.until("seen", seen).await;
    assert_eq!(node.shared.heartbeat.check(crate::clock::now()), Ok(()));
    // Nothing is listed from the runtime: it waits, and is well.
    let waiting = Node::new("a189-waits");
    let run = pods::run(waiting.shared.clone());
    let _daemon = waiting.shared.scope.spawn("pods", Policy::Finite, run);
    waiting.until("seen", seen).await;
}

#[tokio::test]
async fn a40_a62_a_pod_starts_in_order_and_leaves_nothing() {
    let node = with_image("a40");
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let log = node.fake.with(|r| r.log.clone());
    let order: Vec<&str> = log
        .iter()
        .map(String::as_str)
        .filter(|m| matches!(*m, "RunPodSandbox" | "CreateContainer" | "StartContainer"))
        .collect();
    assert_eq!(order, ["RunPodSandbox", "CreateContainer", "StartContainer"]);
    assert_eq!(node.fake.calls("PullImage"), 1);
    let links = || std::fs::read_dir(node.dir.join("containers")).map_or(0, Iterator::count);
    node.until("the log is linked", |_| links() == 1).await;
    delete(&node.shared);
    node.until("finished", |node| !node.finished.lock().unwrap().is_empty()).await;
    assert!(nothing_left(&node));
    assert_eq!(links(), 0);
    assert_eq!(*node.finished.lock().unwrap(), [PodUid::new("u1")]);
    assert!(node.shared.store.snapshot().local.is_empty());
}

#[tokio::test]
async fn i14_a_pod_at_rest_causes_no_write() {
    let node = with_image("i14");
    node.fake.with(|r| r.without_events = true);
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let lists = node.fake.calls("ListContainers");
    node.until("some lists later", |node| node.fake.calls("ListContainers") > lists + 2).await;
    let (before, revision) = (writes(&node), node.shared.store.snapshot().revision);
    // Woken for nothing, again and again.
    for _ in 0..20 {
        node.shared.store.edit(|_| vec![Change::Pod(key())]);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let lists = node.fake.calls("ListContainers");
    node.until("some lists later", |node| node.fake.calls("ListContainers") > lists + 2).await;
    assert_eq!(writes(&node), before);
    assert_eq!(node.shared.store.snapshot().revision, revision + 20);
}

#[tokio::test]
async fn f15_a_call_that_worked_but_lost_its_reply_makes_no_twin() {
    let node = with_image("f15");
    for method in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        node.fake.fail(method, Fault::LoseReply);
    }
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    assert_eq!(node.fake.with(|r| (r.sandboxes.len(), r.containers.len())), (1, 1));
    assert_eq!(node.fake.calls("RunPodSandbox"), 1);
    assert_eq!(node.fake.calls("CreateContainer"), 1);
}

#[tokio::test]
async fn f01_a_refused_step_is_tried_again_under_back_off_with_an_event() {
    let node = with_image("f01");
    for _ in 0..2 {
        let fault = Fault::Refuse(Code::Unknown, "the plugin said no".into());
        node.fake.fail("RunPodSandbox", fault);
    }
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    assert_eq!(node.fake.calls("RunPodSandbox"), 3);
    let events = node.shared.recorder.all();
    let told = events.iter().find(|event| event.reason == "FailedCreatePodSandBox").unwrap();
    assert!(told.message.contains("the plugin said no"), "{}", told.message);
}

#[tokio::test]
async fn a70_a_command_that_is_not_there_is_told() {
    let node = with_image("a70");
    for _ in 0..2 {
        let fault = Fault::Refuse(Code::Unknown, "exec: \"/nosuch\": not found".into());
        node.fake.fail("StartContainer", fault);
    }
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    let waiting = |node: &Node| {
        let world = node.shared.store.snapshot();
        let local = world.local.get(&PodUid::new("u1"))?;
        let container = local.status.container_statuses.as_ref()?.first()?.clone();
        container.state?.waiting?.reason
    };
    node.until("waiting", |node| waiting(node).as_deref() == Some("RunContainerError")).await;
    node.until("the second try", |node| node.fake.calls("StartContainer") == 2).await;
    node.until("told", |node| {
        let events = node.shared.recorder.all();
        events.iter().any(|e| e.reason == "Failed" && e.warning && e.message.contains("/nosuch"))
    })
    .await;
    node.until("waiting", |node| waiting(node).as_deref() == Some("RunContainerError")).await;
    assert_eq!(running(&node), 0);
}

#[tokio::test]
async fn f20_a_runtime_without_lost_tasks_is_asked_for_nothing_more() {
    let node = with_image("f20");
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let id = node.fake.with(|r| r.containers.keys().next().unwrap().clone());
    let words = format!("failed to delete containerd container: cannot delete running task {id}");
    node.fake.fail("RemoveContainer", Fault::Refuse(Code::FailedPrecondition, words));
    delete(&node.shared);
    node.until("finished", |node| !node.finished.lock().unwrap().is_empty()).await;
    assert_eq!(node.fake.calls("RemoveContainer"), 2);
    assert!(nothing_left(&node));
}

#[tokio::test]
async fn a96_a205_a_restart_adopts_and_writes_nothing() {
    let node = with_image("a96");
    let daemon = start(&node.shared);
    let manifest = pod("u1", serde_json::json!({}));
    apply(&node.shared, manifest.clone());
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let local = node.shared.store.snapshot().local[&PodUid::new("u1")].status.clone();
    drop(daemon);
    let before = writes(&node);
    let shared = node.restarted();
    let _daemon = start(&shared);
    apply(&shared, manifest);
    node.until("ready again", |_| is_ready(&shared, "u1")).await;
    assert_eq!(writes(&node), before);
    assert_eq!(running(&node), 1);
    assert_eq!(shared.store.snapshot().local[&PodUid::new("u1")].status, local);
}

#[tokio::test]
async fn a64_a205_a_restart_writes_nothing_for_a_pod_that_is_over() {
    let node = with_image("a64");
    node.fake.with(|r| r.without_events = true);
    let daemon = start(&node.shared);
    let manifest = pod("u1", serde_json::json!({"restartPolicy": "Never"}));
    apply(&node.shared, manifest.clone());
    node.until("running", |node| running(node) == 1).await;
    let id = node.fake.with(|r| r.containers.keys().next().unwrap().clone());
    node.fake.exit(&id, 0);
    let is_over = |shared: &Shared| {
        let world = shared.store.snapshot();
        let local = world.local.get(&PodUid::new("u1")).cloned();
        local.is_some_and(|local| local.status.phase.as_deref() == Some("Succeeded"))
    };
    node.until("settled", |node| {
        is_over(&node.shared) && node.cgroups.paths.lock().unwrap().is_empty()
    })
    .await;
    drop(daemon);
    let before = writes(&node);
    let shared = node.restarted();
    let _daemon = start(&shared);
    apply(&shared, manifest);
    node.until("known again", |_| is_over(&shared)).await;
    let lists = node.fake.calls("ListContainers");
    node.until("looked at again", |node| node.fake.calls("ListContainers") > lists + 2).await;
    assert_eq!(writes(&node), before);
}

#[tokio::test]
async fn a38_orphans_are_ended_only_after_the_first_complete_list() {
    let node = with_image("a38");
    let daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    drop(daemon);
    node.fake.with(|r| r.without_events = true);
    let shared = node.restarted();
    let _daemon = start(&shared);
    let lists = node.fake.calls("ListContainers");
    node.until("some lists later", |node| node.fake.calls("ListContainers") > lists + 3).await;
    assert_eq!(running(&node), 1, "before the sources have delivered");
    shared.store.edit(|world| {
        world.synced = true;
        vec![Change::Synced]
    });
    node.until("gone", nothing_left).await;
    assert_eq!(running(&node), 0);
}

/// Another root, and a kubelet with the same one: its pods have no directory here.
#[tokio::test]
async fn a37_what_another_daemon_made_is_left_alone() {
    for (name, root) in [("a37", "/kubepods"), ("a37-same", "/test/kubepods")] {
        others_are_left_alone(name, root).await;
    }
}

async fn others_are_left_alone(name: &str, root: &str) {
    let node = with_image(name);
    node.cgroups.paths.lock().unwrap().insert(format!("{root}/podx"));
    node.fake.with(|r| r.without_events = true);
    let labels = [("io.kubernetes.pod.uid", "x"), ("io.kubernetes.pod.name", "theirs")];
    let config = cri::PodSandboxConfig {
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: format!("{root}/podx"),
            ..Default::default()
        }),
        ..Default::default()
    };
    node.shared.cri.run_sandbox(config, String::new()).await.unwrap();
    let _daemon = start(&node.shared);
    node.shared.store.edit(|world| {
        world.synced = true;
        vec![Change::Synced]
    });
    node.until("some lists", |node| node.fake.calls("ListContainers") > 5).await;
    assert_eq!(node.fake.with(|r| r.sandboxes.len()), 1);
    assert_eq!(writes(&node), 1, "only the sandbox that the test itself made");
    assert_eq!(node.cgroups.paths.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn f12_a_question_about_one_pod_that_hangs_holds_up_no_other() {
    let node = with_image("f12-hang");
    node.fake.with(|r| r.without_events = true);
    let labels = [("io.kubernetes.pod.uid", "x"), ("io.kubernetes.pod.name", "theirs")];
    let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let config = cri::PodSandboxConfig { labels, ..Default::default() };
    let id = node.shared.cri.run_sandbox(config, String::new()).await.unwrap();
    node.fake.with(|r| r.hangs = Some(id));
    std::fs::create_dir_all(node.dir.join("pods/x")).unwrap();
    let _daemon = start(&node.shared);
    node.shared.store.edit(|world| {
        world.synced = true;
        vec![Change::Synced]
    });
    node.until("the question", |node| node.fake.calls("PodSandboxStatus") == 1).await;
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
}

#[tokio::test]
async fn a35_a_namesake_waits_until_the_old_pod_is_gone() {
    let node = with_image("a35");
    node.fake.with(|r| r.stop_takes_ms = 300);
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    apply(&node.shared, pod("u2", serde_json::json!({})));
    node.until("the new one ready", |node| is_ready(&node.shared, "u2")).await;
    let log = node.fake.with(|r| r.log.clone());
    let last_remove = log.iter().rposition(|m| m == "RemovePodSandbox").unwrap();
    let second_run = log.iter().rposition(|m| m == "RunPodSandbox").unwrap();
    assert!(last_remove < second_run, "{log:?}");
    assert_eq!(running(&node), 1);
}

#[tokio::test]
async fn c16_containers_wait_for_their_policy() {
    let node = with_image("c16");
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({"hostNetwork": false})));
    node.until("a sandbox", |node| node.fake.calls("RunPodSandbox") == 1).await;
    node.until("the image", |node| node.fake.calls("PullImage") == 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(node.fake.calls("CreateContainer"), 0);
    node.shared.programmed.set([PodUid::new("u1")].into());
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
}

#[tokio::test]
async fn a103_a_changed_config_map_reaches_the_volume() {
    let node = with_image("a103");
    let _daemon = start(&node.shared);
    let set = |value: &str| {
        let map = ConfigMap {
            data: Some([("k".to_owned(), value.to_owned())].into()),
            ..ConfigMap::default()
        };
        let key = ObjectKey::new("ns", "settings");
        node.shared.store.edit(|world| {
            world.config_maps.insert(key.clone(), Arc::new(map));
            vec![Change::ConfigMap(key)]
        });
    };
    set("one");
    let volumes = serde_json::json!({
        "volumes": [{"name": "v", "configMap": {"name": "settings"}}],
    });
    apply(&node.shared, pod("u1", volumes));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let file = node.dir.join("pods/u1/volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    set("two");
    node.until("new text", |_| std::fs::read_to_string(&file).is_ok_and(|t| t == "two")).await;
    assert_eq!(node.fake.calls("CreateContainer"), 1);
}

#[tokio::test]
async fn a48_a_container_that_ends_is_started_again_as_the_next_attempt() {
    let node = with_image("a48");
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let first = node.fake.with(|r| r.containers.keys().next().unwrap().clone());
    node.fake.exit(&first, 1);
    node.until("a second", |node| node.fake.calls("StartContainer") == 2).await;
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let attempts: Vec<u32> = node
        .fake
        .with(|r| r.containers.values().map(|c| c.metadata.as_ref().unwrap().attempt).collect());
    assert_eq!(attempts, [0, 1]);
}

#[tokio::test]
async fn a58_a_slow_stop_ends_with_its_grace_and_does_not_hold_up_the_worker() {
    let node = with_image("a58");
    node.fake.with(|r| r.stop_takes_ms = 60_000);
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    delete(&node.shared);
    node.until("stopping", |node| node.fake.calls("StopContainer") == 1).await;
    // Still answering while the stop is under way: it publishes that the pod is ending.
    node.until("terminating", |node| {
        node.shared.store.snapshot().local[&PodUid::new("u1")].terminating
    })
    .await;
    assert_eq!(running(&node), 1);
    node.until("finished", |node| !node.finished.lock().unwrap().is_empty()).await;
    assert!(nothing_left(&node));
}

#[tokio::test]
async fn decision_12_a_terminating_pod_leaves_the_dataplane_before_sigterm() {
    let mut node = with_image("d12");
    let patient = Programmed::with_patience(Duration::from_secs(10));
    Arc::get_mut(&mut node.shared).unwrap().programmed = patient.clone();
    let _daemon = start(&node.shared);
    // A slow dataplane that notes when it has taken a terminating pod in.
    let (store, fake) = (node.shared.store.clone(), node.fake.clone());
    let _dataplane = node.shared.scope.spawn("dataplane", Policy::Finite, async move {
        let mut changes = store.subscribe();
        loop {
            changes.next().await;
            let world = store.snapshot();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if world.local.values().any(|local| local.terminating) {
                fake.with(|r| r.log.push("taken in".to_owned()));
            }
            patient.reach(world.revision);
        }
    });
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    delete(&node.shared);
    node.until("finished", |node| !node.finished.lock().unwrap().is_empty()).await;
    let log = node.fake.with(|r| r.log.clone());
    let first = |what: &str| log.iter().position(|line| line == what).unwrap();
    assert!(first("taken in") < first("StopContainer"), "{log:?}");
}

#[tokio::test]
async fn a30_an_orphan_that_is_wanted_again_is_not_over() {
    let node = with_image("a30");
    node.fake.with(|r| r.stop_takes_ms = 300);
    let _daemon = start(&node.shared);
    let manifest = pod("u1", serde_json::json!({}));
    apply(&node.shared, manifest.clone());
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    node.shared.store.edit(|world| {
        world.pods.clear();
        vec![Change::Pod(key())]
    });
    node.until("stopping", |node| node.fake.calls("StopContainer") == 1).await;
    apply(&node.shared, manifest);
    node.until("started again", |node| node.fake.calls("StartContainer") == 2).await;
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
}

#[tokio::test]
async fn a50_an_image_that_was_imported_after_a_failed_pull_is_used() {
    let node = Node::new("a50");
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("a failed pull", |node| {
        node.shared.recorder.all().iter().any(|event| event.reason == "Failed")
    })
    .await;
    let image = cri::Image { id: "sha256:app".into(), ..Default::default() };
    node.fake.with(|r| r.images.insert("app:1".into(), image));
    node.shared.store.edit(|_| vec![Change::Pod(key())]);
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    assert_eq!(node.fake.calls("PullImage"), 1);
    let pulled = node.shared.recorder.all();
    let pulled = pulled.iter().find(|event| event.reason == "Pulled").unwrap();
    assert!(pulled.message.contains("already present"), "{}", pulled.message);
}

#[tokio::test]
async fn f03_a_pod_that_is_wanted_again_after_its_deletion_starts_afresh() {
    let node = with_image("f03");
    let daemon = start(&node.shared);
    let manifest = pod("u1", serde_json::json!({"restartPolicy": "Never"}));
    apply(&node.shared, manifest.clone());
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    node.fake.with(|r| r.stop_takes_ms = 60_000);
    delete(&node.shared);
    node.until("stopping", |node| node.fake.calls("StopContainer") == 1).await;
    drop(daemon);
    // It went on by itself, and the daemon died before it had forgotten the pod.
    node.fake.with(|r| {
        r.sandboxes.clear();
        r.containers.clear();
        r.container_sandbox.clear();
    });
    let shared = node.restarted();
    let _daemon = start(&shared);
    apply(&shared, manifest);
    node.until("ready again", |_| is_ready(&shared, "u1")).await;
}
