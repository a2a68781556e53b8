//! Questions to the API server: few at once, none for long, and their failure told once.
//!
//! Each kind has its own places: a flood of wrong tokens must not keep a caller with a certificate
//! from the answer whether he may.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;

pub struct Questions {
    what: &'static str,
    places: Semaphore,
    queue_max: usize,
    waiting: AtomicUsize,
    /// For waiting and asking together.
    patience: Duration,
    ill: AtomicBool,
}

/// Counts one that waits.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        // Its drop takes back what it has counted, also where it is one too many.
        let before = waiting.fetch_add(1, Ordering::SeqCst);
        let waits = Self(waiting);
        (before < max).then_some(waits)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Questions {
    /// `what`: what is asked, for the log.
    pub fn new(what: &'static str, places: usize, queue_max: usize, patience: Duration) -> Self {
        Self {
            what,
            places: Semaphore::new(places),
            queue_max,
            waiting: AtomicUsize::new(0),
            patience,
            ill: AtomicBool::new(false),
        }
    }

    /// What is kept; else, when it is this question's turn, what is kept by then; else the answer.
    ///
    /// # Errors
    /// Nobody answered, or too many wait already.
    pub async fn ask<T>(
        &self,
        kept: impl Fn() -> Option<T>,
        question: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        if let Some(answer) = kept() {
            return Ok(answer);
        }
        let Some(waits) = Waits::new(&self.waiting, self.queue_max) else {
            tracing::debug!(what = self.what, "Too many questions wait for the API server");
            return Err("too many questions wait for the API server".to_owned());
        };
        let asked = async {
            let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
            drop(waits);
            if let Some(answer) = kept() {
                return Ok(answer);
            }
            let answer = question.await;
            if answer.is_ok() {
                self.well();
            }
            answer
        };
        let answer = tokio::time::timeout(self.patience, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer in {:?}", self.patience)));
        if let Err(error) = &answer {
            self.ill(error);
        }
        answer
    }

    /// Told when it begins, not for each caller: nobody may fill the log by asking.
    fn ill(&self, error: &str) {
        if !self.ill.swap(true, Ordering::SeqCst) {
            tracing::warn!(
                error,
                "Cannot ask the API server {}: such callers are refused",
                self.what
            );
        }
    }

    fn well(&self) {
        if self.ill.swap(false, Ordering::SeqCst) {
            tracing::info!("The API server says again {}", self.what);
        }
    }

    #[cfg(test)]
    fn is_ill(&self) -> bool {
        self.ill.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn none() -> Option<u8> {
        None
    }

    #[tokio::test]
    async fn a179_a180_a_question_that_is_not_answered_ends_and_gives_its_place_back() {
        let questions = Questions::new("whose token it is", 1, 1, Duration::from_millis(20));
        let error = questions.ask(none, pending()).await.unwrap_err();
        assert!(error.starts_with("no answer in"), "{error}");
        assert!(questions.is_ill());
        assert_eq!(questions.ask(none, ready(Ok(7))).await, Ok(7));
        assert!(!questions.is_ill());
        assert_eq!(questions.ask(none, ready(Err("no".to_owned()))).await, Err("no".to_owned()));
        assert!(questions.is_ill());
        assert_eq!(questions.ask(|| Some(8), pending()).await, Ok(8), "kept");
    }

    #[tokio::test]
    async fn a179_a180_a_long_queue_is_refused_at_once() {
        let questions = Questions::new("who may", 1, 2, LONG);
        let mut waiting: Vec<_> =
            (0..3).map(|_| Box::pin(questions.ask(none, pending()))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        // One has the place, two wait.
        let error = questions.ask(none, pending()).await.unwrap_err();
        assert!(error.contains("too many"), "{error}");
        assert!(!questions.is_ill(), "the API server is not to blame");
        waiting.clear();
        assert_eq!(questions.ask(none, ready(Ok(1))).await, Ok(1));
    }
}
