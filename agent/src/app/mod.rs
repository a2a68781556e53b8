//! The only place that wires: makes every room's parts, gives them to each other, and waits.
//!
//! Nobody imports it. Start-up is the same reconcile as always: there is no "first run". `body` is
//! what every role that runs pods stands on; a role adds where its World comes from.

pub mod body;
pub mod cleanup;
pub mod facts;
pub mod ground;
pub mod node;
pub mod options;
pub mod port;
mod readiness;
pub mod sinks;
pub mod standalone;
pub mod views;

pub use node::node;
pub use options::{Options, Source};
pub use standalone::standalone;
