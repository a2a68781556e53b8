//! What a user does with `longshore standalone`, as scripts: manifests in, behaviour out.
//!
//! Each test has a node of its own (namespaces, containerd, cgroup root, directory). When one
//! fails, its node prints `longshore status`, the last lines of the log and the map text.

mod bad_input;
mod ground;
mod kill9;
mod manifests;
mod policy;
mod pull;
mod rollout;
mod sandbox;
mod script;
mod service;
