//! Keeps the service account tokens of this node's pods in the world: issued when a pod asks for
//! one, renewed in time, forgotten with the pod (A106).
//!
//! Deliberately absent: which tokens and when (core), and the files that they become.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use longshore_core::model::{Change, Kind, ObjectKey, PodUid, Time, Token, TokenRequest};
use longshore_core::pod::mirror::is_static;
use longshore_core::pod::tokens::{self, Due};

use crate::clock::{self, Retry};
use crate::effects::api::{Api, ApiError};
use crate::effects::events::{Event, Recorder};
use crate::failpoint;
use crate::world::Store;

/// Calls at once.
const CALLS_MAX: usize = 8;
/// The authorizer learns of a new pod a few milliseconds later than this node.
const FIRST_MS: u64 = 5;
const LONGEST_MS: u64 = 10_000;
/// Renewals of one moment are spread over so long (A106).
const JITTER_MS: u64 = 10_000;
/// Refusals that pass by themselves are not told.
const QUIET_MS: i64 = 3_000;
/// More is no token.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// Look again at least so often.
const RESYNC_MS: i64 = 60_000;

/// A call that ended, with the wall clock's time when it began.
type Ended = (TokenRequest, Time, Result<Token, ApiError>);

struct Tokens {
    store: Store,
    api: Api,
    recorder: Recorder,
    node_name: String,
    pods_dir: PathBuf,
    by_pod: BTreeMap<ObjectKey, BTreeSet<TokenRequest>>,
    /// Files of requests that were not made yet: the last daemon may have left a token.
    files: BTreeMap<TokenRequest, PathBuf>,
    /// When to ask, by request.
    due: BTreeMap<TokenRequest, Due>,
    /// After failures: since when, and how long to wait.
    retries: BTreeMap<TokenRequest, (Time, Retry)>,
    calling: BTreeSet<TokenRequest>,
    calls: FuturesUnordered<BoxFuture<'static, Ended>>,
}

/// Runs for ever. `api`: the node's own identity; `pods_dir`: where volumes of pods are.
pub async fn run(store: Store, api: Api, recorder: Recorder, node_name: String, pods_dir: PathBuf) {
    let mut changes = store.subscribe();
    let mut tokens = Tokens {
        store,
        api,
        recorder,
        node_name,
        pods_dir,
        by_pod: BTreeMap::new(),
        files: BTreeMap::new(),
        due: BTreeMap::new(),
        retries: BTreeMap::new(),
        calling: BTreeSet::new(),
        calls: FuturesUnordered::new(),
    };
    let keys = tokens.store.snapshot().pods.keys().cloned().collect();
    tokens.look(&keys);
    loop {
        let wake_at = tokens.start_calls(clock::now(), clock::wall());
        tokio::select! {
            biased;
            Some((request, wall, result)) = tokens.calls.next(), if !tokens.calls.is_empty() => {
                tokens.ended(request, wall, result);
            }
            changed = changes.next() => {
                let keys = changed.into_iter().filter_map(|change| match change {
                    Change::Pod(key) => Some(key),
                    _ => None,
                });
                tokens.look(&keys.collect());
            }
            () = tokio::time::sleep(clock::until(wake_at).max(Duration::from_millis(1))) => {}
        }
    }
}

