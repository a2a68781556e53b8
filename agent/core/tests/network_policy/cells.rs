//! The NetworkPolicy API, evaluated cell by cell straight from the objects: slow, and sharing
//! nothing with the compiler but the API's types.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use longshore_core::image::Protocol;
use longshore_core::model::{ObjectKey, World};

/// Someone at an address: a pod, or an outsider.
pub struct Party<'a> {
    pub addr: IpAddr,
    pub pod: Option<(&'a ObjectKey, &'a Pod)>,
}

type Labels = BTreeMap<String, String>;

fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    equal
        && selector.match_expressions.iter().flatten().all(|e| {
            let values = e.values.clone().unwrap_or_default();
            let value = labels.get(&e.key);
            match e.operator.as_str() {
                "In" => value.is_some_and(|v| values.contains(v)),
                "NotIn" => value.is_none_or(|v| !values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => panic!("the generator makes valid selectors"),
            }
        })
}

fn labels(pod: &Pod) -> Labels {
    pod.metadata.labels.clone().unwrap_or_default()
}

fn namespace_labels(world: &World, name: &str) -> Labels {
    let object = world.namespaces.get(&ObjectKey::new("", name));
    let mut labels = object.and_then(|o| o.metadata.labels.clone()).unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    labels
}

fn number(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => addr.into(),
        IpAddr::V6(_) => panic!("the generator makes IPv4"),
    }
}

fn in_block(cidr: &str, addr: IpAddr) -> bool {
    let (base, len) = cidr.split_once('/').unwrap();
    let shift = 32 - len.parse::<u32>().unwrap();
    let head = |n: u32| if shift == 32 { 0 } else { n >> shift };
    head(number(base.parse().unwrap())) == head(number(addr))
}

fn is_peer(world: &World, own: &str, peer: &NetworkPolicyPeer, party: &Party) -> bool {
    if let Some(block) = &peer.ip_block {
        return in_block(&block.cidr, party.addr)
            && !block.except.iter().flatten().any(|e| in_block(e, party.addr));
    }
    let Some((key, pod)) = party.pod else { return false };
    let namespace = match &peer.namespace_selector {
        None => &*key.namespace == own,
        Some(selector) => matches(selector, &namespace_labels(world, &key.namespace)),
    };
    namespace && peer.pod_selector.as_ref().is_none_or(|s| matches(s, &labels(pod)))
}

fn protocol(name: Option<&str>) -> Protocol {
    match name {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        _ => Protocol::Sctp,
    }
}

/// `destination`: whose container ports a name is looked up in.
fn is_port(want: &NetworkPolicyPort, proto: Protocol, port: u16, destination: &Party) -> bool {
    if protocol(want.protocol.as_deref()) != proto {
        return false;
    }
    match &want.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            (*first..=want.end_port.unwrap_or(*first)).contains(&i32::from(port))
        }
        Some(IntOrString::String(name)) => {
            let Some((_, pod)) = destination.pod else { return false };
            let containers = &pod.spec.as_ref().unwrap().containers;
            let mut ports = containers.iter().flat_map(|c| c.ports.iter().flatten());
            ports.any(|p| {
                p.name.as_ref() == Some(name)
                    && protocol(p.protocol.as_deref()) == proto
                    && p.container_port == i32::from(port)
            })
        }
    }
}

fn selecting<'a>(
    world: &'a World,
    key: &ObjectKey,
    pod: &Pod,
    kind: &str,
) -> Vec<&'a NetworkPolicy> {
    let here = world.policies.iter().filter(|(policy, _)| policy.namespace == key.namespace);
    here.map(|(_, policy)| &**policy)
        .filter(|policy| {
            let spec = policy.spec.as_ref().unwrap();
            let isolates = match spec.policy_types.as_deref() {
                None | Some([]) => {
                    kind == "Ingress" || spec.egress.as_ref().is_some_and(|e| !e.is_empty())
                }
                Some(types) => types.iter().any(|t| t == kind),
            };
            isolates && spec.pod_selector.as_ref().is_none_or(|s| matches(s, &labels(pod)))
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    In,
    Out,
}

/// Whether `from` may open to `to`; each side is asked only if `enforced` says so of its pod.
pub fn allowed(
    world: &World,
    from: &Party,
    to: &Party,
    proto: Protocol,
    port: u16,
    enforced: impl Fn(&Pod) -> bool,
) -> bool {
    if from.addr == to.addr {
        return true;
    }
    let both = |own: &ObjectKey,
                way: Way,
                peer: Option<&NetworkPolicyPeer>,
                want: Option<&NetworkPolicyPort>| {
        let other = if way == Way::In { from } else { to };
        // The API leaves open what a port's name means for an ipBlock of an egress rule; here it
        // matches nothing (C10).
        let named = want.is_some_and(|w| matches!(w.port, Some(IntOrString::String(_))));
        let of_block = peer.is_some_and(|peer| peer.ip_block.is_some());
        !(named && of_block && way == Way::Out)
            && peer.is_none_or(|peer| is_peer(world, &own.namespace, peer, other))
            && want.is_none_or(|want| is_port(want, proto, port, to))
    };
    let rule = |own: &ObjectKey, way, peers: Option<&Vec<_>>, ports: Option<&Vec<_>>| {
        fn items<T>(list: Option<&Vec<T>>) -> Vec<Option<&T>> {
            match list {
                None => vec![None],
                Some(list) if list.is_empty() => vec![None],
                Some(list) => list.iter().map(Some).collect(),
            }
        }
        let (peers, ports) = (items(peers), items(ports));
        peers.iter().any(|peer| ports.iter().any(|port| both(own, way, *peer, *port)))
    };
    let mut ok = true;
    if let Some((key, pod)) = from.pod.filter(|(_, pod)| enforced(pod)) {
        let policies = selecting(world, key, pod, "Egress");
        ok &= policies.is_empty()
            || policies.iter().any(|p| {
                let rules = p.spec.as_ref().unwrap().egress.iter().flatten();
                rules.into_iter().any(|r| rule(key, Way::Out, r.to.as_ref(), r.ports.as_ref()))
            });
    }
    if let Some((key, pod)) = to.pod.filter(|(_, pod)| enforced(pod)) {
        let policies = selecting(world, key, pod, "Ingress");
        ok &= policies.is_empty()
            || policies.iter().any(|p| {
                let rules = p.spec.as_ref().unwrap().ingress.iter().flatten();
                rules.into_iter().any(|r| rule(key, Way::In, r.from.as_ref(), r.ports.as_ref()))
            });
    }
    ok
}
