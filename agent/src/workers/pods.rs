//! Starts and wakes pod workers: one per UID, adopted after a restart, orphans included.
//!
//! Deliberately absent: what a worker does. A pod of the same name with another UID waits until the
//! old one is gone (A35); nothing that no source names is touched before all sources have delivered
//! once (A38), and never what another daemon made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use longshore_core::model::{Change, ObjectKey, PodUid, World};
use longshore_core::pod::{References, paths};
use tokio::sync::{Notify, mpsc};

use super::{Shared, pod, status_file};
use crate::effects::{logs, volumes};
use crate::supervise::{Policy, Task};

/// How often the disk is searched for what no pod owns (A37).
const SWEEP: Duration = Duration::from_secs(60);
/// Complete lists in which an orphan must be before it is ended (F16).
const SEEN_MIN: u32 = 2;

struct Worker {
    key: ObjectKey,
    wake: Arc<Notify>,
    /// Of the pod's spec: what wakes it.
    references: References,
    _task: Task,
}

struct Pods {
    shared: Arc<Shared>,
    workers: BTreeMap<PodUid, Worker>,
    /// In the runtime, but made by somebody else: never ours to end.
    foreign: BTreeSet<PodUid>,
    ended: mpsc::UnboundedReceiver<PodUid>,
    tell_end: mpsc::UnboundedSender<PodUid>,
    /// Questions that are under way: nobody waits while a runtime or a disk hangs (F12).
    asking: BTreeSet<PodUid>,
    sweeping: bool,
    answers: mpsc::UnboundedReceiver<Answer>,
    tell_answer: mpsc::UnboundedSender<Answer>,
}

enum Answer {
    /// Whether a pod was made here; `None`: not known now.
    MadeHere(PodUid, Option<bool>),
    /// Pods that have a directory.
    OnDisk(BTreeSet<String>),
}

/// Runs for ever. The observer's own loops must be running too.
pub async fn run(shared: Arc<Shared>) {
    let mut changes = shared.store.subscribe();
    let mut woken = shared.observer.woken();
    let mut programmed = shared.programmed.subscribe();
    let mut status = shared.observer.status();
    let mut listed = shared.observer.listed();
    // Without one complete list nobody knows what runs here: a twin could be started (I2).
    while *listed.borrow_and_update() == 0 {
        // A runtime that is away is no illness of this loop.
        shared.heartbeat.beat(crate::clock::now());
        match tokio::time::timeout(SWEEP, listed.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return,
        }
    }
    let heartbeat = shared.heartbeat.clone();
    let mut pods = Pods::new(shared);
    pods.reconcile_all();
    let mut open = BTreeSet::new();
    let mut network_ready = false;
    let mut next_sweep = crate::clock::now();
    loop {
        heartbeat.beat(crate::clock::now());
        tokio::select! {
            biased;
            uid = pods.ended.recv() => {
                if let Some(uid) = uid {
                    pods.ended(&uid);
                }
            }
            answer = pods.answers.recv() => {
                if let Some(answer) = answer {
                    pods.answered(answer);
                }
            }
            changes = changes.next() => pods.take(&changes),
            uids = woken.next() => {
                pods.wake(&uids);
                pods.orphans();
            }
            _ = programmed.changed() => {
                let now = programmed.borrow_and_update().clone();
                pods.wake(&now.symmetric_difference(&open).cloned().collect());
                open = now;
            }
            _ = status.changed() => {
                let ready = status.borrow_and_update().as_ref().is_some_and(|s| s.network_ready);
                if ready != network_ready {
                    network_ready = ready;
                    pods.wake_all();
                }
            }
            () = tokio::time::sleep(crate::clock::until(next_sweep)) => {
                pods.sweep();
                next_sweep = crate::clock::now().plus_ms(SWEEP.as_millis() as i64);
            }
        }
    }
}

impl Pods {
    fn new(shared: Arc<Shared>) -> Self {
        let (tell_end, ended) = mpsc::unbounded_channel();
        let (tell_answer, answers) = mpsc::unbounded_channel();
        Self {
            shared,
            workers: BTreeMap::new(),
            foreign: BTreeSet::new(),
            ended,
            tell_end,
            asking: BTreeSet::new(),
            sweeping: false,
            answers,
            tell_answer,
        }
    }

    fn take(&mut self, changes: &BTreeSet<Change>) {
        for change in changes {
            match change {
                Change::Pod(key) => self.reconcile(key),
                Change::ConfigMap(key) => self.wake_where(key, |refs| &refs.config_maps),
                Change::Secret(key) => self.wake_where(key, |refs| &refs.secrets),
                // Environment variables and hosts entries name Services of every namespace.
                Change::Service(_) => self.wake_all(),
                Change::Token(uid) => self.wake(&BTreeSet::from([uid.clone()])),
                Change::Synced => self.reconcile_all(),
                Change::Node(_)
                | Change::Mirror(_)
                | Change::EndpointSlice(_)
                | Change::Policy(_)
                | Change::Namespace(_)
                | Change::Local(_) => {}
            }
        }
    }

