//! Whether the dataplane lets the node be ready (A11, I6, I10).

use std::time::Duration;

use longshore_core::model::Time;
use tokio::sync::watch;

use crate::clock;
use crate::supervise::{Policy, Scope};
use crate::workers::dataplane::View;
use crate::world::api::Handle;

/// Maps that cannot be written keep their verdicts: less is no reason to take all pods of the node
/// out of their Services (A11's age).
const BROKEN_MS: i64 = 30_000;
/// How long the rows of the last run count as synced when the API server answers: the first lists
/// take less. While it is away they count for ever (I10).
const ADOPTED_MS: i64 = 60_000;
/// Between two looks while time alone may change the answer.
const EVERY: Duration = Duration::from_secs(1);

/// What is known about the dataplane.
#[derive(Default)]
struct Seen {
    /// A World was written to the maps.
    synced: bool,
    /// Rows of the last run are in the maps.
    adopted: bool,
    /// Since when the maps cannot be written, and why.
    broken: Option<(Time, String)>,
    /// When this node's pods were first listed: the API server answers.
    listed: Option<Time>,
    /// What cannot be watched.
    missing: Vec<String>,
}

impl Seen {
    fn judge(&self, now: Time) -> Result<(), String> {
        if let Some((since, error)) = &self.broken
            && now.since_ms(*since) >= BROKEN_MS
        {
            return Err(format!("the dataplane cannot write its maps: {error}"));
        }
        let fresh = self.listed.is_none_or(|at| now.since_ms(at) < ADOPTED_MS);
        if self.synced || self.adopted && fresh {
            return Ok(());
        }
        let what = "the dataplane waits for Services, policies and pods from the API server";
        match self.missing.as_slice() {
            [] => Err(what.into()),
            missing => Err(format!("{what} ({})", missing.join("; "))),
        }
    }

    fn look(&mut self, view: &View, source: &Handle, now: Time) {
        self.synced = view.revision > 0;
        self.adopted = view.adopted;
        self.broken = match (&view.error, self.broken.take()) {
            (None, _) => None,
            (Some(error), Some((since, _))) => Some((since, error.clone())),
            (Some(error), None) => Some((now, error.clone())),
        };
        if source.listed() {
            self.listed.get_or_insert(now);
        }
        self.missing = match self.synced {
            true => Vec::new(),
            false => source.problems().into_iter().map(|one| one.problem.message).collect(),
        };
    }
}

/// What the node's Ready condition needs of the dataplane.
pub fn follow(
    scope: &Scope,
    mut view: watch::Receiver<View>,
    source: Handle,
) -> watch::Receiver<Result<(), String>> {
    let mut seen = Seen::default();
    let mut look = move |view: &View| {
        let now = clock::now();
        seen.look(view, &source, now);
        let waits = !seen.synced || seen.broken.is_some();
        (seen.judge(now), waits)
    };
    let (first, mut waits) = look(&view.borrow_and_update());
    let (tell, state) = watch::channel(first);
    scope.detach("dataplane state", Policy::Critical, async move {
        loop {
            tokio::select! {
                biased;
                changed = view.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(EVERY), if waits => {}
            }
            let now;
            (now, waits) = look(&view.borrow_and_update());
            tell.send_if_modified(|old| {
                let changed = *old != now;
                *old = now;
                changed
            });
        }
    });
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);

    #[test]
    fn a11_i10_pinned_rows_count_as_synced_only_while_the_api_server_is_away() {
        let mut seen = Seen { adopted: true, ..Seen::default() };
        assert_eq!(seen.judge(NOW), Ok(()));
        seen.listed = Some(NOW);
        assert_eq!(seen.judge(NOW.plus_ms(ADOPTED_MS - 1)), Ok(()));
        seen.missing = vec!["services: 403".into()];
        let error = seen.judge(NOW.plus_ms(ADOPTED_MS)).unwrap_err();
        assert!(error.contains("(services: 403)"), "{error}");
        seen.synced = true;
        assert_eq!(seen.judge(NOW.plus_ms(ADOPTED_MS)), Ok(()));
        // Of a first start nothing is pinned.
        assert!(Seen::default().judge(NOW).is_err());
    }

    #[test]
    fn i6_a_map_that_is_refused_once_takes_no_readiness() {
        let broken = Some((NOW, "no memory".to_owned()));
        let seen = Seen { synced: true, broken, ..Seen::default() };
        assert_eq!(seen.judge(NOW.plus_ms(BROKEN_MS - 1)), Ok(()));
        assert!(seen.judge(NOW.plus_ms(BROKEN_MS)).unwrap_err().contains("no memory"));
    }
}
