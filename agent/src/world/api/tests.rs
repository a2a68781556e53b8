use k8s_openapi::ByteString;
use longshore_core::model::Kind;
use serde_json::{Value, json};

use super::fake::FakeApi;
use super::*;
use crate::supervise::Supervisor;
use crate::world::files::tests::TempDir;

struct Rig {
    api: FakeApi,
    store: Store,
    handle: Handle,
    state: TempDir,
    _supervisor: Supervisor,
}

const PODS_PATH: &str = "/api/v1/pods";

fn pod(name: &str, node: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = json!(node);
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}"),
            "managedFields": [{"manager": "m"}]}})
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("ns", name)
}

fn start(name: &str, api: FakeApi) -> Rig {
    let (supervisor, store, state) = (Supervisor::default(), Store::default(), TempDir::new(name));
    let settings =
        Settings { scope: supervisor.scope(), state_dir: state.path().into(), static_pods: None };
    let source = Source::new(store.clone(), api.clients(), "n1", settings);
    let handle = source.handle();
    supervisor.scope().detach("source", Policy::Finite, source.run());
    Rig { api, store, handle, state, _supervisor: supervisor }
}

impl Rig {
    /// Waits until `holds`, for at most 20 seconds.
    async fn until(&self, what: &str, holds: impl Fn(&World) -> bool) {
        for _ in 0..2000 {
            if holds(&self.store.snapshot()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("never: {what}; problems: {:?}", self.handle.problems());
    }
}

#[tokio::test]
async fn a38_the_world_is_synced_after_the_last_first_list() {
    let api = FakeApi::default();
    api.put(PODS_PATH, pod("a", "n1", json!({"containers": []})));
    api.put(PODS_PATH, pod("b", "n2", json!({"containers": []})));
    api.put(PODS_PATH, pod("c", "", json!({"containers": []})));
    api.put("/api/v1/nodes", json!({"metadata": {"name": "n1", "uid": "node-1"}}));
    api.put("/api/v1/nodes", json!({"metadata": {"name": "n2", "uid": "node-2"}}));
    api.refuse("/services", 403);
    let rig = start("api-synced", api);
    rig.until("the pods", |world| world.pods.len() == 2 && world.nodes.len() == 2).await;
    rig.until("the problem", |_| !rig.handle.problems().is_empty()).await;
    let text = rig.handle.problems()[0].to_string();
    assert!(text.contains("deploy/rbac.yaml"), "{text}");
    assert!(!rig.store.snapshot().synced);
    rig.api.refuse("/services", 0);
    rig.until("synced", |world| world.synced).await;
    assert_eq!(rig.handle.problems(), []);
    let world = rig.store.snapshot();
    assert!(world.pods[&key("a")].metadata.managed_fields.is_none());
    assert!(!world.pods.contains_key(&key("c")), "pods without a node are not wanted");
}

#[tokio::test]
async fn f26_an_expired_or_garbled_watch_lists_again_and_keeps_what_is_known() {
    let api = FakeApi::default();
    api.put(PODS_PATH, pod("a", "n1", json!({"containers": []})));
    let rig = start("api-garbage", api);
    rig.until("synced", |world| world.synced && world.pods.contains_key(&key("a"))).await;
    let expired = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1",
        "status": "Failure", "code": 410, "message": "too old", "reason": "Expired"}});
    for (line, name) in [(expired.to_string(), "b"), ("{\"type\": 7}".to_owned(), "c")] {
        // The event that nobody could read: only a list shows it.
        let lists = rig.api.lists(PODS_PATH);
        rig.api.state_only(PODS_PATH, pod(name, "n1", json!({"containers": []})));
        rig.api.refuse("/pods", 500);
        rig.api.garble(PODS_PATH, &line);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(rig.store.snapshot().pods.contains_key(&key("a")), "what is known stays");
        rig.api.refuse("/pods", 0);
        rig.until("the new pod", |world| world.pods.contains_key(&key(name))).await;
        assert!(rig.api.lists(PODS_PATH) > lists);
    }
    // What is not in a complete list is gone.
    rig.api.lose(PODS_PATH, "ns/a");
    rig.api.garble(PODS_PATH, &expired.to_string());
    rig.until("a is gone", |world| !world.pods.contains_key(&key("a"))).await;
}

