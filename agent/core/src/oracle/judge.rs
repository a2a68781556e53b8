//! What policy says: groups, rules, peers and ports, term by term.

use std::collections::BTreeSet;
use std::net::IpAddr;

use longshore_abi::DropReason;

use crate::image::{Group, Image, PeerTerm, PortSet, Protocol, Rule};
use crate::model::ObjectKey;

/// Protocol and destination port of what is opened; `None`: a protocol without ports, which only
/// rules without a port list match (C8).
pub type Asked = Option<(Protocol, u16)>;

/// What one side's policies say of a flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opinion {
    NotIsolated,
    /// Policies of the first rule that allows it.
    Allowed(BTreeSet<ObjectKey>),
    /// Policies that isolate; none of their rules allows it.
    Denied(BTreeSet<ObjectKey>),
}

/// All terms that `addr` satisfies: by who is there, and by the address itself.
fn terms(image: &Image, addr: IpAddr) -> BTreeSet<&PeerTerm> {
    let of_row = image.endpoints.get(&addr).into_iter().flat_map(|row| &row.class.terms);
    let covering = image.cidrs.iter().filter(|(prefix, _)| prefix.contains(&addr));
    let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
    of_row.chain(longest.into_iter().flat_map(|(_, class)| &class.terms)).collect()
}

fn has_port(ports: &PortSet, asked: Asked) -> bool {
    match (ports, asked) {
        (PortSet::Any, _) => true,
        (PortSet::These(_), None) => false,
        (PortSet::These(terms), Some((proto, port))) => {
            terms.iter().any(|term| term.proto == proto && (term.first..=term.last).contains(&port))
        }
    }
}

fn opinion(image: &Image, group: Option<u64>, peer: IpAddr, asked: Asked) -> Opinion {
    let Some(id) = group else { return Opinion::NotIsolated };
    // A group that is not there denies (I9).
    let Some(group) = image.groups.get(&id) else { return Opinion::Denied(BTreeSet::new()) };
    let terms = terms(image, peer);
    let allows = |ports: &PortSet, rule: &Rule| {
        has_port(ports, asked)
            && (rule.any_peer || rule.peers.iter().any(|term| terms.contains(term)))
    };
    match group.rules.iter().find(|(ports, rule)| allows(ports, rule)) {
        Some((_, rule)) => Opinion::Allowed(rule.policies.clone()),
        None => Opinion::Denied(group.policies.clone()),
    }
}

/// Egress of `src` towards `dst`.
pub fn egress(image: &Image, src: IpAddr, dst: IpAddr, asked: Asked) -> Opinion {
    if src == dst {
        return Opinion::NotIsolated;
    }
    let group = image.endpoints.get(&src).and_then(|row| row.local.and(row.egress));
    opinion(image, group, dst, asked)
}

/// Ingress of `dst` from `src`.
pub fn ingress(image: &Image, src: IpAddr, dst: IpAddr, asked: Asked) -> Opinion {
    if src == dst {
        return Opinion::NotIsolated;
    }
    let group = image.endpoints.get(&dst).and_then(|row| row.local.and(row.ingress));
    opinion(image, group, src, asked)
}

/// Whether `src` may open to `dst` as far as this node's pods decide it: both sides (C2).
pub fn may_open(image: &Image, src: IpAddr, dst: IpAddr, asked: Asked) -> Result<(), DropReason> {
    if matches!(egress(image, src, dst, asked), Opinion::Denied(_)) {
        return Err(DropReason::PolicyEgress);
    }
    if matches!(ingress(image, src, dst, asked), Opinion::Denied(_)) {
        return Err(DropReason::PolicyIngress);
    }
    Ok(())
}

/// Some policy selects the pod at `addr`, in whatever direction.
pub fn is_isolated(image: &Image, addr: IpAddr) -> bool {
    let row = image.endpoints.get(&addr).filter(|row| row.local.is_some());
    row.is_some_and(|row| row.ingress.is_some() || row.egress.is_some())
}

/// Rules of `group` in words.
pub fn describe(group: &Group) -> String {
    if group.rules.is_empty() {
        return "no rule at all".to_owned();
    }
    let rule = |(ports, rule): (&PortSet, &Rule)| {
        let mut peers: Vec<String> = rule.peers.iter().map(PeerTerm::to_string).collect();
        if rule.any_peer {
            peers.insert(0, "every peer".to_owned());
        }
        format!("{} on {ports}", peers.join(" or "))
    };
    group.rules.iter().map(rule).collect::<Vec<_>>().join("; ")
}
