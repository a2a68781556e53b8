//! System calls that no crate wraps: the only room of the agent with `unsafe`.

pub mod netns;
