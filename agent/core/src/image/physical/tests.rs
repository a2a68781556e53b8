//! Laws of the physical image, on random images: what the rows mean is read back from the rows by
//! a plain reader and compared with what the logical image says.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use longshore_abi::{Mask, PortKey, RangeKey, policy as flag};
use proptest::prelude::*;

use super::*;
use crate::image::diff::diff;
use crate::image::{
    Backend, Class, LocalInterface, PeerTerm, PortSet, PortTerm, Protocol, Rule, View, render,
};

const NOW: Time = Time(1_000_000);

// ---- random images

fn term(index: usize) -> PeerTerm {
    let block = |cidr: &str, except: &[&str]| PeerTerm::Block {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|net| net.parse().unwrap()).collect(),
    };
    match index {
        0 => block("10.0.0.0/8", &[]),
        1 => block("10.0.0.0/8", &["10.0.1.0/24"]),
        n => PeerTerm::Pods {
            namespaces: "kubernetes.io/metadata.name=a".into(),
            pods: format!("app={n}"),
            named_port: None,
        },
    }
}

fn terms() -> impl Strategy<Value = BTreeSet<PeerTerm>> {
    proptest::collection::btree_set((0usize..6).prop_map(term), 0..4)
}

fn port_set() -> impl Strategy<Value = PortSet> {
    let range = prop_oneof![Just((80, 80)), Just((80, 90)), Just((1000, 2000)), Just((0, 65535))];
    let proto = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    let term = (proto, range).prop_map(|(proto, (first, last))| PortTerm { proto, first, last });
    prop_oneof![
        1 => Just(PortSet::Any),
        3 => proptest::collection::btree_set(term, 0..3).prop_map(PortSet::These),
    ]
}

fn group() -> impl Strategy<Value = Group> {
    let rule = (terms(), proptest::bool::weighted(0.1)).prop_map(|(peers, any_peer)| Rule {
        any_peer,
        peers,
        policies: BTreeSet::new(),
    });
    proptest::collection::btree_map(port_set(), rule, 0..3)
        .prop_map(|rules| Group { rules, policies: BTreeSet::new() })
}

fn entry() -> impl Strategy<Value = ServiceEntry> {
    let backend = (any::<bool>(), 1u8..20).prop_map(|(local, host)| Backend {
        local,
        addr: [10, 0, u8::from(!local), host].into(),
        port: 8080,
    });
    (proptest::collection::btree_set(backend, 0..6), any::<bool>()).prop_map(
        |(backends, local_only)| ServiceEntry {
            service: ObjectKey::new("a", "web"),
            port_name: "http".into(),
            backends,
            local_only,
            affinity_s: None,
        },
    )
}

fn frontend(host: u8) -> Frontend {
    let addr = [10, 96, 0, host].into();
    Frontend { addr, port: 80, proto: Protocol::Tcp, view: View::Internal }
}

fn image() -> impl Strategy<Value = Image> {
    let services = proptest::collection::btree_map((1u8..5).prop_map(frontend), entry(), 0..4);
    let net = prop_oneof![Just("10.0.0.0/8"), Just("10.0.1.0/24"), Just("10.0.1.7/32")];
    let net = net.prop_map(|net| net.parse::<IpNet>().unwrap());
    let blocks = proptest::collection::btree_set((0usize..2).prop_map(term), 0..3);
    let class = blocks.prop_map(|terms| CidrClass { terms });
    let cidrs = proptest::collection::btree_map(net, class, 0..3);
    let endpoint = (terms(), any::<bool>(), any::<bool>(), 0usize..8, 0usize..8);
    let endpoints = proptest::collection::btree_map(1u8..7, endpoint, 0..6);
    (services, cidrs, proptest::collection::vec(group(), 0..4), endpoints).prop_map(
        |(services, cidrs, groups, endpoints)| {
            let groups: BTreeMap<u64, Group> = groups.into_iter().map(|g| (g.id(), g)).collect();
            let id = |index: usize| groups.keys().nth(index).copied();
            let endpoints = endpoints.into_iter().map(|(host, (terms, local, open, i, e))| {
                let endpoint = Endpoint {
                    pod: Some(ObjectKey::new("a", format!("pod-{host}"))),
                    class: Class { terms },
                    local: local
                        .then_some(LocalInterface { ifindex: 7 + u32::from(host), mac: [2; 6] }),
                    open,
                    ingress: id(i),
                    egress: id(e),
                };
                (IpAddr::from([10, 0, 0, host]), endpoint)
            });
            Image { services, endpoints: endpoints.collect(), cidrs, groups: groups.clone() }
        },
    )
}

