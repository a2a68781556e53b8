//! The shell of Longshore: observes, asks the core, and executes.
//!
//! Rooms and what each may import stand in ARCHITECTURE.md. Nobody imports `app`.

pub mod cli;
pub mod clock;
pub mod serve;
pub mod supervise;
pub mod telemetry;
pub mod world;
