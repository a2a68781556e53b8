//! Calls to the kernel that need care: directories that containers can write, mounts.
//!
//! The only room of the agent where `unsafe` may stand. Deliberately absent: any knowledge of pods.

pub mod dir;
pub mod mount;
