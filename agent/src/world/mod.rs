//! What should be: sources (files; later the API server) → one [`Store`] of immutable snapshots.

pub mod store;

pub use store::{Changes, Store};
