//! Network namespaces: entering one is a property of a thread, so it happens on a thread that ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Opens a namespace file (`/run/netns/x`, `/proc/PID/ns/net`, a runtime's bind mount).
///
/// # Errors
/// The path does not exist or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// The namespace of the calling thread.
///
/// # Errors
/// `/proc` is not mounted.
pub fn current() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Runs `call` inside the network namespace `netns` on a thread of its own, which ends with it.
///
/// # Errors
/// The thread or `setns` failed; `netns` is no network namespace.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, call: impl FnOnce() -> T + Send) -> io::Result<T> {
    crate::supervise::thread("in-netns", move || {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        Ok(call())
    })?
}
