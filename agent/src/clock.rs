//! The only room that reads clocks or makes random numbers.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use longshore_core::model::Time;

static START: OnceLock<(Time, Instant)> = OnceLock::new();

/// Wall clock at the daemon's start plus the monotonic time since: never jumps (F32).
#[allow(clippy::disallowed_methods, reason = "this is the room of clocks")]
pub fn now() -> Time {
    let (start, since) = START.get_or_init(|| {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (Time::from_unix_ms(i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)), Instant::now())
    });
    start.plus_ms(i64::try_from(since.elapsed().as_millis()).unwrap_or(i64::MAX))
}

/// How long to sleep until `at`; zero when it has passed.
pub fn until(at: Time) -> Duration {
    Duration::from_millis(u64::try_from(at.since_ms(now())).unwrap_or(0))
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
    use std::hash::BuildHasher as _;
    // Each `RandomState` has keys of its own from the system's random numbers.
    let random = std::hash::RandomState::new().hash_one(0);
    let share = (random >> 32) as f64 / f64::from(u32::MAX);
    middle.saturating_sub(spread / 2) + spread.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_around_the_middle_and_moves() {
        let draw = || jittered(Duration::from_secs(30), Duration::from_secs(10));
        let drawn: std::collections::BTreeSet<Duration> = (0..100).map(|_| draw()).collect();
        assert!(drawn.len() > 50, "{drawn:?}");
        assert!(*drawn.first().unwrap() >= Duration::from_secs(25));
        assert!(*drawn.last().unwrap() <= Duration::from_secs(35));
    }
}
