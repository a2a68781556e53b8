//! Numbers of classes, groups and endpoints: hashes of their canonical text.
//!
//! The text is injective (strings are quoted), so equal numbers with equal texts are equal
//! meanings on every run; [`Numbers`] is what notices that two texts share a number. Deliberately
//! absent: any counter that would outlive the process.

use std::fmt::{self, Write as _};

use imbl::OrdMap;

use super::logical::{CidrClass, Class, Endpoint, Group, PeerTerm, PortSet, PortTerm, Protocol};
use crate::model::hash::hash64;

/// Number of `text`; never 0, because 0 means "none" in the kernel's rows.
pub fn number_of(text: &str) -> u64 {
    (0..=u32::MAX).map(|attempt| attempt_of(text, attempt)).find(|n| *n != 0).unwrap_or(u64::MAX)
}

/// The number that `text` gets when `attempt` smaller attempts were taken by other texts.
fn attempt_of(text: &str, attempt: u32) -> u64 {
    if attempt == 0 { hash64(text) } else { hash64(&format!("{text}\u{0}{attempt}")) }
}

/// Which text has which number, so that two meanings never share one.
///
/// A compiler that keeps one of these asks it instead of [`Group::id`]; they differ only after a
/// collision of 64-bit hashes. A clone shares everything. Texts that are [forgotten](Self::forget) free their number.
#[derive(Clone, Default, Debug)]
pub struct Numbers {
    texts: OrdMap<u64, String>,
    /// Only texts whose number is not [`number_of`]: as good as always empty.
    moved: OrdMap<String, u64>,
}

impl Numbers {
    /// The number of `text`: its hash, or the hash of the text with a counter when another text
    /// has that.
    pub fn number(&mut self, text: &str) -> u64 {
        self.number_by(text, attempt_of)
    }

    fn number_by(&mut self, text: &str, hash: impl Fn(&str, u32) -> u64) -> u64 {
        if let Some(number) = self.moved.get(text) {
            return *number;
        }
        for attempt in 0..=u32::MAX {
            let number = hash(text, attempt);
            match self.texts.get(&number) {
                _ if number == 0 => {}
                Some(known) if known == text => return number,
                Some(_) => {}
                None => {
                    self.texts.insert(number, text.to_owned());
                    if attempt > 0 {
                        self.moved.insert(text.to_owned(), number);
                    }
                    return number;
                }
            }
        }
        // Every attempt taken would need 2^32 live texts; the memory ends before.
        u64::MAX
    }

    /// The text behind a number.
    pub fn text(&self, number: u64) -> Option<&str> {
        self.texts.get(&number).map(String::as_str)
    }

    /// Nothing uses `number` any more.
    pub fn forget(&mut self, number: u64) {
        if let Some(text) = self.texts.remove(&number) {
            self.moved.remove(&text);
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

impl Protocol {
    /// IANA number, as it stands in packets and map keys.
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => longshore_abi::IPPROTO_TCP,
            Protocol::Udp => longshore_abi::IPPROTO_UDP,
            Protocol::Sctp => longshore_abi::IPPROTO_SCTP,
        }
    }
}

impl fmt::Display for PortTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (0, u16::MAX) => write!(f, "{}", self.proto),
            (first, last) if first == last => write!(f, "{}/{first}", self.proto),
            (first, last) => write!(f, "{}/{first}-{last}", self.proto),
        }
    }
}

impl fmt::Display for PortSet {
    /// `any`, or terms joined by commas; `none` when the set is empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortSet::Any => f.write_str("any"),
            PortSet::These(terms) if terms.is_empty() => f.write_str("none"),
            PortSet::These(terms) => join(f, terms, ","),
        }
    }
}

impl fmt::Display for PeerTerm {
    /// `pods("<namespaces>" "<pods>")`, `pods("…" "…" "http"=tcp/80)` or
    /// `block(10.0.0.0/8 except 10.1.0.0/16)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerTerm::Pods { namespaces, pods, named_port } => {
                write!(f, "pods({namespaces:?} {pods:?}")?;
                if let Some((name, proto, port)) = named_port {
                    write!(f, " {name:?}={proto}/{port}")?;
                }
                f.write_char(')')
            }
            PeerTerm::Block { cidr, except } => {
                write!(f, "block({cidr}")?;
                if !except.is_empty() {
                    f.write_str(" except ")?;
                    join(f, except, " ")?;
                }
                f.write_char(')')
            }
        }
    }
}

