//! What the observer makes of lists, statuses and events.

use std::collections::BTreeSet;

use longshore_core::model::{ContainerState, PodUid, SandboxState};
use longshore_proto::cri;

use super::Node;
use super::fake::Fault;
use crate::supervise::Policy;

fn labels(uid: &str, name: &str) -> std::collections::BTreeMap<String, String> {
    [
        ("io.kubernetes.pod.uid", uid),
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.namespace", "ns"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

async fn make_pod(node: &Node, uid: &str, name: &str) -> (String, String) {
    let config = cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: uid.into(),
            namespace: "ns".into(),
            attempt: 0,
        }),
        labels: labels(uid, name),
        ..Default::default()
    };
    let sandbox = node.shared.cri.run_sandbox(config.clone(), String::new()).await.unwrap();
    let container = cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "app".into(), attempt: 3 }),
        labels: labels(uid, name),
        annotations: [("io.kubernetes.container.hash".to_owned(), "abc".to_owned())].into(),
        ..Default::default()
    };
    let id = node.shared.cri.create_container(&sandbox, container, config).await.unwrap();
    node.shared.cri.start_container(&id).await.unwrap();
    (sandbox, id)
}

#[tokio::test]
async fn a204_a_pod_is_known_from_labels_and_annotations_alone() {
    let node = Node::new("a204");
    let (sandbox, container) = make_pod(&node, "u1", "web").await;
    make_pod(&node, "u2", "other").await;
    let seen = node.shared.observer.pod(&PodUid::new("u1")).await.unwrap();
    assert_eq!(seen.sandboxes.len(), 1);
    assert_eq!((&seen.sandboxes[0].id, seen.sandboxes[0].state), (&sandbox, SandboxState::Ready));
    assert_eq!(seen.sandboxes[0].ips.len(), 1);
    assert_eq!(seen.containers.len(), 1);
    let app = &seen.containers[0];
    assert_eq!((app.id.as_str(), app.name.as_str(), app.attempt), (&*container, "app", 3));
    assert_eq!((app.hash.as_str(), &app.sandbox_id), ("abc", &sandbox));
    assert!(matches!(app.state, ContainerState::Running { .. }));
}

#[tokio::test]
async fn i14_details_are_asked_for_once_per_state() {
    let node = Node::new("i14-observe");
    let (_, container) = make_pod(&node, "u1", "web").await;
    let uid = PodUid::new("u1");
    for _ in 0..5 {
        node.shared.observer.pod(&uid).await.unwrap();
    }
    let calls =
        |node: &Node| (node.fake.calls("ContainerStatus"), node.fake.calls("PodSandboxStatus"));
    assert_eq!(calls(&node), (1, 1));
    node.fake.exit(&container, 7);
    for _ in 0..5 {
        let seen = node.shared.observer.pod(&uid).await.unwrap();
        assert!(matches!(seen.containers[0].state, ContainerState::Exited { exit_code: 7, .. }));
    }
    assert_eq!(calls(&node), (2, 1));
}

#[tokio::test]
async fn f12_a_runtime_that_does_not_answer_concludes_nothing() {
    let node = Node::new("f12");
    make_pod(&node, "u1", "web").await;
    let refused = Fault::Refuse(tonic::Code::Unavailable, "away".into());
    node.fake.fail("ListContainers", refused);
    assert!(node.shared.observer.pod(&PodUid::new("u1")).await.is_err());
}

async fn wakes_on_exit(name: &str, without_events: bool) {
    let node = Node::new(name);
    node.fake.with(|r| r.without_events = without_events);
    let (_, container) = make_pod(&node, "u1", "web").await;
    let observer = node.shared.observer.clone();
    let mut woken = observer.woken();
    let mut listed = observer.listed();
    let watching = observer.clone();
    let scope = node.supervisor.scope();
    let _task = scope.spawn("watch", Policy::Finite, async move { watching.watch_pods().await });
    listed.wait_for(|lists| *lists >= 1).await.unwrap();
    assert_eq!(woken.next().await, BTreeSet::from([PodUid::new("u1")]));
    assert_eq!(observer.pods().len(), 1);
    node.fake.exit(&container, 1);
    let dirty = loop {
        let dirty = woken.next().await;
        if !dirty.is_empty() {
            break dirty;
        }
    };
    assert_eq!(dirty, BTreeSet::from([PodUid::new("u1")]));
    let events = node.fake.calls("GetContainerEvents");
    assert_eq!(events, 1, "an old runtime is asked once");
}

#[tokio::test]
async fn a36_events_wake_the_pod_that_they_are_about() {
    wakes_on_exit("a36-events", false).await;
}

#[tokio::test]
async fn f17_a_runtime_without_events_is_listed_instead() {
    wakes_on_exit("f17", true).await;
}

#[tokio::test]
async fn f17_a_stream_that_opens_with_its_first_event_holds_up_no_list() {
    let node = Node::new("f17-late");
    node.fake.with(|r| r.events_open_late = true);
    make_pod(&node, "u1", "web").await;
    let observer = node.shared.observer.clone();
    node.shared.scope.detach("watch", Policy::Finite, async move { observer.watch_pods().await });
    node.until("lists", |node| *node.shared.observer.listed().borrow() > 1).await;
    assert!(node.shared.observer.pods().contains_key(&PodUid::new("u1")));
}

#[tokio::test]
async fn f11_a_failed_list_forgets_no_pod() {
    let node = Node::new("f11");
    node.fake.with(|r| r.without_events = true);
    make_pod(&node, "u1", "web").await;
    let observer = node.shared.observer.clone();
    let mut listed = observer.listed();
    let watching = observer.clone();
    let scope = node.supervisor.scope();
    let _task = scope.spawn("watch", Policy::Finite, async move { watching.watch_pods().await });
    listed.wait_for(|lists| *lists >= 1).await.unwrap();
    for _ in 0..2 {
        let refused = Fault::Refuse(tonic::Code::Unavailable, "away".into());
        node.fake.fail("ListPodSandbox", refused);
    }
    let calls = node.fake.calls("ListPodSandbox");
    node.until("two lists failed", |node| node.fake.calls("ListPodSandbox") >= calls + 2).await;
    assert_eq!(observer.pods().len(), 1);
}
