//! The reference: what must become of a packet under a logical image, slow and plain.
//!
//! Written from the text of the Service and NetworkPolicy APIs. It walks terms, not
//! masks, and shares no code with the programs that it judges; tests compare the two, and
//! `longshore explain flow` speaks with its voice.
//!
//! Deliberately absent: bytes (packets are plain data here, parsing is the programs' own), map
//! rows, and routing beyond "to the stack".

mod explain;
mod flows;
mod judge;
mod packet;
mod walk;

pub use explain::{Explanation, Opener, explain_flow};
pub use flows::Flows;
pub use packet::{Fragment, Hop, Icmp, Packet, Quote, Scene, Shape, TcpFlags, Transport};
pub use walk::{Step, Verdict, Walk, walk};