fn join<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = T>,
    between: &str,
) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

impl fmt::Display for Class {
    /// `class{<term> <term>}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("class{")?;
        join(f, &self.terms, " ")?;
        f.write_char('}')
    }
}

impl fmt::Display for CidrClass {
    /// `cidr{<term> <term>}`: another text than the [`Class`] of the same terms.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cidr{")?;
        join(f, &self.terms, " ")?;
        f.write_char('}')
    }
}

impl fmt::Display for Group {
    /// `group{<ports> peers <peers>; …}` in mask bit order; `*` is every peer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("group{")?;
        for (index, (ports, rule)) in self.rules.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{ports} peers")?;
            if rule.any_peer {
                f.write_str(" *")?;
            }
            for peer in &rule.peers {
                write!(f, " {peer}")?;
            }
        }
        f.write_char('}')
    }
}

impl Class {
    /// Number as a peer; 0 for the empty class, which no selector matches.
    pub fn id(&self) -> u64 {
        if self.terms.is_empty() { 0 } else { number_of(&self.to_string()) }
    }
}

impl CidrClass {
    /// Number as a peer; never 0, so that an inner prefix hides the outer one's class.
    pub fn id(&self) -> u64 {
        number_of(&self.to_string())
    }
}

impl Group {
    /// Number of the content, whatever policies it comes from; never 0.
    pub fn id(&self) -> u64 {
        number_of(&self.to_string())
    }
}

/// Stamp of an endpoint: changes exactly when its class or a group of it does. Never 0, which is
/// the stamp of an address without a row.
pub fn stamp(class: u64, ingress: Option<u64>, egress: Option<u64>) -> u64 {
    let word = |group: Option<u64>| group.map_or("none".to_owned(), |g| format!("{g:016x}"));
    number_of(&format!("stamp {class:016x} {} {}", word(ingress), word(egress)))
}

impl Endpoint {
    /// [`stamp`] of this endpoint.
    pub fn stamp(&self) -> u64 {
        stamp(self.class.id(), self.ingress, self.egress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Rule;

    fn pods(name: &str) -> PeerTerm {
        PeerTerm::Pods { namespaces: "a".into(), pods: name.into(), named_port: None }
    }

    #[test]
    fn i15_policies_names_are_not_part_of_a_groups_id() {
        let mut group = Group::default();
        group.rules.insert(PortSet::Any, Rule { peers: [pods("x")].into(), ..Rule::default() });
        let before = group.id();
        group.policies.insert(crate::model::ObjectKey::new("ns", "policy"));
        assert_eq!(group.id(), before);
        group.rules.insert(PortSet::These(Default::default()), Rule::default());
        assert_ne!(group.id(), before);
    }

    #[test]
    fn texts_are_injective_where_strings_hold_separators() {
        let two = Class { terms: [pods("x"), pods("y")].into() };
        let one = Class { terms: [pods("x\") pods(\"a\" \"y")].into() };
        assert_ne!(two.to_string(), one.to_string());
        assert_ne!(two.id(), CidrClass { terms: two.terms.clone() }.id());
        assert_eq!(Class::default().id(), 0);
        assert_ne!(CidrClass::default().id(), 0);
    }

    #[test]
    fn two_texts_of_one_hash_get_two_numbers() {
        let hash = |text: &str, attempt: u32| (text.len() as u64 + u64::from(attempt)) % 3;
        let mut numbers = Numbers::default();
        assert_eq!(numbers.number_by("a", hash), 1);
        assert_eq!(numbers.number_by("b", hash), 2);
        assert_eq!(numbers.number_by("a", hash), 1);
        assert_eq!(numbers.number_by("b", hash), 2);
        numbers.forget(1);
        assert_eq!(numbers.number_by("b", hash), 2, "a number never moves while it is in use");
        assert_eq!(numbers.text(2), Some("b"));
    }

    #[test]
    fn stamps_tell_directions_apart() {
        assert_ne!(stamp(1, Some(2), None), stamp(1, None, Some(2)));
        assert_ne!(stamp(1, None, None), 0);
    }
}
