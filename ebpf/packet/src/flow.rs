//! Tracked flows: one row per flow, soft state.
//!
//! A hit counts only while both ends have the stamps under which the flow was allowed, so a policy
//! change reaches established flows at once (C15).
//!
//! TCP never depends on its row: connections that are older than the first policy of their pods
//! have none (nothing is tracked for pods that no policy selects), and an LRU table may lose one.
//! A SYN and a SYN-ACK say who opened. Of any other segment without a row the ports tell it, where
//! exactly one of them is in Linux's default ephemeral range: that side opened, and the segment
//! passes if policy lets it open. So a connection that is allowed goes on without its row, and one
//! that is older than the policy which forbids it ends, even where its server may open to anybody.
//! Misjudged is only a connection from a low port to an ephemeral one (or between pods that moved
//! `net.ipv4.ip_local_port_range`), and only while it has no row. Where the ports tell nothing, the
//! segment passes if either side might have opened.

use longshore_abi::track::{FLOW_CLOSING, FLOW_OPENED_BY_A, FLOW_REPLIED};
use longshore_abi::{Addr, DropReason, FlowKey, FlowValue, IPPROTO_TCP};

use crate::Maps;
use crate::parse::{Kind, Transport};
use crate::policy::{End, Service};

/// Linux's default `net.ipv4.ip_local_port_range`.
const EPHEMERAL_FIRST: u16 = 32_768;
const EPHEMERAL_LAST: u16 = 60_999;

/// `seen_ns` is written at most this often: a row's cache line is shared by all CPUs.
const REFRESH_NS: u64 = 1_000_000_000;

/// The flow between two ends, as one of them sees it.
pub struct Flow<'a> {
    pub src: &'a End,
    pub dst: &'a End,
    pub proto: u8,
    pub transport: Transport,
}

