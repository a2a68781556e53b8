//! Executors: each performs one kind of action, idempotently. Its success is not remembered: it
//! is observed.

pub mod network;
