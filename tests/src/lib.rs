//! Shared ground of the test lanes, the demo and the bench: what a user's machine has around Longshore.
//!
//! Everything made here is named by its owner, lives in one directory, one cgroup root and a few
//! network namespaces, and can be taken away again without touching what else the machine runs.
//! Deliberately absent: any code of the product. The daemon is only its command line.

pub mod cgroup;
pub mod cluster;
pub mod containerd;
#[cfg(feature = "cri")]
pub mod cri;
pub mod ctr;
pub mod failpoints;
pub mod lab;
pub mod leak;
pub mod netns;
pub mod node;
pub mod pid;
pub mod process;
pub mod registry;
pub mod summary;