#[tokio::test]
async fn f25_a_broken_connection_is_taken_up_without_another_list() {
    let api = FakeApi::default();
    let rig = start("api-flap", api);
    rig.until("synced", |world| world.synced).await;
    let lists = rig.api.lists("/api/v1/services");
    for n in 0..3 {
        rig.api.hang_up();
        let name = format!("s{n}");
        let service = json!({"metadata": {"name": name, "namespace": "ns"}});
        rig.api.put("/api/v1/services", service);
        rig.until("the service", |world| world.services.contains_key(&key(&name))).await;
    }
    assert_eq!(rig.api.lists("/api/v1/services"), lists);
}

#[tokio::test]
async fn a24_objects_are_watched_one_by_one_while_a_pod_names_them() {
    let api = FakeApi::default();
    let secret = |text: &str| {
        json!({"metadata": {"name": "keys", "namespace": "ns"},
            "data": {"k": ByteString(text.as_bytes().to_vec())}})
    };
    api.put("/api/v1/secrets", secret("one"));
    api.put("/api/v1/secrets", json!({"metadata": {"name": "others", "namespace": "ns"}}));
    let rig = start("api-need", api);
    rig.until("synced", |world| world.synced).await;
    let spec = json!({"containers": [{"name": "c", "envFrom": [
        {"secretRef": {"name": "keys"}}, {"configMapRef": {"name": "none"}}]}]});
    rig.api.put(PODS_PATH, pod("a", "n1", spec));
    let known = |world: &World, kind: Kind, name: &str| world.is_known(kind, &key(name));
    rig.until("both are known", |world| {
        known(world, Kind::Secret, "keys") && known(world, Kind::ConfigMap, "none")
    })
    .await;
    let world = rig.store.snapshot();
    assert_eq!(world.secrets.len(), 1, "no other Secret is read");
    assert!(world.config_maps.is_empty() && !known(&world, Kind::Secret, "others"));
    rig.api.put("/api/v1/secrets", secret("two"));
    rig.until("the new content", |world| {
        let data = world.secrets.get(&key("keys")).and_then(|s| s.data.clone());
        data.is_some_and(|data| data["k"].0 == b"two")
    })
    .await;
    rig.api.delete("/api/v1/secrets", "ns/keys");
    rig.until("it is known to be gone", |world| {
        known(world, Kind::Secret, "keys") && world.secrets.is_empty()
    })
    .await;
    rig.api.delete(PODS_PATH, "ns/a");
    rig.until("nothing is watched", |world| world.known.as_ref().unwrap().is_empty()).await;
}

#[tokio::test]
async fn f23_i10_a_daemon_without_the_api_server_goes_on_from_the_checkpoint_without_secrets() {
    let api = FakeApi::default();
    let spec = json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "keys"}}]}]});
    api.put(PODS_PATH, pod("a", "n1", spec));
    api.put(
        "/api/v1/nodes",
        json!({"metadata": {"name": "n1", "uid": "node-1"},
        "spec": {"podCIDRs": ["10.1.0.0/24"]}}),
    );
    api.put(
        "/api/v1/secrets",
        json!({"metadata": {"name": "keys", "namespace": "ns"},
        "data": {"k": ByteString(b"canary".to_vec())}}),
    );
    let rig = start("api-checkpoint", api);
    let file = rig.state.path().join("node.json");
    rig.until("the secret and the file", |world| !world.secrets.is_empty() && file.exists()).await;
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("Y2FuYXJ5") && !text.contains("canary"), "{text}");
    let known = checkpoint::load(rig.state.path()).unwrap();
    assert_eq!(known.pod_cidrs(), ["10.1.0.0/24".parse().unwrap()]);
    // The next daemon, and nobody answers.
    let dead = FakeApi::default();
    dead.refuse("/", 503);
    let (store, supervisor) = (Store::default(), Supervisor::default());
    let settings = Settings {
        scope: supervisor.scope(),
        state_dir: rig.state.path().into(),
        static_pods: None,
    };
    let source = Source::new(store.clone(), dead.clients(), "n1", settings);
    source.go_on_from_checkpoint().await;
    let world = store.snapshot();
    assert!(world.pods.contains_key(&key("a")) && !world.synced);
    assert!(world.nodes.contains_key(&ObjectKey::new("", "n1")));
}

