//! One pod's worker: observe → decide → execute in order → observe again, then sleep (A35).
//!
//! It ends when the pod is finished. Deliberately absent: what to do, and other pods.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use longshore_core::model::{
    Change, ImageState, LocalPod, ObjectKey, ObservedPod, PodUid, ProbeKind, ProbeVerdict,
    SandboxState, Time,
};
use longshore_core::pod::action::{Action, Decision};
use longshore_core::pod::image_name::{self, PullPolicy};
use longshore_core::pod::{Input, Memory, Orphan, decide, decide_orphan, paths};
use tokio::sync::{Notify, mpsc};

use super::jobs::Jobs;
use super::probes::Probers;
use super::status_file::{self, Stored};
use super::{Shared, execute};
use crate::effects::images::Pull;
use crate::effects::{logs, volumes};
use crate::supervise::{Policy, Task};

/// Look again at least so often, whatever anyone says (A34).
const RESYNC_MS: i64 = 60_000;
/// Between two tries to observe a pod while the runtime does not answer.
const UNOBSERVED: Duration = Duration::from_secs(1);
/// After a failed step that the decision has no time for (A34).
const RETRY_MS: i64 = 10_000;
/// Decisions in a row without a pause; more is a mistake that must not churn the runtime.
const ROUNDS_MAX: u32 = 30;
const TOO_MANY_ROUNDS_MS: i64 = 5_000;

/// What reaches a worker from what it started.
pub enum Message {
    /// StopContainer ended.
    Stopped {
        action: Action,
        result: Result<(), String>,
    },
    Verdict {
        container: String,
        kind: ProbeKind,
        verdict: ProbeVerdict,
    },
}

/// Runs until the pod is finished.
pub async fn run(shared: Arc<Shared>, key: ObjectKey, uid: PodUid, wake: Arc<Notify>) {
    let mut worker = Worker::new(shared, key, uid);
    let mut rounds = 0;
    loop {
        worker.take_messages();
        let round = worker.round().await;
        let until = match round {
            Round::Finished => return,
            Round::Again if rounds < ROUNDS_MAX => {
                rounds += 1;
                continue;
            }
            Round::Again => {
                let (key, why) = (&worker.key, worker.shared.explanations.of(&worker.uid));
                tracing::warn!(%key, ?why, "decisions do not come to rest; pausing");
                crate::clock::now().plus_ms(TOO_MANY_ROUNDS_MS)
            }
            Round::Sleep(until) => until,
        };
        rounds = 0;
        worker.sleep(until, &wake).await;
    }
}

enum Round {
    Finished,
    /// Something was done: observe at once.
    Again,
    Sleep(Time),
}

struct Worker {
    shared: Arc<Shared>,
    key: ObjectKey,
    uid: PodUid,
    pod_dir: PathBuf,
    memory: Memory,
    previous: Option<PodStatus>,
    stored: Option<Stored>,
    cgroup_ready: bool,
    volumes_ready: bool,
    verdicts: BTreeMap<(String, ProbeKind), ProbeVerdict>,
    probers: Probers,
    jobs: Jobs,
    stops: BTreeMap<String, (i64, Task)>,
    inbox: mpsc::UnboundedReceiver<Message>,
    outbox: mpsc::UnboundedSender<Message>,
    pulling: bool,
    /// As they were made last.
    log_links: Option<BTreeMap<String, String>>,
}

impl Worker {
    fn new(shared: Arc<Shared>, key: ObjectKey, uid: PodUid) -> Self {
        let (outbox, inbox) = mpsc::unbounded_channel();
        let pod_dir = PathBuf::from(paths::pod_dir(&shared.node, &uid));
        let stored = status_file::load(&pod_dir);
        let probers = Probers::new(shared.clone(), key.clone(), uid.clone(), outbox.clone());
        let jobs = Jobs::new(shared.scope.clone(), shared.patience);
        Self {
            previous: stored.as_ref().map(|stored| stored.status.clone()),
            stored,
            shared,
            key,
            uid,
            pod_dir,
            memory: Memory::default(),
            cgroup_ready: false,
            volumes_ready: false,
            verdicts: BTreeMap::new(),
            probers,
            jobs,
            stops: BTreeMap::new(),
            inbox,
            outbox,
            pulling: false,
            log_links: None,
        }
    }

