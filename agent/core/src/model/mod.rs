//! Names, times, quantities, and the two inputs of every decision: the [`World`] (what should be)
//! and the observed state (what is).
//!
//! Imports API types and nothing of ours.

pub mod hash;
pub mod labels;
pub mod machine;
pub mod names;
pub mod node;
pub mod observed;
pub mod problem;
pub mod quantity;
pub mod time;
pub mod token;
pub mod world;

pub use machine::{Filesystem, ImageFacts, MachineFacts, RuntimeFacts, RuntimeHandler};
pub use names::{ObjectKey, PodUid};
pub use node::NodeView;
pub use observed::{
    ContainerState, ImageState, LocalPod, ObservedContainer, ObservedPod, ObservedSandbox,
    ObservedUser, ProbeKind, ProbeVerdict, SandboxState,
};
pub use problem::{Kind, Problem, Severity};
pub use quantity::Quantity;
pub use time::Time;
pub use token::{Token, TokenRequest};
pub use world::{Change, World};
