//! What a user does with `longshore node` and kubectl, as scripts, against a real control plane.
//!
//! Tests that disturb nobody share one cluster of two nodes, each in a namespace of its own; those
//! that kill a daemon, stop the API server or delete a node make a cluster for themselves. Start them
//! with `cargo xtask test cluster`, which brings every program and ends the shared cluster.

mod bad_input;
mod clusters;
mod defaulting;
mod kill9;
mod kubectl;
mod lab;
mod leave;
mod manifests;
mod node_object;
mod node_port;
mod nodes;
mod outage;
mod parity;
mod pods;
mod proxy;
mod rollout;
mod script;
mod static_pods;
mod systemd;
mod traffic;
mod watch;
