//! The pod network as decisions: which address, what an interface must have, what is masqueraded.
//!
//! Deliberately absent: netlink, nftables and files; the shell executes and observes. IPv6 comes
//! with its eBPF twins, so ranges and plans are IPv4.

pub mod interface;
pub mod ipam;
pub mod masquerade;
pub mod routes;

pub use interface::{InterfacePlan, Neighbour, Route, interface_plan, pod_mtu};
pub use ipam::{COOL_DOWN_MS, Full, Ipam, Lease, Restored};
pub use masquerade::{Masquerade, masquerade};
pub use routes::{NodeNetwork, Routes, node_network};
