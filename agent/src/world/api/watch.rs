//! One watch that never gives up: complete lists, then changes.
//!
//! A connection that breaks is taken up again from the last version (F25). After an answer that
//! cannot be read, or a version that the server has forgotten, everything is listed again (F26): an
//! event that nobody could read is not lost. Until that list is complete nothing that is known
//! changes.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::health::{Health, Identity};
use crate::clock::Retry;

/// Longest wait between tries while the API server is away.
const LONGEST_MS: u64 = 10_000;
/// A connection that broke and then says nothing for so long is well again: an attempt to connect
/// would have failed by then.
const QUIET: Duration = Duration::from_secs(15);

/// A version that the server has forgotten is no fault, unless it says so of each new one.
const EXPIRED_MAX: u32 = 3;

/// What a watch saw.
pub enum Seen<K> {
    /// Everything that there is: what is not in it is gone.
    All(Vec<K>),
    Put(K),
    Gone(K),
}

/// Follows `api` for ever. `what` names it to users; `first_ms`: the first wait after a failure.
pub async fn follow<K>(
    what: String,
    first_ms: u64,
    identity: Identity,
    api: Api<K>,
    config: Config,
    health: Health,
    mut take: impl FnMut(Seen<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut retry = Retry::new(first_ms, LONGEST_MS);
    // 410 answers since the last change or the last quiet while.
    let mut expired = 0;
    loop {
        let mut events = std::pin::pin!(watcher(api.clone(), config.clone()));
        let mut listed = Vec::new();
        let mut ill = expired > 0;
        loop {
            let next = match ill {
                false => events.next().await,
                true => match tokio::time::timeout(QUIET, events.next()).await {
                    Ok(next) => next,
                    Err(_) => {
                        health.well(&what);
                        retry.reset();
                        (ill, expired) = (false, 0);
                        continue;
                    }
                },
            };
            match next {
                None => break,
                Some(Ok(event)) => {
                    let listing = matches!(event, Event::InitDone);
                    if take_event(event, &mut listed, &mut take) && !(listing && expired > 0) {
                        health.well(&what);
                        retry.reset();
                        (ill, expired) = (false, 0);
                    }
                }
                Some(Err(error)) => {
                    expired += u32::from(is_expired(&error));
                    if !is_expired(&error) || expired > EXPIRED_MAX {
                        health.ill(&what, identity, &error);
                        ill = true;
                    }
                    tokio::time::sleep(retry.wait()).await;
                    if !may_resume(&error) {
                        break;
                    }
                }
            }
        }
    }
}

/// True when it proves that the API server answers.
fn take_event<K>(event: Event<K>, listed: &mut Vec<K>, take: &mut impl FnMut(Seen<K>)) -> bool {
    match event {
        Event::Init => {
            listed.clear();
            return false;
        }
        Event::InitApply(object) => {
            listed.push(object);
            return false;
        }
        Event::InitDone => take(Seen::All(std::mem::take(listed))),
        Event::Apply(object) => take(Seen::Put(object)),
        Event::Delete(object) => take(Seen::Gone(object)),
    }
    true
}

/// Asked from a version that the server has forgotten: no fault, just another list.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

/// The watch knows where it was, and nothing in between was lost.
fn may_resume(error: &watcher::Error) -> bool {
    use kube::Error::{Api, HyperError, ReadEvents, Service};
    match error {
        watcher::Error::InitialListFailed(_) => true,
        watcher::Error::WatchStartFailed(Api(status)) => status.code != 410,
        watcher::Error::WatchStartFailed(_) => true,
        // Anything else was said in the place of an event.
        watcher::Error::WatchFailed(error) => {
            matches!(error, HyperError(_) | ReadEvents(_) | Service(_))
        }
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => false,
    }
}
