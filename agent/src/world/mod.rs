//! What should be: sources (files, or the API server and static pods) → one [`Store`] of immutable snapshots.

pub mod api;
pub mod checkpoint;
mod directory;
pub mod files;
mod publish;
pub mod static_pods;
pub mod store;

pub use checkpoint::{Checkpoint, Loaded};
pub use files::Files;
pub use store::{Changes, Store};
