//! Keeps all pods together inside what the node has for them (A150), and tells of it (A19).
//!
//! Deliberately absent: what that is (`core::pod::cgroup`).

use std::sync::Arc;
use std::time::Duration;

use longshore_core::node::enforced;

use super::node::record;
use crate::clock;
use crate::effects::cgroup::KernelCgroups;
use crate::effects::events::Recorder;
use crate::supervise::Scope;

/// Between two looks: on cgroup v1 a limit below what is used is refused until less is used.
const EVERY: Duration = Duration::from_secs(60);

/// Runs for ever.
pub async fn run(cgroups: Arc<KernelCgroups>, scope: Scope, recorder: Recorder, node_name: String) {
    let mut said = None;
    loop {
        let cgroups = cgroups.clone();
        // What does not come back is a panic, and the daemon's end.
        let Ok(limited) = scope.blocking(move || cgroups.limit_all_pods()).await else { return };
        let result = limited.map_err(|error| error.to_string());
        if said.as_ref() != Some(&result) {
            if let Err(error) = &result {
                tracing::error!(error, "All pods together have no limit; trying again");
            }
            record(&recorder, &node_name, vec![enforced(&result)], clock::now());
            said = Some(result);
        }
        tokio::time::sleep(EVERY).await;
    }
}
