//! Sends the status of this node's pods to the API server, and deletes a pod there when nothing of
//! it is left here (A62, A65).
//!
//! Level-triggered: what a pod's worker published is compared with what the API server has, and the
//! difference is sent; a lost write is found again. Before everything was listed once nothing is
//! sent (I6). Deliberately absent: what the status is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use longshore_core::model::{Change, ObjectKey, PodUid, Time, World};
use longshore_core::pod::mirror::{HASH, MIRROR, is_static};
use longshore_core::pod::upload::status_patch;
use tokio::sync::mpsc;

use super::PodSink;
use crate::clock::{self, Retry};
use crate::effects::api::{Api, ApiError};
use crate::failpoint;
use crate::world::Store;
use crate::world::api::Handle;

/// Calls at once.
const CALLS_MAX: usize = 8;
const FIRST_MS: u64 = 200;
const LONGEST_MS: u64 = 10_000;
/// Between two tries of a status that the API server refuses.
const REFUSED_MS: i64 = 60_000;

/// The sink of the node role: clones share it.
#[derive(Clone)]
pub struct Finished {
    store: Store,
    source: Handle,
    tell: mpsc::UnboundedSender<Final>,
}

impl PodSink for Finished {
    /// Takes the pod's last status along: its worker forgets it next.
    fn finished(&self, key: &ObjectKey, uid: &PodUid) {
        if let Some(pod) = self.source.own_pod(key, uid) {
            let local = self.store.snapshot().local.get(uid).cloned();
            let want = local.map(|local| local.status.clone());
            let want = want.filter(|status| *status != PodStatus::default());
            let last = Final { key: key.clone(), uid: uid.clone(), pod, want };
            // Nobody listens only when the daemon is ending; the next one finds the pod again.
            drop(self.tell.send(last));
        }
        self.source.finish(key, uid);
    }

    /// A daemon that starts before the API server has heard of the end finds how it ended there.
    fn keeps(&self, key: &ObjectKey, uid: &PodUid) -> bool {
        self.source.own_pod(key, uid).is_some()
    }
}

/// A pod of which nothing is left but the API server's object.
#[derive(Clone)]
struct Final {
    key: ObjectKey,
    uid: PodUid,
    pod: Arc<Pod>,
    want: Option<PodStatus>,
}

/// What the API server answered last.
struct Sent {
    want: PodStatus,
    answer: Option<PodStatus>,
    version: u64,
}

/// A pod's status here and there.
struct Target {
    key: ObjectKey,
    /// Of the object in the API server: a static pod's is its mirror's.
    uid: String,
    have: Option<PodStatus>,
    version: u64,
    want: PodStatus,
}

enum Outcome {
    Patched(Box<PodStatus>, Box<Pod>),
    Deleted,
    Failed(ApiError),
}

/// The part that runs.
pub struct PodStatuses {
    store: Store,
    api: Api,
    node_name: String,
    /// Removes what is stored of a pod whose end was told.
    forget: Box<dyn Fn(&PodUid) + Send>,
    finished: mpsc::UnboundedReceiver<Final>,
    finals: BTreeMap<PodUid, Final>,
    sent: BTreeMap<PodUid, Sent>,
    /// To be looked at.
    dirty: BTreeSet<PodUid>,
    calling: BTreeSet<PodUid>,
    /// After failures: not before then.
    retries: BTreeMap<PodUid, (Retry, Time)>,
    /// Told already.
    refusals: BTreeMap<PodUid, String>,
    calls: FuturesUnordered<BoxFuture<'static, (PodUid, Outcome)>>,
}

/// The sink for the pods' workers, and what sends. `api`: the node's own identity.
pub fn new(
    store: Store,
    source: Handle,
    api: Api,
    node_name: &str,
    forget: Box<dyn Fn(&PodUid) + Send>,
) -> (Finished, PodStatuses) {
    let (tell, finished) = mpsc::unbounded_channel();
    let sink = Finished { store: store.clone(), source, tell };
    let statuses = PodStatuses {
        store,
        api,
        node_name: node_name.to_owned(),
        forget,
        finished,
        finals: BTreeMap::new(),
        sent: BTreeMap::new(),
        dirty: BTreeSet::new(),
        calling: BTreeSet::new(),
        retries: BTreeMap::new(),
        refusals: BTreeMap::new(),
        calls: FuturesUnordered::new(),
    };
    (sink, statuses)
}

