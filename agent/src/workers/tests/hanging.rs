//! Runtimes, disks and networks that hang or vanish under a pod.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use longshore_core::model::{Change, ObjectKey, PodUid};
use longshore_proto::cri;

use super::Node;
use super::lifecycle::{apply, delete, is_ready, nothing_left, pod, start, with_image};
use crate::workers::jobs::Jobs;

#[tokio::test]
async fn f12_a_deletion_does_not_wait_for_a_sandbox_that_hangs() {
    let node = with_image("f12-sandbox");
    node.fake.with(|r| r.run_sandbox_hangs = true);
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("the call", |node| node.fake.calls("RunPodSandbox") == 1).await;
    delete(&node.shared);
    node.until("finished", |node| !node.finished.lock().unwrap().is_empty()).await;
    assert!(nothing_left(&node));
    assert_eq!(node.fake.calls("RunPodSandbox"), 1);
}

/// The runtime made it all the same, after nobody waited for it.
#[tokio::test]
async fn i2_a_sandbox_that_comes_after_its_pods_deletion_goes_too() {
    let node = with_image("i2-late");
    node.fake.with(|r| r.run_sandbox_hangs = true);
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    node.until("the call", |node| node.fake.calls("RunPodSandbox") == 1).await;
    delete(&node.shared);
    let uid = PodUid::new("u1");
    node.until("waiting", |node| {
        node.shared.explanations.of(&uid).iter().any(|why| why.contains("may still appear"))
    })
    .await;
    node.fake.with(|r| r.run_sandbox_hangs = false);
    let labels = [("io.kubernetes.pod.uid", "u1"), ("io.kubernetes.pod.name", "web")];
    let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let config = cri::PodSandboxConfig { labels, ..Default::default() };
    node.shared.cri.run_sandbox(config, String::new()).await.unwrap();
    node.until("finished", |node| !node.finished.lock().unwrap().is_empty()).await;
    assert_eq!(node.fake.calls("RemovePodSandbox"), 1);
    assert!(nothing_left(&node));
}

#[tokio::test]
async fn a39_a_sandbox_that_lost_its_interface_is_made_anew() {
    let node = with_image("a39-lost");
    let _daemon = start(&node.shared);
    node.shared.programmed.set([PodUid::new("u1")].into());
    apply(&node.shared, pod("u1", serde_json::json!({"hostNetwork": false})));
    node.until("ready", |node| is_ready(&node.shared, "u1")).await;
    let first = node.fake.with(|r| r.sandboxes.keys().next().cloned().unwrap());
    node.fake.with(|r| r.lost_interfaces.insert(first.clone()));
    // As the dataplane does it when the interface's row goes.
    node.shared.programmed.set([].into());
    node.until("a new sandbox", |node| node.fake.calls("RunPodSandbox") == 2).await;
    node.shared.programmed.set([PodUid::new("u1")].into());
    let attempt = |r: &mut super::fake::Runtime| {
        r.sandboxes.values().map(|s| s.metadata.as_ref().unwrap().attempt).collect::<Vec<_>>()
    };
    node.until("the old one gone", |node| {
        is_ready(&node.shared, "u1") && node.fake.with(attempt).contains(&1)
    })
    .await;
    let events = node.shared.recorder.all();
    assert!(events.iter().any(|event| event.reason == "SandboxChanged"), "{events:?}");
}

/// A path that does not answer, like one of a dead file server: opening it waits for a writer.
struct Dead {
    path: std::path::PathBuf,
}

impl Dead {
    fn new(node: &Node) -> Self {
        let path = node.dir.join("dead");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        Self { path }
    }

    /// From now on it answers, also those who come later.
    fn revive(&self) {
        std::mem::forget(std::fs::File::options().read(true).write(true).open(&self.path).unwrap());
    }

    async fn look(&self, jobs: &Jobs, begun: &Arc<AtomicU32>) -> Result<(), String> {
        let (path, begun) = (self.path.clone(), begun.clone());
        jobs.run(move |place| {
            begun.fetch_add(1, Ordering::SeqCst);
            place.at(&path.to_string_lossy());
            std::fs::File::open(&path).map(drop).map_err(|error| error.to_string())
        })
        .await
    }
}

impl Drop for Dead {
    /// A thread that still waits would hold up the end of the test for ever.
    fn drop(&mut self) {
        self.revive();
    }
}

fn jobs(node: &Node) -> Jobs {
    Jobs::new(node.shared.scope.clone(), Duration::from_millis(100))
}

#[tokio::test]
async fn f12_a_dead_path_takes_one_thread_of_its_pod_and_is_named() {
    let node = Node::new("f12-dead");
    let (dead, begun, jobs) = (Dead::new(&node), Arc::default(), jobs(&node));
    for _ in 0..3 {
        let error = dead.look(&jobs, &begun).await.unwrap_err();
        assert!(error.starts_with(&*dead.path.to_string_lossy()), "{error}");
        assert!(error.contains("does not answer"), "{error}");
    }
    assert_eq!(begun.load(Ordering::SeqCst), 1, "one job at a time");
    dead.revive();
    while dead.look(&jobs, &begun).await.is_err() {}
}

#[tokio::test]
async fn f12_a_hundred_pods_on_a_dead_path_hold_up_no_other() {
    let node = Node::new("f12-hundred");
    let (dead, begun) = (Dead::new(&node), Arc::default());
    let stuck: Vec<Jobs> = (0..100).map(|_| jobs(&node)).collect();
    let looks = stuck.iter().map(|jobs| dead.look(jobs, &begun));
    assert!(futures::future::join_all(looks).await.iter().all(Result::is_err));
    assert_eq!(begun.load(Ordering::SeqCst), 100);
    let other = Jobs::new(node.shared.scope.clone(), Duration::from_secs(10));
    other.run(|_| Ok(())).await.unwrap();
}

/// Whole pods: one whose disk hangs says so and can be deleted, another one starts.
#[tokio::test]
async fn f12_a_pod_whose_step_hangs_tells_it_and_others_start() {
    let node = with_image("f12-pods");
    let (release, hangs) = std::sync::mpsc::channel::<()>();
    *node.cgroups.hangs.lock().unwrap() = Some(hangs);
    let _daemon = start(&node.shared);
    apply(&node.shared, pod("u1", serde_json::json!({})));
    let told = |node: &Node| {
        node.shared.recorder.all().iter().any(|event| event.message.contains("does not answer"))
    };
    node.until("the event", told).await;
    let other = ObjectKey::new("ns", "other");
    let mut manifest = pod("u2", serde_json::json!({}));
    manifest.metadata.name = Some("other".into());
    node.shared.store.edit(|world| {
        world.pods.insert(other.clone(), Arc::new(manifest));
        vec![Change::Pod(other.clone())]
    });
    node.until("the other ready", |node| is_ready(&node.shared, "u2")).await;
    let cgroups = |node: &Node| node.cgroups.paths.lock().unwrap().len();
    assert_eq!(cgroups(&node), 1, "no second try while the first one hangs");
    delete(&node.shared);
    drop(release);
    node.until("finished", |node| !node.finished.lock().unwrap().is_empty()).await;
    assert_eq!(cgroups(&node), 1);
}
