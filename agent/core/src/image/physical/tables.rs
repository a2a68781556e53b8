//! One group as rows: header, ports, ranges, and the mask of every term. A pure function of the
//! group's content.

use std::collections::BTreeMap;

use longshore_abi::{self as abi, Mask, PortKey, RangeKey};

use crate::image::{Group, PeerTerm, PortSet, PortTerm};

/// Ranges of up to this many ports become one row for each port.
const EXPANDED_PORTS: u32 = 64;

/// The rows of a group that no class has a part in, and what its peer rows are made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub header: abi::GroupHeader,
    pub ports: BTreeMap<PortKey, Mask>,
    pub ranges: BTreeMap<RangeKey, Mask>,
    /// Rules that name the term.
    pub terms: BTreeMap<PeerTerm, Mask>,
}

/// `a | b`.
pub(super) fn or(a: Mask, b: Mask) -> Mask {
    let mut bits = a.bits;
    for (word, other) in bits.iter_mut().zip(b.bits) {
        *word |= other;
    }
    Mask { bits }
}

fn bit(index: usize) -> Mask {
    let mut mask = Mask::default();
    if let Some(word) = mask.bits.get_mut(index / 64) {
        *word = 1 << (index % 64);
    }
    mask
}

/// `Err`: the number of port sets, when it is above [`Mask::BITS`].
pub(super) fn tables_of(id: u64, group: &Group) -> Result<Tables, usize> {
    if group.rules.len() > Mask::BITS {
        return Err(group.rules.len());
    }
    let mut tables = Tables::default();
    for (index, (ports, rule)) in group.rules.iter().enumerate() {
        let mask = bit(index);
        match ports {
            PortSet::Any => tables.header.any_port = or(tables.header.any_port, mask),
            PortSet::These(terms) => {
                terms.iter().for_each(|term| tables.add_ports(id, term, mask));
            }
        }
        if rule.any_peer {
            tables.header.any_peer = or(tables.header.any_peer, mask);
        }
        for term in &rule.peers {
            add(&mut tables.terms, term.clone(), mask);
        }
    }
    tables.make_cumulative();
    if tables.terms.keys().any(|term| matches!(term, PeerTerm::Block { .. })) {
        tables.header.flags |= abi::policy::GROUP_HAS_CIDRS;
    }
    if !tables.ranges.is_empty() {
        tables.header.flags |= abi::policy::GROUP_HAS_RANGES;
    }
    Ok(tables)
}

fn add<K: Ord>(map: &mut BTreeMap<K, Mask>, key: K, mask: Mask) {
    let known = map.entry(key).or_default();
    *known = or(*known, mask);
}

impl Tables {
    fn add_ports(&mut self, id: u64, term: &PortTerm, mask: Mask) {
        let (first, last) = (u32::from(term.first), u32::from(term.last));
        let proto = term.proto.number();
        if first > last {
            return;
        }
        if last - first < EXPANDED_PORTS {
            for port in term.first..=term.last {
                let key = PortKey { group: id, port: port.to_be(), proto, reserved: [0; 5] };
                add(&mut self.ports, key, mask);
            }
            return;
        }
        for (port, bits) in prefixes(first, last) {
            let key = RangeKey {
                prefix_len: RangeKey::BITS_PROTO + bits,
                group: id.to_be_bytes(),
                proto,
                port: port.to_be_bytes(),
                reserved: 0,
            };
            add(&mut self.ranges, key, mask);
        }
    }

    /// A trie answers its longest match only, so each node also carries what its parents say.
    fn make_cumulative(&mut self) {
        let nodes = self.ranges.clone();
        for (key, mask) in &mut self.ranges {
            for bits in RangeKey::BITS_PROTO..key.prefix_len {
                let cut = u16::from_be_bytes(key.port) & !low_bits(RangeKey::BITS - bits);
                let parent = RangeKey { prefix_len: bits, port: cut.to_be_bytes(), ..*key };
                if let Some(above) = nodes.get(&parent) {
                    *mask = or(*mask, *above);
                }
            }
        }
    }
}

/// A mask of the `count` low bits, `count` ≤ 16.
fn low_bits(count: u32) -> u16 {
    u16::try_from((1u32 << count.min(16)) - 1).unwrap_or(u16::MAX)
}