    fn reconcile_all(&mut self) {
        let world = self.shared.store.snapshot();
        for key in world.pods.keys() {
            self.reconcile(key);
        }
        // Those that a source no longer names.
        self.wake_all();
    }

    /// Starts or wakes the worker of the pod that `key` names now, and wakes that of its namesake.
    fn reconcile(&mut self, key: &ObjectKey) {
        let world = self.shared.store.snapshot();
        let wanted = world.pods.get(key).filter(|pod| self.is_ours(pod));
        let uid = wanted.and_then(|pod| pod.metadata.uid.as_deref()).map(PodUid::new);
        for (other, worker) in &self.workers {
            if worker.key == *key && uid.as_ref() != Some(other) {
                worker.wake.notify_one();
            }
        }
        let (Some(pod), Some(uid)) = (wanted, uid) else { return };
        let references = References::of(pod);
        if let Some(worker) = self.workers.get_mut(&uid) {
            worker.references = references;
            worker.wake.notify_one();
        } else if !self.has_namesake(key, &uid) {
            self.start(key.clone(), uid, references);
        }
    }

    /// Without a node's name in it, a pod is for whoever has its manifest.
    fn is_ours(&self, pod: &Pod) -> bool {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        node.is_none_or(|node| node.is_empty() || node == self.shared.node.name)
    }

    /// Another pod of the same name is still here (A35).
    fn has_namesake(&self, key: &ObjectKey, uid: &PodUid) -> bool {
        self.workers.iter().any(|(other, worker)| worker.key == *key && other != uid)
            || self.shared.observer.pods().iter().any(|(other, listed)| {
                listed.key == *key && other != uid && !self.foreign.contains(other)
            })
    }

    fn start(&mut self, key: ObjectKey, uid: PodUid, references: References) {
        tracing::debug!(%key, %uid, "pod worker starts");
        let wake = Arc::new(Notify::new());
        let end = TellEnd { uid: uid.clone(), tell: self.tell_end.clone() };
        let run = pod::run(self.shared.clone(), key.clone(), uid.clone(), wake.clone());
        let run = async move {
            let _end = end;
            Box::pin(run).await;
        };
        let task = self.shared.scope.spawn(format!("pod {key}"), Policy::Finite, run);
        self.workers.insert(uid, Worker { key, wake, references, _task: task });
    }

    fn ended(&mut self, uid: &PodUid) {
        if let Some(worker) = self.workers.remove(uid) {
            tracing::debug!(key = %worker.key, %uid, "pod worker ended");
            self.reconcile(&worker.key);
        }
    }

    fn wake(&self, uids: &BTreeSet<PodUid>) {
        for worker in uids.iter().filter_map(|uid| self.workers.get(uid)) {
            worker.wake.notify_one();
        }
    }

    fn wake_all(&self) {
        for worker in self.workers.values() {
            worker.wake.notify_one();
        }
    }

    fn wake_where(&self, key: &ObjectKey, names: impl Fn(&References) -> &BTreeSet<String>) {
        for worker in self.workers.values() {
            if worker.key.namespace == key.namespace
                && names(&worker.references).contains(&*key.name)
            {
                worker.wake.notify_one();
            }
        }
    }

    /// Pods in the runtime that no source names: ours get a worker, which ends them (A37).
    fn orphans(&mut self) {
        let world = self.shared.store.snapshot();
        let listed = self.shared.observer.pods();
        self.foreign.retain(|uid| listed.contains_key(uid));
        // A pod that waited for a namesake which is gone now.
        for (key, pod) in &world.pods {
            if !self.is_ours(pod) {
                continue;
            }
            let uid = pod.metadata.uid.as_deref().map(PodUid::new);
            if uid.is_some_and(|uid| !self.workers.contains_key(&uid)) {
                self.reconcile(key);
            }
        }
        if !world.synced {
            return;
        }
        for (uid, pod) in listed {
            if !self.is_known(&uid) && pod.seen >= SEEN_MIN && !names(&world, &pod.key, &uid) {
                self.ask(uid, pod.sandboxes);
            }
        }
    }

    fn is_known(&self, uid: &PodUid) -> bool {
        self.workers.contains_key(uid) || self.foreign.contains(uid)
    }

