//! What should be: sources (files; later the API server) → one [`Store`] of immutable snapshots.

pub mod checkpoint;
mod directory;
pub mod files;
mod publish;
pub mod store;

pub use checkpoint::{Checkpoint, Loaded};
pub use files::Files;
pub use store::{Changes, Store};
