//! Removes the rows of flows that are over. The tables evict what is oldest when they are full;
//! this keeps them from being full of what is dead, and counts them.
//!
//! Which row is old is decided in one place for programs and daemon, `longshore-abi`. Deliberately
//! absent: fragments, whose small table is left to eviction.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::dataplane::Dataplane;
use crate::supervise::Scope;

/// Between two walks: the shortest age of a row, as far apart as several daemons can be.
const EVERY: Duration = Duration::from_secs(30);
const SPREAD: Duration = Duration::from_secs(10);

/// What the last walk found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Rows that stayed; `None` before the first walk.
    pub rows: Option<usize>,
    /// Since the daemon started.
    pub removed: u64,
    /// The last walk's failure, until one succeeds.
    pub error: Option<String>,
}

/// Walks now and then; never returns.
pub async fn run(dataplane: Arc<Dataplane>, scope: Scope, view: watch::Sender<View>) {
    loop {
        let walked = {
            let dataplane = dataplane.clone();
            scope.blocking(move || walk(&dataplane)).await
        };
        let result = walked.unwrap_or_else(|error| Err(error.to_string()));
        if let Err(error) = &result {
            tracing::warn!(error, "Cannot remove the rows of old flows; trying again");
        }
        view.send_modify(|view| match result {
            Ok((rows, removed)) => {
                view.rows = Some(rows);
                view.removed += removed as u64;
                view.error = None;
            }
            Err(error) => view.error = Some(error),
        });
        tokio::time::sleep(clock::jittered(EVERY, SPREAD)).await;
    }
}

/// Rows that stay, and how many were removed.
fn walk(dataplane: &Dataplane) -> Result<(usize, usize), String> {
    let now_ns = clock::monotonic_ns();
    let old = dataplane.old_flows(now_ns).map_err(|error| error.to_string())?;
    let removed =
        dataplane.remove_flows(&old.expired, now_ns).map_err(|error| error.to_string())?;
    if removed > 0 {
        tracing::debug!(removed, rows = old.rows, "removed old flows");
    }
    Ok((old.rows - removed, removed))
}