    /// Asks whether a pod was made here, unless that is being asked already.
    fn ask(&mut self, uid: PodUid, sandboxes: Vec<String>) {
        if !self.asking.insert(uid.clone()) {
            return;
        }
        let (shared, tell) = (self.shared.clone(), self.tell_answer.clone());
        self.shared.scope.detach(format!("whose is {uid}"), Policy::Finite, async move {
            let made_here = is_made_here(&shared, &uid, &sandboxes).await;
            drop(tell.send(Answer::MadeHere(uid, made_here)));
        });
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::MadeHere(uid, made_here) => {
                self.asking.remove(&uid);
                self.owned(uid, made_here);
            }
            Answer::OnDisk(uids) => {
                self.sweeping = false;
                self.swept(uids);
            }
        }
    }

    /// The pod may have gone, or become wanted, since the question.
    fn owned(&mut self, uid: PodUid, made_here: Option<bool>) {
        let listed = self.shared.observer.pods();
        let Some(pod) = listed.get(&uid) else { return };
        if self.is_known(&uid) || names(&self.shared.store.snapshot(), &pod.key, &uid) {
            return;
        }
        match made_here {
            Some(true) => {
                tracing::info!(key = %pod.key, %uid, "no source names this pod: ending it");
                self.start(pod.key.clone(), uid, References::default());
            }
            Some(false) => {
                tracing::warn!(key = %pod.key, %uid,
                    "a pod of somebody else is in this runtime; it is left alone");
                self.foreign.insert(uid);
                // A pod of ours with its name need not wait for it.
                self.reconcile(&pod.key);
            }
            None => {}
        }
    }

    /// Looks for directories of ours that belong to no pod (A37), and removes dead links to logs. Cgroups are not looked for: every
    /// cgroup of ours has a directory beside it, and the others are somebody's pods.
    fn sweep(&mut self) {
        if !self.shared.store.snapshot().synced || self.sweeping {
            return;
        }
        self.sweeping = true;
        let (shared, tell) = (self.shared.clone(), self.tell_answer.clone());
        self.shared.scope.detach("sweep", Policy::Finite, async move {
            let pods_dir = shared.pods_dir();
            let logs_dir = shared.node.pod_logs_dir.clone();
            let search = move || {
                let links_dir = paths::log_links_dir(&logs_dir);
                if let Err(error) = logs::sweep(Path::new(&links_dir), Path::new(&logs_dir)) {
                    tracing::warn!(links_dir, %error, "cannot remove dead links to logs");
                }
                volumes::pods(&pods_dir)
            };
            let search = shared.scope.blocking(search).await;
            let uids = search.unwrap_or_default().into_iter().collect();
            drop(tell.send(Answer::OnDisk(uids)));
        });
    }

    fn swept(&mut self, uids: BTreeSet<String>) {
        let (world, pods_dir) = (self.shared.store.snapshot(), self.shared.pods_dir());
        let listed = self.shared.observer.pods();
        for uid in uids {
            let uid = PodUid::new(uid);
            let wanted = world.pods.iter().any(|(key, _)| names(&world, key, &uid));
            if wanted || self.workers.contains_key(&uid) || listed.contains_key(&uid) {
                continue;
            }
            let stored = status_file::load(&pods_dir.join(uid.as_str()));
            // Only its log directory is found by name.
            let key = stored.map_or_else(|| ObjectKey::new("unknown", "unknown"), |s| s.key);
            if self.shared.sink.keeps(&key, &uid) {
                continue;
            }
            tracing::info!(%key, %uid, "left behind by a pod that is gone: removing it");
            self.start(key, uid, References::default());
        }
    }
}

/// By its directory, which is there before its sandbox and until after it, and by the cgroup that
/// the sandbox was made in; `None`: not known now. The cgroup alone proves nothing: a kubelet with
/// the same root names its pods' cgroups alike.
async fn is_made_here(shared: &Shared, uid: &PodUid, sandboxes: &[String]) -> Option<bool> {
    let has_directory =
        paths::is_path_name(uid.as_str()) && shared.pods_dir().join(uid.as_str()).exists();
    if !has_directory {
        return Some(false);
    }
    let mut made_here = false;
    for id in sandboxes {
        match shared.observer.cgroup_parent(id).await {
            Ok(Some(parent)) => {
                made_here |= Path::new(&parent).starts_with(&shared.node.kubepods_cgroup);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "whose pod it is cannot be told now");
                return None;
            }
        }
    }
    // Containers without a sandbox cannot be ours: a sandbox is removed last.
    Some(made_here)
}

fn names(world: &World, key: &ObjectKey, uid: &PodUid) -> bool {
    world.pod_of(key, uid).is_some()
}

/// Tells the end of a worker, however it ended.
struct TellEnd {
    uid: PodUid,
    tell: mpsc::UnboundedSender<PodUid>,
}

impl Drop for TellEnd {
    fn drop(&mut self) {
        // Nobody listens when the daemon is ending.
        drop(self.tell.send(self.uid.clone()));
    }
}
