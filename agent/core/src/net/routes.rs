//! Which way the other nodes' pods are, and whose packets keep the pod's own address.
//!
//! Native routing: a node's podCIDR is behind the node's own address, and both must be on one
//! network. Deliberately absent: tunnels, and clouds' route tables (there a default route leads to
//! every pod, and nothing has to be added).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;

use crate::model::{Kind, ObjectKey, Problem, Severity};

/// podCIDR of another node → that node's address.
pub type Routes = BTreeMap<Ipv4Net, Ipv4Addr>;
/// One of [`Routes`].
pub type Route = (Ipv4Net, Ipv4Addr);

/// What this node does for packets between nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeNetwork {
    /// This node's podCIDR as the API server has it.
    pub own: Option<Ipv4Net>,
    /// `own`, or what the configuration gives in its place.
    pub range: Option<Ipv4Net>,
    pub routes: Routes,
    /// Pods and nodes of the cluster: reached under a pod's own address. Aggregated. Only the own
    /// pods where the range is of the configuration: nobody else has a route back to it.
    pub cluster: Vec<IpNet>,
    pub problems: Vec<Problem>,
}

/// `attached`: the networks that this node has an address on; `configured`: the range of this node's
/// pods where the control plane gives it none.
pub fn node_network<'a>(
    own: &str,
    nodes: impl IntoIterator<Item = &'a Node>,
    attached: &[Ipv4Net],
    configured: Option<Ipv4Net>,
) -> NodeNetwork {
    let mut plan = NodeNetwork::default();
    let mut others = Vec::new();
    let mut cluster = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let cidr = pod_cidr(node);
        let address = internal_ip(node);
        cluster.extend(cidr.map(IpNet::V4));
        cluster.extend(address.map(|ip| IpNet::from(IpAddr::V4(ip))));
        if name == own {
            plan.own = cidr;
        } else if let (Some(cidr), Some(address)) = (cidr, address) {
            others.push((name, cidr, address));
        }
    }
    plan.range = plan.own.or(configured);
    for (name, cidr, address) in others {
        let overlaps = |net: &Ipv4Net| net.contains(&cidr) || cidr.contains(net);
        if plan.range.as_ref().is_some_and(overlaps) || plan.routes.keys().any(overlaps) {
            let text = format!("{cidr} overlaps another node's pods: no route is made to it");
            plan.problems.push(problem(name, "spec.podCIDR", text));
        } else if attached.iter().any(|net| net.contains(&address)) {
            plan.routes.insert(cidr, address);
        } else {
            let text = format!(
                "{address} is on no network of this node: {cidr} is left to the default route"
            );
            plan.problems.push(problem(name, "status.addresses", text));
        }
    }
    plan.cluster = match plan.own {
        Some(_) => IpNet::aggregate(&cluster),
        None => plan.range.map(IpNet::V4).into_iter().collect(),
    };
    plan
}

fn problem(node: &str, field: &str, message: String) -> Problem {
    Problem {
        kind: Kind::Node,
        key: ObjectKey::new("", node),
        severity: Severity::Warning,
        reason: "NoRoute",
        field: field.into(),
        message,
    }
}

/// The first IPv4 range of `spec.podCIDRs`.
pub fn pod_cidr(node: &Node) -> Option<Ipv4Net> {
    let spec = node.spec.as_ref()?;
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|text| text.parse::<Ipv4Net>().ok()).map(|net| net.trunc()).next()
}

fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).next()
}

