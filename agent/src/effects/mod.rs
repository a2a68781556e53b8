//! Executors: each does one kind of thing that a decision asked for, and does it idempotently.
//!
//! Deliberately absent: decisions. What comes of an effect is learned by observing again.

pub mod api;
pub mod cgroup;
pub mod cri;
pub mod events;
pub mod images;
pub mod logs;
pub mod lost;
pub mod network;
pub mod volumes;
