//! Events about objects (A194), aggregated and limited as clients of Kubernetes do it (A195).
//!
//! Kept in memory for `status` and `explain`, logged, and fed to whoever sends them on. Deliberately
//! absent: the API (`api::events`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::model::{Kind, ObjectKey, Time};
use tokio::sync::Notify;

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

/// Events that wait for the API server; when there are more, the oldest is dropped.
const OUTGOING: usize = 1000;

/// Remembers and limits; clones share it.
#[derive(Clone, Default)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
    recorded: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Event>,
    /// For [`Feed`]; `None`: nobody reads it.
    outgoing: Option<VecDeque<Event>>,
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
        let recorded = self.take(event, now);
        if recorded {
            self.recorded.notify_one();
        }
        recorded
    }

    /// What is recorded from now on, for one reader.
    pub fn feed(&self) -> Feed {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.outgoing.get_or_insert_default();
        Feed { recorder: self.clone() }
    }

    fn take(&self, mut event: Event, now: Time) -> bool {
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
                inner.tell(&old);
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
                let told = old.clone();
                inner.tell(&told);
                return true;
            }
        }
        inner.tell(&event);
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

/// The recorder's events on their way to somebody, oldest first.
pub struct Feed {
    recorder: Recorder,
}

impl Feed {
    /// Waits for the next one.
    pub async fn next(&mut self) -> Event {
        loop {
            let next = {
                let inner = &self.recorder.inner;
                let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
                inner.outgoing.as_mut().and_then(VecDeque::pop_front)
            };
            match next {
                Some(event) => return event,
                None => self.recorder.recorded.notified().await,
            }
        }
    }

    /// Puts one back that could not be delivered, unless the same was seen again since.
    pub fn put_back(&mut self, event: Event) {
        let inner = &self.recorder.inner;
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outgoing) = &mut inner.outgoing
            && outgoing.len() < OUTGOING
            && !outgoing.iter().any(|newer| series(newer) == series(&event))
        {
            outgoing.push_front(event);
        }
    }
}

/// What repetitions of an event have in common.
fn series(event: &Event) -> (Kind, &ObjectKey, &str, Option<&str>, &str, Time) {
    let container = event.container.as_deref();
    (event.kind, &event.key, &event.uid, container, &event.reason, event.first)
}

impl Inner {
    fn tell(&mut self, event: &Event) {
        log(event);
        let Some(outgoing) = &mut self.outgoing else { return };
        // The newest count says it all.
        match outgoing.iter_mut().find(|old| series(old) == series(event) && event.count > 1) {
            Some(old) => *old = event.clone(),
            None => outgoing.push_back(event.clone()),
        }
        while outgoing.len() > OUTGOING {
            outgoing.pop_front();
        }
    }

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

    #[tokio::test]
    async fn i11_the_feed_is_bounded_and_drops_the_oldest() {
        let recorder = Recorder::default();
        let mut feed = recorder.feed();
        for n in 0..OUTGOING + 5 {
            let key = ObjectKey::new("ns", format!("p{n}"));
            recorder.record(Event { key, ..event("Failed", "x") }, Time(0));
        }
        assert_eq!(&*feed.next().await.key.name, "p5");
    }

    #[tokio::test]
    async fn a195_repetitions_are_fed_as_one_with_the_newest_count() {
        let recorder = Recorder::default();
        let mut feed = recorder.feed();
        recorder.record(event("Failed", "x"), Time(0));
        recorder.record(event("Failed", "x"), Time(1));
        let first = feed.next().await;
        assert_eq!(first.count, 2);
        recorder.record(event("Failed", "x"), Time(2));
        feed.put_back(first);
        assert_eq!(feed.next().await.count, 3);
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