/// What to do to the kernel's routes of ours: first those that go, then those that come or change.
pub fn difference(now: &BTreeSet<Route>, wanted: &Routes) -> (Vec<Route>, Vec<Route>) {
    let gone = now.iter().filter(|(net, via)| wanted.get(net) != Some(via));
    let missing = wanted.iter().map(|(net, via)| (*net, *via)).filter(|pair| !now.contains(pair));
    (gone.copied().collect(), missing.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidr: &str, ip: &str) -> Node {
        let cidrs = if cidr.is_empty() { vec![] } else { vec![cidr] };
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": cidr, "podCIDRs": cidrs},
            "status": {"addresses": [{"type": "Hostname", "address": name},
                                     {"type": "InternalIP", "address": ip}]},
        }))
        .unwrap()
    }

    fn plan(nodes: &[Node]) -> NodeNetwork {
        node_network("a", nodes, &["192.0.2.0/24".parse().unwrap()], None)
    }

    #[test]
    fn b33_the_configured_range_holds_where_the_control_plane_gives_none() {
        let configured: Ipv4Net = "10.9.0.0/24".parse().unwrap();
        let plan = |own: &str| {
            let nodes = [node("a", own, "192.0.2.1"), node("b", "10.0.2.0/24", "192.0.2.2")];
            node_network("a", &nodes, &["192.0.2.0/24".parse().unwrap()], Some(configured))
        };
        let fallback = plan("");
        assert_eq!((fallback.own, fallback.range), (None, Some(configured)));
        assert_eq!(fallback.cluster, [IpNet::V4(configured)], "the others cannot answer");
        assert_eq!(fallback.routes.len(), 1);
        let given = plan("10.0.1.0/24");
        assert_eq!(given.range, given.own);
        assert!(given.cluster.len() > 1);
        // Another node has the configured range.
        let overlaps = [node("b", "10.9.0.0/16", "192.0.2.2")];
        let plan = node_network("a", &overlaps, &[], Some(configured));
        assert_eq!((plan.routes.len(), plan.problems.len()), (0, 1));
    }

    #[test]
    fn b33_other_nodes_pods_are_behind_their_node() {
        let plan = plan(&[
            node("a", "10.0.1.0/24", "192.0.2.1"),
            node("b", "10.0.2.0/24", "192.0.2.2"),
            node("c", "", "192.0.2.3"),
        ]);
        assert_eq!(plan.own, Some("10.0.1.0/24".parse().unwrap()));
        let to = |cidr: &str, via: &str| (cidr.parse().unwrap(), via.parse().unwrap());
        assert_eq!(plan.routes, [to("10.0.2.0/24", "192.0.2.2")].into());
        assert_eq!(plan.problems, []);
        let text: Vec<String> = plan.cluster.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            ["10.0.1.0/24", "10.0.2.0/24", "192.0.2.1/32", "192.0.2.2/31"],
            "what is not masqueraded"
        );
    }

    #[test]
    fn i9_a_range_that_another_node_has_gets_no_route() {
        for (cidr, ip, field) in [
            ("10.0.1.0/25", "192.0.2.2", "spec.podCIDR"),
            ("10.0.0.0/16", "192.0.2.2", "spec.podCIDR"),
            ("10.0.2.0/24", "198.51.100.2", "status.addresses"),
        ] {
            let plan = plan(&[node("b", cidr, ip), node("a", "10.0.1.0/24", "192.0.2.1")]);
            assert_eq!(plan.routes, Routes::new(), "{cidr} {ip}");
            assert_eq!(plan.problems.len(), 1);
            assert_eq!(plan.problems[0].field, field);
        }
    }

    #[test]
    fn i14_only_what_differs_is_written() {
        let pair = |cidr: &str, via: &str| (cidr.parse().unwrap(), via.parse().unwrap());
        let (b, c, old) = (
            pair("10.0.2.0/24", "192.0.2.2"),
            pair("10.0.3.0/24", "192.0.2.3"),
            pair("10.0.3.0/24", "192.0.2.9"),
        );
        let wanted: Routes = [b, c].into();
        assert_eq!(difference(&[b, c].into(), &wanted), (vec![], vec![]));
        assert_eq!(difference(&[b, old].into(), &wanted), (vec![old], vec![c]));
        assert_eq!(difference(&[b, c].into(), &Routes::new()), (vec![b, c], vec![]));
    }
}
