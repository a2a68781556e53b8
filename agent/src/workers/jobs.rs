//! One pod's work on the disk and in the cgroup tree: one job at a time, and not for ever.
//!
//! A file server that is dead holds a thread in the kernel, and nothing ends it. Its pod then waits
//! and says for which path, with one thread and no more; other pods go on. Deliberately absent:
//! retries (the next decision asks again) and what a job does.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::supervise::Scope;

/// Clones share it: all of them belong to one pod.
#[derive(Clone)]
pub struct Jobs {
    scope: Scope,
    patience: Duration,
    /// Held by the job itself: whoever waited for it may be gone.
    free: Arc<Semaphore>,
    place: Place,
}

/// The path that a job is at.
#[derive(Clone, Default)]
pub struct Place(Arc<Mutex<String>>);

impl Place {
    pub fn at(&self, path: &str) {
        path.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Jobs {
    pub fn new(scope: Scope, patience: Duration) -> Self {
        Self { scope, patience, free: Arc::new(Semaphore::new(1)), place: Place::default() }
    }

    /// A job is under way, and nobody waits for it any more: what it makes cannot be observed yet.
    pub fn is_busy(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// Runs `job` on a pool thread after the pod's last one has ended. A job that is not waited for
    /// any more goes on to its end; what it made is found by the next one.
    ///
    /// # Errors
    /// The job's own, or that it or the one before does not come to an end, with the path.
    pub async fn run(
        &self,
        job: impl FnOnce(&Place) -> Result<(), String> + Send + 'static,
    ) -> Result<(), String> {
        let place = self.place.clone();
        let ended = async {
            let free = self.free.clone().acquire_owned().await;
            let call = move || {
                let result = job(&place);
                drop(free);
                result
            };
            self.scope.blocking(call).await.map_err(|error| error.to_string())?
        };
        tokio::time::timeout(self.patience, ended).await.unwrap_or_else(|_| {
            Err(format!(
                "{} does not answer; is its file server or disk alive? The pod goes on by itself \
                 when it does",
                self.place.get()
            ))
        })
    }
}
