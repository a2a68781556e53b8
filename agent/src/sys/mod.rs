//! Calls to the kernel that need care: namespaces, eBPF, mounts, directories that containers write.
//!
//! The only room of the agent where `unsafe` may stand. Deliberately absent: any knowledge of pods.

pub mod bpf;
pub mod bpffs;
pub mod dir;
pub mod mount;
pub mod netns;
pub mod tree;
