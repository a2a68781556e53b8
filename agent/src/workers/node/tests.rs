//! The worker against an API server in memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::http::{Request, Response};
use kube::client::Body;
use longshore_core::config::KubeletConfig;
use longshore_core::model::{Filesystem, MachineFacts, RuntimeFacts};
use longshore_core::node::Identity;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Measure, NodeWorker, Watched};
use crate::effects::api::Api;
use crate::effects::events::Recorder;
use crate::observe::RuntimeStatus;
use crate::supervise::{Policy, Supervisor, Task};

const NODE: &str = "/api/v1/nodes/n1";
const STATUS: &str = "/api/v1/nodes/n1/status";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";

/// Objects by path, and what was asked.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    objects: BTreeMap<String, Value>,
    /// Method and path of each write.
    writes: Vec<(String, String)>,
    version: u64,
    away: bool,
    /// Requests while it was away.
    refused: u32,
}

impl Server {
    fn api(&self) -> Api {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Api::new(kube::Client::new(service, "default"))
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let (method, path) = (parts.method.as_str(), parts.uri.path());
        let mut inside = self.0.lock().unwrap();
        let answer = match inside.away {
            true => {
                inside.refused += 1;
                Err((503, "away"))
            }
            false => inside.answer(method, path, body),
        };
        let (code, body) = answer.unwrap_or_else(|(code, text)| {
            (code, json!({"kind": "Status", "status": "Failure", "code": code, "message": text, "reason": text}))
        });
        let bytes = serde_json::to_vec(&body).unwrap();
        Response::builder().status(code).body(Body::from(bytes)).unwrap()
    }

    fn inside<T>(&self, look: impl FnOnce(&mut Inside) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    fn object(&self, path: &str) -> Value {
        self.inside(|inside| inside.objects.get(path).cloned().unwrap_or_default())
    }

    fn writes_of(&self, method: &str, path: &str) -> usize {
        self.inside(|inside| inside.writes.iter().filter(|(m, p)| m == method && p == path).count())
    }

    fn ready(&self) -> String {
        let node = self.object(NODE);
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        ready.map(|ready| ready["status"].as_str().unwrap().to_owned()).unwrap_or_default()
    }
}

impl Inside {
    fn answer(
        &mut self,
        method: &str,
        path: &str,
        body: Value,
    ) -> Result<(u16, Value), (u16, &'static str)> {
        if method != "GET" {
            self.writes.push((method.into(), path.into()));
        }
        self.version += 1;
        let object = path.strip_suffix("/status").unwrap_or(path).to_owned();
        let mut new = match method {
            "GET" => {
                return self
                    .objects
                    .get(&object)
                    .cloned()
                    .map(|o| (200, o))
                    .ok_or((404, "NotFound"));
            }
            "POST" => {
                let object = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&object) {
                    return Err((409, "AlreadyExists"));
                }
                let mut new = body;
                new["metadata"]["uid"] = json!(format!("uid-{}", self.version));
                new["metadata"]["resourceVersion"] = json!(self.version.to_string());
                self.objects.insert(object, new.clone());
                return Ok((201, new));
            }
            "PUT" => body,
            _ => {
                let mut new = self.objects.get(&object).cloned().ok_or((404, "NotFound"))?;
                merge(&mut new, &body);
                new
            }
        };
        let old = self.objects.get(&object).ok_or((404, "NotFound"))?;
        if method == "PUT"
            && new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
        {
            return Err((409, "Conflict"));
        }
        new["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(object, new.clone());
        Ok((200, new))
    }
}

/// A strategic merge patch, as much of it as Nodes need.
fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() || fields.get("$patch").is_some_and(|directive| directive == "replace") {
        *into = json!({});
    }
    for (name, change) in fields.iter().filter(|(name, _)| !name.starts_with('$')) {
        match change {
            Value::Null => drop(into.as_object_mut().unwrap().remove(name)),
            Value::Array(items) if name == "conditions" => {
                let known = into[name].as_array().cloned().unwrap_or_default();
                let kept = known
                    .into_iter()
                    .filter(|old| items.iter().all(|new| new["type"] != old["type"]));
                into[name] = kept.chain(items.iter().cloned()).collect();
            }
            Value::Array(items) => {
                into[name] =
                    items.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
            }
            other => merge(&mut into[name], other),
        }
    }
}

/// Facts of a machine that a test changes.
#[derive(Clone)]
struct Facts(Arc<Mutex<MachineFacts>>);

