//! One kind of time for every decision.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
///
/// The shell makes it from the wall clock read once at start plus the monotonic clock since then:
/// a clock that jumps does not move timers, back-off or grace periods (F32).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Time(pub i64);

impl Time {
    pub const fn from_unix_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// CRI's unit; 0 there means "not yet".
    pub const fn from_unix_ns(ns: i64) -> Self {
        Self(ns / 1_000_000)
    }

    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// Saturating, as all of this arithmetic: durations come from users (F65).
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    pub const fn plus_s(self, s: i64) -> Self {
        Self(self.0.saturating_add(s.saturating_mul(1000)))
    }

    /// Milliseconds from `earlier` to `self`; negative when `self` is the earlier one.
    pub const fn since_ms(self, earlier: Time) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The API's form, to the second (`2026-11-20T15:00:00Z`).
    pub fn to_api(self) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        let stamp = jiff::Timestamp::from_second(self.0.div_euclid(1000)).unwrap_or_default();
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(stamp)
    }

    pub fn from_api(time: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time) -> Self {
        Self(time.0.as_millisecond())
    }
}

impl Add<i64> for Time {
    type Output = Time;
    fn add(self, ms: i64) -> Time {
        self.plus_ms(ms)
    }
}

impl Sub for Time {
    type Output = i64;
    fn sub(self, earlier: Time) -> i64 {
        self.since_ms(earlier)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(stamp) => write!(f, "{stamp:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}