impl PodStatuses {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut changes = self.store.subscribe();
        self.dirty.extend(self.store.snapshot().local.keys().cloned());
        loop {
            self.start_calls();
            let retry_at = self.retries.values().map(|(_, at)| *at).min();
            tokio::select! {
                biased;
                Some((uid, outcome)) = self.calls.next(), if !self.calls.is_empty() => {
                    self.ended(uid, outcome);
                }
                Some(last) = self.finished.recv() => {
                    self.dirty.insert(last.uid.clone());
                    self.finals.insert(last.uid.clone(), last);
                }
                changed = changes.next() => self.changed(&changed),
                () = sleep_until(retry_at) => self.retry(),
            }
        }
    }

    fn changed(&mut self, changes: &BTreeSet<Change>) {
        let world = self.store.snapshot();
        for change in changes {
            match change {
                Change::Local(uid) => drop(self.dirty.insert(uid.clone())),
                Change::Pod(key) | Change::Mirror(key) => {
                    let uid = world.pods.get(key).and_then(|pod| pod.metadata.uid.as_deref());
                    self.dirty.extend(uid.map(PodUid::new));
                }
                Change::Synced => self.dirty.extend(world.local.keys().cloned()),
                _ => {}
            }
        }
    }

    fn retry(&mut self) {
        let now = clock::now();
        let due = self.retries.iter().filter(|(_, (_, at))| *at <= now);
        let due: Vec<_> = due.map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            if let Some((_, at)) = self.retries.get_mut(&uid) {
                // Kept for its wait; the next failure sets the time.
                *at = Time(i64::MAX);
            }
            self.dirty.insert(uid);
        }
    }

    fn start_calls(&mut self) {
        let world = self.store.snapshot();
        let now = clock::now();
        for uid in std::mem::take(&mut self.dirty) {
            let waits =
                self.retries.get(&uid).is_some_and(|(_, at)| *at != Time(i64::MAX) && *at > now);
            if self.calling.contains(&uid) || waits {
                // Looked at again when the call or the wait is over.
                continue;
            }
            if self.calls.len() >= CALLS_MAX {
                self.dirty.insert(uid);
                continue;
            }
            if let Some(last) = self.finals.get(&uid) {
                let patch = self.last_patch(last);
                let (api, last) = (self.api.clone(), last.clone());
                let (told, call) = (uid.clone(), async move { finish(&api, &last, patch).await });
                self.calls.push(Box::pin(async move { (told, call.await) }));
                self.calling.insert(uid);
                continue;
            }
            let Some(target) = target(&world, &uid, &self.node_name) else {
                if !world.local.contains_key(&uid) {
                    self.forget(&uid);
                }
                continue;
            };
            if let Some(patch) = self.patch(&uid, &target) {
                let api = self.api.clone();
                let told = uid.clone();
                self.calls.push(Box::pin(async move {
                    let outcome = match patch_status(&api, &target.key, &patch).await {
                        Ok(pod) => Outcome::Patched(Box::new(target.want), Box::new(pod)),
                        Err(error) => Outcome::Failed(error),
                    };
                    (told, outcome)
                }));
                self.calling.insert(uid);
            } else {
                self.retries.remove(&uid);
            }
        }
    }

    /// The difference to the newest that is known of the API server's object.
    fn patch(&self, uid: &PodUid, target: &Target) -> Option<serde_json::Value> {
        let sent = self.sent.get(uid).filter(|sent| sent.version >= target.version);
        let have = match sent {
            // The API server took this and has not changed it since.
            Some(sent) if sent.want == target.want => return None,
            Some(sent) => sent.answer.as_ref(),
            None => target.have.as_ref(),
        };
        status_patch(&target.uid, have, &target.want)
    }

    fn last_patch(&self, last: &Final) -> Option<serde_json::Value> {
        let target = Target {
            key: last.key.clone(),
            uid: last.uid.to_string(),
            have: last.pod.status.clone(),
            version: version(&last.pod),
            want: last.want.clone()?,
        };
        self.patch(&last.uid, &target)
    }

    fn ended(&mut self, uid: PodUid, outcome: Outcome) {
        self.calling.remove(&uid);
        match outcome {
            Outcome::Patched(want, pod) => {
                let version = version(&pod);
                self.sent.insert(uid.clone(), Sent { want: *want, answer: pod.status, version });
                self.retries.remove(&uid);
                self.refusals.remove(&uid);
                self.dirty.insert(uid);
            }
            Outcome::Deleted => {
                self.finals.remove(&uid);
                self.forget(&uid);
                (self.forget)(&uid);
            }
            Outcome::Failed(error) => self.failed(uid, &error),
        }
    }

    fn failed(&mut self, uid: PodUid, error: &ApiError) {
        let entry = self
            .retries
            .entry(uid.clone())
            .or_insert_with(|| (Retry::new(FIRST_MS, LONGEST_MS), Time(0)));
        let wait = match error {
            ApiError::Invalid(_) | ApiError::Forbidden(_) => {
                Duration::from_millis(REFUSED_MS as u64)
            }
            _ => entry.0.wait(),
        };
        entry.1 = clock::now().plus_ms(i64::try_from(wait.as_millis()).unwrap_or(REFUSED_MS));
        match error {
            // The watch will say that it is gone, or what it is now.
            ApiError::NotFound(_) | ApiError::Conflict(_) | ApiError::Unavailable(_) => {
                tracing::debug!(%uid, %error, "a pod's status was not sent; trying again");
            }
            _ => {
                let text = error.to_string();
                if self.refusals.insert(uid.clone(), text.clone()).as_ref() != Some(&text) {
                    tracing::error!(%uid, error = text, "The API server refuses a pod's status; trying again");
                }
            }
        }
    }

    fn forget(&mut self, uid: &PodUid) {
        self.sent.remove(uid);
        self.retries.remove(uid);
        self.refusals.remove(uid);
    }
}

