//! The only room that reads clocks or makes random numbers.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_core::model::Time;

static START: OnceLock<(Time, Instant)> = OnceLock::new();

/// Wall clock at the daemon's start plus the monotonic time since: never jumps (F32).
#[allow(clippy::disallowed_methods, reason = "this is the room of clocks")]
pub fn now() -> Time {
    let (start, since) = START.get_or_init(|| (wall(), Instant::now()));
    start.plus_ms(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
}

/// The wall clock as it is set now, to compare with what other machines and programs have written:
/// how long a certificate or token is good for, the times in a log. It jumps, so no timer, wait or
/// age is made of it (F32).
#[allow(clippy::disallowed_methods, reason = "this is the room of clocks")]
pub fn wall() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_unix_ms(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX))
}

/// How long to sleep until `at`; zero when it has passed.
pub fn until(at: Time) -> Duration {
    Duration::from_millis(u64::try_from(at.since_ms(now())).unwrap_or(0))
}

/// A random number below `bound`, for jitter; never for anything that must not be guessed.
pub fn random_below(bound: u64) -> u64 {
    RandomState::new().build_hasher().finish() % bound.max(1)
}

/// Waits between tries: doubling from the first to the longest, each shortened by up to a half, so
/// that many who failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Retry {
    first_ms: u64,
    longest_ms: u64,
    next_ms: u64,
}

impl Retry {
    pub fn new(first_ms: u64, longest_ms: u64) -> Self {
        Self { first_ms, longest_ms, next_ms: first_ms }
    }

    /// It worked: the next failure waits for the first time again.
    pub fn reset(&mut self) {
        self.next_ms = self.first_ms;
    }

    /// How long to wait after this failure.
    pub fn wait(&mut self) -> Duration {
        let full = self.next_ms;
        self.next_ms = full.saturating_mul(2).min(self.longest_ms);
        Duration::from_millis(full - random_below(full / 2 + 1))
    }
}

/// CLOCK_MONOTONIC in ns: the clock of the eBPF programs' time stamps.
#[allow(clippy::disallowed_methods, reason = "this is the room of clocks")]
pub fn monotonic_ns() -> u64 {
    // It fails only for a clock that the kernel does not have; then everything is young.
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap_or(0))
}

/// A time within `spread` around `middle`, so that many daemons on one machine do not work in step.
pub fn jittered(middle: Duration, spread: Duration) -> Duration {
    let middle = middle.saturating_sub(spread / 2);
    let spread_us = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
    middle + Duration::from_micros(random_below(spread_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a34_waits_double_up_to_the_longest_and_start_again() {
        let mut retry = Retry::new(100, 350);
        for full in [100, 200, 350, 350] {
            let wait = retry.wait().as_millis();
            assert!((full / 2..=full).contains(&wait), "{wait} of {full}");
        }
        retry.reset();
        assert!(retry.wait().as_millis() <= 100);
    }

    #[test]
    fn jitter_stays_around_the_middle_and_moves() {
        let draw = || jittered(Duration::from_secs(30), Duration::from_secs(10));
        let drawn: std::collections::BTreeSet<Duration> = (0..100).map(|_| draw()).collect();
        assert!(drawn.len() > 50, "{drawn:?}");
        assert!(*drawn.first().unwrap() >= Duration::from_secs(25));
        assert!(*drawn.last().unwrap() <= Duration::from_secs(35));
    }
}
