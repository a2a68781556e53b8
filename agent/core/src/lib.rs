//! Every decision of Longshore as a pure function
//! `(desired, observed, memory, now) → (actions, status, wake_at, why)`.
//!
//! Deliberately absent: tokio, an API client, aya, files, clocks, randomness, `HashMap`. What a
//! room may import stands in ARCHITECTURE.md; `cargo xtask tidy` holds it.
#![forbid(unsafe_code)]

pub mod config;
pub mod image;
pub mod model;
pub mod net;
pub mod node;
pub mod oracle;
pub mod pod;
pub mod policy;
pub mod service;
pub mod standalone;
