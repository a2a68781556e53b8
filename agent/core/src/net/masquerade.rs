//! What leaves the cluster under the node's address.

use ipnet::IpNet;

use super::interface::HOST_PREFIX;

/// The content of the node's own nftables table. It replaces the table whole, in one transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Masquerade {
    /// Family `ip`.
    pub table: String,
    /// Sources that are masqueraded.
    pub from: IpNet,
    /// Destinations that see the pod's own address; no two overlap.
    pub not_to: Vec<IpNet>,
    /// Name prefix of the devices behind which pods are: nothing is masqueraded on its way there.
    pub not_out: String,
    /// Source ports at random (`fully-random`, B33): no two flows race for one port.
    pub fully_random: bool,
}

/// Packets of `pod_cidr` to the world. `cluster` are all pod, node and Service ranges that route to
/// pods by their own address; the node's podCIDR is always among them.
pub fn masquerade(pod_cidr: IpNet, cluster: impl IntoIterator<Item = IpNet>) -> Masquerade {
    let from = pod_cidr.trunc();
    let same_family = |net: &IpNet| net.addr().is_ipv4() == from.addr().is_ipv4();
    let not_to = cluster.into_iter().map(|net| net.trunc()).filter(same_family).chain([from]);
    Masquerade {
        table: "longshore".to_owned(),
        from,
        not_to: IpNet::aggregate(&not_to.collect()),
        not_out: HOST_PREFIX.to_owned(),
        fully_random: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b33_pods_leave_the_cluster_under_the_nodes_address() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let plan = masquerade(net("10.0.0.1/24"), [net("10.96.0.0/16"), net("fd00::/8")]);
        assert_eq!(plan.from, net("10.0.0.0/24"));
        assert_eq!(plan.not_to, [net("10.0.0.0/24"), net("10.96.0.0/16")]);
        // One of a cluster's nodes: its range is part of the cluster's.
        let plan = masquerade(net("10.0.1.0/24"), [net("10.0.0.0/16"), net("192.0.2.1/32")]);
        assert_eq!(plan.not_to, [net("10.0.0.0/16"), net("192.0.2.1/32")]);
    }
}
