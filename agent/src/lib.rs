//! The shell of Longshore: observes, asks the core, and executes.
//!
//! Rooms and what each may import stand in ARCHITECTURE.md. Nobody imports `app`.

pub mod app;
pub mod cli;
pub mod clock;
pub mod cni;
pub mod dataplane;
pub mod effects;
pub mod failpoint;
pub mod observe;
pub mod serve;
pub mod supervise;
pub mod sys;
pub mod telemetry;
pub mod tls;
pub mod workers;
pub mod world;