    async fn round(&mut self) -> Round {
        let world = self.shared.store.snapshot();
        let pod = world.pod_of(&self.key, &self.uid).cloned();
        if pod.is_none() && !world.synced {
            // Nothing is deleted before the first complete list (A38).
            return Round::Sleep(crate::clock::now().plus_ms(RESYNC_MS));
        }
        let ending = pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        if !ending && self.stored.as_ref().is_some_and(|stored| stored.ending) {
            (self.stored, self.previous) = (None, None);
        }
        if self.previous.is_none() {
            // What the API server was told by a daemon that lost its disk, or never told anybody.
            self.previous = pod.as_ref().and_then(|pod| pod.status.clone());
        }
        let Some(observed) = self.observe(pod.as_deref()).await else {
            return Round::Sleep(crate::clock::now().plus_ms(UNOBSERVED.as_millis() as i64));
        };
        let decision = self.decide(&world, pod.as_deref(), &observed);
        self.shared.explanations.set(&self.uid, Some(decision.why.clone()));
        if let Some(pod) = &pod {
            self.publish(pod, &decision.status).await;
            // An orphan has no status; it may be wanted again under the same UID (A30).
            self.previous = Some(decision.status.clone());
        }
        self.link_logs(&observed).await;
        self.memory = decision.memory.clone();
        self.verdicts.retain(|(name, _), verdict| {
            observed.containers.iter().any(|c| c.name == *name && c.id == verdict.container_id)
        });
        self.probers.set(&decision.probes);
        self.execute(decision).await
    }

