//! Pulls images: one pull per image at a time, few at once (A51), and remembers how the last ended.
//!
//! Deliberately absent: when to try again (core decides, A52) and where credentials come from.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use longshore_core::model::{ImageState, Time};
use longshore_proto::cri::AuthConfig;
use tokio::sync::{Semaphore, watch};

use super::cri::{Cri, CriError};

/// How long an answer of ImageStatus is believed.
const BELIEVED_MS: i64 = 10_000;
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

/// The node's images; clones share it.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    cri: Cri,
    slots: Semaphore,
    known: Mutex<BTreeMap<String, Known>>,
    changed: watch::Sender<u64>,
}

#[derive(Clone)]
struct Known {
    state: ImageState,
    at: Time,
}

impl Images {
    /// `parallel`: 1 is `serializeImagePulls` (A51).
    pub fn new(cri: Cri, parallel: usize) -> Self {
        let slots = Semaphore::new(parallel.max(1));
        let known = Mutex::new(BTreeMap::new());
        let (changed, _) = watch::channel(0);
        Self { inner: Arc::new(Inner { cri, slots, known, changed }) }
    }

    /// Changes whenever a pull ends.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// What is known of `image`: a pull under way or failed, else what the runtime says.
    ///
    /// # Errors
    /// The runtime does not answer (ImageInspectError).
    pub async fn state(&self, image: &str, now: Time) -> Result<ImageState, CriError> {
        if let Some(known) = self.known(image) {
            let fresh = now.since_ms(known.at) < BELIEVED_MS;
            match known.state {
                ImageState::Pulling { .. } | ImageState::Failed { .. } => return Ok(known.state),
                ImageState::Present { .. } if fresh => return Ok(known.state),
                ImageState::Present { .. } | ImageState::Absent => {}
            }
        }
        let state = present(self.inner.cri.image_status(image).await?);
        let mut all = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = all.entry(image.to_owned()).or_insert(Known { state: state.clone(), at: now });
        if !matches!(entry.state, ImageState::Pulling { .. }) {
            *entry = Known { state: state.clone(), at: now };
        }
        Ok(entry.state.clone())
    }

    /// The image if it is there although its pull failed: somebody imported it. The failure stays
    /// for those who want a pull all the same.
    pub async fn imported(&self, image: &str) -> Option<ImageState> {
        let found = self.inner.cri.image_status(image).await.ok()?;
        Some(present(found)).filter(|state| *state != ImageState::Absent)
    }

    /// Forgets what was believed, because a container could not be made from it.
    pub fn forget(&self, image: &str) {
        let mut all = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(all.get(image), Some(Known { state: ImageState::Pulling { .. }, .. })) {
            all.remove(image);
        }
    }

    /// Claims the pull of `image`; `false`: somebody is on it. Who gets `true` runs
    /// [`Images::pull`].
    pub fn claim(&self, image: &str, now: Time) -> bool {
        let mut all = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(all.get(image), Some(Known { state: ImageState::Pulling { .. }, .. })) {
            return false;
        }
        let state = ImageState::Pulling { since: now };
        all.insert(image.to_owned(), Known { state, at: now });
        true
    }

    /// Pulls a claimed image to the end, waiting for a slot first. `auths` are tried in turn; none:
    /// one try without.
    ///
    /// # Errors
    /// Why it failed; [`Images::state`] says it too, with the reason of A52.
    pub async fn pull(&self, image: &str, auths: Vec<AuthConfig>) -> Result<Pulled, CriError> {
        // Dropped by a drain or a panic, the claim must not stay.
        let mut claim = Claim { images: self, image, outcome: None };
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

    fn known(&self, image: &str) -> Option<Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner).get(image).cloned()
    }
}

struct Claim<'a> {
    images: &'a Images,
    image: &'a str,
    outcome: Option<ImageState>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let inner = &self.images.inner;
        let mut all = inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        match self.outcome.take() {
            Some(state) => {
                let at = crate::clock::now();
                all.insert(self.image.to_owned(), Known { state, at });
            }
            None => {
                all.remove(self.image);
            }
        }
        drop(all);
        inner.changed.send_modify(|n| *n += 1);
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
