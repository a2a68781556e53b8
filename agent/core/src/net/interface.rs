//! What a pod's interface must have, on both sides.
//!
//! A veth with a /32 on the pod's side and a link-local gateway whose permanent neighbour is the
//! host side: the pod never asks ARP, and no address of the range is spent per pod. Names and MACs
//! follow from the sandbox id, so what exists can be compared with what should be.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::hash::hash64;

/// Every pod's gateway; no interface has it as an address.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The pod's name of its interface.
pub const POD_IFNAME: &str = "eth0";

/// First letters of every host side's name.
pub const HOST_PREFIX: &str = "ls";

/// Of a link without a known uplink.
const DEFAULT_MTU: u32 = 1500;

/// Smallest MTU that IPv6 allows; below it nothing is right any more.
const LEAST_MTU: u32 = 1280;

/// One route of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub to: Ipv4Net,
    /// `None`: the destination is on the link (scope link).
    pub via: Option<Ipv4Addr>,
    /// Preferred source.
    pub src: Option<Ipv4Addr>,
}

/// A permanent neighbour entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    pub ip: Ipv4Addr,
    pub mac: [u8; 6],
}

/// Both ends of one veth.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfacePlan {
    /// At most 15 characters, as the kernel wants it.
    pub host_name: String,
    pub host_mac: [u8; 6],
    pub host_route: Route,
    pub host_neighbour: Neighbour,
    pub pod_name: String,
    pub pod_mac: [u8; 6],
    /// The pod's address as a /32.
    pub pod_addr: Ipv4Net,
    /// In the order in which they can be added: the gateway is on the link, all else is behind it.
    pub pod_routes: [Route; 2],
    pub pod_neighbour: Neighbour,
    /// Of both ends, in bytes.
    pub mtu: u32,
    /// Paths below /proc/sys in the node's namespace, once the host side exists.
    pub host_sysctls: Vec<(String, String)>,
}

/// The interface of `sandbox_id` with address `ip`, on a node whose address is `node_ip`.
pub fn interface_plan(
    sandbox_id: &str,
    ip: Ipv4Addr,
    node_ip: Ipv4Addr,
    mtu: u32,
) -> InterfacePlan {
    let host_name = host_name(sandbox_id);
    let (host_mac, pod_mac) = (mac("host", sandbox_id), mac("pod", sandbox_id));
    let forwarding = format!("net/ipv4/conf/{host_name}/forwarding");
    InterfacePlan {
        host_mac,
        host_route: Route { to: host(ip), via: None, src: Some(node_ip) },
        host_neighbour: Neighbour { ip, mac: pod_mac },
        pod_name: POD_IFNAME.to_owned(),
        pod_mac,
        pod_addr: host(ip),
        pod_routes: [
            Route { to: host(GATEWAY), via: None, src: None },
            Route { to: Ipv4Net::default(), via: Some(GATEWAY), src: Some(ip) },
        ],
        pod_neighbour: Neighbour { ip: GATEWAY, mac: host_mac },
        mtu,
        host_sysctls: vec![(forwarding, "1".to_owned())],
        host_name,
    }
}

/// `ls` and eleven hex digits of the sandbox id's hash.
pub fn host_name(sandbox_id: &str) -> String {
    format!("{HOST_PREFIX}{:011x}", hash64(sandbox_id) >> 20)
}

/// MTU of pods: the uplink's less what the overlay adds; 1500 when there is no uplink.
pub fn pod_mtu(uplink: Option<u32>, overlay_bytes: u32) -> u32 {
    uplink.unwrap_or(DEFAULT_MTU).saturating_sub(overlay_bytes).max(LEAST_MTU)
}

/// Locally administered, unicast.
fn mac(side: &str, sandbox_id: &str) -> [u8; 6] {
    let [first, rest @ .., _, _] = hash64(&format!("mac {side} {sandbox_id}")).to_be_bytes();
    let [a, b, c, d, e] = rest;
    [(first & 0xfc) | 0x02, a, b, c, d, e]
}

fn host(ip: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_macs_follow_from_the_sandbox() {
        let ip = Ipv4Addr::new(10, 0, 0, 2);
        let plan = |id| interface_plan(id, ip, Ipv4Addr::new(192, 168, 0, 1), 1500);
        assert_eq!(plan("a"), plan("a"));
        let (a, b) = (plan("a"), plan("b"));
        assert_ne!(a.host_name, b.host_name);
        assert_eq!(a.host_name.len(), 13);
        for mac in [a.host_mac, a.pod_mac, b.host_mac, b.pod_mac] {
            assert_eq!(mac[0] & 3, 2, "locally administered and unicast");
        }
        assert_ne!(a.host_mac, a.pod_mac);
    }

    #[test]
    fn a_pod_reaches_everything_through_the_host_side() {
        let (ip, node) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(192, 168, 0, 1));
        let plan = interface_plan("a", ip, node, 1450);
        assert_eq!(plan.pod_addr.to_string(), "10.0.0.2/32");
        let routes = plan.pod_routes.map(|route| (route.to.to_string(), route.via));
        let want = [("169.254.1.1/32".to_owned(), None), ("0.0.0.0/0".to_owned(), Some(GATEWAY))];
        assert_eq!(routes, want);
        assert_eq!(plan.pod_neighbour, Neighbour { ip: GATEWAY, mac: plan.host_mac });
        assert_eq!(plan.host_neighbour, Neighbour { ip, mac: plan.pod_mac });
        let back = Route { to: "10.0.0.2/32".parse().unwrap(), via: None, src: Some(node) };
        assert_eq!(plan.host_route, back);
    }

    #[test]
    fn pod_mtu_is_the_uplinks_less_the_overlay() {
        for (uplink, overlay, want) in
            [(Some(1500), 0, 1500), (Some(9000), 50, 8950), (None, 0, 1500), (Some(1300), 50, 1280)]
        {
            assert_eq!(pod_mtu(uplink, overlay), want);
        }
    }
}