    async fn observe(&mut self, pod: Option<&Pod>) -> Option<ObservedPod> {
        let seen = match self.shared.observer.pod(&self.uid).await {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(key = %self.key, %error, "cannot observe the pod");
                return None;
            }
        };
        let mut observed = ObservedPod {
            sandboxes: seen.sandboxes,
            containers: seen.containers,
            cgroup_ready: self.cgroup_ready,
            volumes_ready: self.volumes_ready,
            network_ready: self
                .shared
                .observer
                .status()
                .borrow()
                .as_ref()
                .is_some_and(|s| s.network_ready),
            network_programmed: self.shared.programmed.contains(&self.uid),
            probes: self.verdicts.clone(),
            ..ObservedPod::default()
        };
        for sandbox in &observed.sandboxes {
            let has_interface = sandbox.state == SandboxState::Ready && !sandbox.host_network;
            if has_interface && (self.shared.interface_lost)(&sandbox.id).await {
                observed.lost_interfaces.insert(sandbox.id.clone());
            }
        }
        let ending = pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
        if let Some(pod) = pod {
            let spec = pod.spec.as_ref();
            observed.network_programmed |= spec.is_some_and(|s| s.host_network == Some(true));
            if !ending {
                self.observe_images(pod, &mut observed).await;
            }
        }
        observed.leftovers = volumes::exists(&self.pod_dir.to_string_lossy())
            || self.has_cgroup(ending || self.is_terminal())
            || self.jobs.is_busy();
        self.pulling =
            observed.images.values().any(|state| matches!(state, ImageState::Pulling { .. }));
        Some(observed)
    }

    fn is_terminal(&self) -> bool {
        let phase = self.previous.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// Whether the cgroup tree has the pod; `look` says that the answer matters (it costs a walk).
    fn has_cgroup(&self, look: bool) -> bool {
        let name = format!("/pod{}", self.uid);
        self.cgroup_ready || (look && self.shared.cgroups.pods().iter().any(|p| p.ends_with(&name)))
    }

    async fn observe_images(&self, pod: &Pod, observed: &mut ObservedPod) {
        for image in images_of(pod) {
            let now = crate::clock::now();
            let (auths, _) = execute::credentials_of(&self.shared, &self.key, &self.uid, &image);
            let pull = Pull::of(&image, &auths);
            let state = match self.shared.images.state(&pull, now).await {
                Ok(state) => state,
                Err(error) => ImageState::Failed {
                    at: now,
                    reason: "ImageInspectError",
                    message: error.to_string(),
                },
            };
            let state = match state {
                ImageState::Failed { .. } if !always_pulls(pod, &image) => {
                    self.shared.images.imported(&image).await.unwrap_or(state)
                }
                state => state,
            };
            observed.images.insert(image, state);
        }
    }

    fn decide(
        &self,
        world: &longshore_core::model::World,
        pod: Option<&Pod>,
        observed: &ObservedPod,
    ) -> Decision {
        let (shared, now) = (&self.shared, crate::clock::now());
        match pod {
            Some(pod) => decide(&Input {
                pod,
                key: &self.key,
                uid: &self.uid,
                world,
                node: &shared.node,
                config: &shared.config,
                observed,
                previous: self.previous.as_ref(),
                memory: &self.memory,
                extra_hosts: &(shared.extra_hosts)(world, &self.key),
                runtime_name: &shared.runtime_name,
                now,
            }),
            None => decide_orphan(&Orphan {
                key: &self.key,
                uid: &self.uid,
                node: &shared.node,
                observed,
                memory: &self.memory,
                now,
            }),
        }
    }

    /// Publishes the status into the world and, before anything is removed because of it, to disk
    /// (F04).
    async fn publish(&mut self, pod: &Pod, status: &PodStatus) {
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let (key, uid) = (&self.key, &self.uid);
        self.shared.store.edit(|world| {
            let old = world.local.get(uid);
            let mut local = old.map(|old| LocalPod::clone(old)).unwrap_or_default();
            local.key = Some(key.clone());
            local.uid = Some(uid.clone());
            (local.ready, local.terminating) = (ready, terminating);
            local.status = status.clone();
            if old.is_some_and(|old| **old == local) {
                return Vec::new();
            }
            world.local.insert(uid.clone(), Arc::new(local));
            vec![Change::Local(uid.clone())]
        });
        let (key, status) = (self.key.clone(), status.clone());
        let stored = Stored { key, status, ending: terminating };
        if self.stored.as_ref() == Some(&stored) {
            return;
        }
        crate::failpoint::hit("pod.status.before");
        let (dir, writing) = (self.pod_dir.clone(), stored.clone());
        let saved = self.shared.scope.blocking(move || status_file::save(&dir, &writing)).await;
        crate::failpoint::hit("pod.status.after");
        match saved {
            Ok(Ok(())) => self.stored = Some(stored),
            Ok(Err(error)) => tracing::warn!(key = %self.key, %error, "cannot store the status"),
            Err(error) => tracing::warn!(key = %self.key, %error, "cannot store the status"),
        }
    }

    /// Links to the logs of the containers that are there (A206). For who reads them: nothing of the
    /// pod waits for it.
    async fn link_logs(&mut self, observed: &ObservedPod) {
        let (shared, key, uid) = (&self.shared, &self.key, &self.uid);
        if paths::check(key, uid).is_err() {
            return;
        }
        let wanted = paths::log_links(&shared.node, key, uid, &observed.containers);
        if self.log_links.as_ref() == Some(&wanted) {
            return;
        }
        let links_dir = PathBuf::from(paths::log_links_dir(&shared.node.pod_logs_dir));
        let log_dir = PathBuf::from(paths::log_dir(&shared.node, key, uid));
        let links = wanted.clone();
        let linked = shared.scope.blocking(move || logs::link(&links_dir, &log_dir, &links)).await;
        match linked {
            Ok(Ok(())) => self.log_links = Some(wanted),
            Ok(Err(error)) => tracing::warn!(%key, %error, "cannot link the pod's logs"),
            Err(error) => tracing::warn!(%key, %error, "cannot link the pod's logs"),
        }
    }

    async fn execute(&mut self, decision: Decision) -> Round {
        let mut done = false;
        // By name: IDs of the containers that this decision made.
        let mut created = BTreeMap::new();
        for action in decision.actions {
            let action = &action.with_created(&created);
            if let Action::StopContainer { id, grace_s, .. } = action {
                done |= self.stop_beside(id, *grace_s, action);
                continue;
            }
            let Some(result) = self.execute_unless_hangs(action).await else {
                tracing::warn!(key = %self.key, "RunPodSandbox hangs and the pod is to go: giving it up");
                self.memory.abandoned(action, crate::clock::now());
                return Round::Again;
            };
            let now = crate::clock::now();
            match result {
                Ok(made) => {
                    if let Action::CreateContainer { config, .. } = action {
                        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone());
                        created.extend(name.zip(made));
                    }
                    self.memory.done(action, now);
                    self.note(action, true);
                    if *action == Action::Finish {
                        self.forget();
                        return Round::Finished;
                    }
                    done |= !matches!(action, Action::Event { .. });
                }
                Err(message) => {
                    tracing::warn!(key = %self.key, %message, "a step of the pod failed");
                    self.memory.failed(action, &message, now);
                    self.note(action, false);
                    // The next decision reports it and says when to try again.
                    return Round::Again;
                }
            }
        }
        if done {
            return Round::Again;
        }
        let now = crate::clock::now();
        let latest = now.plus_ms(if decision.wake_at.is_some() {
            RESYNC_MS
        } else {
            RETRY_MS.max(RESYNC_MS)
        });
        Round::Sleep(decision.wake_at.unwrap_or(latest).min(latest))
    }

    /// Executes one action. `None`: RunPodSandbox has no answer although the pod is to go for a
    /// while now (F12); it is cancelled by that, and what it has made is observed. Not at once: a
    /// containerd whose caller goes away while it starts the shim forgets that process.
    async fn execute_unless_hangs(
        &self,
        action: &Action,
    ) -> Option<Result<Option<String>, String>> {
        let run = execute::run(&self.shared, &self.jobs, &self.key, &self.uid, action);
        if !matches!(action, Action::RunSandbox { .. }) {
            return Some(run.await);
        }
        let hangs = async {
            deleted(&self.shared, &self.key, &self.uid).await;
            tokio::time::sleep(self.shared.patience).await;
        };
        tokio::select! {
            biased;
            result = run => Some(result),
            () = hangs => None,
        }
    }

    fn note(&mut self, action: &Action, ok: bool) {
        match action {
            Action::EnsureCgroup(_) => self.cgroup_ready = ok,
            Action::EnsureVolumes(_) => self.volumes_ready = ok,
            Action::RemoveCgroup(_) if ok => self.cgroup_ready = false,
            Action::RemoveVolumes { .. } if ok => self.volumes_ready = false,
            _ => {}
        }
    }

    /// Stops a container without waiting: its grace may be long, and everything else of the pod
    /// goes on. A shorter grace than that of the stop under way is told to the runtime again.
    /// Before SIGTERM the dataplane has taken in what was published, `terminating` among it: no new
    /// connection is sent to a container that was told to end.
    fn stop_beside(&mut self, id: &str, grace_s: i64, action: &Action) -> bool {
        self.memory.done(action, crate::clock::now());
        if self.stops.get(id).is_some_and(|(grace, task)| *grace <= grace_s && !task.is_finished())
        {
            return false;
        }
        let (shared, key, uid) = (self.shared.clone(), self.key.clone(), self.uid.clone());
        let (outbox, action, jobs) = (self.outbox.clone(), action.clone(), self.jobs.clone());
        let published = self.shared.store.snapshot().revision;
        let task = self.shared.scope.spawn(format!("stop {id}"), Policy::Finite, async move {
            shared.programmed.taken_in(published).await;
            let result = execute::run(&shared, &jobs, &key, &uid, &action).await.map(drop);
            // The worker may have ended meanwhile; then nobody needs to know.
            drop(outbox.send(Message::Stopped { action, result }));
        });
        self.stops.insert(id.to_owned(), (grace_s, task));
        true
    }

    fn take_messages(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Stopped { action, result } => {
                if let Action::StopContainer { id, .. } = &action
                    && self.stops.get(id).is_some_and(|(_, task)| task.is_finished())
                {
                    self.stops.remove(id);
                }
                if let Err(message) = result {
                    tracing::warn!(key = %self.key, %message, "stopping a container failed");
                    self.memory.failed(&action, &message, crate::clock::now());
                }
            }
            Message::Verdict { container, kind, verdict } => {
                self.verdicts.insert((container, kind), verdict);
            }
        }
    }

    async fn sleep(&mut self, until: Time, wake: &Notify) {
        let mut pulls = self.shared.images.changed();
        pulls.mark_unchanged();
        let pulling = self.pulling;
        // A pull that ended between observing and here must not be slept through.
        let until = if pulling { until.min(crate::clock::now().plus_ms(2_000)) } else { until };
        tokio::select! {
            biased;
            () = wake.notified() => {}
            message = self.inbox.recv() => {
                if let Some(message) = message {
                    self.take(message);
                }
            }
            _ = pulls.changed(), if pulling => {}
            () = tokio::time::sleep(crate::clock::until(until)) => {}
        }
    }

    /// Nothing of the pod is left but, while its CNI DEL is missing, its attachment, which is not
    /// ours.
    fn forget(&self) {
        self.shared.explanations.set(&self.uid, None);
        let uid = &self.uid;
        self.shared.store.edit(|world| {
            let Some(old) = world.local.get(uid).cloned() else { return Vec::new() };
            match &old.attachment {
                None => {
                    world.local.remove(uid);
                }
                Some(attachment) => {
                    let left = LocalPod {
                        key: old.key.clone(),
                        uid: old.uid.clone(),
                        attachment: Some(attachment.clone()),
                        terminating: true,
                        ..LocalPod::default()
                    };
                    world.local.insert(uid.clone(), Arc::new(left));
                }
            }
            vec![Change::Local(uid.clone())]
        });
    }
}

/// Ends when the pod is to go: its deletion was asked for, or no source names it any more.
async fn deleted(shared: &Shared, key: &ObjectKey, uid: &PodUid) {
    let mut changes = shared.store.subscribe();
    loop {
        let world = shared.store.snapshot();
        let gone = match world.pod_of(key, uid) {
            Some(pod) => pod.metadata.deletion_timestamp.is_some(),
            None => world.synced,
        };
        if gone {
            return;
        }
        changes.next().await;
    }
}

/// Some container wants a pull whether or not the image is there (A50).
fn always_pulls(pod: &Pod, image: &str) -> bool {
    let spec = pod.spec.iter();
    let mut containers =
        spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.any(|container| {
        container.image.as_deref() == Some(image)
            && image_name::parse(image).is_ok_and(|reference| {
                let policy = image_name::policy(container.image_pull_policy.as_deref(), &reference);
                policy == PullPolicy::Always
            })
    })
}

/// Every image that the pod names, once.
fn images_of(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut images: Vec<String> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .filter_map(|container| container.image.clone())
        .filter(|image| !image.is_empty())
        .collect();
    images.sort();
    images.dedup();
    images
}
