//! Network namespaces: entering one is a property of a thread, so it happens on a thread that ends.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
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

/// Moves the calling thread into the network namespace `netns`. Only for a thread that ends with its
/// work: see `effects::network::in_netns`.
///
/// # Errors
/// `netns` is no network namespace.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setns(netns, CloneFlags::CLONE_NEWNET)?)
}
