//! ipBlocks in use and the class of every prefix that they name.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::image::{CidrClass, Group, PeerTerm};

/// An ipBlock: its CIDR and its excepts.
type Block = (IpNet, BTreeSet<IpNet>);

/// ipBlocks with the number of groups that use each.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    by_cidr: BTreeMap<IpNet, BTreeMap<BTreeSet<IpNet>, usize>>,
    /// Prefixes that blocks name, with the number of blocks.
    prefixes: BTreeMap<IpNet, usize>,
}

/// The blocks that `group` mentions.
pub fn of_group(group: &Group) -> BTreeSet<Block> {
    let terms = group.rules.values().flat_map(|rule| &rule.peers);
    terms
        .filter_map(|term| match term {
            PeerTerm::Block { cidr, except } => Some((*cidr, except.clone())),
            PeerTerm::Pods { .. } => None,
        })
        .collect()
}

impl Blocks {
    /// One more group uses `block`. Returns the prefixes whose class may have changed.
    pub fn acquire(&mut self, block: &Block) -> Vec<IpNet> {
        let users = self.by_cidr.entry(block.0).or_default().entry(block.1.clone()).or_default();
        *users += 1;
        if *users > 1 {
            return Vec::new();
        }
        for prefix in prefixes(block) {
            *self.prefixes.entry(prefix).or_default() += 1;
        }
        self.inside(&block.0)
    }

    /// One group less uses `block`. Returns the prefixes whose class may have changed.
    pub fn release(&mut self, block: &Block) -> Vec<IpNet> {
        let Some(blocks) = self.by_cidr.get_mut(&block.0) else { return Vec::new() };
        match blocks.get_mut(&block.1) {
            Some(users) if *users > 1 => {
                *users -= 1;
                return Vec::new();
            }
            Some(_) => drop(blocks.remove(&block.1)),
            None => return Vec::new(),
        }
        if blocks.is_empty() {
            self.by_cidr.remove(&block.0);
        }
        let touched = self.inside(&block.0);
        for prefix in prefixes(block) {
            if let Some(count) = self.prefixes.get_mut(&prefix) {
                *count -= 1;
                if *count == 0 {
                    self.prefixes.remove(&prefix);
                }
            }
        }
        touched
    }

    /// Prefixes in use that lie in `cidr`.
    fn inside(&self, cidr: &IpNet) -> Vec<IpNet> {
        let last = match cidr {
            IpNet::V4(_) => 32,
            IpNet::V6(_) => 128,
        };
        let (Ok(from), Ok(to)) =
            (IpNet::new(cidr.network(), 0), IpNet::new(cidr.broadcast(), last))
        else {
            return Vec::new();
        };
        let all = self.prefixes.range(from..=to).map(|(prefix, _)| *prefix);
        all.filter(|prefix| cidr.contains(prefix)).collect()
    }

    /// Class of addresses whose longest prefix is `prefix`; `None` when no block names it.
    pub fn class(&self, prefix: &IpNet) -> Option<CidrClass> {
        self.prefixes.get(prefix)?;
        let outer = (0..=prefix.prefix_len())
            .filter_map(|len| Some(IpNet::new(prefix.addr(), len).ok()?.trunc()));
        let blocks = outer
            .filter_map(|cidr| self.by_cidr.get_key_value(&cidr))
            .flat_map(|(cidr, blocks)| blocks.keys().map(|except| (*cidr, except.clone())));
        Some(CidrClass {
            terms: blocks.filter(|block| holds(block, prefix)).map(into_term).collect(),
        })
    }
}

/// The prefixes that `block` names.
pub fn prefixes(block: &Block) -> impl Iterator<Item = IpNet> {
    std::iter::once(block.0).chain(block.1.iter().copied())
}

/// True when every address whose longest prefix is `prefix` is in `block` (C7).
pub fn holds(block: &Block, prefix: &IpNet) -> bool {
    block.0.contains(prefix) && !block.1.iter().any(|except| except.contains(prefix))
}

pub fn into_term((cidr, except): Block) -> PeerTerm {
    PeerTerm::Block { cidr, except }
}
