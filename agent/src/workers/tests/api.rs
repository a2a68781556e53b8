//! Statuses, tokens, mirrors and events against an API server in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use longshore_core::model::{Change, Kind, LocalPod, ObjectKey, PodUid, World};
use serde_json::{Value, json};

use crate::effects::api::{Api, events};
use crate::effects::events::{Event, Recorder};
use crate::supervise::{Policy, Supervisor};
use crate::workers::{PodSink as _, mirrors, pod_status, tokens};
use crate::world::Store;
use crate::world::api::fake::FakeApi;
use crate::world::api::{Handle, Settings, Source};
use crate::world::files::tests::TempDir;
use crate::world::static_pods::StaticPath;

const PODS: &str = "/api/v1/pods";

struct Rig {
    api: FakeApi,
    store: Store,
    handle: Handle,
    sink: pod_status::Finished,
    recorder: Recorder,
    /// Pods of which nothing more is stored.
    forgotten: Arc<Mutex<Vec<PodUid>>>,
    manifests: TempDir,
    _state: TempDir,
    _supervisor: Supervisor,
}

fn key() -> ObjectKey {
    ObjectKey::new("ns", "a")
}

fn uid() -> PodUid {
    PodUid::new("uid-a")
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "a", "namespace": "ns", "uid": "uid-a"},
        "spec": {"nodeName": "n1", "serviceAccountName": "robot", "containers": [{"name": "c"}],
            "volumes": [{"name": "t", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}}]},
        "status": {"phase": "Pending"}})
}

fn local(phase: &str) -> LocalPod {
    let status = PodStatus { phase: Some(phase.into()), ..PodStatus::default() };
    LocalPod { key: Some(key()), uid: Some(uid()), status, ..LocalPod::default() }
}

/// A node with one pod in the API server; its world is synced.
async fn start(name: &str) -> Rig {
    let (api, store, recorder) = (FakeApi::default(), Store::default(), Recorder::default());
    let (state, manifests) = (TempDir::new(name), TempDir::new(name));
    api.put(PODS, pod());
    api.put("/api/v1/nodes", json!({"metadata": {"name": "n1", "uid": "node-uid"}}));
    let supervisor = Supervisor::default();
    let scope = supervisor.scope();
    let every = Duration::from_millis(50);
    let settings = Settings {
        scope: scope.clone(),
        state_dir: state.path().into(),
        static_pods: Some(StaticPath { directory: manifests.path().into(), every }),
    };
    let source = Source::new(store.clone(), api.clients(), "n1", settings);
    let handle = source.handle();
    let own = Api::new(api.client());
    let forgotten: Arc<Mutex<Vec<PodUid>>> = Arc::default();
    let (sink, statuses) = {
        let forgotten = forgotten.clone();
        let forget = move |uid: &PodUid| forgotten.lock().unwrap().push(uid.clone());
        let (handle, own) = (handle.clone(), own.clone());
        pod_status::new(store.clone(), handle, own, "n1", Box::new(forget))
    };
    scope.detach("source", Policy::Finite, source.run());
    scope.detach("statuses", Policy::Finite, statuses.run());
    let run = tokens::run(
        store.clone(),
        own.clone(),
        recorder.clone(),
        "n1".into(),
        "/nonexistent".into(),
    );
    scope.detach("tokens", Policy::Finite, run);
    let run = mirrors::run(store.clone(), own.clone(), "n1".into());
    scope.detach("mirrors", Policy::Finite, run);
    let run = events::run(own, recorder.feed(), "n1".into(), Box::new(|_, _| false));
    scope.detach("events", Policy::Finite, run);
    let rig = Rig {
        api,
        store,
        handle,
        sink,
        recorder,
        forgotten,
        manifests,
        _state: state,
        _supervisor: supervisor,
    };
    rig.until("synced", |rig| rig.world().synced).await;
    rig
}

