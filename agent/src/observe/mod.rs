//! What is: pods as the runtime knows them, learned by listing, with its events as hints (A36).
//!
//! Nothing here is remembered that listing does not bring back (A204, A205). Deliberately absent:
//! every call that changes something, and the kernel's side of a pod's network.

pub mod logs;
pub mod machine;
mod pods;
mod runtime;
mod termination;

pub use machine::Machine;
pub use pods::{LISTED_POD_LABEL, ListedPod, Observer, SeenPod, Woken};
pub use runtime::{ReadError, Reader, RuntimeStatus};