/// Images of the same pods and few terms, so that two of them often allow the same flow by
/// different terms.
fn edit_of_policy() -> impl Strategy<Value = Image> {
    let some = |first: usize, last: usize| {
        proptest::collection::btree_set((first..last).prop_map(term), 0..3)
    };
    let rule = some(0, 5).prop_map(|peers| Rule { peers, ..Rule::default() });
    let group = rule
        .prop_map(|rule| Group { rules: [(PortSet::Any, rule)].into(), policies: BTreeSet::new() });
    let class = some(2, 5).prop_map(|terms| Class { terms });
    let pod = (class, proptest::option::weighted(0.8, group.clone()), proptest::option::of(group));
    let pods = proptest::collection::vec(pod, 4);
    let nets =
        ["10.0.0.0/8", "10.0.1.0/24", "10.0.1.7/32"].map(|net| net.parse::<IpNet>().unwrap());
    let class = some(0, 2).prop_map(|terms| CidrClass { terms });
    let cidrs = proptest::collection::vec(proptest::option::of(class), 3);
    (pods, cidrs).prop_map(move |(pods, cidrs)| {
        let mut image = Image::default();
        for (host, (class, ingress, egress)) in (1u8..).zip(pods) {
            let mut id = |group: Option<Group>| {
                group.map(|group| {
                    let id = group.id();
                    image.groups.insert(id, group);
                    id
                })
            };
            let (ingress, egress) = (id(ingress), id(egress));
            let local = Some(LocalInterface { ifindex: host.into(), mac: [2; 6] });
            let pod = Some(ObjectKey::new("a", format!("pod-{host}")));
            let endpoint = Endpoint { pod, class, local, open: true, ingress, egress };
            image.endpoints.insert([10, 0, 0, host].into(), endpoint);
        }
        let cidrs = nets.into_iter().zip(cidrs);
        image.cidrs = cidrs.filter_map(|(net, class)| Some((net, class?))).collect();
        image
    })
}

// ---- what an image says, and what rows say

const PORTS: [u16; 7] = [79, 80, 85, 91, 1000, 1999, 2001];

fn peers() -> Vec<IpAddr> {
    let pods = (1u8..7).map(|host| IpAddr::from([10, 0, 0, host]));
    pods.chain([[10, 0, 1, 7], [10, 0, 1, 8], [192, 0, 2, 1]].map(IpAddr::from)).collect()
}

/// Backends, locals, local-only, and whether others exist.
type Service = (BTreeSet<(IpAddr, u16)>, usize, bool, bool);

/// Ifindex and flags, then verdicts: direction, peer, protocol (0: ICMP), port.
type Pod = (u32, u32, BTreeSet<(bool, IpAddr, u8, u16)>);

#[derive(PartialEq, Debug)]
struct Meaning {
    services: BTreeMap<String, Service>,
    pods: BTreeMap<IpAddr, Pod>,
}

fn said_by(image: &Image) -> Meaning {
    let services = image.services.iter().map(|(at, entry)| {
        let backends = entry.backends.iter().map(|b| (b.addr, b.port)).collect();
        let locals = entry.backends.iter().filter(|b| b.local).count();
        let elsewhere = entry.local_only && locals == 0 && !entry.backends.is_empty();
        (at.to_string(), (backends, locals, entry.local_only, elsewhere))
    });
    let pods = image.endpoints.iter().map(|(ip, endpoint)| {
        let mut verdicts = BTreeSet::new();
        for (ingress, group) in [(true, endpoint.ingress), (false, endpoint.egress)] {
            let Some(group) = group else { continue };
            for peer in peers() {
                for (proto, number) in PROTOS {
                    for port in PORTS {
                        if said_allowed(image, &image.groups[&group], peer, proto, port) {
                            verdicts.insert((ingress, peer, number, port));
                        }
                    }
                }
            }
        }
        let ifindex = endpoint.local.map_or(0, |local| local.ifindex);
        let mut flags = if endpoint.open { flag::OPEN } else { 0 };
        flags |= if endpoint.local.is_some() { flag::LOCAL } else { 0 };
        flags |= if endpoint.ingress.is_some() { flag::ISOLATED_INGRESS } else { 0 };
        flags |= if endpoint.egress.is_some() { flag::ISOLATED_EGRESS } else { 0 };
        (*ip, (ifindex, flags, verdicts))
    });
    Meaning { services: services.collect(), pods: pods.collect() }
}

