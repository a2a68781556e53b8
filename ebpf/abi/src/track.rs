//! Flows and fragments: soft state. Losing a row never breaks an allowed flow
//! of TCP.

use crate::Addr;

/// A flow, the same key in both directions: `(a, a_port)` is the smaller pair of words.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowKey {
    pub a: Addr,
    pub b: Addr,
    /// Network byte order, as `b_port`.
    pub a_port: u16,
    pub b_port: u16,
    pub proto: u8,
    pub reserved: [u8; 3],
}

/// A flow that policy allowed while both ends had these stamps.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowValue {
    /// [`crate::Endpoint::stamp`] of `a`; 0 when `a` has no row.
    pub stamp_a: u64,
    pub stamp_b: u64,
    /// Last packet, CLOCK_MONOTONIC (coarse) in ns.
    pub seen_ns: u64,
    /// `FLOW_*` flags.
    pub flags: u32,
    pub reserved: u32,
}

/// The opener is `a` (else `b`).
pub const FLOW_OPENED_BY_A: u32 = 1;
/// The other side answered.
pub const FLOW_REPLIED: u32 = 2;
/// FIN or RST was seen.
pub const FLOW_CLOSING: u32 = 4;

/// Age after which a flow that is not TCP counts as absent: unanswered, and answered.
pub const FLOW_ANY_UNREPLIED_NS: u64 = 30 * 1_000_000_000;
pub const FLOW_ANY_REPLIED_NS: u64 = 180 * 1_000_000_000;
/// Age after which the row of a silent TCP connection may be removed: while it is there it counts.
/// RFC 5382 REQ-5, made for keepalives every two hours; four minutes once an end was seen, which
/// leaves a half-closed connection time to answer.
pub const FLOW_TCP_SILENT_NS: u64 = 124 * 60 * 1_000_000_000;
pub const FLOW_TCP_CLOSING_NS: u64 = 4 * 60 * 1_000_000_000;

impl FlowValue {
    /// Whether the row of a flow of `proto` is older than it may become. Programs and the daemon
    /// that removes rows both ask here. A row from the future (clocks of two CPUs) is young.
    #[inline(always)]
    pub const fn is_expired(&self, proto: u8, now_ns: u64) -> bool {
        let age_max_ns = if proto == crate::IPPROTO_TCP {
            if self.flags & FLOW_CLOSING != 0 { FLOW_TCP_CLOSING_NS } else { FLOW_TCP_SILENT_NS }
        } else if self.flags & FLOW_REPLIED != 0 {
            FLOW_ANY_REPLIED_NS
        } else {
            FLOW_ANY_UNREPLIED_NS
        };
        now_ns.saturating_sub(self.seen_ns) > age_max_ns
    }
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FragmentKey {
    pub src: Addr,
    pub dst: Addr,
    pub id: u32,
    pub proto: u8,
    pub reserved: [u8; 3],
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FragmentValue {
    /// Network byte order, as `dst_port`.
    pub src_port: u16,
    pub dst_port: u16,
    pub reserved: u32,
    pub seen_ns: u64,
}

/// Age after which a fragment row counts as absent.
pub const FRAGMENT_NS: u64 = 30 * 1_000_000_000;