#[test]
fn f39_a_node_checkpoint_that_is_not_one_is_set_aside() {
    for bad in ["", "{", "{\"version\":7,\"pods\":[]}", "[]"] {
        let dir = TempDir::new("node-checkpoint");
        std::fs::write(dir.path().join("node.json"), bad).unwrap();
        assert_eq!(checkpoint::load(dir.path()), None);
        assert_eq!(std::fs::read_to_string(dir.path().join("node.json.bad")).unwrap(), bad);
        assert_eq!(checkpoint::load(dir.path()), None);
    }
}

fn typed(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

#[test]
fn f29_a_late_word_of_another_node_does_not_undo_a_new_pod_of_that_name() {
    let store = Store::default();
    let pods = Pods::new(store.clone());
    let mut old = pod("a", "n2", json!({"containers": []}));
    old["metadata"]["uid"] = json!("old");
    pods.take_others(Seen::Put(typed(old.clone())));
    pods.take_own(Seen::Put(typed(pod("a", "n1", json!({"containers": []})))));
    pods.take_others(Seen::Put(typed(old.clone())));
    let uid = || store.snapshot().pods.get(&key("a")).and_then(|p| p.metadata.uid.clone());
    assert_eq!(uid().as_deref(), Some("uid-a"));
    pods.take_others(Seen::Gone(typed(old.clone())));
    assert_eq!(uid().as_deref(), Some("uid-a"));
    pods.take_own(Seen::Gone(typed(old)));
    assert_eq!(uid().as_deref(), Some("uid-a"), "an older pod of that name went");
    pods.take_own(Seen::All(Vec::new()));
    assert_eq!(uid(), None);
}

#[test]
fn a62_a_finished_pod_is_not_shown_again_while_the_api_server_still_has_it() {
    let store = Store::default();
    let pods = Pods::new(store.clone());
    let object = typed(pod("a", "n1", json!({"containers": []})));
    pods.take_own(Seen::All(vec![object.clone()]));
    let shown = || store.snapshot().pods.contains_key(&key("a"));
    assert!(shown());
    let uid = PodUid::new("uid-a");
    pods.finish(&key("a"), &uid);
    assert!(!shown());
    pods.take_own(Seen::Put(object.clone()));
    pods.take_own(Seen::All(vec![object.clone()]));
    assert!(!shown() && pods.own_pod(&key("a"), &uid).is_some() && pods.own().is_empty());
    let mut next = object;
    next.metadata.uid = Some("next".into());
    pods.take_own(Seen::Put(next));
    assert!(shown());
}

#[test]
fn a31_mirrors_are_never_pods_to_run() {
    let store = Store::default();
    let pods = Pods::new(store.clone());
    let mut mirror = pod("a", "n1", json!({"containers": []}));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "h"});
    pods.take_own(Seen::All(vec![typed(mirror.clone())]));
    let world = store.snapshot();
    assert!(world.pods.is_empty() && world.mirrors.contains_key(&key("a")));
    pods.take_own(Seen::Gone(typed(mirror)));
    assert!(store.snapshot().mirrors.is_empty());
}
