//! The eBPF half in the running kernel: the same packet crate as in `cargo test`, but loaded,
//! pinned, attached and run. Needs root; what cannot run is an error.
//!
//! Each test runs in a process of its own, with its own network namespace, mount namespace and
//! cgroup: see [`lab`].

#[path = "../../ebpf/packet/tests/host/mod.rs"]
mod host;

#[path = "gen.rs"]
mod generate;
mod lab;
mod packets;
mod pods;
mod restart;
mod sockets;
