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
