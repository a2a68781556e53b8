//! Routes to other nodes, and the table that masquerades what leaves the cluster.

use std::net::{IpAddr, Ipv4Addr};

use longshore::effects::network::{Network, masquerade};
use longshore::supervise::Supervisor;
use longshore_core::net::Routes;
use longshore_core::net::masquerade as masquerade_plan;

use crate::space::Space;

fn show(space: &Space, program: &str, args: &[&str]) -> String {
    space.run(|| {
        let output = std::process::Command::new(program).args(args).output().expect(program);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

/// I3, I14: only routes with our mark come and go, and those that are right are not written again.
#[test]
fn i3_routes_of_others_are_left_alone() {
    let node = Space::new();
    let peer: Ipv4Addr = "10.242.0.2".parse().unwrap();
    let other: Ipv4Addr = "10.242.0.3".parse().unwrap();
    show(&node, "ip", &["link", "add", "up0", "type", "veth", "peer", "name", "down0"]);
    show(&node, "ip", &["address", "add", "10.242.0.1/24", "dev", "up0"]);
    show(&node, "ip", &["link", "set", "down0", "up"]);
    show(&node, "ip", &["link", "set", "up0", "up"]);
    show(&node, "ip", &["route", "add", "10.9.0.0/16", "via", "10.242.0.9"]);
    let set = |routes: &Routes| {
        node.block_on(|| async {
            let supervisor = Supervisor::default();
            let network = Network::open(&supervisor.scope()).expect("netlink");
            network.set_routes(routes).await.expect("routes");
        });
        let ours = show(&node, "ip", &["route", "show", "proto", "76"]);
        ours.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let (b, c) = ("10.244.2.0/24".parse().unwrap(), "10.244.3.0/24".parse().unwrap());
    let both = ["10.244.2.0/24 via 10.242.0.2 dev up0", "10.244.3.0/24 via 10.242.0.2 dev up0"];
    for _ in 0..2 {
        assert_eq!(set(&[(b, peer), (c, peer)].into()), both);
    }
    let moved = ["10.244.2.0/24 via 10.242.0.3 dev up0"];
    assert_eq!(set(&[(b, other)].into()), moved, "a node that changed its address, one that went");
    assert_eq!(set(&Routes::new()), Vec::<String>::new());
    assert!(show(&node, "ip", &["route"]).contains("10.9.0.0/16 via 10.242.0.9"));
    let attached = node.block_on(|| async {
        let supervisor = Supervisor::default();
        let network = Network::open(&supervisor.scope()).expect("netlink");
        network.attached().await.expect("addresses")
    });
    assert!(attached.iter().any(|net| net.contains(&peer)), "{attached:?}");
}

/// B33: one rule with one set, however many nodes there are; written twice it is the same.
#[test]
fn b33_the_cluster_is_one_look_up() {
    let node = Space::new();
    let cidr = |text: &str| text.parse().unwrap();
    let nodes = (1..=200).map(|n| ipnet::IpNet::from(IpAddr::from([192, 0, 2, n])));
    let plan = masquerade_plan(cidr("10.244.1.0/24"), nodes.chain([cidr("10.96.0.0/16")]));
    for _ in 0..2 {
        node.run(|| masquerade::apply(&plan).expect("nft"));
    }
    let rules = show(&node, "nft", &["list", "table", "ip", "longshore"]);
    assert_eq!(rules.matches("masquerade fully-random").count(), 1, "{rules}");
    assert!(rules.contains("ip daddr != {") && rules.contains("10.96.0.0/16"), "{rules}");
    node.run(|| masquerade::remove(&plan).expect("nft"));
    assert_eq!(show(&node, "nft", &["list", "ruleset"]), "");
}

/// F48: whoever asks the kernel gets an answer, also while somebody else asks.
#[test]
fn f48_questions_at_once_are_all_answered() {
    let node = Space::new();
    for number in 0..20 {
        let (one, other) = (format!("a{number}"), format!("b{number}"));
        show(&node, "ip", &["link", "add", &one, "type", "veth", "peer", "name", &other]);
    }
    let answers = node.block_on(|| async {
        let supervisor = Supervisor::default();
        let network = Network::open(&supervisor.scope()).expect("netlink");
        let ask = || async { (network.links().await, network.attached().await) };
        let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
        [a, b, c, d]
    });
    for (links, attached) in answers {
        assert_eq!(links.expect("interfaces").len(), 41);
        assert_eq!(attached.expect("addresses"), []);
    }
}
