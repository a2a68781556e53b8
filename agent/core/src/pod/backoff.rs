//! Exponential waits: crashes (A48), image pulls (A52), failed steps.
//!
//! Deliberately absent: jitter. One node's pods are not a crowd, and a decision has no randomness.

use crate::model::Time;

/// First wait after a crash or a failed pull (A48, A52).
pub const FIRST_MS: i64 = 10_000;
/// Longest wait after a failed pull (A52); the default for crashes (A49).
pub const LONGEST_MS: i64 = 300_000;
/// A container that ran longer starts again with the first wait (A48).
const RESET_MS: i64 = 600_000;

/// One thing that is being tried again and again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// Wait before the next try, counted from the end of the last one.
    pub wait_ms: i64,
    /// The last try.
    pub tried_at: Time,
}

/// When a container whose last instance ended at `finished_at` may start again (A48): at once the
/// first time, then after 10, 20, 40 … `longest_ms`.
pub fn crash_ready_at(backoff: Option<&Backoff>, finished_at: Time) -> Time {
    match backoff {
        Some(backoff) if finished_at.since_ms(backoff.tried_at) <= RESET_MS => {
            finished_at.plus_ms(backoff.wait_ms)
        }
        _ => finished_at,
    }
}

/// The entry after a container was started again at `now`; `finished_at` ended the instance before.
pub fn after_restart(
    backoff: Option<&Backoff>,
    finished_at: Time,
    now: Time,
    longest_ms: i64,
) -> Backoff {
    let wait_ms = match backoff {
        Some(backoff) if finished_at.since_ms(backoff.tried_at) <= RESET_MS => {
            backoff.wait_ms.saturating_mul(2)
        }
        _ => FIRST_MS,
    };
    Backoff { wait_ms: wait_ms.min(longest_ms), tried_at: now }
}

/// The entry after a try that failed at `now`: `first_ms`, then doubled up to `longest_ms`.
pub fn after_failure(
    backoff: Option<&Backoff>,
    now: Time,
    first_ms: i64,
    longest_ms: i64,
) -> Backoff {
    let wait_ms = backoff.map_or(first_ms, |backoff| backoff.wait_ms.saturating_mul(2));
    Backoff { wait_ms: wait_ms.min(longest_ms), tried_at: now }
}

impl Backoff {
    /// The next try is due.
    pub fn ready_at(&self) -> Time {
        self.tried_at.plus_ms(self.wait_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a48_crash_loop_waits_0_10_20_40_80_160_300_and_resets_after_600_s() {
        let mut backoff = None;
        let mut now = Time(0);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let finished_at = now.plus_s(1);
            now = crash_ready_at(backoff.as_ref(), finished_at);
            waits.push(now.since_ms(finished_at) / 1000);
            backoff = Some(after_restart(backoff.as_ref(), finished_at, now, LONGEST_MS));
        }
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);

        let finished_at = now.plus_s(601);
        assert_eq!(crash_ready_at(backoff.as_ref(), finished_at), finished_at);
        let again = after_restart(backoff.as_ref(), finished_at, finished_at, LONGEST_MS);
        assert_eq!(again.wait_ms, FIRST_MS);
    }

    #[test]
    fn a49_the_longest_wait_is_configured() {
        let first = after_restart(None, Time(0), Time(0), 3_000);
        assert_eq!(first.wait_ms, 3_000);
        assert_eq!(after_restart(Some(&first), Time(1), Time(1), 3_000).wait_ms, 3_000);
    }

    #[test]
    fn a52_failed_pulls_wait_10_s_doubling_to_300_s() {
        let mut entry = None;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let next = after_failure(entry.as_ref(), Time(0), FIRST_MS, LONGEST_MS);
            waits.push(next.wait_ms / 1000);
            entry = Some(next);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }
}
