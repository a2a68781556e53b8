//! How many may be here at once: callers that are not known yet, and streams that stay.
//!
//! Whoever can reach the port can open connections; what they take must never be what known
//! callers need. And what stays open for hours (a followed log, an exec) must never take the place
//! of a short request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_core::model::PodUid;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections whose caller is not known. One more than there may be ends the one that is here
/// longest: who has something to show is known within a moment, who holds places is not.
pub struct Strangers {
    max: usize,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    /// In the order of their coming; dropping one tells its connection to end.
    by_number: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Strangers {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, inside: Mutex::default() })
    }

    /// A place, and what ends when the place is taken away.
    pub fn enter(self: &Arc<Self>) -> (Stranger, oneshot::Receiver<()>) {
        let (stay, sent_away) = oneshot::channel();
        let mut inside = lock(&self.inside);
        let number = inside.next;
        inside.next += 1;
        inside.by_number.insert(number, stay);
        while inside.by_number.len() > self.max {
            inside.by_number.pop_first();
        }
        (Stranger { number, of: self.clone() }, sent_away)
    }
}

/// The place of one connection among the strangers.
pub struct Stranger {
    number: u64,
    of: Arc<Strangers>,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        lock(&self.of.inside).by_number.remove(&self.number);
    }
}

/// One connection's place: a stranger's first, then that of a known caller.
pub struct Guest {
    place: Mutex<Place>,
    /// A first request has come.
    pub heard: Notify,
    /// Its caller is known.
    pub known: Notify,
}

enum Place {
    Stranger(#[expect(dead_code, reason = "held until the caller is known")] Stranger),
    Known(#[expect(dead_code, reason = "held until the connection ends")] OwnedSemaphorePermit),
}

impl Guest {
    pub fn new(stranger: Stranger) -> Arc<Self> {
        let place = Mutex::new(Place::Stranger(stranger));
        Arc::new(Self { place, heard: Notify::new(), known: Notify::new() })
    }

    /// Its caller is known and may what he asks for: a place of its own. `false`: there is none.
    pub fn admit(&self, places: &Arc<Semaphore>) -> bool {
        let mut place = lock(&self.place);
        if let Place::Stranger(_) = *place {
            let Ok(permit) = places.clone().try_acquire_owned() else { return false };
            // Before the stranger's place goes, whose end would end the connection.
            self.known.notify_one();
            *place = Place::Known(permit);
        }
        true
    }
}

/// What stays open, in all and for each pod.
pub struct Bound {
    what: &'static str,
    total_max: usize,
    pod_max: usize,
    held: Mutex<BTreeMap<PodUid, usize>>,
}

impl Bound {
    /// `what`: several of it, for the refusal.
    pub fn new(what: &'static str, total_max: usize, pod_max: usize) -> Arc<Self> {
        Arc::new(Self { what, total_max, pod_max, held: Mutex::default() })
    }

    /// # Errors
    /// What to tell the caller: there are too many.
    pub fn take(self: &Arc<Self>, uid: &PodUid) -> Result<Held, String> {
        let mut held = lock(&self.held);
        let refuse = |of: &str, max| {
            let what = self.what;
            Err(format!(
                "{of} has {max} {what} open, and no more are allowed: end some, then try again"
            ))
        };
        if held.values().sum::<usize>() >= self.total_max {
            return refuse("this node", self.total_max);
        }
        let of_pod = held.entry(uid.clone()).or_default();
        if *of_pod >= self.pod_max {
            return refuse("this pod", self.pod_max);
        }
        *of_pod += 1;
        Ok(Held { uid: uid.clone(), of: self.clone() })
    }
}

/// One place of a [`Bound`], given back when it is dropped.
pub struct Held {
    uid: PodUid,
    of: Arc<Bound>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = lock(&self.of.held);
        if let Some(count) = held.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f64_the_stranger_that_is_here_longest_makes_room() {
        let strangers = Strangers::new(2);
        let (_first, mut first_ends) = strangers.enter();
        let (second, mut second_ends) = strangers.enter();
        let (_third, mut third_ends) = strangers.enter();
        use oneshot::error::TryRecvError::{Closed, Empty};
        assert_eq!(first_ends.try_recv(), Err(Closed));
        assert_eq!((second_ends.try_recv(), third_ends.try_recv()), (Err(Empty), Err(Empty)));
        // A known caller takes no stranger's place any more, and nobody ends it.
        let places = Arc::new(Semaphore::new(1));
        let guest = Guest::new(second);
        assert!(guest.admit(&places) && guest.admit(&places));
        let _more = (strangers.enter(), strangers.enter());
        assert_eq!(third_ends.try_recv(), Err(Closed));
        assert_eq!(places.available_permits(), 0);
        let (other, _) = strangers.enter();
        assert!(!Guest::new(other).admit(&places), "the port is full");
        drop(guest);
        assert_eq!(places.available_permits(), 1);
    }

    #[test]
    fn f64_what_stays_open_is_bounded_for_a_pod_and_in_all() {
        let bound = Bound::new("streams", 3, 2);
        let (a, b) = (PodUid::new("a"), PodUid::new("b"));
        let held = [bound.take(&a), bound.take(&a)];
        assert!(held.iter().all(Result::is_ok));
        let text = bound.take(&a).err().unwrap();
        assert!(text.starts_with("this pod has 2 streams open"), "{text}");
        let _other = bound.take(&b).unwrap();
        let text = bound.take(&b).err().unwrap();
        assert!(text.starts_with("this node has 3 streams open"), "{text}");
        drop(held);
        assert!(bound.take(&b).is_ok());
        assert!(!lock(&bound.held).contains_key(&a), "a pod that is gone is forgotten");
    }
}