impl Flow<'_> {
    /// The same key in both directions, and whether `src` is its `a`.
    #[inline(always)]
    fn key(&self) -> (FlowKey, bool) {
        let (src, dst, t) = (&self.src.addr, &self.dst.addr, &self.transport);
        // In two halves: each branch doubles what the verifier has to walk.
        let (src_high, src_low) = halves(src);
        let (dst_high, dst_low) = halves(dst);
        let src_first = if src_high != dst_high {
            src_high < dst_high
        } else if src_low != dst_low {
            src_low < dst_low
        } else {
            t.src_port <= t.dst_port
        };
        let (a, b, a_port, b_port) = if src_first {
            (*src, *dst, t.src_port, t.dst_port)
        } else {
            (*dst, *src, t.dst_port, t.src_port)
        };
        (FlowKey { a, b, a_port, b_port, proto: self.proto, reserved: [0, 0, 0] }, src_first)
    }

    #[inline(always)]
    fn stamps(&self, src_first: bool) -> (u64, u64) {
        if src_first { (self.src.stamp, self.dst.stamp) } else { (self.dst.stamp, self.src.stamp) }
    }

    /// What the flow's row says of this packet; a row that allows it is kept young.
    #[inline(always)]
    fn row<M: Maps>(&self, maps: &M, key: &FlowKey, src_first: bool, now: u64) -> Row {
        let (stamp_a, stamp_b) = self.stamps(src_first);
        let kind = self.transport.kind;
        let row = maps.with_flow(key, |flow| {
            if !is_young(flow, key.proto, now) {
                return Row::None;
            }
            let opened_by_src = (flow.flags & FLOW_OPENED_BY_A != 0) == src_first;
            // ICMP says itself what is a question: an answer's row does not allow another's.
            if (kind == Kind::Query && !opened_by_src) || (kind == Kind::Answer && opened_by_src) {
                return Row::None;
            }
            if flow.stamp_a != stamp_a || flow.stamp_b != stamp_b {
                return if opened_by_src { Row::StaleBySrc } else { Row::StaleByDst };
            }
            let mut flags = flow.flags;
            if !opened_by_src {
                flags |= FLOW_REPLIED;
            }
            match kind {
                Kind::Close => flags |= FLOW_CLOSING,
                // A new connection of the same ports as one that ended.
                Kind::Accept => flags &= !FLOW_CLOSING,
                _ => {}
            }
            if flags != flow.flags {
                flow.flags = flags;
            }
            if now.saturating_sub(flow.seen_ns) >= REFRESH_NS {
                flow.seen_ns = now;
            }
            Row::Allows
        });
        match row {
            Some(row) => row,
            None => Row::None,
        }
    }

    #[inline(always)]
    fn insert<M: Maps>(&self, maps: &M, key: &FlowKey, src_first: bool, now: u64, by_src: bool) {
        let (stamp_a, stamp_b) = self.stamps(src_first);
        let mut flags = if by_src == src_first { FLOW_OPENED_BY_A } else { 0 };
        if !by_src {
            flags |= FLOW_REPLIED;
        }
        if self.transport.kind == Kind::Close {
            flags |= FLOW_CLOSING;
        }
        let value = FlowValue { stamp_a, stamp_b, seen_ns: now, flags, reserved: 0 };
        if maps.with_flow(key, |flow| *flow = value).is_none() {
            maps.insert_flow(key, &value);
        }
    }

    /// Policy of one direction: whether `src` (else `dst`) may open this flow.
    #[inline(always)]
    fn may_open<M: Maps>(&self, maps: &M, src_opens: bool) -> Result<(), DropReason> {
        let t = &self.transport;
        let (opener, target, port) = if src_opens {
            (self.src, self.dst, t.dst_port)
        } else {
            (self.dst, self.src, t.src_port)
        };
        maps.evaluate(opener, target, Service { port, proto: self.proto })
    }

    /// Whether `src` is (first) to be asked for a TCP segment of an unknown connection, and whether
    /// the other side may have opened it too.
    #[inline(always)]
    fn opener_by_ports(&self) -> (bool, bool) {
        let src = u16::from_be(self.transport.src_port);
        let dst = u16::from_be(self.transport.dst_port);
        if is_ephemeral(src) && dst < EPHEMERAL_FIRST {
            (true, false)
        } else if is_ephemeral(dst) && src < EPHEMERAL_FIRST {
            (false, false)
        } else {
            // Servers mostly have the lower port.
            (dst <= src, true)
        }
    }

    /// Judges the packet by its flow's row, else by policy.
    ///
    /// A row of old stamps still knows who opened: the flow is judged anew in that direction, so a
    /// policy that forbids it ends it, even where the other end might open one itself (C15). Who
    /// opened TCP without a row: see the module.
    ///
    /// # Errors
    /// The reason of the policy that denies.
    #[inline(always)]
    pub fn judge<M: Maps>(&self, maps: &M) -> Result<(), DropReason> {
        let kind = self.transport.kind;
        if matches!(kind, Kind::Open | Kind::Notice | Kind::Error) {
            return self.may_open(maps, true);
        }
        let now = maps.now_ns();
        let (key, src_first) = self.key();
        let (src_opens, or_other) = match (self.row(maps, &key, src_first, now), kind) {
            (Row::Allows, _) => return Ok(()),
            // Also where both sent a SYN: each received one that policy let the other open with.
            (_, Kind::Accept) => (false, false),
            (Row::StaleBySrc, _) => (true, false),
            (Row::StaleByDst, _) => (false, false),
            (Row::None, Kind::Segment | Kind::Close) => self.opener_by_ports(),
            (Row::None, _) => (true, false),
        };
        let opened_by_src = match self.may_open(maps, src_opens) {
            Ok(()) => src_opens,
            Err(reason) if !or_other => return Err(reason),
            Err(reason) => match self.may_open(maps, !src_opens) {
                Ok(()) => !src_opens,
                // The sender's own direction is what a user asks about.
                Err(other) => return Err(if src_opens { reason } else { other }),
            },
        };
        // An answer that policy allows by itself opens nothing.
        if !(kind == Kind::Answer && opened_by_src) {
            self.insert(maps, &key, src_first, now, opened_by_src);
        }
        Ok(())
    }

    /// Whether such a packet would be allowed, without touching its row: for the packet that an
    /// ICMP error quotes.
    #[inline(always)]
    pub fn would_pass<M: Maps>(&self, maps: &M) -> bool {
        let (key, src_first) = self.key();
        let (stamp_a, stamp_b) = self.stamps(src_first);
        let now = maps.now_ns();
        let found = maps.with_flow(&key, |flow| {
            is_young(flow, key.proto, now) && flow.stamp_a == stamp_a && flow.stamp_b == stamp_b
        });
        found == Some(true)
            || self.may_open(maps, true).is_ok()
            || (self.proto == IPPROTO_TCP && self.may_open(maps, false).is_ok())
    }
}

/// What a flow's row says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Nothing: there is none, or it is too old, or of another question.
    None,
    /// Policy allowed the flow and has not changed since.
    Allows,
    /// Policy may have changed since.
    StaleBySrc,
    StaleByDst,
}

#[inline(always)]
const fn is_ephemeral(port: u16) -> bool {
    port >= EPHEMERAL_FIRST && port <= EPHEMERAL_LAST
}

#[inline(always)]
fn halves(addr: &Addr) -> (u64, u64) {
    let [a, b, c, d] = addr.words;
    ((u64::from(a) << 32) | u64::from(b), (u64::from(c) << 32) | u64::from(d))
}

/// Young enough where the protocol has no end of its own.
#[inline(always)]
fn is_young(flow: &FlowValue, proto: u8, now: u64) -> bool {
    proto == IPPROTO_TCP || !flow.is_expired(proto, now)
}