const PROTOS: [(Option<Protocol>, u8); 3] =
    [(Some(Protocol::Tcp), 6), (Some(Protocol::Udp), 17), (None, 1)];

fn said_allowed(
    image: &Image,
    group: &Group,
    peer: IpAddr,
    proto: Option<Protocol>,
    port: u16,
) -> bool {
    let mut of_peer = BTreeSet::new();
    of_peer.extend(image.endpoints.get(&peer).iter().flat_map(|e| &e.class.terms));
    let nets = image.cidrs.iter().filter(|(net, _)| net.contains(&peer));
    let longest = nets.max_by_key(|(net, _)| net.prefix_len());
    of_peer.extend(longest.iter().flat_map(|(_, class)| &class.terms));
    group.rules.iter().any(|(ports, rule)| {
        let port_fits = match ports {
            PortSet::Any => true,
            PortSet::These(terms) => {
                terms.iter().any(|t| Some(t.proto) == proto && t.first <= port && port <= t.last)
            }
        };
        port_fits && (rule.any_peer || rule.peers.iter().any(|peer| of_peer.contains(peer)))
    })
}

fn said_by_rows(rows: &KernelRows) -> Meaning {
    let services = rows.services.iter().map(|(key, row)| {
        let slots = (row.base..row.base + u32::from(row.count)).map(|slot| {
            let slot = rows.backends[&slot];
            (rows::ip_of(slot.addr), u16::from_be(slot.port))
        });
        let flags = |bit: u32| row.flags & bit != 0;
        let local_only = flags(longshore_abi::service::FLAG_LOCAL_ONLY);
        let elsewhere = flags(longshore_abi::service::FLAG_REMOTE_EXISTS);
        let locals = usize::from(row.count_local);
        (crate::image::text::frontend_of(key), (slots.collect(), locals, local_only, elsewhere))
    });
    let pods = rows.endpoints.iter().map(|(addr, row)| {
        let mut verdicts = BTreeSet::new();
        let [ingress, egress] = policy::groups_of(row);
        for (ingress, group) in [(true, ingress), (false, egress)] {
            let Some(group) = group else { continue };
            for peer in peers() {
                for (_, proto) in PROTOS {
                    for port in PORTS {
                        if rows_allow(rows, group, peer, proto, port) {
                            verdicts.insert((ingress, peer, proto, port));
                        }
                    }
                }
            }
        }
        (rows::ip_of(*addr), (row.ifindex, row.flags, verdicts))
    });
    Meaning { services: services.collect(), pods: pods.collect() }
}

/// The formula of `longshore_abi::policy`.
fn rows_allow(rows: &KernelRows, group: u64, peer: IpAddr, proto: u8, port: u16) -> bool {
    let header = rows.groups[&group];
    let of_class =
        |class: u64| rows.peers.get(&abi::PeerKey { group, class }).copied().unwrap_or_default();
    let class = rows.endpoints.get(&rows::addr_of(peer)).map_or(0, |row| row.class);
    let cidr = (0..=32u8).rev().find_map(|bits| {
        rows.cidrs.get(&rows::cidr_key_of(IpNet::new(peer, bits).unwrap())).copied()
    });
    let mut peers = tables::or(header.any_peer, of_class(class));
    if let (Some(cidr), true) = (cidr, header.flags & flag::GROUP_HAS_CIDRS != 0) {
        peers = tables::or(peers, of_class(cidr));
    }
    let mut ports = header.any_port;
    if proto != 1 {
        let key = PortKey { group, port: port.to_be(), proto, reserved: [0; 5] };
        ports = tables::or(ports, rows.ports.get(&key).copied().unwrap_or_default());
        let longest = (0..=16u32).rev().find_map(|bits| {
            let cut = port & !u16::try_from((1u32 << (16 - bits)) - 1).unwrap();
            rows.ranges.get(&RangeKey {
                prefix_len: RangeKey::BITS_PROTO + bits,
                group: group.to_be_bytes(),
                proto,
                port: cut.to_be_bytes(),
                reserved: 0,
            })
        });
        if header.flags & flag::GROUP_HAS_RANGES != 0 {
            ports = tables::or(ports, longest.copied().unwrap_or_default());
        }
    }
    Mask::default().bits != std::array::from_fn(|i| peers.bits[i] & ports.bits[i])
}

// ---- a node that executes plans

struct Node {
    physical: Physical,
    rows: KernelRows,
}