/// What a file in a pod's volume holds, which is in memory (A106): reading it does not block.
fn left(file: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(file).ok()?.take(TOKEN_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

impl Tokens {
    /// Takes in what the pods of `keys` ask for now.
    fn look(&mut self, keys: &BTreeSet<ObjectKey>) {
        let world = self.store.snapshot();
        for key in keys {
            let pod = world.pods.get(key).filter(|pod| self.is_ours(pod));
            let uid = pod.and_then(|pod| pod.metadata.uid.as_deref()).map(PodUid::new);
            let wanted = match (pod, uid) {
                (Some(pod), Some(uid)) => tokens::requests(pod, key, &uid),
                _ => BTreeMap::new(),
            };
            let old = self.by_pod.remove(key).unwrap_or_default();
            for request in old.iter().filter(|request| !wanted.contains_key(request)) {
                self.forget(request);
            }
            for (request, file) in &wanted {
                if self.due.contains_key(request) {
                    continue;
                }
                self.due.insert(request.clone(), Due::at(Time(0)));
                if let Some(file) = file {
                    let pod_dir = self.pods_dir.join(request.pod_uid.as_str());
                    let file = pod_dir.join(file.trim_start_matches('/'));
                    self.files.insert(request.clone(), file);
                }
            }
            if !wanted.is_empty() {
                self.by_pod.insert(key.clone(), wanted.into_keys().collect());
            }
        }
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        node == Some(&self.node_name)
            && !is_static(pod)
            && !matches!(phase, Some("Succeeded" | "Failed"))
    }

    fn forget(&mut self, request: &TokenRequest) {
        self.due.remove(request);
        self.files.remove(request);
        self.retries.remove(request);
        self.store.edit(|world| match world.tokens.remove(request) {
            Some(_) => vec![Change::Token(request.pod_uid.clone())],
            None => Vec::new(),
        });
    }

    /// Asks for what is due. Returns when to look again, by the steady clock; that the wall clock
    /// has jumped is seen then.
    fn start_calls(&mut self, now: Time, wall: Time) -> Time {
        let mut wake_at = now.plus_ms(RESYNC_MS);
        for (request, at) in &self.due {
            if self.calling.contains(request) {
                continue;
            }
            if !at.has_come(now, wall) {
                wake_at = wake_at.min(at.steady);
            } else if self.calls.len() < CALLS_MAX {
                self.calling.insert(request.clone());
                let (api, request) = (self.api.clone(), request.clone());
                let file = self.files.remove(&request);
                self.calls.push(Box::pin(async move {
                    let found = file.and_then(|file| left(&file));
                    let found = found.and_then(|text| tokens::adopt(&text, &request, now, wall));
                    let result = match found {
                        Some(token) => Ok(token),
                        None => {
                            let places = ("api.token.before", "api.token.after");
                            failpoint::around(places, api.request_token(&request)).await
                        }
                    };
                    (request, wall, result)
                }));
            }
        }
        wake_at
    }

    fn ended(&mut self, request: TokenRequest, wall: Time, result: Result<Token, ApiError>) {
        self.calling.remove(&request);
        // The pod may be gone by now.
        let Some(at) = self.due.get_mut(&request) else { return };
        match result {
            Ok(token) => {
                let jitter_ms = i64::try_from(clock::random_below(JITTER_MS)).unwrap_or(0);
                *at = Due::again(&token, jitter_ms, clock::now(), wall, RESYNC_MS / 2);
                self.retries.remove(&request);
                self.store.edit(|world| {
                    world.tokens.insert(request.clone(), token.into());
                    vec![Change::Token(request.pod_uid.clone())]
                });
            }
            Err(error) => {
                let now = clock::now();
                let retry = self.retries.entry(request.clone());
                let (since, retry) =
                    retry.or_insert_with(|| (now, Retry::new(FIRST_MS, LONGEST_MS)));
                let wait_ms = i64::try_from(retry.wait().as_millis()).unwrap_or(1000);
                *at = Due::at(now.plus_ms(wait_ms));
                // The authorizer hears of a new pod a little later than its node.
                if now.since_ms(*since) >= QUIET_MS {
                    self.tell(&request, &error);
                }
            }
        }
    }

    /// The user learns what only the user can mend; an API server that is away is told elsewhere.
    fn tell(&self, request: &TokenRequest, error: &ApiError) {
        if matches!(error, ApiError::Unavailable(_)) {
            tracing::debug!(pod = %request.pod, %error, "a token was not issued; trying again");
            return;
        }
        let (now, account) = (clock::now(), &request.service_account);
        let event = Event {
            kind: Kind::Pod,
            key: request.pod.clone(),
            uid: request.pod_uid.to_string(),
            container: None,
            warning: true,
            reason: "FailedMount".into(),
            message: format!("failed to fetch a token of serviceaccount {account:?}: {error}"),
            first: now,
            last: now,
            count: 1,
        };
        self.recorder.record(event, now);
    }
}
