//! Keeps the Node object as this machine is, and its Lease alive (A1, A12, A13).
//!
//! Each pass reads the Node, computes what its status should be, and writes the difference. A Node
//! that is gone is registered again; a write that was lost is repeated by the next pass.
//! Deliberately absent: what the status says (`core::node`).

mod lease;
#[cfg(test)]
mod tests;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use longshore_core::config::KubeletConfig;
use longshore_core::model::{Kind, MachineFacts, ObjectKey, RuntimeFacts, Time};
use longshore_core::node::{
    Health, Identity, NodeEvent, NodeInputs, Pressures, disk, holds_back, initial, is_ready,
    label_repair, next_report, patch_due, register_difference, retry_ms, started, status,
    status_events, status_patch,
};
use tokio::sync::watch;

use crate::clock;
use crate::effects::api::{Api, ApiError};
use crate::effects::events::{Event, Recorder};
use crate::failpoint;
use crate::observe::{Machine, RuntimeStatus};

/// A pass that has to wait for what a starting daemon does not know yet asks again after this.
const STARTING_RECHECK: Duration = Duration::from_secs(1);

/// Who measures the machine and asks its runtime.
pub trait Measure: Send + Sync {
    fn machine(&self) -> BoxFuture<'_, MachineFacts>;
    fn runtime(&self) -> BoxFuture<'_, RuntimeFacts>;
}

impl Measure for Machine {
    fn machine(&self) -> BoxFuture<'_, MachineFacts> {
        Box::pin(self.read())
    }

    fn runtime(&self) -> BoxFuture<'_, RuntimeFacts> {
        Box::pin(self.read_runtime())
    }
}

/// What the node's readiness is made from; a change of one is looked at at once.
#[derive(Clone)]
pub struct Watched {
    /// The observer's: conditions of the runtime, `None` while it does not answer.
    pub runtime: watch::Receiver<Option<RuntimeStatus>>,
    /// The observer's: grows with each complete list of pods.
    pub listed: watch::Receiver<u64>,
    /// The dataplane is loaded and means the present World, or why not.
    pub dataplane: watch::Receiver<Result<(), String>>,
}

/// The worker of this node's own object.
pub struct NodeWorker {
    api: Api,
    identity: Identity,
    config: Arc<KubeletConfig>,
    measure: Arc<dyn Measure>,
    watched: Watched,
    recorder: Recorder,
    /// For the event that tells of cgroup v1.
    cgroup_v2: bool,
    node: watch::Sender<Option<Arc<Node>>>,
}

/// What one pass hands to the next.
struct Memory {
    /// When the API server first answered: before that nothing could be written (I10).
    answered_at: Option<Time>,
    /// This daemon has found the node ready: what it says from now on has a cause.
    was_ready: bool,
    pressures: Option<Pressures>,
    health: Health,
    lists: u64,
    /// The differences of A1 were written.
    registered: bool,
    open: Option<bool>,
    report_at: Time,
    /// The server's cache may be behind what was just written.
    fresh: bool,
    problems: Vec<String>,
    disk: Option<NodeEvent>,
}

/// What a pass that succeeded says about the next.
enum Next {
    Regular,
    Soon,
}

/// A pass that did not succeed.
#[derive(thiserror::Error, Debug)]
enum PassError {
    #[error("cannot {what} the Node {name}: {error}")]
    Api { what: &'static str, name: String, error: ApiError },
    #[error(
        "there is no Node {0}, and registerNode is false: create it, or set registerNode: true in \
         --config"
    )]
    NotRegistered(String),
}

impl NodeWorker {
    pub fn new(
        api: Api,
        identity: Identity,
        config: Arc<KubeletConfig>,
        measure: Arc<dyn Measure>,
        watched: Watched,
        recorder: Recorder,
        cgroup_v2: bool,
    ) -> Self {
        let node = watch::channel(None).0;
        Self { api, identity, config, measure, watched, recorder, cgroup_v2, node }
    }

    /// The Node as the API server last gave it; `None` until it did.
    pub fn node(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.node.subscribe()
    }

    /// Never returns. The Lease does not wait for the status, nor for the runtime.
    pub async fn run(self) {
        let lease = lease::LeaseKeeper {
            api: self.api.clone(),
            name: self.identity.name.clone(),
            duration_s: self.config.node.lease_duration_s,
            node: self.node(),
        };
        tokio::join!(self.keep_status(), lease.run());
    }

