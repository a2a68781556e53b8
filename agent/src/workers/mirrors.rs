//! Keeps copies of this node's static pods in the API server (A31).
//!
//! Deliberately absent: which (core), and their status (`pod_status`). A copy that somebody deletes
//! does not end the pod: it is made again.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore_core::model::{Change, ObjectKey, Time};
use longshore_core::pod::mirror::{Step, steps};

use crate::clock::{self, Retry};
use crate::effects::api::{Api, ApiError};
use crate::failpoint;
use crate::world::Store;

/// The watch shows what was written within this; then it is written again.
const ECHO_MS: i64 = 5_000;
const RESYNC: Duration = Duration::from_secs(60);
const FIRST_MS: u64 = 500;
const LONGEST_MS: u64 = 10_000;

/// Runs for ever. `api`: the node's own identity.
pub async fn run(store: Store, api: Api, node_name: String) {
    let mut changes = store.subscribe();
    let mut retry = Retry::new(FIRST_MS, LONGEST_MS);
    let mut written: BTreeMap<ObjectKey, (Step, Time)> = BTreeMap::new();
    let mut refused: BTreeMap<ObjectKey, String> = BTreeMap::new();
    loop {
        let world = store.snapshot();
        let mut pause = RESYNC;
        let wanted = if world.synced { steps(&world, &node_name) } else { Vec::new() };
        written.retain(|_, (_, at)| clock::now().since_ms(*at) < ECHO_MS);
        let (mut failed, mut wrote) = (false, false);
        refused.retain(|key, _| wanted.iter().any(|step| step.key() == key));
        for step in wanted {
            let key = step.key().clone();
            if written.get(&key).is_some_and(|(done, _)| *done == step) {
                pause = pause.min(Duration::from_millis(ECHO_MS as u64));
                continue;
            }
            match write(&api, &step).await {
                Ok(()) => {
                    wrote = true;
                    refused.remove(&key);
                    pause = pause.min(Duration::from_millis(ECHO_MS as u64));
                    written.insert(key, (step, clock::now()));
                }
                // One that is refused says nothing of the others.
                Err(error) => {
                    failed = true;
                    let text = error.to_string();
                    if refused.get(&key) != Some(&text) {
                        tracing::warn!(
                            "Cannot keep the copy of a static pod: {key}: {text}; trying again"
                        );
                        refused.insert(key, text);
                    }
                    if matches!(error, ApiError::Unavailable(_)) {
                        break;
                    }
                }
            }
        }
        if failed {
            pause = pause.min(retry.wait());
        } else if wrote {
            retry.reset();
        }
        tokio::select! {
            biased;
            () = relevant(&mut changes) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn write(api: &Api, step: &Step) -> Result<(), ApiError> {
    match step {
        // Somebody was quicker, or it has another UID by now: the watch will show it.
        Step::Create(key, pod) => {
            let places = ("api.mirror_create.before", "api.mirror_create.after");
            match failpoint::around(places, api.create_pod(key, pod)).await {
                Err(ApiError::Conflict(_)) => Ok(()),
                other => other,
            }
        }
        Step::Delete(key, uid) => {
            let places = ("api.mirror_delete.before", "api.mirror_delete.after");
            match failpoint::around(places, api.delete_pod(key, uid)).await {
                Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Ok(()),
                other => other,
            }
        }
    }
}

async fn relevant(changes: &mut crate::world::Changes) {
    loop {
        let seen = |change: &Change| {
            matches!(change, Change::Pod(_) | Change::Mirror(_) | Change::Node(_) | Change::Synced)
        };
        if changes.next().await.iter().any(seen) {
            return;
        }
    }
}
