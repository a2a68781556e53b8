//! Pods: what to do next ([`decide`]), what to report, and how a spec becomes CRI messages.
//!
//! Deliberately absent: any effect. [`action::Action`] is data; the shell executes it and observes.

pub mod action;

/// What a pod worker remembers between decisions and loses with the process: back-off. Everything
/// else is observed (A48: back-off is in memory).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Memory {}