impl Measure for Facts {
    fn machine(&self) -> BoxFuture<'_, MachineFacts> {
        Box::pin(async { self.0.lock().unwrap().clone() })
    }

    fn runtime(&self) -> BoxFuture<'_, RuntimeFacts> {
        let version = Some("containerd://2.4.2".to_owned());
        Box::pin(async { RuntimeFacts { version, ..RuntimeFacts::default() } })
    }
}

struct Lab {
    server: Server,
    facts: Facts,
    recorder: Recorder,
    config: KubeletConfig,
    runtime: watch::Sender<Option<RuntimeStatus>>,
    listed: watch::Sender<u64>,
    dataplane: watch::Sender<Result<(), String>>,
    supervisor: Supervisor,
}

impl Lab {
    fn new() -> Self {
        let fs = Filesystem {
            capacity_bytes: 1 << 40,
            available_bytes: 1 << 39,
            ..Filesystem::default()
        };
        let facts = MachineFacts {
            cpus: Some(2),
            memory_bytes: Some(1 << 33),
            memory_available_bytes: Some(1 << 32),
            nodefs: Some(fs),
            kernel_version: "6.18.0".into(),
            ..MachineFacts::default()
        };
        let mut config = KubeletConfig::default();
        config.node.status_update_frequency_ms = 50;
        config.node.lease_duration_s = 1;
        let up = RuntimeStatus { ready: true, network_ready: true, message: String::new() };
        Self {
            server: Server::default(),
            facts: Facts(Arc::new(Mutex::new(facts))),
            recorder: Recorder::default(),
            config,
            runtime: watch::channel(Some(up)).0,
            listed: watch::channel(1).0,
            dataplane: watch::channel(Ok(())).0,
            supervisor: Supervisor::default(),
        }
    }

    /// The worker runs until the task is dropped.
    fn start(&self) -> Task {
        let worker = NodeWorker::new(
            self.server.api(),
            Identity {
                name: "n1".into(),
                hostname: "n1".into(),
                ips: vec!["10.0.0.1".parse().unwrap()],
                architecture: "amd64".into(),
                ..Identity::default()
            },
            Arc::new(self.config.clone()),
            Arc::new(self.facts.clone()),
            Watched {
                runtime: self.runtime.subscribe(),
                listed: self.listed.subscribe(),
                dataplane: self.dataplane.subscribe(),
            },
            self.recorder.clone(),
            true,
        );
        self.supervisor.scope().spawn("node", Policy::Finite, worker.run())
    }

    fn dataplane(&self, is: Result<(), String>) {
        self.dataplane.send_modify(|now| *now = is);
    }

    fn reasons(&self) -> Vec<String> {
        self.recorder.all().into_iter().map(|event| event.reason).collect()
    }
}

/// Waits for what must come; a test that waits in vain fails by its own name.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn a1_a13_a19_a_node_registers_holds_its_lease_and_comes_back_when_deleted() {
    let lab = Lab::new();
    let _task = lab.start();
    until("a ready Node", || lab.server.ready() == "True").await;
    until("a renewed Lease", || lab.server.writes_of("PUT", LEASE) >= 2).await;
    let (node, lease) = (lab.server.object(NODE), lab.server.object(LEASE));
    assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], node["metadata"]["uid"]);
    assert_eq!(lease["spec"]["holderIdentity"], "n1");
    assert!(lab.reasons().contains(&"Starting".to_owned()), "{:?}", lab.reasons());

    lab.server.inside(|inside| inside.objects.clear());
    until("a second Node", || lab.server.ready() == "True").await;
    let second = lab.server.object(NODE);
    assert_ne!(second["metadata"]["uid"], node["metadata"]["uid"]);
    until("the Lease of the second Node", || {
        lab.server.object(LEASE)["metadata"]["ownerReferences"][0]["uid"]
            == second["metadata"]["uid"]
    })
    .await;
}

#[tokio::test]
async fn a12_a_status_is_patched_on_change_and_not_otherwise() {
    let lab = Lab::new();
    let _task = lab.start();
    until("a ready Node", || lab.server.ready() == "True").await;
    // Many passes with nothing new.
    let reads = lab.server.inside(|inside| inside.version);
    until("ten passes", || lab.server.inside(|inside| inside.version) > reads + 20).await;
    assert_eq!(lab.server.writes_of("PATCH", STATUS), 0);
    lab.facts.0.lock().unwrap().kernel_version = "7.0".into();
    until("the new kernel", || {
        lab.server.object(NODE)["status"]["nodeInfo"]["kernelVersion"] == "7.0"
    })
    .await;
    assert_eq!(lab.server.writes_of("PATCH", STATUS), 1);
    // Somebody took a label that every pass repairs.
    lab.server.inside(|inside| {
        let node = inside.objects.get_mut(NODE).unwrap();
        node["metadata"]["labels"].as_object_mut().unwrap().remove("kubernetes.io/os");
    });
    until("the label", || {
        lab.server.object(NODE)["metadata"]["labels"]["kubernetes.io/os"] == "linux"
    })
    .await;
}