impl Rig {
    fn world(&self) -> std::sync::Arc<World> {
        self.store.snapshot()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let writes: Vec<_> = self.api.writes().into_iter().map(|(call, _)| call).collect();
        panic!("never: {what}; writes: {writes:?}; problems: {:?}", self.handle.problems());
    }

    fn phase(&self) -> Option<String> {
        let pod = self.api.get(PODS, "ns/a")?;
        pod["status"]["phase"].as_str().map(str::to_owned)
    }

    fn patches(&self) -> usize {
        self.calls("PATCH /api/v1/namespaces/ns/pods/a/status").len()
    }

    fn calls(&self, call: &str) -> Vec<Value> {
        let writes = self.api.writes().into_iter();
        writes.filter(|(made, _)| made == call).map(|(_, body)| body).collect()
    }
}

#[tokio::test]
async fn i14_a_status_is_sent_once_and_again_when_somebody_changes_it() {
    let rig = start("status-once").await;
    rig.store.set_local(&uid(), Some(local("Running")));
    rig.until("sent", |rig| rig.phase().as_deref() == Some("Running")).await;
    rig.store.edit(|_| vec![Change::Local(uid()), Change::Pod(key()), Change::Synced]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.patches(), 1);
    rig.api.put(PODS, pod());
    rig.until("sent again", |rig| rig.phase().as_deref() == Some("Running")).await;
    assert_eq!(rig.patches(), 2);
}

#[tokio::test]
async fn i10_a_status_that_was_not_taken_is_sent_when_the_api_server_is_back() {
    let rig = start("status-later").await;
    rig.api.refuse("/status", 503);
    rig.store.set_local(&uid(), Some(local("Running")));
    rig.until("tried twice", |rig| rig.patches() >= 2).await;
    rig.api.refuse("/status", 0);
    rig.until("sent", |rig| rig.phase().as_deref() == Some("Running")).await;
}

#[tokio::test]
async fn a62_the_last_status_then_the_delete_of_this_uid() {
    let rig = start("status-last").await;
    rig.store.set_local(&uid(), Some(local("Failed")));
    rig.api.refuse("/pods/a", 503);
    rig.sink.finished(&key(), &uid());
    // As its worker does next.
    rig.store.set_local(&uid(), None);
    assert!(!rig.world().pods.contains_key(&key()), "no worker starts again for it");
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Another daemon may have to tell it: how the pod ended stays on the disk (F04).
    assert!(rig.sink.keeps(&key(), &uid()) && rig.forgotten.lock().unwrap().is_empty());
    rig.api.refuse("/pods/a", 0);
    rig.until("deleted", |rig| rig.api.get(PODS, "ns/a").is_none()).await;
    rig.until("forgotten", |rig| *rig.forgotten.lock().unwrap() == [uid()]).await;
    rig.until("gone", |rig| !rig.sink.keeps(&key(), &uid())).await;
    let calls: Vec<_> = rig.api.writes().into_iter().map(|(call, _)| call).collect();
    let delete = "DELETE /api/v1/namespaces/ns/pods/a";
    let at = calls.iter().position(|call| call == delete).unwrap();
    assert!(calls[..at].iter().any(|call| call.ends_with("/pods/a/status")));
    let body = &rig.calls(delete)[0];
    assert_eq!(body["gracePeriodSeconds"], 0);
    assert_eq!(body["preconditions"]["uid"], "uid-a");
}

#[tokio::test]
async fn f29_the_next_pod_of_that_name_is_never_deleted() {
    let rig = start("status-next").await;
    rig.api.refuse("/pods/a", 503);
    rig.sink.finished(&key(), &uid());
    let mut next = pod();
    next["metadata"]["uid"] = json!("uid-next");
    rig.api.put(PODS, next);
    rig.api.refuse("/pods/a", 0);
    let delete = "DELETE /api/v1/namespaces/ns/pods/a";
    rig.until("it was tried", |rig| !rig.calls(delete).is_empty()).await;
    rig.until("the next is there", |rig| rig.world().pods.contains_key(&key())).await;
    assert_eq!(rig.api.get(PODS, "ns/a").unwrap()["metadata"]["uid"], "uid-next");
}

