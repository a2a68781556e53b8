//! `longshore explain flow`: a new connection told step by step.

use std::fmt;
use std::net::IpAddr;

use longshore_abi::DropReason;

use super::flows::Flows;
use super::judge::{self, Asked, Opinion};
use super::packet::{Hop, Packet, Scene};
use super::walk::{self, Verdict};
use crate::image::{Endpoint, Image, Protocol};
use crate::model::ObjectKey;

/// Who opens the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opener {
    Pod(ObjectKey),
    Addr(IpAddr),
}

/// What becomes of a new connection, and why: one line per step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// Every endpoint that the connection may go to is reached.
    pub allowed: bool,
    pub lines: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            writeln!(f, "{line}")?;
        }
        f.write_str(if self.allowed { "allowed" } else { "denied" })
    }
}

/// Follows a new connection from `from` to `to`:`port` through Service, egress and ingress.
pub fn explain_flow(
    image: &Image,
    from: &Opener,
    to: IpAddr,
    port: u16,
    proto: Protocol,
) -> Explanation {
    let mut lines = Vec::new();
    let src = match from {
        Opener::Addr(addr) => *addr,
        Opener::Pod(key) => {
            let here = image.endpoints.iter().find(|(_, row)| row.pod.as_ref() == Some(key));
            match here {
                Some((addr, _)) => *addr,
                None => {
                    lines.push(format!(
                        "pod {key} has no address that this node knows; see longshore explain pod {key}"
                    ));
                    return Explanation { allowed: false, lines };
                }
            }
        }
    };
    lines.push(format!(
        "{} connects to {} on {}",
        name(image, src),
        name(image, to),
        asked_text(proto, port)
    ));
    let packet = Packet::open(src, to, proto, 0, port);
    let socket = walk::walk(image, &Scene::default(), &mut Flows::default(), &packet, Hop::Socket);
    lines.extend(socket.steps.iter().map(ToString::to_string));
    let targets: Vec<(IpAddr, u16)> = match socket.verdict {
        Verdict::Backends(backends) => backends.iter().map(|b| (b.addr, b.port)).collect(),
        Verdict::Refused => {
            lines.push("the Service has no ready endpoints: connection refused".to_owned());
            Vec::new()
        }
        Verdict::Drop(reason) => {
            lines.push(format!(
                "dropped ({}): internalTrafficPolicy is Local and no endpoint is on this node",
                reason.word()
            ));
            Vec::new()
        }
        Verdict::Pass | Verdict::Redirect { .. } => vec![(to, port)],
    };
    let mut allowed = !targets.is_empty();
    for (addr, port) in targets {
        if addr != to {
            lines.push(format!("endpoint {} on {}", name(image, addr), asked_text(proto, port)));
        }
        allowed &= leg(image, src, addr, Some((proto, port)), &mut lines);
    }
    Explanation { allowed, lines }
}

fn asked_text(proto: Protocol, port: u16) -> String {
    format!("{}/{port}", proto.to_string().to_uppercase())
}

fn name(image: &Image, addr: IpAddr) -> String {
    match image.endpoints.get(&addr).map(|row| &row.pod) {
        Some(Some(pod)) => format!("{pod} ({addr})"),
        Some(None) => format!("this node ({addr})"),
        None => addr.to_string(),
    }
}

/// The pod's name alone, or the address.
fn short(image: &Image, addr: IpAddr) -> String {
    let pod = image.endpoints.get(&addr).and_then(|row| row.pod.as_ref());
    pod.map_or_else(|| addr.to_string(), ToString::to_string)
}

/// One connection between two addresses. Returns whether it is allowed.
fn leg(image: &Image, src: IpAddr, dst: IpAddr, asked: Asked, lines: &mut Vec<String>) -> bool {
    let row = |addr| image.endpoints.get(&addr);
    let is_node = |addr| row(addr).is_some_and(|row: &Endpoint| row.pod.is_none());
    if is_node(src) || is_node(dst) {
        lines.push("  allowed: traffic between this node and its pods always is".to_owned());
        return true;
    }
    for addr in [src, dst] {
        if row(addr).is_some_and(|row| row.local.is_some() && !row.open) {
            let reason = if addr == src { DropReason::Closed } else { DropReason::PeerClosed };
            lines.push(format!(
                "  denied ({}): the policy of {} is not in force yet",
                reason.word(),
                name(image, addr)
            ));
            return false;
        }
    }
    let sides = [
        ("egress", src, dst, judge::egress(image, src, dst, asked)),
        ("ingress", dst, src, judge::ingress(image, src, dst, asked)),
    ];
    for (direction, own, peer, opinion) in sides {
        let here = row(own).is_some_and(|row| row.local.is_some());
        let (own_name, peer) = (short(image, own), short(image, peer));
        match opinion {
            _ if !here => {
                lines.push(format!("  {direction} of {own_name}: not decided on this node"))
            }
            Opinion::NotIsolated => {
                lines.push(format!("  {direction} of {own_name}: no policy selects it"));
            }
            Opinion::Allowed(policies) => {
                lines.push(format!("  {direction} of {own_name}: allowed by {}", list(&policies)))
            }
            Opinion::Denied(policies) => {
                let what = asked.map_or(String::new(), |(proto, port)| {
                    format!(" on {}", asked_text(proto, port))
                });
                let group = row(own)
                    .and_then(|row| if direction == "egress" { row.egress } else { row.ingress })
                    .and_then(|id| image.groups.get(&id));
                lines.push(format!(
                    "  denied by {direction} isolation of {own_name}: policies {}; no rule allows \
                     peer {peer}{what} (allowed: {})",
                    list(&policies),
                    group.map_or("nothing".to_owned(), judge::describe),
                ));
                return false;
            }
        }
    }
    true
}

fn list(policies: &std::collections::BTreeSet<ObjectKey>) -> String {
    if policies.is_empty() {
        return "(none: the address is contested or its group is missing)".to_owned();
    }
    policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