    async fn keep_status(&self) {
        let now = clock::now();
        self.record(started(self.cgroup_v2), now);
        let mut memory = Memory {
            answered_at: None,
            was_ready: false,
            pressures: None,
            health: Health::default(),
            lists: 0,
            registered: false,
            open: None,
            report_at: now,
            fresh: true,
            problems: Vec::new(),
            disk: None,
        };
        let mut watched = self.watched.clone();
        let mut failures = 0u32;
        let mut said = String::new();
        loop {
            let wait = match self.pass(&mut memory).await {
                Ok(next) => {
                    if failures > 0 {
                        tracing::info!(node = self.identity.name, "The Node is kept again");
                    }
                    (failures, said) = (0, String::new());
                    match next {
                        Next::Regular => self.period(),
                        Next::Soon => STARTING_RECHECK.min(self.period()),
                    }
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    memory.fresh = true;
                    let text = error.to_string();
                    if text != said {
                        tracing::warn!("{text}; trying again");
                        said = text;
                    }
                    Duration::from_millis(jittered(retry_ms(failures)))
                }
            };
            tokio::select! {
                biased;
                () = changed(&mut watched.dataplane) => {}
                () = changed(&mut watched.runtime) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn period(&self) -> Duration {
        Duration::from_millis(jittered(self.config.node.status_update_frequency_ms))
    }

    /// Reads, compares, writes.
    async fn pass(&self, memory: &mut Memory) -> Result<Next, PassError> {
        let (machine, runtime) = tokio::join!(self.measure.machine(), self.measure.runtime());
        if machine.problems != memory.problems {
            for problem in &machine.problems {
                tracing::warn!(problem, "A fact of this machine cannot be read");
            }
            memory.problems.clone_from(&machine.problems);
        }
        let disk = disk(&machine);
        if disk != memory.disk {
            self.record(disk.iter().cloned().collect(), clock::now());
            memory.disk = disk;
        }
        let found = match self.api.node(&self.identity.name, !memory.fresh).await {
            Ok(node) => Some(node),
            Err(ApiError::NotFound(_)) => None,
            Err(error) => return Err(self.failed("read", error)),
        };
        let now = clock::now();
        memory.answered_at.get_or_insert(now);
        self.look(memory, now);
        let none = NodeStatus::default();
        let before = found.as_ref().and_then(|node| node.status.as_ref()).unwrap_or(&none);
        let pressures = memory.pressures.unwrap_or_else(|| Pressures::resumed(before));
        let pressures = pressures.observe(&machine, &self.config.node, now);
        memory.pressures = Some(pressures);
        let health = memory.health.clone();
        let inputs = NodeInputs {
            identity: &self.identity,
            config: &self.config,
            machine: &machine,
            runtime: &runtime,
            pressures: &pressures,
            health: &health,
        };
        match found {
            None => self.register(&inputs, memory, now).await,
            Some(node) => self.update(node, &inputs, memory, now).await,
        }
    }

    /// Takes in what readiness depends on.
    fn look(&self, memory: &mut Memory, now: Time) {
        let health = &mut memory.health;
        if let Some(status) = self.watched.runtime.borrow().clone() {
            let why = |is: bool| if is { Ok(()) } else { Err(status.message.clone()) };
            health.runtime_seen = Some(now);
            health.runtime = why(status.ready);
            health.network = why(status.network_ready);
        }
        let lists = *self.watched.listed.borrow();
        if lists != memory.lists {
            memory.lists = lists;
            health.pods_listed = Some(now);
        }
        health.dataplane = self.watched.dataplane.borrow().clone();
    }

    /// There is no Node: creates it. One that others created meanwhile is found by the next pass.
    async fn register(
        &self,
        inputs: &NodeInputs<'_>,
        memory: &mut Memory,
        now: Time,
    ) -> Result<Next, PassError> {
        let name = &self.identity.name;
        if self.node.send_replace(None).is_some() {
            tracing::warn!(node = name, "The Node was deleted at the API server");
        }
        memory.fresh = true;
        if !self.config.node.register {
            return Err(PassError::NotRegistered(name.clone()));
        }
        let wanted = initial(inputs, now);
        let places = ("api.node_create.before", "api.node_create.after");
        let created = failpoint::around(places, self.api.create_node(&wanted)).await;
        let created = created.map_err(|error| self.failed("create", error))?;
        tracing::info!(node = name, "Registered the Node");
        let mut nothing = Node::default();
        nothing.metadata.name = Some(name.clone());
        let status = created.status.clone().unwrap_or_default();
        self.record(status_events(&nothing, &status, None), now);
        memory.registered = true;
        memory.report_at = self.next_report(true, now);
        memory.open = None;
        self.node.send_replace(Some(Arc::new(created)));
        Ok(Next::Regular)
    }

    /// There is a Node: writes what differs.
    async fn update(
        &self,
        node: Node,
        inputs: &NodeInputs<'_>,
        memory: &mut Memory,
        now: Time,
    ) -> Result<Next, PassError> {
        let mut node = self.reconcile(node, inputs, memory, now).await?;
        memory.fresh = false;
        let none = NodeStatus::default();
        let before = node.status.as_ref().unwrap_or(&none);
        let wanted = status(inputs, before, now);
        memory.was_ready |= is_ready(&wanted);
        let since = memory.answered_at.unwrap_or(now);
        if !memory.was_ready && holds_back(before, &wanted, since, now) {
            self.node.send_replace(Some(Arc::new(node)));
            return Ok(Next::Soon);
        }
        let events = status_events(&node, &wanted, memory.open);
        let due = patch_due(before, &wanted, memory.report_at, now);
        if due {
            let changed = patch_due(before, &wanted, Time(i64::MAX), now);
            let patch = status_patch(before, &wanted);
            let name = &self.identity.name;
            let places = ("api.node_status.before", "api.node_status.after");
            let written = self.api.patch_node_status(name, &patch);
            let written = failpoint::around(places, written).await;
            node = written.map_err(|error| self.failed("write the status of", error))?;
            memory.report_at = self.next_report(changed, now);
            // The next read must not be older than this write.
            memory.fresh = changed;
        }
        memory.open =
            Some(!node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false));
        self.record(events, now);
        self.node.send_replace(Some(Arc::new(node)));
        Ok(Next::Regular)
    }

    /// What is put right beside the status: all of A1 once, labels of A2 on each pass.
    async fn reconcile(
        &self,
        node: Node,
        inputs: &NodeInputs<'_>,
        memory: &mut Memory,
        now: Time,
    ) -> Result<Node, PassError> {
        let name = &self.identity.name;
        let (object, resources) = match memory.registered {
            true => (label_repair(&node, &self.identity), None),
            false => register_difference(&node, &initial(inputs, now), &self.identity),
        };
        let mut node = node;
        if let Some(patch) = object {
            let written = self.api.patch_node(name, &patch).await;
            node = written.map_err(|error| self.failed("patch", error))?;
        }
        if let Some(patch) = resources {
            let written = self.api.patch_node_status(name, &patch).await;
            node = written.map_err(|error| self.failed("write the status of", error))?;
        }
        if !memory.registered {
            tracing::info!(node = name, "The Node was registered before");
            memory.registered = true;
        }
        Ok(node)
    }

    fn next_report(&self, changed: bool, now: Time) -> Time {
        let share = i64::try_from(clock::random_below(1000)).unwrap_or(0);
        next_report(changed, self.config.node.status_report_frequency_ms, share, now)
    }

    fn failed(&self, what: &'static str, error: ApiError) -> PassError {
        PassError::Api { what, name: self.identity.name.clone(), error }
    }

    fn record(&self, events: Vec<NodeEvent>, now: Time) {
        record(&self.recorder, &self.identity.name, events, now);
    }
}

/// Records events about the node of that name.
pub(super) fn record(recorder: &Recorder, name: &str, events: Vec<NodeEvent>, now: Time) {
    for NodeEvent { warning, reason, message } in events {
        let event = Event {
            kind: Kind::Node,
            key: ObjectKey::new("", name),
            // The kubelet's events about its node have the name here; `kubectl describe` asks for it.
            uid: name.to_owned(),
            container: None,
            warning,
            reason: reason.to_owned(),
            message,
            first: now,
            last: now,
            count: 1,
        };
        recorder.record(event, now);
    }
}

/// `ms` and up to 4 % more, so that nodes that started together do not write together (A12).
fn jittered(ms: i64) -> u64 {
    let ms = u64::try_from(ms).unwrap_or(0);
    ms + clock::random_below(ms / 25 + 1)
}

/// Waits for a change; for ever when whoever sends has ended.
async fn changed<T>(watched: &mut watch::Receiver<T>) {
    if watched.changed().await.is_err() {
        pending::<()>().await;
    }
}
