//! Events about objects (A194), aggregated and limited as clients of Kubernetes do it (A195).
//!
//! Kept in memory for `status` and `explain`, and logged. Deliberately absent: the API; a role
//! that has one will send what [`Recorder::record`] lets through.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::model::{Kind, ObjectKey, Time};

/// Events kept.
const RING: usize = 500;
/// Different messages of one reason about one object before they are combined (A195).
const SIMILAR_MAX: u32 = 10;
const SIMILAR_WINDOW_MS: i64 = 600_000;
/// Per object: this many at once, then one in [`REFILL_MS`] (A195).
const BURST: i64 = 25;
const REFILL_MS: i64 = 300_000;
/// Objects whose limits are remembered; the one unused for longest is forgotten first.
const OBJECTS: usize = 2000;

/// One event as `status` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub kind: Kind,
    pub key: ObjectKey,
    pub uid: String,
    /// The container it is about.
    pub container: Option<String>,
    pub warning: bool,
    pub reason: String,
    pub message: String,
    pub first: Time,
    pub last: Time,
    /// How often the same was seen.
    pub count: u32,
}

/// Remembers and limits; clones share it.
#[derive(Clone, Default)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Event>,
    objects: BTreeMap<(Kind, ObjectKey, String), Limits>,
}

struct Limits {
    used: Time,
    /// Thousandths of a token are not needed: time is counted instead of tokens.
    credit_ms: i64,
    similar: BTreeMap<String, (Time, u32)>,
}

impl Recorder {
    /// Records one event. `false`: the limit of its object swallowed it.
    pub fn record(&self, mut event: Event, now: Time) -> bool {
        event.message = printable(&event.message);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let object = (event.kind, event.key.clone(), event.uid.clone());
        if let Some(known) = inner.events.iter().position(|old| same(old, &event)) {
            // Seen before: counted, moved to the end. It still takes from the object's credit.
            if !inner.limits(&object, now).take() {
                return false;
            }
            if let Some(mut old) = inner.events.remove(known) {
                old.count += 1;
                old.last = now;
                log(&old);
                inner.events.push_back(old);
            }
            return true;
        }
        let limits = inner.limits(&object, now);
        let combined = limits.is_combined(&event, now);
        if !limits.take() {
            return false;
        }
        event.first = now;
        event.last = now;
        event.count = 1;
        if combined {
            event.message = format!("(combined from similar events): {}", event.message);
            if let Some(old) = inner.events.iter_mut().rev().find(|old| similar(old, &event)) {
                old.count += 1;
                old.last = now;
                old.message = event.message;
                log(old);
                return true;
            }
        }
        log(&event);
        inner.events.push_back(event);
        while inner.events.len() > RING {
            inner.events.pop_front();
        }
        true
    }

    /// All that is remembered, oldest first.
    pub fn all(&self) -> Vec<Event> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events.iter().cloned().collect()
    }

    /// Events about one object, oldest first.
    pub fn of(&self, kind: Kind, key: &ObjectKey) -> Vec<Event> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.events.iter().filter(|e| e.kind == kind && e.key == *key).cloned().collect()
    }
}

impl Inner {
    fn limits(&mut self, object: &(Kind, ObjectKey, String), now: Time) -> &mut Limits {
        if !self.objects.contains_key(object) && self.objects.len() >= OBJECTS {
            let oldest = self.objects.iter().min_by_key(|(_, limits)| limits.used);
            if let Some(oldest) = oldest.map(|(object, _)| object.clone()) {
                self.objects.remove(&oldest);
            }
        }
        let limits = self.objects.entry(object.clone()).or_insert_with(|| Limits {
            used: now,
            credit_ms: BURST * REFILL_MS,
            similar: BTreeMap::new(),
        });
        limits.credit_ms =
            (limits.credit_ms + now.since_ms(limits.used).max(0)).min(BURST * REFILL_MS);
        limits.used = now;
        limits
    }
}

impl Limits {
    fn take(&mut self) -> bool {
        let allowed = self.credit_ms >= REFILL_MS;
        if allowed {
            self.credit_ms -= REFILL_MS;
        }
        allowed
    }

    fn is_combined(&mut self, event: &Event, now: Time) -> bool {
        self.similar.retain(|_, (since, _)| now.since_ms(*since) < SIMILAR_WINDOW_MS);
        let (_, count) = self.similar.entry(event.reason.clone()).or_insert((now, 0));
        *count = count.saturating_add(1);
        *count > SIMILAR_MAX
    }
}

fn same(a: &Event, b: &Event) -> bool {
    similar(a, b) && a.container == b.container && a.message == b.message
}

fn similar(a: &Event, b: &Event) -> bool {
    (a.kind, &a.key, &a.uid, a.warning, &a.reason) == (b.kind, &b.key, &b.uid, b.warning, &b.reason)
}

/// Control characters escaped (CVE-2021-25743), at most 1 KiB as the API allows.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if out.len() >= 1000 {
            out.push_str("...");
            break;
        }
        if c.is_control() && c != '\n' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

fn log(event: &Event) {
    let Event { key, reason, message, count, .. } = event;
    if event.warning {
        tracing::warn!(target: "longshore::event", object = %key, %reason, count, "{message}");
    } else {
        tracing::info!(target: "longshore::event", object = %key, %reason, count, "{message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(reason: &str, message: &str) -> Event {
        Event {
            kind: Kind::Pod,
            key: ObjectKey::new("ns", "p"),
            uid: "u".into(),
            container: None,
            warning: true,
            reason: reason.into(),
            message: message.into(),
            first: Time::default(),
            last: Time::default(),
            count: 0,
        }
    }

    #[test]
    fn a195_the_same_event_is_counted_not_repeated() {
        let recorder = Recorder::default();
        for n in 0..5 {
            assert!(recorder.record(event("BackOff", "again"), Time(n)));
        }
        let all = recorder.all();
        assert_eq!((all.len(), all[0].count, all[0].first, all[0].last), (1, 5, Time(0), Time(4)));
    }

    #[test]
    fn a195_an_object_gets_25_events_then_one_in_five_minutes() {
        let recorder = Recorder::default();
        let passed = (0..40).filter(|_| recorder.record(event("BackOff", "x"), Time(0))).count();
        assert_eq!(passed, 25);
        assert!(!recorder.record(event("BackOff", "x"), Time(299_999)));
        assert!(recorder.record(event("BackOff", "x"), Time(300_000)));
        assert!(!recorder.record(event("BackOff", "x"), Time(300_001)));
    }

    #[test]
    fn a195_more_than_ten_similar_messages_are_combined() {
        let recorder = Recorder::default();
        for n in 0..15 {
            recorder.record(event("Failed", &format!("try {n}")), Time(n));
        }
        let all = recorder.all();
        assert_eq!(all.len(), 10);
        assert_eq!(all[9].message, "(combined from similar events): try 14");
        assert_eq!(all[9].count, 6);
    }

    #[test]
    fn cve_24_control_characters_of_a_message_are_escaped() {
        let recorder = Recorder::default();
        recorder.record(event("Failed", "a\u{1b}[2Jb"), Time(0));
        assert_eq!(recorder.all()[0].message, "a\\u{1b}[2Jb");
    }
}
