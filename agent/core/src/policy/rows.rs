//! Who has an address, and the row that follows.

use std::net::IpAddr;

use super::facts::PodFacts;
use crate::image::{Class, Endpoint, Group};
use crate::model::{Kind, PodUid, Problem, Severity};

/// Row of an address of this node (C12).
pub fn node() -> Endpoint {
    Endpoint {
        pod: None,
        class: Class::default(),
        local: None,
        open: false,
        ingress: None,
        egress: None,
    }
}

/// The group that allows nothing, for an address that two pods claim.
pub fn nobody() -> Group {
    Group::default()
}

/// The pod that an address goes to, if several claim it: one that is attached here before what a
/// status says, a staying one before one that goes, a running one, the newest (F50).
pub fn winner<'a>(
    claimants: impl IntoIterator<Item = (&'a PodUid, &'a PodFacts)>,
) -> Option<(&'a PodUid, &'a PodFacts)> {
    claimants.into_iter().max_by_key(|(uid, facts)| {
        (facts.local.is_some(), !facts.terminating, facts.running, facts.created_ms, *uid)
    })
}

/// Row of a pod. `contested`: others claim the address, so nobody knows who it is: it matches no
/// selector and gets nothing.
pub fn pod(
    facts: &PodFacts,
    class: Class,
    (ingress, egress): (Option<u64>, Option<u64>),
    contested: Option<u64>,
) -> Endpoint {
    Endpoint {
        pod: Some(facts.key.clone()),
        class: if contested.is_some() { Class::default() } else { class },
        local: facts.local,
        open: facts.local.is_some() && facts.known,
        ingress: if facts.local.is_some() { contested.or(ingress) } else { None },
        egress,
    }
}

/// What the losers of `addr` are told.
pub fn conflict<'a>(
    addr: IpAddr,
    winner: Option<&PodFacts>,
    losers: impl IntoIterator<Item = &'a PodFacts>,
) -> Vec<Problem> {
    let owner = match winner {
        Some(winner) => format!("pod {}", winner.key),
        None => "this node".to_owned(),
    };
    let tell = |facts: &PodFacts| Problem {
        kind: Kind::Pod,
        key: facts.key.clone(),
        severity: Severity::Error,
        reason: "AddressConflict",
        field: "status.podIPs".to_owned(),
        message: format!(
            "address {addr} belongs to {owner} too, which keeps it; traffic to a contested pod \
             address is denied; delete one of the two"
        ),
    };
    losers.into_iter().map(tell).collect()
}
