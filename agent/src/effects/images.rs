//! Pulls images: one pull for an image and its credentials at a time, few at once (A51), and
//! remembers how the last ended.
//!
//! Whether an image is there is a fact of the node; how a pull of it ended is one of who asked:
//! a registry that refused one pod's credentials has said nothing of another's, and one that took
//! them has not let in the other. Deliberately absent: when to try again (core decides, A52) and
//! where credentials come from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use longshore_core::model::{ImageState, Time};
use longshore_proto::cri::AuthConfig;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};

use super::cri::{Cri, CriError};

/// How long an answer of ImageStatus is believed.
const BELIEVED_MS: i64 = 10_000;
/// Images, and pulls, that are remembered: more than the pods of a full node name.
const KEPT_MAX: usize = 4096;
/// How often a pull that takes long says so.
const REPORT: std::time::Duration = std::time::Duration::from_secs(60);

/// A finished pull, for the event (A52).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pulled {
    pub image: String,
    pub took_ms: i64,
    /// With the time that it waited for its turn.
    pub waited_ms: i64,
    pub bytes: u64,
}

/// An image with the credentials that it is pulled with.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pull {
    image: String,
    /// A digest: what is remembered must not be a place where passwords can be read.
    credentials: [u8; 32],
}

impl Pull {
    /// `auths`: what [`Images::pull`] would try, in this order.
    pub fn of(image: &str, auths: &[AuthConfig]) -> Self {
        let mut digest = Sha256::new();
        for auth in auths {
            let AuthConfig {
                username,
                password,
                auth,
                server_address,
                identity_token,
                registry_token,
            } = auth;
            for text in [username, password, auth, server_address, identity_token, registry_token] {
                // With its length, so that no two lists have one text.
                digest.update((text.len() as u64).to_le_bytes());
                digest.update(text.as_bytes());
            }
        }
        Self { image: image.to_owned(), credentials: digest.finalize().into() }
    }
}

/// The node's images; clones share it.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    cri: Cri,
    slots: Semaphore,
    known: Mutex<Known>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    /// Present or Absent, as the runtime said, and when it did.
    images: BTreeMap<String, (ImageState, Time)>,
    /// Pulling, or Failed, and since when; a pull that worked leaves nothing here.
    pulls: BTreeMap<Pull, (ImageState, Time)>,
}

impl Known {
    fn is_pulling(&self, pull: &Pull) -> bool {
        matches!(self.pulls.get(pull), Some((ImageState::Pulling { .. }, _)))
    }

    fn see(&mut self, image: &str, state: ImageState, now: Time) {
        self.images.insert(image.to_owned(), (state, now));
        make_room(&mut self.images);
    }

    fn set(&mut self, pull: &Pull, state: ImageState, now: Time) {
        self.pulls.insert(pull.clone(), (state, now));
        make_room(&mut self.pulls);
    }
}

/// Forgets the oldest: names come and go for ever. What is under way is not forgotten.
fn make_room<K: Ord + Clone>(known: &mut BTreeMap<K, (ImageState, Time)>) {
    while known.len() > KEPT_MAX {
        let ended = known.iter().filter(|(_, (s, _))| !matches!(s, ImageState::Pulling { .. }));
        let Some((oldest, _)) = ended.min_by_key(|(_, (_, at))| *at) else { return };
        let oldest = oldest.clone();
        known.remove(&oldest);
    }
}

impl Images {
    /// `parallel`: 1 is `serializeImagePulls` (A51).
    pub fn new(cri: Cri, parallel: usize) -> Self {
        let slots = Semaphore::new(parallel.max(1));
        let (changed, _) = watch::channel(0);
        Self { inner: Arc::new(Inner { cri, slots, known: Mutex::default(), changed }) }
    }

    /// Changes whenever a pull ends.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// What is known for who pulls like this: a pull under way or failed, else what the runtime
    /// says of the image.
    ///
    /// # Errors
    /// The runtime does not answer (ImageInspectError).
    pub async fn state(&self, pull: &Pull, now: Time) -> Result<ImageState, CriError> {
        if let Some(state) = self.believed(pull, now) {
            return Ok(state);
        }
        let state = present(self.inner.cri.image_status(&pull.image).await?);
        let mut known = self.known();
        known.see(&pull.image, state.clone(), now);
        // A pull may have begun meanwhile.
        Ok(known.pulls.get(pull).map_or(state, |(state, _)| state.clone()))
    }

    fn believed(&self, pull: &Pull, now: Time) -> Option<ImageState> {
        let known = self.known();
        if let Some((state, _)) = known.pulls.get(pull) {
            return Some(state.clone());
        }
        let (state, at) = known.images.get(&pull.image)?;
        let fresh = now.since_ms(*at) < BELIEVED_MS && *state != ImageState::Absent;
        fresh.then(|| state.clone())
    }

    /// The image if it is there although its pull failed: somebody imported it, or pulled it with
    /// other credentials. The failure stays for those who want a pull all the same.
    pub async fn imported(&self, image: &str) -> Option<ImageState> {
        let found = self.inner.cri.image_status(image).await.ok()?;
        Some(present(found)).filter(|state| *state != ImageState::Absent)
    }

