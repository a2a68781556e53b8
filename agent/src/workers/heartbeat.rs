//! Whether a loop still goes round (A189).

use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::model::Time;

/// A loop that has not been seen for so long hangs: it goes round once a minute whatever happens.
const LONGEST_MS: i64 = 5 * 60_000;

/// Beaten by a loop, looked at by `/healthz`; clones share it. The times are the steady clock's.
#[derive(Clone, Default)]
pub struct Heartbeat {
    last: Arc<Mutex<Option<Time>>>,
}

impl Heartbeat {
    pub fn beat(&self, now: Time) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// A loop that has not begun is not late: the daemon may still wait for its runtime.
    ///
    /// # Errors
    /// For how long it has not been seen.
    pub fn check(&self, now: Time) -> Result<(), String> {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let silent_ms = last.map_or(0, |last| now.since_ms(last));
        if silent_ms > LONGEST_MS {
            return Err(format!(
                "the loop over pods has not gone round for {} s",
                silent_ms / 1000
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a189_a_loop_that_is_not_seen_for_five_minutes_is_ill_until_it_is() {
        let (beat, seen) = (Heartbeat::default(), Heartbeat::default());
        assert_eq!(beat.check(Time(1 << 40)), Ok(()), "not begun");
        let looked = seen.clone();
        seen.beat(Time(1_000));
        assert_eq!(looked.check(Time(301_000)), Ok(()));
        let error = looked.check(Time(302_000)).unwrap_err();
        assert_eq!(error, "the loop over pods has not gone round for 301 s");
        seen.beat(Time(302_000));
        assert_eq!(looked.check(Time(302_000)), Ok(()));
    }
}