#[tokio::test]
async fn a106_a_pod_gets_a_token_bound_to_it_and_loses_it_with_its_end() {
    let rig = start("tokens").await;
    rig.until("issued", |rig| rig.world().tokens.len() == 1).await;
    let world = rig.world();
    let (request, token) = world.tokens.iter().next().unwrap();
    assert_eq!((&*token.text, request.expiration_s), ("token of robot", 3607));
    let call = "POST /api/v1/namespaces/ns/serviceaccounts/robot/token";
    let bodies = rig.calls(call);
    assert_eq!(bodies[0]["spec"]["boundObjectRef"]["uid"], "uid-a");
    assert_eq!(bodies[0]["spec"]["expirationSeconds"], 3607);
    rig.api.delete(PODS, "ns/a");
    rig.until("forgotten", |rig| rig.world().tokens.is_empty()).await;
    assert_eq!(rig.calls(call).len(), 1);
}

#[tokio::test]
async fn a31_a_mirror_is_made_made_again_and_goes_with_its_pod() {
    let rig = start("mirrors").await;
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: ns}\nspec: {containers: [{name: a, image: x}]}\n";
    let file = rig.manifests.path().join("web.yaml");
    std::fs::write(&file, manifest).unwrap();
    let mirror = |rig: &Rig| rig.api.get(PODS, "ns/web-n1");
    rig.until("made", |rig| mirror(rig).is_some()).await;
    let made = mirror(&rig).unwrap();
    let world = rig.world();
    let wanted = &world.pods[&ObjectKey::new("ns", "web-n1")];
    let wanted_uid = PodUid::new(wanted.metadata.uid.clone().unwrap());
    let hash = &made["metadata"]["annotations"]["kubernetes.io/config.mirror"];
    assert_eq!(hash.as_str(), Some(wanted_uid.as_str()));
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "node-uid");
    // Its status goes to the copy.
    let here = ObjectKey::new("ns", "web-n1");
    let mut status = local("Running");
    (status.key, status.uid) = (Some(here.clone()), Some(wanted_uid.clone()));
    rig.store.set_local(&wanted_uid, Some(status));
    rig.until("status", |rig| mirror(rig).is_some_and(|m| m["status"]["phase"] == "Running")).await;
    rig.api.delete(PODS, "ns/web-n1");
    rig.until("made again", |rig| mirror(rig).is_some()).await;
    assert!(rig.world().pods.contains_key(&here), "the pod does not end with its copy");
    std::fs::remove_file(&file).unwrap();
    let ends = |rig: &Rig| {
        let world = rig.world();
        world.pods.get(&here).is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    rig.until("it ends", ends).await;
    assert!(mirror(&rig).is_some());
    rig.sink.finished(&here, &wanted_uid);
    rig.until("the copy goes", |rig| mirror(rig).is_none()).await;
}

#[tokio::test]
async fn a194_events_are_created_then_counted() {
    let rig = start("events").await;
    let event = |message: &str| Event {
        kind: Kind::Pod,
        key: key(),
        uid: uid().to_string(),
        container: Some("c".into()),
        warning: false,
        reason: "Pulled".into(),
        message: message.into(),
        first: crate::clock::now(),
        last: crate::clock::now(),
        count: 1,
    };
    rig.api.refuse("/events", 503);
    rig.recorder.record(event("one"), crate::clock::now());
    let create = "POST /api/v1/namespaces/ns/events";
    rig.until("tried", |rig| !rig.calls(create).is_empty()).await;
    rig.api.refuse("/events", 0);
    rig.until("created", |rig| rig.calls(create).len() >= 2).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    rig.recorder.record(event("one"), crate::clock::now());
    let name = rig.calls(create)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let patch = format!("PATCH /api/v1/namespaces/ns/events/{name}");
    rig.until("counted", |rig| rig.calls(&patch).iter().any(|body| body["count"] == 2)).await;
}
