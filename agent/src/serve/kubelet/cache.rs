//! Verdicts that are kept for a while (A179, A180): bounded, so that a flood of names costs no
//! memory. The time comes from outside.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::model::Time;

/// Entries; the one that ends first goes when there is no room.
const ENTRIES_MAX: usize = 4096;

pub struct Cache<K, V> {
    entries: BTreeMap<K, (V, Time)>,
    /// The same entries, by their end: room is made without looking at all of them.
    ends: BTreeSet<(Time, K)>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), ends: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Cache<K, V> {
    pub fn get(&self, key: &K, now: Time) -> Option<V> {
        self.entries.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    pub fn put(&mut self, key: K, value: V, until: Time, now: Time) {
        if until <= now {
            return;
        }
        if let Some((_, old)) = self.entries.insert(key.clone(), (value, until)) {
            self.ends.remove(&(old, key.clone()));
        }
        self.ends.insert((until, key));
        while self.entries.len() > ENTRIES_MAX
            || self.ends.first().is_some_and(|(at, _)| *at <= now)
        {
            let Some((_, first)) = self.ends.pop_first() else { return };
            self.entries.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a179_a_verdict_is_kept_until_its_time_and_never_longer() {
        let mut cache = Cache::default();
        let at = Time::from_unix_ms;
        cache.put("token", true, at(120_000), at(0));
        assert_eq!(cache.get(&"token", at(119_999)), Some(true));
        assert_eq!(cache.get(&"token", at(120_000)), None);
        cache.put("again", true, at(10), at(0));
        cache.put("again", false, at(20), at(5));
        assert_eq!(cache.get(&"again", at(15)), Some(false));
        cache.put("other", true, at(99), at(20));
        assert_eq!((cache.entries.len(), cache.ends.len()), (2, 2), "what ended is gone");
        cache.put("never", true, at(5), at(5));
        assert_eq!(cache.get(&"never", at(5)), None);
    }

    #[test]
    fn a179_a_flood_of_tokens_costs_no_memory() {
        let mut cache = Cache::default();
        for n in 0..20_000i64 {
            cache.put(n, false, Time::from_unix_ms(1_000_000 + n), Time::from_unix_ms(0));
        }
        assert_eq!((cache.entries.len(), cache.ends.len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert_eq!(cache.get(&19_999, Time::from_unix_ms(1)), Some(false));
        assert_eq!(cache.get(&0, Time::from_unix_ms(1)), None);
    }
}
