//! The eBPF half in the running kernel: the same packet crate as in `cargo test`, but loaded,
//! pinned, attached and run. Needs root; what cannot run is an error.
//!
//! Each test runs in a process of its own, with its own network namespace, mount namespace and
//! cgroup: see [`lab`].

#![allow(clippy::disallowed_methods, reason = "servers, clients and pods here are plain threads")]

#[path = "../../ebpf/packet/tests/host/mod.rs"]
mod host;

/// API objects of a small cluster, shared with the tests of the policy compiler.
#[path = "../../agent/core/tests/network_policy/lab.rs"]
#[allow(dead_code, reason = "each test crate uses its part")]
mod cluster;
mod clusters;
mod flows;
#[path = "gen.rs"]
mod generate;
mod lab;
mod messages;
mod oracle;
mod packets;
mod pods;
mod restart;
mod sockets;
mod talk;
