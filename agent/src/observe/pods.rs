//! Pods in the runtime: one pod in full for its worker, all pods in short to find what changed.
//!
//! Details of a container never change within a state, so they are asked for once per state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::model::{
    ContainerState, ObjectKey, ObservedContainer, ObservedSandbox, ObservedUser, PodUid,
    SandboxState, Time,
};
use longshore_proto::cri;
use tokio::sync::{Notify, watch};
use tonic::Code;
use tonic::transport::Channel;

use super::runtime::{ReadError, Reader, RuntimeStatus};
use super::termination::{self, Roots};

/// Only what carries it is a pod of a kubelet or of Longshore (A204).
pub const LISTED_POD_LABEL: &str = "io.kubernetes.pod.uid";
const NAME_LABEL: &str = "io.kubernetes.pod.name";
const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
const HASH_ANNOTATION: &str = "io.kubernetes.container.hash";
const GRACE_ANNOTATION: &str = "io.kubernetes.pod.terminationGracePeriod";

/// How often all pods are listed without an event stream (A36), and with one (F17).
const RELIST: Duration = Duration::from_secs(1);
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(10);
/// How often the runtime is asked for its conditions.
const STATUS: Duration = Duration::from_secs(5);
/// As [`STATUS`], of a runtime that was not ready yet, for two minutes.
const STARTING: Duration = Duration::from_millis(200);
const STARTING_ASKS: u32 = 600;
/// A runtime that hangs must not look as it did when it last answered (A11).
const STATUS_ANSWER: Duration = Duration::from_secs(10);

/// One pod in full.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SeenPod {
    /// By attempt, newest first.
    pub sandboxes: Vec<ObservedSandbox>,
    /// By creation, newest first.
    pub containers: Vec<ObservedContainer>,
}

/// One pod in short, from the last list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPod {
    pub key: ObjectKey,
    pub sandboxes: Vec<String>,
    /// In so many lists on end: destructive steps want two (F16).
    pub seen: u32,
}

/// Watches the runtime; clones share it.
#[derive(Clone)]
pub struct Observer {
    inner: Arc<Inner>,
}

struct Inner {
    reader: Reader,
    pods_dir: PathBuf,
    logs_dir: PathBuf,
    state: Mutex<State>,
    woken: Notify,
    relist: Notify,
    status: watch::Sender<Option<RuntimeStatus>>,
    listed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<PodUid, ListedPod>,
    /// (id, state) of everything of a pod: what differs between two lists woke its worker.
    prints: BTreeMap<PodUid, BTreeMap<String, i32>>,
    /// Of containers, for events that do not name their pod.
    owners: BTreeMap<String, PodUid>,
    dirty: BTreeSet<PodUid>,
    containers: BTreeMap<String, ObservedContainer>,
    sandboxes: BTreeMap<String, ObservedSandbox>,
}

impl Observer {
    /// `pods_dir` and `logs_dir`: where termination messages and logs may be read.
    pub fn new(channel: Channel, pods_dir: PathBuf, logs_dir: PathBuf) -> Self {
        Self {
            inner: Arc::new(Inner {
                reader: Reader::new(channel),
                pods_dir,
                logs_dir,
                state: Mutex::default(),
                woken: Notify::new(),
                relist: Notify::new(),
                status: watch::channel(None).0,
                listed: watch::channel(0).0,
            }),
        }
    }

    /// The runtime's conditions; `None` until it answered once, and while it does not.
    pub fn status(&self) -> watch::Receiver<Option<RuntimeStatus>> {
        self.inner.status.subscribe()
    }

    /// How many complete lists there were.
    pub fn listed(&self) -> watch::Receiver<u64> {
        self.inner.listed.subscribe()
    }

    /// Pods of the last complete list.
    pub fn pods(&self) -> BTreeMap<PodUid, ListedPod> {
        self.lock().pods.clone()
    }

    /// Pods to look at again. One reader only.
    pub fn woken(&self) -> Woken {
        Woken { observer: self.clone() }
    }