/// The fewest prefixes (first port, prefix bits) that cover `first..=last` exactly.
fn prefixes(first: u32, last: u32) -> Vec<(u16, u32)> {
    let mut found = Vec::new();
    let mut at = first;
    while at <= last {
        let fits = (last - at + 1).ilog2();
        let order = if at == 0 { fits } else { fits.min(at.trailing_zeros()) };
        // `at` is at most `last`, which came from a u16.
        found.push((at as u16, 16 - order));
        at += 1 << order;
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::{Protocol, Rule};

    fn group(sets: &[&[(u16, u16)]]) -> Group {
        let mut group = Group::default();
        for set in sets {
            let terms = set
                .iter()
                .map(|(first, last)| PortTerm { proto: Protocol::Tcp, first: *first, last: *last })
                .collect();
            group.rules.insert(PortSet::These(terms), Rule::default());
        }
        group
    }

    /// What the programs compute of a port: exact row, and the longest match of the trie.
    fn lookup(tables: &Tables, port: u16) -> Mask {
        let exact =
            PortKey { group: 7, port: port.to_be(), proto: abi::IPPROTO_TCP, reserved: [0; 5] };
        let longest = (0..=16u32).rev().find_map(|bits| {
            let cut = port & !low_bits(16 - bits);
            tables.ranges.get(&RangeKey {
                prefix_len: RangeKey::BITS_PROTO + bits,
                group: 7u64.to_be_bytes(),
                proto: abi::IPPROTO_TCP,
                port: cut.to_be_bytes(),
                reserved: 0,
            })
        });
        or(
            tables.ports.get(&exact).copied().unwrap_or_default(),
            longest.copied().unwrap_or_default(),
        )
    }

    #[test]
    fn a_whole_protocol_is_one_row_of_the_trie() {
        let tables = tables_of(7, &group(&[&[(0, u16::MAX)]])).unwrap();
        let keys: Vec<u32> = tables.ranges.keys().map(|key| key.prefix_len).collect();
        assert_eq!(keys, [RangeKey::BITS_PROTO]);
        assert!(tables.ports.is_empty());
        assert_eq!(tables.header.flags, abi::policy::GROUP_HAS_RANGES);
    }

    #[test]
    fn c9_up_to_64_ports_are_rows_of_their_own() {
        let tables = tables_of(7, &group(&[&[(100, 163)]])).unwrap();
        assert_eq!((tables.ports.len(), tables.ranges.len()), (64, 0));
        let tables = tables_of(7, &group(&[&[(100, 164)]])).unwrap();
        assert_eq!(tables.ports.len(), 0);
        assert!(tables.ranges.len() > 1);
    }

    #[test]
    fn i9_more_port_sets_than_bits_are_refused() {
        let sets: Vec<Vec<(u16, u16)>> = (0..257).map(|port| vec![(port, port)]).collect();
        let sets: Vec<&[(u16, u16)]> = sets.iter().map(Vec::as_slice).collect();
        assert_eq!(tables_of(7, &group(&sets)).err(), Some(257));
        assert!(tables_of(7, &group(&sets[..256])).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn c9_ranges_and_ports_together_say_what_the_sets_say(
            sets in proptest::collection::vec(
                proptest::collection::vec((any::<u16>(), 0u16..2000), 1..3), 1..6),
            probes in proptest::collection::vec(any::<u16>(), 20),
        ) {
            let sets: Vec<Vec<(u16, u16)>> = sets
                .into_iter()
                .map(|set| set.into_iter().map(|(f, n)| (f, f.saturating_add(n))).collect())
                .collect();
            let slices: Vec<&[(u16, u16)]> = sets.iter().map(Vec::as_slice).collect();
            let group = group(&slices);
            let tables = tables_of(7, &group).unwrap();
            let edges = sets.iter().flatten().flat_map(|(f, l)| {
                [*f, *l, f.wrapping_sub(1), l.wrapping_add(1)]
            });
            for port in probes.iter().copied().chain(edges) {
                let mut want = Mask::default();
                for (index, set) in group.rules.keys().enumerate() {
                    let PortSet::These(terms) = set else { continue };
                    if terms.iter().any(|term| (term.first..=term.last).contains(&port)) {
                        want = or(want, bit(index));
                    }
                }
                prop_assert_eq!(lookup(&tables, port), want, "port {}", port);
            }
        }
    }
}