async fn patch_status(
    api: &Api,
    key: &ObjectKey,
    patch: &serde_json::Value,
) -> Result<Pod, ApiError> {
    let places = ("api.pod_status.before", "api.pod_status.after");
    failpoint::around(places, api.patch_pod_status(key, patch)).await
}

/// The last status, then the end (A62).
async fn finish(api: &Api, last: &Final, patch: Option<serde_json::Value>) -> Outcome {
    if let Some(patch) = patch {
        match patch_status(api, &last.key, &patch).await {
            Ok(_) => {}
            // Somebody was quicker.
            Err(ApiError::NotFound(_)) => return Outcome::Deleted,
            // The name may be another pod's already, or other writers were in the way: the deletion
            // names the UID and finds out.
            Err(ApiError::Conflict(_)) => {}
            // A status that will never be taken must not keep the pod for ever.
            Err(error @ ApiError::Invalid(_)) => {
                tracing::error!(key = %last.key, %error, "The API server refuses a pod's last status");
            }
            Err(error) => return Outcome::Failed(error),
        }
    }
    let places = ("api.pod_delete.before", "api.pod_delete.after");
    match failpoint::around(places, api.delete_pod(&last.key, last.uid.as_str())).await {
        Ok(()) | Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Outcome::Deleted,
        Err(error) => Outcome::Failed(error),
    }
}

/// `None`: nothing can or need be sent about this pod now.
fn target(world: &World, uid: &PodUid, node_name: &str) -> Option<Target> {
    let local = world.local.get(uid).filter(|_| world.synced)?;
    let key = local.key.as_ref()?;
    let want = local.status.clone();
    if want == PodStatus::default() {
        return None;
    }
    let pod = world.pod_of(key, uid)?;
    if pod.spec.as_ref()?.node_name.as_deref() != Some(node_name) {
        return None;
    }
    let object = match is_static(pod) {
        false => pod,
        true => {
            let hash =
                |pod: &Pod, name: &str| pod.metadata.annotations.as_ref()?.get(name).cloned();
            world.mirrors.get(key).filter(|mirror| hash(mirror, MIRROR) == hash(pod, HASH))?
        }
    };
    Some(Target {
        key: key.clone(),
        uid: object.metadata.uid.clone()?,
        have: object.status.clone(),
        version: version(object),
        want,
    })
}

/// Resource versions of one kind grow; 0: unknown.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn sleep_until(at: Option<Time>) {
    match at.filter(|at| *at != Time(i64::MAX)) {
        Some(at) => tokio::time::sleep(clock::until(at).max(Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}