#[tokio::test]
async fn a11_a12_readiness_follows_the_dataplane_at_once() {
    let mut lab = Lab::new();
    // Only a change can wake the second pass.
    lab.config.node.status_update_frequency_ms = 3_600_000;
    lab.dataplane(Err("maps are not loaded".into()));
    let _task = lab.start();
    until("a Node that is not ready", || lab.server.ready() == "False").await;
    lab.dataplane(Ok(()));
    until("ready", || lab.server.ready() == "True").await;
    until("NodeReady", || lab.reasons().contains(&"NodeReady".to_owned())).await;
    lab.dataplane(Err("gone".into()));
    until("not ready", || lab.server.ready() == "False").await;
    let node = lab.server.object(NODE);
    let message = node["status"]["conditions"][3]["message"].as_str().unwrap();
    assert_eq!(message, "dataplane is not ready: gone");
    until("NodeNotReady", || lab.reasons().contains(&"NodeNotReady".to_owned())).await;
}

#[tokio::test]
async fn i6_a_restart_writes_no_ready_change() {
    let lab = Lab::new();
    let first = lab.start();
    until("a ready Node", || lab.server.ready() == "True").await;
    drop(first);
    // The second daemon knows nothing yet.
    let known = lab.runtime.send_replace(None);
    lab.listed.send_replace(0);
    lab.dataplane(Err("not loaded yet".into()));
    let _second = lab.start();
    let seen = lab.server.inside(|inside| inside.version);
    until("passes of the second", || lab.server.inside(|inside| inside.version) > seen + 5).await;
    assert_eq!(lab.server.writes_of("PATCH", STATUS), 0);
    lab.runtime.send_replace(known);
    lab.listed.send_replace(1);
    lab.dataplane(Ok(()));
    lab.facts.0.lock().unwrap().kernel_version = "7.0".into();
    until("the second writes", || lab.server.writes_of("PATCH", STATUS) == 1).await;
    assert_eq!(lab.server.ready(), "True");
    assert!(!lab.reasons().contains(&"NodeNotReady".to_owned()));
}

#[tokio::test]
async fn a1_i10_an_api_server_that_is_away_is_asked_again() {
    let lab = Lab::new();
    lab.server.inside(|inside| inside.away = true);
    let _task = lab.start();
    until("three refusals", || lab.server.inside(|inside| inside.refused) >= 3).await;
    assert_eq!(lab.server.object(NODE), Value::Null);
    lab.server.inside(|inside| inside.away = false);
    until("a ready Node", || lab.server.ready() == "True").await;
}

#[tokio::test]
async fn a1_taints_of_an_existing_node_stay_away_and_default_labels_come_back() {
    let mut lab = Lab::new();
    lab.config.node.taints = vec![k8s_openapi::api::core::v1::Taint {
        key: "a".into(),
        effect: "NoSchedule".into(),
        ..Default::default()
    }];
    let existing = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n1", "uid": "u", "resourceVersion": "1", "labels": {"mine": "x"}},
        "spec": {"podCIDRs": ["10.1.0.0/24"]},
    });
    lab.server.inside(|inside| drop(inside.objects.insert(NODE.into(), existing)));
    let _task = lab.start();
    until("a ready Node", || lab.server.ready() == "True").await;
    let node = lab.server.object(NODE);
    assert_eq!(node["spec"], json!({"podCIDRs": ["10.1.0.0/24"]}));
    assert_eq!(node["metadata"]["labels"]["mine"], "x");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    assert_eq!(lab.server.writes_of("POST", "/api/v1/nodes"), 0);
}

#[tokio::test]
async fn a5_a_node_that_is_not_to_be_registered_waits_for_its_owner() {
    let mut lab = Lab::new();
    lab.config.node.register = false;
    let _task = lab.start();
    let reads = lab.server.inside(|inside| inside.version);
    until("three passes", || lab.server.inside(|inside| inside.version) >= reads + 3).await;
    assert_eq!(lab.server.writes_of("POST", "/api/v1/nodes"), 0);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "u"}});
    lab.server.inside(|inside| drop(inside.objects.insert(NODE.into(), node)));
    until("a ready Node", || lab.server.ready() == "True").await;
}
