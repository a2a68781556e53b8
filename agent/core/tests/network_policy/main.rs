//! NetworkPolicy from API objects to packets: the compiler and the oracle together.
//!
//! Each table is named with the contract row that it proves. Every image that a test looks at was
//! compiled twice, change by change and from the start, and was the same both times (I15).

mod cells;
mod failure;
mod flows;
mod lab;
mod properties;
mod truth;