impl Node {
    fn new(limits: Limits) -> Self {
        let rows = KernelRows::default();
        Self { physical: Physical::with_limits(&rows, limits), rows }
    }

    /// A node that came to `image` and has nothing in quarantine.
    fn at(image: &Image) -> Self {
        let mut node = Self::new(Limits::default());
        let ops = node.physical.plan_full(image, NOW).unwrap();
        node.execute_all(&ops);
        node
    }

    fn execute(&mut self, ops: &[MapOp]) {
        for op in ops {
            self.rows.apply(op);
            assert_eq!(inconsistencies(&self.rows), Vec::<String>::new(), "after {op:?}");
        }
    }

    /// Nothing was planned that is not in `ops`.
    fn execute_all(&mut self, ops: &[MapOp]) {
        self.execute(ops);
        let same = Mirror::adopt(&self.rows) == self.physical.mirror;
        assert!(same, "the mirror is not what the kernel has");
    }
}

/// An endpoint's verdict of one flow; `None`: it is not there.
fn verdict(image: &Image, pod: IpAddr, ingress: bool, peer: IpAddr, port: u16) -> Option<bool> {
    let endpoint = image.endpoints.get(&pod)?;
    let group = if ingress { endpoint.ingress } else { endpoint.egress };
    Some(
        group.is_none_or(|id| {
            said_allowed(image, &image.groups[&id], peer, Some(Protocol::Tcp), port)
        }),
    )
}

/// `image` where every peer also has the terms that it has in `other`.
fn united(image: &Image, other: &Image) -> Image {
    let mut both = image.clone();
    let nets = |peer: &IpAddr, image: &Image| {
        let nets = image.cidrs.iter().filter(|(net, _)| net.contains(peer));
        nets.max_by_key(|(net, _)| net.prefix_len()).map(|(_, class)| class.clone())
    };
    for peer in peers() {
        let mut class = nets(&peer, image).unwrap_or_default();
        class.terms.extend(nets(&peer, other).unwrap_or_default().terms);
        let one = IpNet::from(peer);
        both.cidrs.insert(one, class);
        let Some(there) = other.endpoints.get(&peer) else { continue };
        match both.endpoints.get_mut(&peer) {
            Some(here) => here.class.terms.extend(there.class.terms.iter().cloned()),
            None => {
                let class = there.class.clone();
                let peer_only = Endpoint { class, ingress: None, egress: None, ..there.clone() };
                both.endpoints.insert(peer, peer_only);
            }
        }
    }
    both
}

/// Every flow of the test's pods: pod, direction, peer, port.
fn flows() -> impl Iterator<Item = (IpAddr, bool, IpAddr, u16)> {
    let pods = (1u8..7).map(|host| IpAddr::from([10, 0, 0, host]));
    pods.flat_map(|pod| {
        let of_peer = move |peer| {
            [true, false]
                .into_iter()
                .flat_map(move |ingress| [80, 1000].map(|port| (pod, ingress, peer, port)))
        };
        peers().into_iter().flat_map(of_peer)
    })
}

fn rows_verdict(rows: &KernelRows, flow: (IpAddr, bool, IpAddr, u16)) -> Option<bool> {
    let (pod, ingress, peer, port) = flow;
    let row = rows.endpoints.get(&rows::addr_of(pod))?;
    let [for_ingress, for_egress] = policy::groups_of(row);
    let group = if ingress { for_ingress } else { for_egress };
    Some(group.is_none_or(|group| rows_allow(rows, group, peer, 6, port)))
}

