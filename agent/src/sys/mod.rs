//! The only room of the daemon with `unsafe`: system calls that no safe crate of ours offers.

pub mod bpf;
pub mod mount;