    /// Everything of one pod, now.
    ///
    /// # Errors
    /// The runtime does not answer; nothing may be concluded then.
    pub async fn pod(&self, uid: &PodUid) -> Result<SeenPod, ReadError> {
        let labels = BTreeMap::from([(LISTED_POD_LABEL.to_owned(), uid.to_string())]);
        let reader = &self.inner.reader;
        let (sandboxes, containers) =
            tokio::try_join!(reader.sandboxes(labels.clone()), reader.containers(labels))?;
        let mut seen = SeenPod::default();
        for sandbox in sandboxes {
            seen.sandboxes.extend(self.sandbox(sandbox).await?);
        }
        for container in containers {
            seen.containers.extend(self.container(container).await?);
        }
        seen.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at, s.id.clone())));
        seen.containers.sort_by_key(|c| std::cmp::Reverse((c.created_at, c.attempt, c.id.clone())));
        Ok(seen)
    }

    /// The cgroup parent that a sandbox was made with; `None`: the runtime does not say.
    ///
    /// # Errors
    /// The runtime does not answer.
    pub async fn cgroup_parent(&self, sandbox_id: &str) -> Result<Option<String>, ReadError> {
        let status = self.inner.reader.sandbox_status(sandbox_id, true).await?;
        Ok(status.and_then(|status| cgroup_parent_of(&status.info)))
    }

    /// Lists on, and follows events where the runtime has them; never returns.
    pub async fn watch_pods(&self) {
        let mut can_stream = true;
        loop {
            if can_stream {
                match self.open_events().await {
                    Ok(events) => {
                        tracing::info!("following container events");
                        can_stream = self.follow(events).await;
                    }
                    Err(error) if error.code == Code::Unimplemented => {
                        tracing::info!("no container events in this runtime: listing every second");
                        can_stream = false;
                    }
                    Err(error) => tracing::warn!(%error, "no container events for now"),
                }
            }
            self.list_all().await;
            self.pause(RELIST).await;
        }
    }

    /// Lists while the stream opens: containerd 1.7 and newer answer with nothing at all, not even
    /// headers, before their first event, which on a quiet node is never.
    async fn open_events(
        &self,
    ) -> Result<tonic::Streaming<cri::ContainerEventResponse>, ReadError> {
        let mut opening = std::pin::pin!(self.inner.reader.events());
        loop {
            let list = async {
                self.list_all().await;
                self.pause(RELIST).await;
            };
            tokio::select! {
                biased;
                opened = &mut opening => return opened,
                () = list => {}
            }
        }
    }

    /// Asks for the runtime's conditions again and again; never returns.
    pub async fn watch_status(&self) {
        let mut impatient = STARTING_ASKS;
        loop {
            let asked = tokio::time::timeout(STATUS_ANSWER, self.inner.reader.status()).await;
            let status = asked
                .unwrap_or_else(|_| {
                    let message = format!("no answer within {} s", STATUS_ANSWER.as_secs());
                    Err(ReadError { method: "Status", code: Code::DeadlineExceeded, message })
                })
                .inspect_err(|error| tracing::warn!(%error, "the runtime does not say how it is"))
                .ok();
            let ready = status.as_ref().is_some_and(|status| status.ready && status.network_ready);
            self.inner.status.send_if_modified(|last| {
                let changed = *last != status;
                *last = status;
                changed
            });
            // A node that is becoming ready is asked often, but not for ever (A12).
            impatient = if ready { 0 } else { impatient.saturating_sub(1) };
            tokio::time::sleep(if impatient > 0 { STARTING } else { STATUS }).await;
        }
    }

    /// Until the stream ends; `false`: this runtime has none.
    async fn follow(&self, mut events: tonic::Streaming<cri::ContainerEventResponse>) -> bool {
        let mut next_list = crate::clock::now();
        loop {
            if crate::clock::until(next_list).is_zero() {
                self.list_all().await;
                next_list = crate::clock::now().plus_ms(RELIST_WITH_EVENTS.as_millis() as i64);
            }
            tokio::select! {
                biased;
                event = events.message() => match event {
                    Ok(Some(event)) => self.hint(&event),
                    Ok(None) => return true,
                    Err(status) if status.code() == Code::Unimplemented => {
                        tracing::info!("no container events in this runtime: listing every second");
                        return false;
                    }
                    Err(status) => {
                        tracing::warn!(message = status.message(), "container events ended");
                        return true;
                    }
                },
                () = self.inner.relist.notified() => next_list = crate::clock::now(),
                () = tokio::time::sleep(crate::clock::until(next_list)) => {}
            }
        }
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            biased;
            () = self.inner.relist.notified() => {}
            () = tokio::time::sleep(time) => {}
        }
    }

    fn hint(&self, event: &cri::ContainerEventResponse) {
        let mut state = self.lock();
        let named = event
            .pod_sandbox_status
            .as_ref()
            .and_then(|status| status.labels.get(LISTED_POD_LABEL))
            .map(|uid| PodUid::new(uid.as_str()));
        match named.or_else(|| state.owners.get(&event.container_id).cloned()) {
            Some(uid) => {
                state.dirty.insert(uid);
                drop(state);
                self.inner.woken.notify_one();
            }
            None => self.inner.relist.notify_one(),
        }
    }

    async fn list_all(&self) {
        let reader = &self.inner.reader;
        let lists =
            tokio::try_join!(reader.sandboxes(BTreeMap::new()), reader.containers(BTreeMap::new()));
        match lists {
            Ok((sandboxes, containers)) => self.take_list(&sandboxes, &containers),
            // What was known stays: a runtime that is away has not lost its pods (F11).
            Err(error) => tracing::warn!(%error, "cannot list pods"),
        }
    }

    fn take_list(&self, sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) {
        let mut pods: BTreeMap<PodUid, ListedPod> = BTreeMap::new();
        let mut prints: BTreeMap<PodUid, BTreeMap<String, i32>> = BTreeMap::new();
        let mut owners = BTreeMap::new();
        let mut pod_of = |labels: &BTreeMap<String, String>| {
            let uid = PodUid::new(labels.get(LISTED_POD_LABEL)?.as_str());
            let label = |name| labels.get(name).map(String::as_str).unwrap_or_default();
            let key = ObjectKey::new(label(NAMESPACE_LABEL), label(NAME_LABEL));
            let listed = ListedPod { key, sandboxes: Vec::new(), seen: 1 };
            pods.entry(uid.clone()).or_insert(listed);
            Some(uid)
        };
        let mut of_sandboxes = Vec::new();
        for sandbox in sandboxes {
            let Some(uid) = pod_of(&sandbox.labels) else { continue };
            prints.entry(uid.clone()).or_default().insert(sandbox.id.clone(), sandbox.state);
            of_sandboxes.push((uid, sandbox.id.clone()));
        }
        for container in containers {
            let Some(uid) = pod_of(&container.labels) else { continue };
            prints.entry(uid.clone()).or_default().insert(container.id.clone(), container.state);
            owners.insert(container.id.clone(), uid);
        }
        for (uid, id) in of_sandboxes {
            owners.insert(id.clone(), uid.clone());
            if let Some(pod) = pods.get_mut(&uid) {
                pod.sandboxes.push(id);
            }
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        for (uid, pod) in &mut pods {
            pod.seen = state.pods.get(uid).map_or(1, |old| old.seen.saturating_add(1));
        }
        let gone = state.prints.keys().filter(|uid| !prints.contains_key(*uid));
        let changed = prints.iter().filter(|(uid, print)| state.prints.get(*uid) != Some(*print));
        let dirty: Vec<PodUid> = changed.map(|(uid, _)| uid).chain(gone).cloned().collect();
        state.dirty.extend(dirty);
        state.containers.retain(|id, _| owners.contains_key(id));
        state.sandboxes.retain(|id, _| owners.contains_key(id));
        (state.pods, state.prints, state.owners) = (pods, prints, owners);
        drop(guard);
        self.inner.listed.send_modify(|lists| *lists += 1);
        self.inner.woken.notify_one();
    }

    async fn sandbox(&self, listed: cri::PodSandbox) -> Result<Option<ObservedSandbox>, ReadError> {
        let ready = listed.state() == cri::PodSandboxState::SandboxReady;
        let state = if ready { SandboxState::Ready } else { SandboxState::NotReady };
        let known = self.lock().sandboxes.get(&listed.id).cloned();
        if let Some(known) = known
            && known.state == state
        {
            return Ok(Some(known));
        }
        let Some(status) = self.inner.reader.sandbox_status(&listed.id, false).await? else {
            return Ok(None);
        };
        let sandbox = observed_sandbox(&listed, state, &status.status.unwrap_or_default());
        // An address that is not there yet is asked for again.
        if !ready || sandbox.host_network || !sandbox.ips.is_empty() {
            self.lock().sandboxes.insert(listed.id, sandbox.clone());
        }
        Ok(Some(sandbox))
    }

    async fn container(
        &self,
        listed: cri::Container,
    ) -> Result<Option<ObservedContainer>, ReadError> {
        let known = self.lock().containers.get(&listed.id).cloned();
        if let Some(known) = known
            && same_state(&known.state, listed.state())
        {
            return Ok(Some(known));
        }
        let Some(status) = self.inner.reader.container_status(&listed.id).await? else {
            return Ok(None);
        };
        let roots = Roots { pods_dir: &self.inner.pods_dir, logs_dir: &self.inner.logs_dir };
        let container = observed_container(&roots, &listed, &status);
        if container.state != ContainerState::Unknown {
            self.lock().containers.insert(listed.id, container.clone());
        }
        Ok(Some(container))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pods whose worker must look again, coalesced.
pub struct Woken {
    observer: Observer,
}

impl Woken {
    /// Waits; an empty set means that a list was completed and changed nothing.
    pub async fn next(&mut self) -> BTreeSet<PodUid> {
        self.observer.inner.woken.notified().await;
        std::mem::take(&mut self.observer.lock().dirty)
    }
}

fn same_state(known: &ContainerState, listed: cri::ContainerState) -> bool {
    matches!(
        (known, listed),
        (ContainerState::Created, cri::ContainerState::ContainerCreated)
            | (ContainerState::Running { .. }, cri::ContainerState::ContainerRunning)
            | (ContainerState::Exited { .. }, cri::ContainerState::ContainerExited)
    )
}

fn observed_sandbox(
    listed: &cri::PodSandbox,
    state: SandboxState,
    status: &cri::PodSandboxStatus,
) -> ObservedSandbox {
    let network = status.network.clone().unwrap_or_default();
    let more = network.additional_ips.iter().map(|ip| ip.ip.as_str());
    let ips = std::iter::once(network.ip.as_str()).chain(more);
    let options = status.linux.as_ref().and_then(|linux| linux.namespaces.as_ref());
    let options = options.and_then(|namespaces| namespaces.options.as_ref());
    ObservedSandbox {
        id: listed.id.clone(),
        attempt: listed.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        state,
        created_at: Time::from_unix_ns(listed.created_at),
        ips: ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).collect(),
        host_network: options.is_some_and(|o| o.network() == cri::NamespaceMode::Node),
    }
}

fn observed_container(
    roots: &Roots<'_>,
    listed: &cri::Container,
    status: &cri::ContainerStatus,
) -> ObservedContainer {
    let started_at = Time::from_unix_ns(status.started_at);
    let exited = status.state() == cri::ContainerState::ContainerExited;
    let state = match status.state() {
        cri::ContainerState::ContainerCreated => ContainerState::Created,
        cri::ContainerState::ContainerRunning => ContainerState::Running { started_at },
        cri::ContainerState::ContainerExited => ContainerState::Exited {
            started_at,
            finished_at: Time::from_unix_ns(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message: status.message.clone(),
        },
        cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let metadata = listed.metadata.clone().unwrap_or_default();
    let image = status.image.clone().unwrap_or_default();
    let asked = if image.user_specified_image.is_empty() {
        image.image
    } else {
        image.user_specified_image
    };
    ObservedContainer {
        id: listed.id.clone(),
        name: metadata.name,
        sandbox_id: listed.pod_sandbox_id.clone(),
        attempt: metadata.attempt,
        state,
        created_at: Time::from_unix_ns(listed.created_at),
        image: asked,
        image_ref: status.image_ref.clone(),
        hash: listed.annotations.get(HASH_ANNOTATION).cloned().unwrap_or_default(),
        grace_s: listed.annotations.get(GRACE_ANNOTATION).and_then(|text| text.parse().ok()),
        user: status.user.as_ref().and_then(|user| user.linux.as_ref()).map(|user| ObservedUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: user.supplemental_groups.clone(),
        }),
        termination_message: if exited {
            termination::message(roots, status)
        } else {
            String::new()
        },
    }
}

/// containerd puts the sandbox's configuration into `info["info"]`. Of a runtime that does not,
/// nothing can be told to be ours, and its orphans are left alone.
fn cgroup_parent_of(info: &BTreeMap<String, String>) -> Option<String> {
    let info: serde_json::Value = serde_json::from_str(info.get("info")?).ok()?;
    let parent = info.pointer("/config/linux/cgroup_parent")?.as_str()?;
    Some(parent.to_owned())
}