    /// Forgets what was believed, because a container could not be made from it.
    pub fn forget(&self, image: &str) {
        self.known().images.remove(image);
    }

    /// Claims a pull; `false`: somebody is on it. Who gets `true` runs [`Images::pull`].
    pub fn claim(&self, pull: &Pull, now: Time) -> bool {
        let mut known = self.known();
        if known.is_pulling(pull) {
            return false;
        }
        known.set(pull, ImageState::Pulling { since: now }, now);
        true
    }

    /// Pulls a claimed image to the end, waiting for a slot first. `auths` are tried in turn; none:
    /// one try without.
    ///
    /// # Errors
    /// Why it failed; [`Images::state`] says it too, with the reason of A52.
    pub async fn pull(&self, pull: &Pull, auths: Vec<AuthConfig>) -> Result<Pulled, CriError> {
        // Dropped by a drain or a panic, the claim must not stay.
        let mut claim = Claim { images: self, pull, outcome: None };
        let image = pull.image.as_str();
        let asked = crate::clock::now();
        let permit = self.inner.slots.acquire().await;
        let started = crate::clock::now();
        let result = self.pull_with_each(image, auths).await;
        drop(permit);
        let now = crate::clock::now();
        let result = match result {
            Ok(_) => self.inner.cri.image_status(image).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(status) => {
                let bytes = status.as_ref().map_or(0, |image| image.size);
                claim.outcome = Some(present(status));
                let took_ms = now.since_ms(started);
                let waited_ms = now.since_ms(asked);
                Ok(Pulled { image: image.to_owned(), took_ms, waited_ms, bytes })
            }
            Err(error) => {
                let message = error.message.clone();
                claim.outcome =
                    Some(ImageState::Failed { at: now, reason: reason(&error), message });
                Err(error)
            }
        }
    }

    /// The last error is the answer when none works.
    async fn pull_with_each(
        &self,
        image: &str,
        auths: Vec<AuthConfig>,
    ) -> Result<String, CriError> {
        let mut auths = auths.into_iter().map(Some).collect::<VecDeque<_>>();
        if auths.is_empty() {
            auths.push_back(None);
        }
        loop {
            let result = self.pull_with_reports(image, auths.pop_front().flatten()).await;
            if result.is_ok() || auths.is_empty() {
                return result;
            }
        }
    }

    async fn pull_with_reports(
        &self,
        image: &str,
        auth: Option<AuthConfig>,
    ) -> Result<String, CriError> {
        let mut pull = std::pin::pin!(self.inner.cri.pull_image(image, auth));
        let mut minutes = 0;
        loop {
            tokio::select! {
                biased;
                result = &mut pull => return result,
                () = tokio::time::sleep(REPORT) => {
                    minutes += 1;
                    tracing::info!(image, minutes, "still pulling");
                }
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Claim<'a> {
    images: &'a Images,
    pull: &'a Pull,
    outcome: Option<ImageState>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut known = self.images.known();
        let now = crate::clock::now();
        known.pulls.remove(self.pull);
        match self.outcome.take() {
            Some(failed @ ImageState::Failed { .. }) => known.set(self.pull, failed, now),
            Some(state) => known.see(&self.pull.image, state, now),
            None => {}
        }
        drop(known);
        self.images.inner.changed.send_modify(|n| *n += 1);
    }
}

fn present(image: Option<longshore_proto::cri::Image>) -> ImageState {
    match image {
        None => ImageState::Absent,
        Some(image) => ImageState::Present {
            id: image.id,
            uid: image.uid.map(|uid| uid.value),
            username: image.username,
        },
    }
}

/// The waiting reason of a failed pull (A52).
fn reason(error: &CriError) -> &'static str {
    let text = &error.message;
    if text.contains("SignatureValidationFailed") {
        "SignatureValidationFailed"
    } else if text.contains("RegistryUnavailable") {
        "RegistryUnavailable"
    } else if text.contains("invalid reference format") || text.contains("failed to parse image") {
        "InvalidImageName"
    } else {
        "ErrImagePull"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a52_what_is_remembered_of_pulls_has_an_end() {
        let mut known = Known::default();
        let busy = Pull::of("busy:1", &[]);
        known.set(&busy, ImageState::Pulling { since: Time(0) }, Time(0));
        for n in 1..=5000i64 {
            let password = AuthConfig { password: n.to_string(), ..AuthConfig::default() };
            let failed = ImageState::Failed { at: Time(n), reason: "", message: String::new() };
            known.set(&Pull::of("no:1", &[password]), failed, Time(n));
            known.see(&format!("no:{n}"), ImageState::Absent, Time(n));
        }
        assert_eq!((known.pulls.len(), known.images.len()), (KEPT_MAX, KEPT_MAX));
        assert!(known.is_pulling(&busy), "what is under way is not forgotten");
        assert!(known.images.contains_key("no:5000") && !known.images.contains_key("no:1"));
    }
}
