//! The only room that spawns: every task and thread has a name, a policy and a place in the drain.
//!
//! Crash-only: a critical task that ends ends the process, and the next start reconciles.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// What the end of a task means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// The daemon cannot go on without it: its end ends the process.
    Critical,
    /// It is expected to end.
    Finite,
}

/// A running task; dropping it aborts the task.
pub struct Task {
    name: String,
    handle: JoinHandle<()>,
}

impl Task {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Spawns tasks that belong together. Clones share it.
#[derive(Clone)]
pub struct Scope {
    stop: watch::Receiver<bool>,
    ended: mpsc::UnboundedSender<String>,
    blocking: Arc<Semaphore>,
}

/// Keeps a [`Scope`] alive, and learns of its critical ends.
pub struct Supervisor {
    scope: Scope,
    stop: watch::Sender<bool>,
    ended: mpsc::UnboundedReceiver<String>,
}

/// Blocking calls (mount, setns, fsync) at once; more wait their turn. Threads are made as they are
/// needed. More than the pods of a full node (`maxPods` is 110) can hold: a dead file server takes
/// one for each pod that uses it.
const BLOCKING_MAX: usize = 256;

impl Default for Supervisor {
    fn default() -> Self {
        let (stop, stopped) = watch::channel(false);
        let (tx, ended) = mpsc::unbounded_channel();
        let blocking = Arc::new(Semaphore::new(BLOCKING_MAX));
        Self { scope: Scope { stop: stopped, ended: tx, blocking }, stop, ended }
    }
}

impl Supervisor {
    pub fn scope(&self) -> Scope {
        self.scope.clone()
    }

    /// The name of the first critical task that ended.
    pub async fn first_end(&mut self) -> String {
        match self.ended.recv().await {
            Some(name) => name,
            // The supervisor's own scope holds a sender, so the channel never closes.
            None => std::future::pending().await,
        }
    }

    /// Tells every task to stop. Stop is not remove: pods, maps and links stay.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the room that spawns")]
impl Scope {
    /// Runs `future` until it ends or the scope is stopped.
    pub fn spawn(
        &self,
        name: impl Into<String>,
        policy: Policy,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Task {
        let name = name.into();
        let mut stop = self.stop.clone();
        let guard = EndGuard {
            name: name.clone(),
            tell: (policy == Policy::Critical).then(|| self.ended.clone()),
        };
        let handle = tokio::spawn(async move {
            let mut guard = guard;
            tokio::select! {
                biased;
                _ = stop.wait_for(|stopped| *stopped) => guard.tell = None,
                () = future => {}
            }
        });
        Task { name, handle }
    }

    /// Runs a task nobody waits for.
    pub fn detach(
        &self,
        name: impl Into<String>,
        policy: Policy,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        // Dropping a task aborts it; forgetting it leaks its name, once.
        std::mem::forget(self.spawn(name, policy, future));
    }

    /// Runs a blocking call on a pool thread; at most [`BLOCKING_MAX`] at once. Never for `setns`:
    /// see [`thread`].
    ///
    /// # Errors
    /// The call panicked.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, tokio::task::JoinError> {
        let permit = self.blocking.clone().acquire_owned().await;
        // With the call, which goes on when nobody waits for it any more.
        tokio::task::spawn_blocking(move || {
            let result = call();
            drop(permit);
            result
        })
        .await
    }

    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }
}

/// Tells of the end of a critical task, also when it panics or is aborted.
struct EndGuard {
    name: String,
    tell: Option<mpsc::UnboundedSender<String>>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            // Nobody listens any more only when the process is ending anyway.
            let _ = tell.send(std::mem::take(&mut self.name));
        }
    }
}

/// Runs `call` on a thread of its own that ends with it: for `setns`, whose effect must not come
/// back to a pool.
///
/// # Errors
/// The thread could not be made, or it panicked.
#[allow(clippy::disallowed_methods, reason = "this is the room that spawns")]
pub fn thread<T: Send>(name: &str, call: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, call)?;
        handle.join().map_err(|_| std::io::Error::other(format!("thread {name} panicked")))
    })
}
