//! A network namespace for one test: made on the test's own thread, gone with its last descriptor.

use std::fs::File;
use std::os::fd::AsFd as _;

use longshore::effects::network::in_netns;
use longshore::sys::netns;
use nix::sched::{CloneFlags, unshare};

/// An unnamed network namespace, held open by this value.
pub struct Space {
    pub file: File,
}

impl Space {
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            netns::current().expect("own namespace")
        })
        .join()
        .expect("namespace thread");
        Self { file }
    }

    /// Runs `call` inside, on a thread of its own.
    pub fn run<T: Send>(&self, call: impl FnOnce() -> T + Send) -> T {
        in_netns(self.file.as_fd(), call).expect("enter the namespace")
    }

    /// Runs a future inside, on a current-thread runtime.
    pub fn block_on<T: Send, F: Future<Output = T>>(&self, make: impl FnOnce() -> F + Send) -> T {
        self.run(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("runtime")
                .block_on(make())
        })
    }
}
