//! Which endpoints of a Service port may be chosen on this node (B24, B28, B29).

use std::collections::BTreeSet;

use super::endpoints::{Candidate, Candidates};
use crate::image::Backend;

type Named<'a> = (&'a (std::net::IpAddr, u16), &'a Candidate);

/// internalTrafficPolicy Cluster: the ready endpoints that hints leave; without any ready one
/// those that still serve while they terminate.
pub(super) fn cluster(candidates: &Candidates, node: &str, zone: &str) -> BTreeSet<Backend> {
    let hint = hint_of(candidates, node, zone);
    let hinted = |candidate: &Candidate| match hint {
        Hint::Node => candidate.node_hints.contains(node),
        Hint::Zone => candidate.zone_hints.contains(zone),
        Hint::None => true,
    };
    fallback(candidates, |(_, candidate)| hinted(candidate))
}

/// internalTrafficPolicy Local: the local set with its own fallback. Remote endpoints follow only
/// to say that the Service has some: with none of its own this node drops and does not refuse.
pub(super) fn local(candidates: &Candidates) -> BTreeSet<Backend> {
    let mut chosen = fallback_of(candidates, |(_, candidate)| candidate.local);
    chosen.extend(fallback(candidates, |_| true).into_iter().filter(|backend| !backend.local));
    chosen
}

/// Ready ones that `fits` has, else terminating ones that serve, hints or not.
fn fallback(candidates: &Candidates, fits: impl Fn(&Named) -> bool) -> BTreeSet<Backend> {
    let ready = pick(candidates, |named| named.1.ready && fits(named));
    if !ready.is_empty() {
        return ready;
    }
    pick(candidates, |(_, candidate)| candidate.serving && candidate.terminating)
}

/// As [`fallback`], within `set` in both steps.
fn fallback_of(candidates: &Candidates, set: impl Fn(&Named) -> bool) -> BTreeSet<Backend> {
    let ready = pick(candidates, |named| named.1.ready && set(named));
    if !ready.is_empty() {
        return ready;
    }
    pick(candidates, |named| named.1.serving && named.1.terminating && set(named))
}

fn pick(candidates: &Candidates, fits: impl Fn(&Named) -> bool) -> BTreeSet<Backend> {
    candidates
        .iter()
        .filter(fits)
        .map(|((addr, port), candidate)| Backend {
            local: candidate.local,
            addr: *addr,
            port: *port,
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Hint {
    Node,
    Zone,
    None,
}

/// Hints count when every ready endpoint has one and at least one is for this node or zone; node
/// hints come first (B29).
fn hint_of(candidates: &Candidates, node: &str, zone: &str) -> Hint {
    let ready = || candidates.values().filter(|candidate| candidate.ready);
    let all_nodes = ready().all(|candidate| !candidate.node_hints.is_empty());
    if all_nodes && ready().any(|candidate| candidate.node_hints.contains(node)) {
        return Hint::Node;
    }
    let all_zones = ready().all(|candidate| !candidate.zone_hints.is_empty());
    if all_zones && ready().any(|candidate| candidate.zone_hints.contains(zone)) {
        return Hint::Zone;
    }
    Hint::None
}
