//! Map contents in two layers.
//!
//! *Logical* ([`Image`]): what must hold; canonical, the one text form of tests, CLI and bug
//! reports. Two daemons with the same World print the same text (I15).
//! *Physical* ([`physical`]): slab positions and generations; kept across changes, rebuilt from the
//! kernel's rows after a restart, never printed as identity.
//!
//! Classes, groups and stamps are hashes of canonical text (see `longshore-abi::policy`), so the
//! policy half of the physical layer is a pure function of the logical one.

pub mod diff;
pub mod identity;
pub mod logical;
pub mod op;
pub mod physical;
pub mod rows;
pub mod text;

pub use logical::{
    Backend, CidrClass, Class, Endpoint, Frontend, Group, Image, ImageChange, LocalInterface,
    PeerTerm, PortSet, PortTerm, Protocol, Rule, ServiceEntry, View,
};
pub use op::{KernelRows, MapOp};
pub use physical::{Limits, Physical, Refused, Subject};
pub use text::{kernel_text, render};
