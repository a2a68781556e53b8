//! Watches that end at once are not begun again at once.
//!
//! The library begins a watch anew when its connection ends, whatever that was; behind a proxy that
//! cuts each of them this would be a loop as fast as the API server answers. Deliberately absent: a
//! limit for other calls, each of which has a retry of its own.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::{Request, Uri};
use longshore_core::model::Time;
use tower::{Layer, Service};

use crate::clock;

/// Between two beginnings of the same watch.
const APART_MS: i64 = 1_000;
/// Watches that are remembered; those that began long ago are forgotten first.
const WATCHES: usize = 4096;

/// When each watch began last; clones share it.
#[derive(Clone, Default)]
pub struct Pace {
    begun: Arc<Mutex<BTreeMap<String, Time>>>,
}

impl Pace {
    /// How long a request has to wait.
    fn wait(&self, uri: &Uri, now: Time) -> Duration {
        let Some(watch) = watch_of(uri) else { return Duration::ZERO };
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.len() >= WATCHES {
            begun.retain(|_, at| now.since_ms(*at) < APART_MS);
        }
        let earliest = begun.get(&watch).map_or(now, |at| at.plus_ms(APART_MS)).max(now);
        begun.insert(watch, earliest);
        Duration::from_millis(earliest.since_ms(now).unsigned_abs())
    }
}

/// Path and selectors of a watch, without its version; `None`: it is none.
fn watch_of(uri: &Uri) -> Option<String> {
    let parts: Vec<&str> = uri.query()?.split('&').collect();
    if !parts.iter().any(|part| matches!(*part, "watch=true" | "watch=1")) {
        return None;
    }
    let selectors = parts.iter().filter(|part| part.contains("Selector="));
    Some(selectors.fold(uri.path().to_owned(), |watch, part| format!("{watch}&{part}")))
}

impl<S> Layer<S> for Pace {
    type Service = Paced<S>;
    fn layer(&self, inner: S) -> Paced<S> {
        Paced { pace: self.clone(), inner }
    }
}

/// A client whose watches keep the pace.
#[derive(Clone)]
pub struct Paced<S> {
    pace: Pace,
    inner: S,
}

impl<S, B> Service<Request<B>> for Paced<S>
where
    S: Service<Request<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let wait = self.pace.wait(request.uri(), clock::now());
        if wait.is_zero() {
            return Box::pin(self.inner.call(request));
        }
        // Nothing of it happens before it is first polled.
        let call = self.inner.call(request);
        Box::pin(async move {
            tokio::time::sleep(wait).await;
            call.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f25_a_watch_that_ends_at_once_is_begun_once_a_second() {
        let pace = Pace::default();
        let now = Time(1_000_000);
        let wait = |uri: &str, at: Time| pace.wait(&uri.parse().unwrap(), at).as_millis();
        let pods = "/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn1&resourceVersion=";
        assert_eq!(wait(&format!("{pods}1"), now), 0);
        assert_eq!(wait(&format!("{pods}2"), now.plus_ms(10)), 990);
        assert_eq!(wait(&format!("{pods}3"), now.plus_ms(1_010)), 990);
        assert_eq!(wait(&format!("{pods}4"), now.plus_ms(60_000)), 0);
        // Others do not wait for it, and calls wait for nothing.
        assert_eq!(wait("/api/v1/pods?watch=true&fieldSelector=spec.nodeName%3Dn2", now), 0);
        for _ in 0..2 {
            assert_eq!(wait("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", now), 0);
            assert_eq!(wait("/api/v1/nodes/n1", now), 0);
        }
    }
}
