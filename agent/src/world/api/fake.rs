//! An API server in memory for tests: lists, watches, status patches, deletes, creates, tokens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::channel::mpsc;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::Clients;

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;
type Line = Result<Frame<Bytes>, std::io::Error>;

#[derive(Default)]
struct State {
    /// By collection path (`/api/v1/pods`) and `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    version: u64,
    watches: Vec<Watching>,
    /// Status codes that calls with this in their path get, instead of an answer.
    refusals: BTreeMap<String, u16>,
    /// `METHOD path body`.
    writes: Vec<(String, Value)>,
    /// Every event: version, collection, type, object.
    history: Vec<(u64, String, &'static str, Value)>,
    lists: BTreeMap<String, u32>,
}

struct Watching {
    collection: String,
    selector: String,
    tell: mpsc::UnboundedSender<Line>,
}

/// Clones share it.
#[derive(Clone, Default)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
}

impl FakeApi {
    pub fn clients(&self) -> Clients {
        Clients { node: self.client(), node_patient: self.client(), dataplane: self.client() }
    }

    pub fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request| {
            let fake = fake.clone();
            async move { Ok::<_, std::convert::Infallible>(fake.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Creates or replaces an object, and tells who watches.
    pub fn put(&self, collection: &str, object: Value) {
        let mut state = self.state.lock().unwrap();
        state.put(collection, object);
    }

    pub fn delete(&self, collection: &str, key: &str) {
        self.state.lock().unwrap().delete(collection, key);
    }

    pub fn get(&self, collection: &str, key: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(collection)?.get(key).cloned()
    }

    /// Calls whose path contains `part` answer `code` from now on; 0: they work again.
    pub fn refuse(&self, part: &str, code: u16) {
        let mut state = self.state.lock().unwrap();
        match code {
            0 => drop(state.refusals.remove(part)),
            code => drop(state.refusals.insert(part.into(), code)),
        }
    }

    /// Sends a line as it is to every watch of a collection.
    pub fn garble(&self, collection: &str, line: &str) {
        let state = self.state.lock().unwrap();
        for watch in state.watches.iter().filter(|watch| watch.collection == collection) {
            drop(watch.tell.unbounded_send(Ok(Frame::data(Bytes::from(format!("{line}\n"))))));
        }
    }

    /// Ends every watch.
    pub fn hang_up(&self) {
        self.state.lock().unwrap().watches.clear();
    }

    /// Removes without telling anybody.
    pub fn lose(&self, collection: &str, key: &str) {
        self.state.lock().unwrap().objects.entry(collection.into()).or_default().remove(key);
    }

    /// Creates an object without telling anybody.
    pub fn state_only(&self, collection: &str, object: Value) {
        let mut state = self.state.lock().unwrap();
        let watches = std::mem::take(&mut state.watches);
        state.put(collection, object);
        state.history.pop();
        state.watches = watches;
    }

    /// `METHOD path` and body of every write so far.
    pub fn writes(&self) -> Vec<(String, Value)> {
        self.state.lock().unwrap().writes.clone()
    }

    /// Complete lists of a collection so far.
    pub fn lists(&self, collection: &str) -> u32 {
        self.state.lock().unwrap().lists.get(collection).copied().unwrap_or(0)
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let method = request.method().to_string();
        let (path, query) =
            (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let mut state = self.state.lock().unwrap();
        if method != "GET" {
            state.writes.push((format!("{method} {path}"), body.clone()));
        }
        let refusal = state.refusals.iter().find(|(part, _)| path.contains(*part));
        if let Some((_, code)) = refusal {
            return failure(*code);
        }
        if method == "GET" {
            return state.read(&path, &query);
        }
        state.write(&method, &path, body)
    }
}

/// Collection over all namespaces, namespace, and the rest of a path.
fn parts(path: &str) -> (String, String, Vec<String>) {
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    let root = if words[0] == "api" { 2 } else { 3 };
    let (base, rest) = words.split_at(root);
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let collection = format!("/{}/{}", base.join("/"), rest[0]);
    (collection, namespace.to_owned(), rest[1..].iter().map(|word| (*word).to_owned()).collect())
}

fn key(object: &Value) -> String {
    let meta = &object["metadata"];
    format!(
        "{}/{}",
        meta["namespace"].as_str().unwrap_or_default(),
        meta["name"].as_str().unwrap_or_default()
    )
}

fn selected(object: &Value, namespace: &str, selector: &str) -> bool {
    let in_namespace = namespace.is_empty() || object["metadata"]["namespace"] == *namespace;
    let field = |path: &str| {
        let pointer = format!("/{}", path.replace('.', "/"));
        object.pointer(&pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let all = selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        match term.split_once("!=") {
            Some((path, value)) => field(path) != value,
            None => term.split_once('=').is_some_and(|(path, value)| field(path) == value),
        }
    });
    in_namespace && all
}

fn parameter(query: &str, name: &str) -> String {
    let found = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name);
    let text = found.map_or("", |(_, value)| value);
    text.replace("%3D", "=").replace("%21", "!").replace("%2C", ",").replace("%2F", "/")
}

fn success(body: &Value) -> Answer {
    let bytes = Bytes::from(serde_json::to_vec(body).unwrap());
    Response::new(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
}

fn failure(code: u16) -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": format!("refused with {code}"), "reason": "Test"});
    let mut response = success(&status);
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap();
    response
}

impl State {
    fn put(&mut self, collection: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let all = self.objects.entry(collection.into()).or_default();
        let old = all.insert(key(&object), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.tell(collection, kind, &object);
        object
    }

    fn delete(&mut self, collection: &str, key: &str) -> Option<Value> {
        let mut object = self.objects.get_mut(collection)?.remove(key)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.tell(collection, "DELETED", &object);
        Some(object)
    }

    fn tell(&mut self, collection: &str, kind: &'static str, object: &Value) {
        self.history.push((self.version, collection.to_owned(), kind, object.clone()));
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.watches.retain(|watch| !watch.tell.is_closed());
        for watch in &self.watches {
            let (namespace, selector) = watch.selector.split_once('|').unwrap();
            if watch.collection == collection && selected(object, namespace, selector) {
                drop(watch.tell.unbounded_send(Ok(Frame::data(Bytes::from(line.clone())))));
            }
        }
    }

    fn read(&mut self, path: &str, query: &str) -> Answer {
        let (collection, namespace, _) = parts(path);
        let selector = parameter(query, "fieldSelector");
        if query.contains("watch=true") {
            let (tell, lines) = mpsc::unbounded();
            let since: u64 = parameter(query, "resourceVersion").parse().unwrap_or(0);
            for (version, of, kind, object) in &self.history {
                if *version > since && *of == collection && selected(object, &namespace, &selector)
                {
                    let line = format!("{}\n", json!({"type": kind, "object": object}));
                    drop(tell.unbounded_send(Ok(Frame::data(Bytes::from(line)))));
                }
            }
            let selector = format!("{namespace}|{selector}");
            self.watches.push(Watching { collection, selector, tell });
            return Response::new(StreamBody::new(lines).boxed_unsync());
        }
        *self.lists.entry(collection.clone()).or_default() += 1;
        let all = self.objects.get(&collection).cloned().unwrap_or_default();
        let items: Vec<Value> =
            all.into_values().filter(|object| selected(object, &namespace, &selector)).collect();
        success(&json!({"metadata": {"resourceVersion": self.version.to_string()}, "items": items}))
    }

    fn write(&mut self, method: &str, path: &str, body: Value) -> Answer {
        let (collection, namespace, rest) = parts(path);
        let name = rest.first().cloned().unwrap_or_default();
        let key = format!("{namespace}/{name}");
        if path.ends_with("/token") {
            let mut answer = body;
            answer["status"] = json!({"token": format!("token of {name}"), "expirationTimestamp": "2026-01-01T00:00:00Z"});
            return success(&answer);
        }
        let known = self.objects.get(&collection).and_then(|all| all.get(&key)).cloned();
        match (method, known) {
            ("POST", _) => {
                let mut object = body;
                object["metadata"]["namespace"] = json!(namespace);
                object["metadata"]["uid"] = json!(format!("made-{}", self.version));
                success(&self.put(&collection, object))
            }
            (_, None) => failure(404),
            ("PATCH", Some(mut object)) => {
                let asked = &body["metadata"]["uid"];
                if !asked.is_null() && *asked != object["metadata"]["uid"] {
                    return failure(409);
                }
                // No test depends on how lists merge.
                for (field, value) in body["status"].as_object().into_iter().flatten() {
                    object["status"][field.as_str()] = value.clone();
                }
                success(&self.put(&collection, object))
            }
            ("DELETE", Some(object)) => {
                let asked = &body["preconditions"]["uid"];
                if !asked.is_null() && *asked != object["metadata"]["uid"] {
                    return failure(409);
                }
                self.delete(&collection, &key);
                success(&object)
            }
            _ => failure(405),
        }
    }
}
