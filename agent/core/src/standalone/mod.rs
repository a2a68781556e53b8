//! What a control plane would have done with a directory of manifests, as pure functions.
//!
//! text → [`parse`] (strict decoding, defaults, validation) → [`Catalog`] (last good version of every
//! object) → [`reconcile`] (pods, replicas, ClusterIPs, EndpointSlices, namespaces) → the World.
//!
//! Deliberately absent: reading files, and every kind of object that is not in `parse::KINDS`.

pub mod catalog;
mod controller;
pub mod defaults;
mod deployments;
mod hosts;
mod keyed;
mod manifest;
mod parse;
mod pods;
mod recover;
mod rollout;
mod services;
mod slices;
pub mod state;
mod static_pods;
mod strict;
pub mod validate;
mod yaml;

pub use catalog::Catalog;
pub use controller::{Desired, Inputs, Outcome, Settings, finished, reconcile};
pub use hosts::hosts_entries;
pub use manifest::{Located, Manifest, Object, Parsed};
pub use parse::{parse, unreadable};
pub use recover::recover;
pub use state::{CheckpointError, State};
pub use static_pods::{StaticPods, static_pods};
pub use yaml::FILE_BYTES_MAX;
