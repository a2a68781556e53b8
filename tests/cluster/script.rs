//! Words for the scripts: asking the API server, and waiting for what a user waits for.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use longshore_tests::cluster::{Cluster, ClusterNode};
use longshore_tests::process::{Child, Output, Run};
use serde_json::Value;

pub use crate::clusters::*;
pub use crate::manifests::*;
pub use crate::nodes::*;

/// Longer than anything takes on a loaded machine; nothing is asserted by it.
pub const LIMIT_S: u64 = 120;

/// Asks a few times a second: each question is a kubectl.
pub fn poll(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let asks = LIMIT_S * 4;
    for _ in 0..asks {
        if ready()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(250));
    }
    bail!("waited {LIMIT_S} s for {what}")
}

/// A namespace of a cluster.
#[derive(Clone, Copy)]
pub struct Space<'a> {
    pub cluster: &'a Cluster,
    pub name: &'a str,
}

impl<'a> Space<'a> {
    /// `kubectl -n NAMESPACE WORDS`
    pub fn kubectl(&self, words: &str) -> Run {
        self.cluster.kubectl(["-n", self.name]).words(words).limit_s(LIMIT_S + 10)
    }

    pub fn apply(&self, yaml: &str) {
        let run = self.kubectl("apply -f -").input(yaml).unwrap();
        run.check().unwrap();
    }

    /// `kubectl get WORDS -o json`
    pub fn get(&self, words: &str) -> Value {
        self.try_get(words).unwrap()
    }

    pub fn try_get(&self, words: &str) -> Result<Value> {
        let text = self.kubectl("get -o json").words(words).check()?;
        serde_json::from_str(&text).with_context(|| format!("get {words}"))
    }

    /// Waits until `accepts` is true of `kubectl get WORDS`, which may not exist yet.
    pub fn wait(&self, words: &str, what: &str, mut accepts: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let result = poll(&format!("{words}: {what}"), || {
            last = self.try_get(words).unwrap_or_default();
            Ok(last != Value::Null && accepts(&last))
        });
        assert!(result.is_ok(), "{result:?}; last: {last:#}");
        last
    }

    /// A Deployment is there, up to date and available.
    pub fn wait_rolled_out(&self, deployment: &str) {
        let words = format!("rollout status deployment/{deployment} --timeout={LIMIT_S}s");
        self.kubectl(&words).check().unwrap();
    }

    /// A pod is Ready.
    pub fn wait_ready(&self, pod: &str) {
        let words = format!("wait --for=condition=Ready pod/{pod} --timeout={LIMIT_S}s");
        self.kubectl(&words).check().unwrap();
    }

    /// Pods with `app: NAME`, those that are being deleted left out.
    pub fn pods(&self, app: &str) -> Vec<Pod> {
        let list = self.get(&format!("pods -l app={app}"));
        items(&list).iter().filter(|pod| !is_deleting(pod)).map(Pod::of).collect()
    }

    pub fn pod(&self, name: &str) -> Pod {
        Pod::of(&self.get(&format!("pod {name}")))
    }

    pub fn node_of(&self, pod: &Pod) -> &'a ClusterNode {
        node(self.cluster, &pod.node)
    }

    /// A workload command in a pod, through its runtime: the API server is not asked.
    pub fn exec(&self, pod: &Pod, command: &str) -> Output {
        self.node_of(pod).exec(self.name, &pod.name, command).unwrap()
    }

    /// As [`Space::exec`], left running.
    pub fn start(&self, pod: &Pod, command: &str, log: &str) -> Child {
        let node = self.node_of(pod);
        let container = node.ctr().find(self.name, &pod.name).unwrap();
        let words: Vec<&str> =
            std::iter::once("/bin/longshore-workload").chain(command.split(' ')).collect();
        node.ctr().exec(&container.id, &words).start(&self.cluster.dir().join(log)).unwrap()
    }

    /// Repeats a command in a pod until it succeeds.
    pub fn wait_ok(&self, pod: &Pod, command: &str) -> Output {
        wait_output(&format!("`{command}` in {} to work", pod.name), Output::ok, || {
            self.node_of(pod).exec(self.name, &pod.name, command)
        })
    }

    /// Repeats a command in a pod until it fails with `how` (`timed out`, `refused`).
    pub fn wait_fails(&self, pod: &Pod, command: &str, how: &str) {
        let fails = |output: &Output| !output.ok() && output.text.contains(how);
        wait_output(&format!("`{command}` in {} to fail: {how}", pod.name), fails, || {
            self.node_of(pod).exec(self.name, &pod.name, command)
        });
    }

    /// The cluster's address of a Service.
    pub fn cluster_ip(&self, service: &str) -> String {
        text(&self.get(&format!("service {service}")), "/spec/clusterIP")
    }

    /// Deletes objects and waits until they are gone.
    pub fn delete(&self, words: &str) {
        self.kubectl(&format!("delete {words} --timeout={LIMIT_S}s")).check().unwrap();
    }

    /// Reasons of the events about an object.
    pub fn event_reasons(&self, name: &str) -> BTreeSet<String> {
        let list = self.get(&format!("events --field-selector involvedObject.name={name}"));
        items(&list).iter().map(|event| text(event, "/reason")).collect()
    }
}

/// What tests ask of a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub node: String,
    pub ip: String,
}

impl Pod {
    pub fn of(pod: &Value) -> Self {
        Self {
            name: text(pod, "/metadata/name"),
            uid: text(pod, "/metadata/uid"),
            node: text(pod, "/spec/nodeName"),
            ip: text(pod, "/status/podIP"),
        }
    }
}

pub fn wait_output(
    what: &str,
    accepts: impl Fn(&Output) -> bool,
    ask: impl Fn() -> Result<Output>,
) -> Output {
    let mut last = None;
    let result = poll(what, || {
        let output = ask()?;
        let fine = accepts(&output);
        last = Some(output);
        Ok(fine)
    });
    match (result, last) {
        (Ok(()), Some(output)) => output,
        (result, last) => panic!("{result:?}: {last:?}"),
    }
}

pub fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The text at a JSON pointer; empty where there is none.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// A condition of a pod's or a node's status.
pub fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    let all = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready")["status"] == "True"
}

/// All names of pods that answered, one a line.
pub fn answers(output: &Output) -> BTreeSet<String> {
    output.stdout.lines().map(str::to_owned).filter(|line| line.contains('-')).collect()
}

/// Every event of `kubectl get WORDS -w`, as it was seen.
pub struct Watched {
    child: Child,
}

impl Watched {
    pub fn start(space: Space<'_>, words: &str, log: &str) -> Self {
        let run = space.kubectl("get -w --output-watch-events -o json").words(words);
        Self { child: run.own_group().start(&space.cluster.dir().join(log)).unwrap() }
    }

    /// Type (`ADDED`, `MODIFIED`, `DELETED`) and object, in order.
    pub fn events(&mut self) -> Vec<(String, Value)> {
        assert_eq!(self.child.exited().unwrap(), None, "the watch ended: {}", self.child.log());
        let log = self.child.log();
        // The last one may be written by half.
        serde_json::Deserializer::from_str(&log)
            .into_iter::<Value>()
            .map_while(std::result::Result::ok)
            .map(|event| (text(&event, "/type"), event["object"].clone()))
            .collect()
    }
}