/// Slots that some frontend names: what is left of old ranges means nothing.
fn policy_rows(rows: &KernelRows) -> KernelRows {
    KernelRows { services: BTreeMap::new(), backends: BTreeMap::new(), ..rows.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn f02_rows_fit_together_after_every_single_op(a in image(), b in image()) {
        let mut node = Node::at(&a);
        prop_assert_eq!(said_by_rows(&node.rows), said_by(&a));
        let ops = node.physical.plan(&diff(&a, &b), NOW).unwrap();
        node.execute_all(&ops);
        prop_assert_eq!(said_by_rows(&node.rows), said_by(&b));
    }

    #[test]
    fn f02_a_kill_after_any_op_is_repaired_at_start(a in image(), b in image(), at in 0usize..60) {
        let mut node = Node::at(&a);
        let ops = node.physical.plan(&diff(&a, &b), NOW).unwrap();
        node.execute(&ops[..at.min(ops.len())]);
        node.physical = Physical::adopt(&node.rows);
        let ops = node.physical.plan_full(&b, NOW).unwrap();
        node.execute_all(&ops);
        prop_assert_eq!(said_by_rows(&node.rows), said_by(&b));
        let ops = node.physical.tick(NOW.plus_ms(QUARANTINE_MS));
        node.execute_all(&ops);
        prop_assert_eq!(policy_rows(&node.rows), policy_rows(&Node::at(&b).rows));
    }

    #[test]
    fn i14_the_same_image_again_and_after_a_restart_writes_nothing(a in image(), b in image()) {
        let mut node = Node::at(&a);
        let ops = node.physical.plan(&diff(&a, &b), NOW).unwrap();
        node.execute_all(&ops);
        let again = node.physical.plan(&diff(&Image::default(), &b), NOW).unwrap();
        prop_assert_eq!(&again, &Vec::new());
        prop_assert_eq!(node.physical.plan_full(&b, NOW).unwrap(), Vec::new());
        let mut adopted = Physical::adopt(&node.rows);
        prop_assert_eq!(adopted.plan_full(&b, NOW).unwrap(), Vec::new());
    }

    #[test]
    fn i15_policy_rows_are_a_function_of_the_image_once_the_quarantine_is_over(
        a in image(), b in image(),
    ) {
        let mut node = Node::at(&a);
        let ops = node.physical.plan(&diff(&a, &b), NOW).unwrap();
        node.execute_all(&ops);
        let ops = node.physical.tick(NOW.plus_ms(QUARANTINE_MS));
        node.execute_all(&ops);
        prop_assert_eq!(policy_rows(&node.rows), policy_rows(&Node::at(&b).rows));
        prop_assert_eq!(node.physical.wake_at(), None);
    }

    #[test]
    fn i15_any_order_of_delivery_means_the_same(
        a in image(), b in image(), keys in proptest::collection::vec(any::<u32>(), 40),
        step in 1usize..4,
    ) {
        let mut changes: Vec<(u32, ImageChange)> =
            keys.iter().copied().cycle().zip(diff(&a, &b)).collect();
        changes.sort_by_key(|(key, _)| *key);
        let changes: Vec<ImageChange> = changes.into_iter().map(|(_, change)| change).collect();
        let (mut node, mut logical) = (Node::at(&a), a);
        for (turn, slice) in (0..).zip(changes.chunks(step)) {
            slice.iter().for_each(|change| logical.apply(change));
            let ops = node.physical.plan(slice, NOW.plus_ms(400 * turn)).unwrap();
            node.execute_all(&ops);
        }
        prop_assert_eq!(render(&logical), render(&b));
        prop_assert_eq!(said_by_rows(&node.rows), said_by(&b));
        prop_assert_eq!(node.physical.waiting().count(), 0);
    }

    #[test]
    fn f44_tiny_maps_refuse_whole_changes_and_never_overflow(
        images in proptest::collection::vec(image(), 1..5),
        sizes in (1u32..5, 1u32..16, 1u32..6, 0u32..3, 0u32..4, 0u32..12, 0u32..12, 0u32..20),
    ) {
        let limits = Limits {
            services: sizes.0, backends: sizes.1, endpoints: sizes.2, cidrs: sizes.3,
            groups: sizes.4, peers: sizes.5, ports: sizes.6, ranges: sizes.7,
        };
        let mut node = Node::new(limits);
        for (turn, image) in (0..).zip(&images) {
            let now = NOW.plus_ms(700 * turn);
            let before = node.rows.clone();
            let (ops, refused) = match node.physical.plan_full(image, now) {
                Ok(ops) => (ops, Vec::new()),
                Err(_) => {
                    prop_assert_eq!(&node.rows, &before);
                    node.physical.plan_full_each(image, now)
                }
            };
            for op in &ops {
                node.rows.apply(op);
                prop_assert_eq!(inconsistencies(&node.rows), Vec::<String>::new());
                prop_assert!(fits(&node.rows, &limits), "{:?} after {:?}", limits, op);
            }
            if refused.is_empty() {
                prop_assert_eq!(said_by_rows(&node.rows), said_by(image));
            }
        }
        // What was planned is what was executed: a restart finds nothing else.
        let adopted = Physical::with_limits(&node.rows, limits);
        prop_assert_eq!(adopted.mirror.peers, node.physical.mirror.peers);
        prop_assert_eq!(adopted.mirror.ranges, node.physical.mirror.ranges);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn i7_a_flow_that_old_and_new_allow_is_never_denied_in_between(
        a in edit_of_policy(), b in edit_of_policy(),
    ) {
        // An address that changes hands is another flow.
        let place = |image: &Image, ip: &IpAddr| image.endpoints.get(ip).map(|e| e.local);
        let stays = |ip: &IpAddr| place(&a, ip) == place(&b, ip);
        let of = |image: &Image, f: &(IpAddr, bool, IpAddr, u16)| verdict(image, f.0, f.1, f.2, f.3);
        let kept: Vec<_> = flows()
            .filter(|flow| stays(&flow.0) && stays(&flow.2))
            .filter(|flow| of(&a, flow) == Some(true) && of(&b, flow) == Some(true))
            .collect();
        let mut node = Node::at(&a);
        for op in node.physical.plan(&diff(&a, &b), NOW).unwrap() {
            node.rows.apply(&op);
            for flow in &kept {
                prop_assert_eq!(rows_verdict(&node.rows, *flow), Some(true), "{:?} {:?}", flow, op);
            }
        }
    }

    #[test]
    fn i9_no_step_allows_what_neither_old_nor_new_rules_say(
        a in edit_of_policy(), b in edit_of_policy(),
    ) {
        let (both_a, both_b) = (united(&a, &b), united(&b, &a));
        let mut node = Node::at(&a);
        let denied: Vec<_> = flows()
            .filter(|(pod, ingress, peer, port)| {
                let by = |image: &Image, both: &Image| {
                    image.endpoints.contains_key(pod)
                        && verdict(both, *pod, *ingress, *peer, *port) == Some(true)
                };
                !by(&a, &both_a) && !by(&b, &both_b)
            })
            .collect();
        for op in node.physical.plan(&diff(&a, &b), NOW).unwrap() {
            node.rows.apply(&op);
            for flow in &denied {
                prop_assert_ne!(rows_verdict(&node.rows, *flow), Some(true), "{:?} {:?}", flow, op);
            }
        }
    }
}

fn fits(rows: &KernelRows, limits: &Limits) -> bool {
    rows.services.len() <= limits.services as usize
        && rows.backends.keys().all(|slot| *slot < limits.backends)
        && rows.endpoints.len() <= limits.endpoints as usize
        && rows.cidrs.len() <= limits.cidrs as usize
        && rows.groups.len() <= limits.groups as usize
        && rows.peers.len() <= limits.peers as usize
        && rows.ports.len() <= limits.ports as usize
        && rows.ranges.len() <= limits.ranges as usize
}

// ---- tables

fn web(hosts: &[u8]) -> ServiceEntry {
    let backends = hosts
        .iter()
        .map(|host| Backend { local: *host < 10, addr: [10, 0, 0, *host].into(), port: 8080 })
        .collect();
    ServiceEntry {
        service: ObjectKey::new("a", "web"),
        port_name: String::new(),
        backends,
        local_only: false,
        affinity_s: None,
    }
}

fn service(hosts: &[u8]) -> ImageChange {
    ImageChange::Service(frontend(1), Some(web(hosts)))
}

#[test]
fn b10_a_publish_writes_local_slots_first_then_one_row() {
    let mut node = Node::new(Limits::default());
    let ops = node.physical.plan(&[service(&[20, 3, 21])], NOW).unwrap();
    assert_eq!(ops.len(), 4);
    let MapOp::PutBackend(0, first) = ops[0] else { panic!("{ops:?}") };
    assert_eq!(rows::ip_of(first.addr), IpAddr::from([10, 0, 0, 3]));
    let MapOp::PutService(_, row) = ops[3] else { panic!("{ops:?}") };
    assert_eq!((row.count, row.count_local, row.generation), (3, 1, 1));
}

#[test]
fn b26_no_endpoints_is_one_row_without_slots() {
    let mut node = Node::new(Limits::default());
    let ops = node.physical.plan(&[service(&[])], NOW).unwrap();
    let [MapOp::PutService(_, row)] = ops[..] else { panic!("{ops:?}") };
    assert_eq!((row.count, row.flags), (0, 0));
}

#[test]
fn b24_local_only_tells_nowhere_from_elsewhere() {
    use longshore_abi::service::{FLAG_LOCAL_ONLY, FLAG_REMOTE_EXISTS};
    for (hosts, flags) in [
        (&[20u8][..], FLAG_LOCAL_ONLY | FLAG_REMOTE_EXISTS),
        (&[3, 20], FLAG_LOCAL_ONLY),
        (&[], FLAG_LOCAL_ONLY),
    ] {
        let mut entry = web(hosts);
        entry.local_only = true;
        let mut node = Node::new(Limits::default());
        let change = ImageChange::Service(frontend(1), Some(entry));
        node.execute(&node.physical.clone().plan(&[change], NOW).unwrap());
        assert_eq!(node.rows.services.values().next().unwrap().flags, flags, "{hosts:?}");
    }
}

#[test]
fn e3_an_old_range_is_reused_after_its_quarantine_only() {
    let limits = Limits { backends: 4, ..Limits::default() };
    let mut node = Node::new(limits);
    let mut plan = |hosts: &[u8], now: Time| node.physical.plan(&[service(hosts)], now);
    plan(&[1, 2], NOW).unwrap();
    plan(&[1, 3], NOW).unwrap();
    let due = NOW.plus_ms(QUARANTINE_MS);
    let refused = plan(&[1, 4], NOW.plus_ms(QUARANTINE_MS - 1)).unwrap_err();
    assert_eq!(refused, Refused::SlabFull { needed: 2, max: 4, retry_at: Some(due) });
    let ops = plan(&[1, 4], due).unwrap();
    let MapOp::PutService(_, row) = ops[2] else { panic!("{ops:?}") };
    assert_eq!((row.base, row.generation), (0, 3));
}

#[test]
fn b34_a_frontend_that_comes_back_is_another_service_to_its_sockets() {
    let mut node = Node::new(Limits::default());
    let ops = node.physical.plan(&[service(&[1])], NOW).unwrap();
    node.execute_all(&ops);
    let first = node.rows.services.values().next().unwrap().service;
    let ops = node.physical.plan(&[ImageChange::Service(frontend(1), None)], NOW).unwrap();
    node.execute_all(&ops);
    assert_eq!(ops, [MapOp::DelService(rows::service_key_of(&frontend(1)))]);
    // Also when the daemon was killed in between: the stale slot still names the old number.
    node.physical = Physical::adopt(&node.rows);
    let ops = node.physical.plan(&[service(&[1])], NOW).unwrap();
    node.execute_all(&ops);
    assert_ne!(node.rows.services.values().next().unwrap().service, first);
}

#[test]
fn f44_a_full_map_leaves_the_old_rows_and_other_keys_unharmed() {
    let mut node = Node::new(Limits { services: 1, ..Limits::default() });
    let ops = node.physical.plan(&[service(&[1])], NOW).unwrap();
    node.execute_all(&ops);
    let second = ImageChange::Service(frontend(2), Some(web(&[1])));
    let both = [service(&[2]), second];
    let refused = node.physical.plan(&both, NOW).unwrap_err();
    let full = Refused::MapFull { map: "services", needed: 2, max: 1 };
    assert_eq!(refused, full);
    let (ops, refused) = node.physical.plan_each(&both, NOW);
    node.execute_all(&ops);
    assert_eq!(refused, [(Subject::Service(frontend(2)), full)]);
    assert_eq!(said_by_rows(&node.rows).services["tcp/10.96.0.1:80"].0.len(), 1);
}

#[test]
fn f44_a_removal_makes_room_for_what_did_not_fit() {
    let mut node = Node::new(Limits { services: 1, ..Limits::default() });
    let ops = node.physical.plan(&[service(&[1])], NOW).unwrap();
    node.execute_all(&ops);
    let second = ImageChange::Service(frontend(2), Some(web(&[1])));
    let swap = [ImageChange::Service(frontend(1), None), second];
    assert!(node.physical.plan(&swap, NOW).is_err());
    let (ops, refused) = node.physical.plan_each(&swap, NOW);
    node.execute_all(&ops);
    assert_eq!(refused, []);
    assert_eq!(node.rows.services.keys().next(), Some(&rows::service_key_of(&frontend(2))));
}

fn pod(ingress: Option<&Group>, ifindex: u32) -> ImageChange {
    let endpoint = Endpoint {
        pod: Some(ObjectKey::new("a", "pod")),
        class: Class { terms: [term(2)].into() },
        local: Some(LocalInterface { ifindex, mac: [2; 6] }),
        open: true,
        ingress: ingress.map(Group::id),
        egress: None,
    };
    ImageChange::Endpoint([10, 0, 0, 1].into(), Some(endpoint))
}

fn groups(count: u16) -> Group {
    let set =
        |port| PortSet::These([PortTerm { proto: Protocol::Tcp, first: port, last: port }].into());
    let rules = (0..count).map(|port| (set(port), Rule { any_peer: true, ..Rule::default() }));
    Group { rules: rules.collect(), policies: BTreeSet::new() }
}

#[test]
fn i9_a_group_that_cannot_be_keeps_the_old_verdict_and_harms_nobody() {
    let (old, bad) = (groups(1), groups(257));
    let mut node = Node::new(Limits::default());
    let put = |group: &Group| ImageChange::Group(group.id(), Some(group.clone()));
    let ops = node.physical.plan(&[put(&old), pod(Some(&old), 7)], NOW).unwrap();
    node.execute_all(&ops);
    let before = said_by_rows(&node.rows);
    let changes =
        [put(&bad), ImageChange::Group(old.id(), None), pod(Some(&bad), 7), service(&[1])];
    let (ops, refused) = node.physical.plan_each(&changes, NOW);
    node.execute_all(&ops);
    let why = Refused::TooManyPortSets { group: bad.id(), count: 257, max: 256 };
    assert_eq!(refused, [(Subject::Group(bad.id()), why)]);
    let ops = node.physical.tick(NOW.plus_s(10));
    node.execute_all(&ops);
    assert_eq!(said_by_rows(&node.rows).pods, before.pods);
    assert_eq!(node.rows.services.len(), 1);
    assert_eq!(node.physical.waiting().count(), 1);
}

#[test]
fn c16_a_pod_whose_group_is_missing_gets_a_closed_row() {
    let group = groups(1);
    let mut node = Node::new(Limits::default());
    let ops = node.physical.plan(&[pod(None, 7)], NOW).unwrap();
    node.execute_all(&ops);
    // Another interface took the address: the old row's open door is not its own.
    let ops = node.physical.plan(&[pod(Some(&group), 8)], NOW).unwrap();
    node.execute_all(&ops);
    let row = *node.rows.endpoints.values().next().unwrap();
    assert_eq!((row.ifindex, row.flags, row.class), (8, flag::LOCAL, 0));
    let put = ImageChange::Group(group.id(), Some(group.clone()));
    let ops = node.physical.plan(&[put], NOW).unwrap();
    node.execute_all(&ops);
    let row = node.rows.endpoints.values().next().unwrap();
    assert_eq!(row.flags, flag::LOCAL | flag::OPEN | flag::ISOLATED_INGRESS);
}

#[test]
fn i8_a_stamp_changes_with_class_or_group_only() {
    let stamp = |changes: &[ImageChange]| {
        let mut node = Node::new(Limits::default());
        let ops = node.physical.plan(changes, NOW).unwrap();
        node.execute_all(&ops);
        node.rows.endpoints.values().next().unwrap().stamp
    };
    let group = groups(1);
    let put = ImageChange::Group(group.id(), Some(group.clone()));
    assert_eq!(stamp(&[pod(None, 7)]), stamp(&[pod(None, 8)]));
    assert_ne!(stamp(&[pod(None, 7)]), stamp(&[put, pod(Some(&group), 7)]));
}

#[test]
fn a_new_endpoint_touches_its_own_keys_only() {
    let image = Image {
        groups: (1..40u16).map(|n| (groups(n).id(), groups(n))).collect(),
        ..Image::default()
    };
    let mut node = Node::at(&image);
    let ops = node.physical.plan(&[pod(None, 7)], NOW).unwrap();
    assert_eq!(ops.len(), 1, "no group names its class: {ops:?}");
}

#[test]
fn a38_incremental_plans_leave_adopted_rows_alone() {
    let mut image = Image::default();
    image.apply(&service(&[1]));
    let group = groups(1);
    image.apply(&ImageChange::Group(group.id(), Some(group.clone())));
    image.apply(&pod(Some(&group), 7));
    let node = Node::at(&image);
    let mut adopted = Physical::adopt(&node.rows);
    let second = ImageChange::Service(frontend(2), Some(web(&[])));
    let ops = adopted.plan(&[second], NOW).unwrap();
    assert_eq!(ops.len(), 1);
    assert_eq!(adopted.tick(NOW.plus_s(10)), []);
    // A complete image decides: what is in no image goes, last.
    let ops = adopted.plan_full(&Image::default(), NOW).unwrap();
    assert_eq!(ops.len(), 3, "{ops:?}");
    let later = adopted.tick(NOW.plus_s(10));
    assert!(later.contains(&MapOp::DelGroup(group.id())), "{later:?}");
}
