//! NetworkPolicy, Pods and Namespaces → endpoint rows, groups and CIDR classes of the image.
//!
//! [`PolicyCompiler`] recompiles what a change touches; [`compile_full`] does everything from the
//! start and is the compiler's oracle (I15). Only terms that a policy of a pod of *this* node
//! mentions enter a class, so labels that nobody asks for cost nothing.
//!
//! Deliberately absent: numbers, masks and map rows (`image`), packets (`oracle`), and the cluster
//! policy APIs of later versions (C21–C24).

mod blocks;
mod compiler;
mod facts;
mod full;
mod group;
mod index;
mod memory;
mod rows;
mod rules;
mod selections;
mod selector;

pub use compiler::{PolicyCompiler, everything};
pub use full::{Compiled, compile_full};
