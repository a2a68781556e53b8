//! Truth tables of the contract's rows C1–C19.

use crate::lab::{Lab, NODE, WORLD, ip, sends};
use longshore_core::oracle::{Flows, Icmp, Packet, Transport};

const DENY_INGRESS: &str = "podSelector: {}";

#[test]
fn c1_only_selected_pods_are_isolated_and_allows_add_up() {
    let mut lab = Lab::grid();
    lab.check(&[("y/a", "x/a", "TCP/80", true), (WORLD, "x/a", "TCP/80", true)]);
    lab.policy("x/from-b", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}");
    lab.check(&[
        ("x/b", "x/a", "TCP/80", true),
        ("x/c", "x/a", "TCP/80", false),
        (WORLD, "x/a", "TCP/80", false),
        // Not selected, and the other direction of the selected one.
        ("x/c", "x/b", "TCP/80", true),
        ("x/a", "x/c", "TCP/80", true),
        ("y/a", "y/b", "TCP/80", true),
    ]);
    lab.policy("x/from-c", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: c}}}], ports: [{port: 80}]}]}");
    lab.check(&[
        ("x/b", "x/a", "TCP/81", true),
        ("x/c", "x/a", "TCP/80", true),
        ("x/c", "x/a", "TCP/81", false),
        ("y/a", "x/a", "TCP/80", false),
    ]);
}

#[test]
fn c2_egress_of_the_source_and_ingress_of_the_destination_must_both_allow() {
    let mut lab = Lab::grid();
    lab.policy("x/out", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}");
    lab.policy("y/in", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: b}}}]}]}");
    lab.check(&[
        ("x/a", "y/b", "TCP/80", true),
        ("x/a", "y/a", "TCP/80", false),
        ("x/b", "y/a", "TCP/80", true),
        ("x/a", "x/b", "TCP/80", false),
        ("x/a", "z/a", "TCP/80", false),
        ("x/a", WORLD, "TCP/80", false),
    ]);
}

#[test]
fn c3_policy_types_follow_from_the_sections_when_unset() {
    for (spec, ingress, egress) in [
        ("{podSelector: {}}", true, false),
        ("{podSelector: {}, policyTypes: []}", true, false),
        ("{podSelector: {}, egress: []}", true, false),
        ("{podSelector: {}, egress: [{ports: [{port: 9}]}]}", true, true),
        ("{podSelector: {}, policyTypes: [Ingress]}", true, false),
        ("{podSelector: {}, policyTypes: [Egress]}", false, true),
        ("{podSelector: {}, policyTypes: [Egress, Ingress]}", true, true),
        // A section whose type is not named does nothing.
        ("{podSelector: {}, policyTypes: [Egress], ingress: [{}]}", false, true),
    ] {
        let mut lab = Lab::grid();
        lab.policy("x/p", spec);
        lab.check(&[
            ("y/a", "x/a", "TCP/80", !ingress),
            ("x/a", "y/a", "TCP/80", !egress),
            ("x/a", WORLD, "UDP/53", !egress),
        ]);
    }
    let mut lab = Lab::grid();
    lab.world.policies.insert(crate::lab::key("x/empty"), Default::default());
    lab.dirty.insert(longshore_core::model::Change::Policy(crate::lab::key("x/empty")));
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("x/a", "y/a", "TCP/80", true)]);
}

#[test]
fn c4_empty_selector_empty_list_and_empty_rule() {
    let mut lab = Lab::grid();
    lab.policy("x/deny", DENY_INGRESS);
    lab.check(&[
        ("y/a", "x/a", "TCP/80", false),
        ("x/b", "x/a", "TCP/80", false),
        ("x/a", "y/a", "TCP/80", true),
    ]);
    lab.policy("x/allow", "{podSelector: {}, ingress: [{}]}");
    lab.check(&[("y/a", "x/a", "TCP/80", true), (WORLD, "x/c", "SCTP/7", true)]);
    lab.policy("y/deny", "{podSelector: {}, policyTypes: [Egress]}");
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("x/a", "y/a", "TCP/80", true)]);
}

#[test]
fn c4_an_absent_and_an_empty_list_both_mean_all() {
    for (from, ports) in [("", ""), ("from: []", ""), ("", "ports: []"), ("from: []", "ports: []")]
    {
        let mut lab = Lab::grid();
        let items = [from, ports].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>();
        lab.policy("x/p", &format!("{{podSelector: {{}}, ingress: [{{{}}}]}}", items.join(", ")));
        lab.check(&[("y/a", "x/a", "TCP/80", true), (WORLD, "x/a", "UDP/1", true)]);
    }
}

#[test]
fn c5_peers_are_alternatives_and_selectors_of_one_item_a_conjunction() {
    let check = |from: &str, expect: &[(&str, bool)]| {
        let mut lab = Lab::grid();
        lab.policy(
            "x/p",
            &format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: {from}}}]}}"),
        );
        for (peer, allowed) in expect {
            lab.check(&[(peer, "x/a", "TCP/80", *allowed)]);
        }
    };
    check(
        "[{podSelector: {matchLabels: {pod: b}}}]",
        &[("x/b", true), ("y/b", false), ("z/b", false)],
    );
    check("[{podSelector: {}}]", &[("x/b", true), ("x/c", true), ("y/b", false), (WORLD, false)]);
    check(
        "[{namespaceSelector: {matchLabels: {ns: y}}}]",
        &[("y/b", true), ("y/c", true), ("x/b", false), ("z/b", false)],
    );
    check(
        "[{namespaceSelector: {}}]",
        &[("x/b", true), ("y/b", true), ("z/b", true), (WORLD, false)],
    );
    check(
        "[{namespaceSelector: {matchLabels: {ns: z}}, podSelector: {matchLabels: {pod: b}}}]",
        &[("z/b", true), ("z/c", false), ("x/b", false), ("y/b", false)],
    );
    check(
        "[{namespaceSelector: {matchLabels: {ns: z}}}, {podSelector: {matchLabels: {pod: b}}}]",
        &[("z/b", true), ("z/c", true), ("x/b", true), ("x/c", false), ("y/b", false)],
    );
}

#[test]
fn c5_selector_expressions_stay_inside_the_policys_namespace() {
    // CVE-2023-41333: NotIn and DoesNotExist must not reach pods of other namespaces.
    for expression in
        ["{key: pod, operator: NotIn, values: [q]}", "{key: q, operator: DoesNotExist}"]
    {
        let mut lab = Lab::grid();
        lab.policy("x/p", &format!("{{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchExpressions: [{expression}]}}}}]}}]}}"));
        lab.check(&[
            ("x/b", "x/a", "TCP/80", true),
            ("y/b", "x/a", "TCP/80", false),
            ("z/b", "x/a", "TCP/80", false),
        ]);
    }
}

#[test]
fn c5_all_four_operators() {
    for (expression, allowed) in [
        ("{key: pod, operator: In, values: [b, q]}", [true, false]),
        ("{key: pod, operator: NotIn, values: [b]}", [false, true]),
        ("{key: pod, operator: Exists}", [true, true]),
        ("{key: pod, operator: DoesNotExist}", [false, false]),
        ("{key: none, operator: NotIn, values: [b]}", [true, true]),
    ] {
        let mut lab = Lab::grid();
        lab.policy("x/p", &format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: [{{podSelector: {{matchExpressions: [{expression}]}}}}]}}]}}"));
        lab.check(&[("x/b", "x/a", "TCP/80", allowed[0]), ("x/c", "x/a", "TCP/80", allowed[1])]);
    }
}

#[test]
fn c6_a_namespace_is_selected_by_its_name_with_or_without_an_object() {
    let by_name = |name: &str| {
        format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}}}]}}]}}"
        )
    };
    let mut lab = Lab::grid();
    lab.policy("x/p", &by_name("y"));
    lab.check(&[("y/a", "x/a", "TCP/80", true), ("z/a", "x/a", "TCP/80", false)]);
    // CVE-2023-39347: a label that says otherwise does not count.
    lab.namespace("z", "{kubernetes.io/metadata.name: y}");
    lab.check(&[("z/a", "x/a", "TCP/80", false)]);
    lab.delete_namespace("y");
    lab.check(&[("y/a", "x/a", "TCP/80", true)]);
    lab.local("w/a", "10.0.0.77", "{}");
    lab.policy("x/p", &by_name("w"));
    lab.check(&[("w/a", "x/a", "TCP/80", true), ("y/a", "x/a", "TCP/80", false)]);
}

#[test]
fn c6_pod_labels_that_look_like_namespace_labels_select_nothing() {
    // GHSA-pfhr-pccp-hwmh, CVE-2025-30163.
    let mut lab = Lab::grid();
    lab.local("x/liar", "10.0.0.66", "{ns: y, kubernetes.io/metadata.name: y}");
    lab.policy(
        "x/p",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}}]}]}",
    );
    lab.check(&[("x/liar", "x/a", "TCP/80", false), ("y/a", "x/a", "TCP/80", true)]);
}

#[test]
fn c7_an_except_subtracts_in_its_own_item_only() {
    let mut lab = Lab::grid();
    lab.policy(
        "x/p",
        "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 203.0.0.0/16, except: [203.0.113.0/24]}}, {ipBlock: {cidr: 203.0.113.8/31}}]}]}",
    );
    lab.check(&[
        ("203.0.1.1", "x/a", "TCP/80", true),
        ("203.0.113.9", "x/a", "TCP/80", true),
        ("203.0.113.10", "x/a", "TCP/80", false),
        ("203.1.0.0", "x/a", "TCP/80", false),
    ]);
    lab.policy(
        "x/p",
        "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 203.0.113.9/32]}}]}]}",
    );
    lab.check(&[
        ("x/a", "203.0.113.10", "TCP/80", true),
        ("x/a", "203.0.113.9", "TCP/80", false),
        ("x/a", "10.9.9.9", "TCP/80", false),
        ("x/a", "y/a", "TCP/80", false),
    ]);
}

#[test]
fn c7_overlapping_blocks_and_excepts_in_one_list() {
    // CVE-2024-47825: a narrower prefix must not hide a wider one, nor the reverse.
    let mut lab = Lab::grid();
    lab.policy("x/wide", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 100.0.0.0/8, except: [100.1.0.0/16]}}], ports: [{port: 80}]}]}");
    lab.policy("x/narrow", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 100.1.2.0/24, except: [100.1.2.128/25]}}], ports: [{port: 81}]}]}");
    lab.policy("x/host", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 100.1.2.129/32}}], ports: [{port: 82}]}]}");
    for (addr, allowed) in [
        ("100.0.0.1", [true, false, false]),
        ("100.1.0.1", [false, false, false]),
        ("100.1.2.1", [false, true, false]),
        ("100.1.2.128", [false, false, false]),
        ("100.1.2.129", [false, false, true]),
    ] {
        for (port, allowed) in ["TCP/80", "TCP/81", "TCP/82"].into_iter().zip(allowed) {
            lab.check(&[(addr, "x/a", port, allowed)]);
        }
    }
    lab.delete_policy("x/narrow");
    lab.check(&[("100.1.2.1", "x/a", "TCP/81", false), ("100.1.2.129", "x/a", "TCP/82", true)]);
}

#[test]
fn c8_ports_are_alternatives_and_tcp_by_default() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: 80}, {port: 53, protocol: UDP}, {port: 9, protocol: SCTP}]}]}");
    lab.check(&[
        ("y/a", "x/a", "TCP/80", true),
        ("y/a", "x/a", "UDP/80", false),
        ("y/a", "x/a", "UDP/53", true),
        ("y/a", "x/a", "TCP/53", false),
        ("y/a", "x/a", "SCTP/9", true),
        ("y/a", "x/a", "TCP/9", false),
    ]);
    // A protocol without a port is all its ports; an item without anything is TCP.
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{protocol: UDP}]}]}");
    lab.check(&[
        ("y/a", "x/a", "UDP/1", true),
        ("y/a", "x/a", "UDP/65535", true),
        ("y/a", "x/a", "TCP/1", false),
    ]);
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{}]}]}");
    lab.check(&[("y/a", "x/a", "TCP/65535", true), ("y/a", "x/a", "UDP/1", false)]);
}

#[test]
fn c9_end_port_is_inclusive() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: 8000, endPort: 8010}, {port: 9000, endPort: 9000}, {port: 65000, endPort: 65535}]}]}");
    for (port, allowed) in [
        (7999, false),
        (8000, true),
        (8005, true),
        (8010, true),
        (8011, false),
        (8999, false),
        (9000, true),
        (9001, false),
        (64999, false),
        (65000, true),
        (65535, true),
    ] {
        lab.check(&[
            ("y/a", "x/a", &format!("TCP/{port}"), allowed),
            ("y/a", "x/a", &format!("UDP/{port}"), false),
        ]);
    }
    // CVE-2024-52529: overlapping ranges for different peers keep their own meaning.
    lab.policy("x/p", "{podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 1, endPort: 65535}]}, {from: [{podSelector: {matchLabels: {pod: c}}}], ports: [{port: 100, endPort: 200}]}]}");
    lab.check(&[
        ("x/b", "x/a", "TCP/150", true),
        ("x/b", "x/a", "TCP/1", true),
        ("x/c", "x/a", "TCP/150", true),
        ("x/c", "x/a", "TCP/99", false),
        ("x/c", "x/a", "TCP/201", false),
    ]);
}

#[test]
fn c10_ingress_names_are_the_selected_pods_own() {
    let mut lab = Lab::grid();
    lab.local_with_ports("x/p80", "10.0.0.80", "{app: w}", "[{name: web, containerPort: 80}]");
    lab.local_with_ports(
        "x/p81",
        "10.0.0.81",
        "{app: w}",
        "[{name: web, containerPort: 81}, {name: web-u, containerPort: 81, protocol: UDP}]",
    );
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: web}]}]}");
    lab.check(&[
        ("y/a", "x/p80", "TCP/80", true),
        ("y/a", "x/p80", "TCP/81", false),
        ("y/a", "x/p81", "TCP/81", true),
        ("y/a", "x/p81", "TCP/80", false),
        ("y/a", "x/p81", "UDP/81", false),
        // No port of that name: nothing.
        ("y/a", "x/a", "TCP/80", false),
    ]);
    let image = lab.image();
    let group = |pod: &str| image.endpoints[&lab.addr(pod)].ingress;
    assert_ne!(group("x/p80"), group("x/p81"));
}

#[test]
fn c10_one_name_with_two_protocols() {
    let mut lab = Lab::grid();
    lab.local_with_ports(
        "x/dns",
        "10.0.0.53",
        "{}",
        "[{name: dns, containerPort: 53, protocol: UDP}, {name: dns, containerPort: 5353}]",
    );
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: dns, protocol: UDP}]}]}");
    lab.check(&[("y/a", "x/dns", "UDP/53", true), ("y/a", "x/dns", "TCP/5353", false)]);
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: dns}]}]}");
    lab.check(&[
        ("y/a", "x/dns", "UDP/53", false),
        ("y/a", "x/dns", "TCP/5353", true),
        ("y/a", "x/dns", "TCP/53", false),
    ]);
}

#[test]
fn c10_egress_names_are_the_destinations() {
    let mut lab = Lab::grid();
    lab.local_with_ports("y/p80", "10.0.0.80", "{app: w}", "[{name: web, containerPort: 80}]");
    lab.remote_with_ports("z/p81", "10.0.9.81", "{app: w}", "[{name: web, containerPort: 81}]");
    lab.policy("x/p", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: w}}}], ports: [{port: web}, {port: 9}]}]}");
    lab.check(&[
        ("x/a", "y/p80", "TCP/80", true),
        ("x/a", "y/p80", "TCP/81", false),
        ("x/a", "z/p81", "TCP/81", true),
        ("x/a", "z/p81", "TCP/80", false),
        ("x/a", "z/p81", "TCP/9", true),
        ("x/a", "y/a", "TCP/80", false),
    ]);
    // The destination calls another number so, live (C17).
    lab.remote_with_ports("z/p81", "10.0.9.81", "{app: w}", "[{name: web, containerPort: 82}]");
    lab.check(&[
        ("x/a", "z/p81", "TCP/81", false),
        ("x/a", "z/p81", "TCP/82", true),
        ("x/a", "y/p80", "TCP/80", true),
    ]);
    lab.delete_pod("z/p81");
    lab.check(&[("x/a", "10.0.9.81", "TCP/82", false), ("x/a", "y/p80", "TCP/80", true)]);
    // Without peers: every pod that has the name, and nothing outside.
    lab.policy("x/p", "{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}");
    lab.check(&[
        ("x/a", "y/p80", "TCP/80", true),
        ("x/a", "y/a", "TCP/80", false),
        ("x/a", WORLD, "TCP/80", false),
    ]);
}

#[test]
fn c10_sidecars_names_count_and_init_containers_do_not() {
    let mut lab = Lab::grid();
    lab.pod(
        "x/side",
        "metadata: {name: side, uid: x-side}
spec:
  nodeName: node-a
  containers: [{name: c}]
  initContainers:
  - {name: once, ports: [{name: init, containerPort: 70}]}
  - {name: side, restartPolicy: Always, ports: [{name: side, containerPort: 71}]}
status: {phase: Running}",
    );
    lab.attach("x/side", "10.0.0.70");
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: init}, {port: side}]}]}");
    lab.check(&[("y/a", "x/side", "TCP/71", true), ("y/a", "x/side", "TCP/70", false)]);
}

#[test]
fn c11_policy_sees_endpoints_and_never_the_cluster_ip() {
    use longshore_core::image::{Backend, Frontend, Protocol, ServiceEntry, View};
    use longshore_core::oracle::{self, Hop, Scene, Verdict};
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.96.0.0/12}}]}]}");
    let mut image = lab.image();
    let vip = ip("10.96.0.10");
    let backend = Backend { local: true, addr: lab.addr("y/a"), port: 8080 };
    image.services.insert(
        Frontend { addr: vip, port: 80, proto: Protocol::Tcp, view: View::Internal },
        ServiceEntry {
            service: crate::lab::key("y/web"),
            port_name: String::new(),
            backends: [backend].into(),
            local_only: false,
            affinity_s: None,
        },
    );
    let open = Packet::open(lab.addr("x/a"), vip, Protocol::Tcp, 40000, 80);
    let walk = oracle::walk(&image, &Scene::default(), &mut Flows::default(), &open, Hop::Socket);
    assert_eq!(walk.verdict, Verdict::Backends([backend].into()));
    assert!(!crate::lab::opens(&image, lab.addr("x/a"), backend.addr, "TCP/8080"));
    assert!(crate::lab::opens(&image, lab.addr("x/b"), backend.addr, "TCP/8080"));
}

#[test]
fn c12_a_pod_and_its_node_and_a_pod_and_itself_always_talk() {
    let mut lab = Lab::grid();
    lab.policy("x/deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    lab.check(&[
        (NODE, "x/a", "TCP/80", true),
        ("x/a", NODE, "TCP/10250", true),
        ("x/a", "10.0.0.1", "UDP/53", true),
        ("x/a", "x/a", "TCP/80", true),
        ("x/a", "x/b", "TCP/80", false),
        // Another node is an ordinary peer.
        ("192.168.0.2", "x/a", "TCP/80", false),
    ]);
}

#[test]
fn c13_host_network_pods_have_no_row_and_no_policy() {
    let mut lab = Lab::grid();
    lab.pod(
        "x/host",
        "metadata: {name: host, uid: x-host, labels: {pod: a}}
spec: {nodeName: node-b, hostNetwork: true, containers: [{name: c}]}
status: {phase: Running, podIP: 192.168.0.2, podIPs: [{ip: 192.168.0.2}]}",
    );
    lab.policy("y/p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}");
    let image = lab.image();
    assert!(!image.endpoints.contains_key(&ip("192.168.0.2")));
    lab.check(&[("192.168.0.2", "y/a", "TCP/80", false), (NODE, "y/a", "TCP/80", true)]);
}

#[test]
fn c14_replies_are_implicit() {
    let mut lab = Lab::grid();
    lab.policy("x/deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}");
    lab.policy("x/out", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}");
    let image = lab.image();
    let (pod, world) = (lab.addr("x/a"), ip(WORLD));
    for transport in [
        Packet::open(pod, world, longshore_core::image::Protocol::Tcp, 40000, 80).transport,
        Packet::open(pod, world, longshore_core::image::Protocol::Udp, 40000, 53).transport,
        Packet::open(pod, world, longshore_core::image::Protocol::Sctp, 40000, 9).transport,
        Transport::Icmp(Icmp::Query { id: 7 }),
    ] {
        let mut flows = Flows::default();
        let ask = Packet::new(pod, world, transport);
        let udp = !matches!(ask.transport, Transport::Tcp { .. });
        assert_eq!(sends(&image, &mut flows, &ask.reply()), !udp, "unasked: {ask:?}");
        let mut flows = Flows::default();
        assert!(sends(&image, &mut flows, &ask), "{ask:?}");
        assert!(sends(&image, &mut flows, &ask.reply()), "{ask:?}");
        let other = Packet::new(ip("203.0.113.10"), pod, ask.reply().transport);
        assert_eq!(sends(&image, &mut flows, &other), !udp, "another's answer: {other:?}");
    }
    assert!(!sends(
        &image,
        &mut Flows::default(),
        &Packet::open(world, pod, longshore_core::image::Protocol::Tcp, 1, 2)
    ));
}

#[test]
fn c15_a_policy_change_reaches_flows_that_are_open() {
    use longshore_core::image::Protocol;
    let before = "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}";
    for proto in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let mut lab = Lab::grid();
        lab.policy("x/p", before);
        let image = lab.image();
        let open = Packet::open(lab.addr("x/b"), lab.addr("x/a"), proto, 40000, 80);
        let (reply, later) = (open.reply(), open.reply().reply());
        let mut flows = Flows::default();
        for packet in [&open, &reply, &later, &reply] {
            assert!(sends(&image, &mut flows, packet), "{packet:?}");
        }
        lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress]}");
        let image = lab.image();
        for packet in [&later, &reply] {
            assert!(!sends(&image, &mut flows, packet), "{packet:?}");
        }
        // The old verdict comes back with the old policy, not with an old row.
        lab.policy("x/p", before);
        let image = lab.image();
        assert!(sends(&image, &mut flows, &open) && sends(&image, &mut flows, &reply));
    }
}

#[test]
fn c15_a_change_of_the_peers_labels_reaches_udp_flows_of_ingress_only_policies() {
    use longshore_core::image::Protocol;
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}");
    let open = Packet::open(lab.addr("x/b"), lab.addr("x/a"), Protocol::Udp, 40000, 80);
    let mut flows = Flows::default();
    assert!(sends(&lab.image(), &mut flows, &open) && sends(&lab.image(), &mut flows, &open));
    lab.local("x/b", "10.0.0.11", "{}");
    assert!(!sends(&lab.image(), &mut flows, &open));
}

#[test]
fn c16_pods_are_closed_until_the_world_is_complete() {
    let mut lab = Lab::grid();
    lab.world.synced = false;
    let image = lab.image();
    assert!(image.endpoints.values().all(|row| row.pod.is_none()), "{image:#?}");
    lab.policy("x/deny", DENY_INGRESS);
    lab.world.synced = true;
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("y/a", "y/b", "TCP/80", true)]);
    let image = lab.image();
    assert!(image.endpoints.values().all(|row| row.open == row.local.is_some()));
}

#[test]
fn c16_an_attachment_without_a_known_pod_is_closed() {
    let mut lab = Lab::grid();
    lab.attach("x/ghost", "10.0.0.99");
    let image = lab.image();
    let row = &image.endpoints[&ip("10.0.0.99")];
    assert!(!row.open && row.pod.is_some());
    lab.check(&[
        ("x/ghost", "y/a", "TCP/80", false),
        ("y/a", "x/ghost", "TCP/80", false),
        ("x/ghost", NODE, "TCP/80", true),
    ]);
    lab.local("x/ghost", "10.0.0.99", "{}");
    lab.check(&[("x/ghost", "y/a", "TCP/80", true)]);
}

#[test]
fn c17_label_and_policy_edits_are_live() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: y}}, podSelector: {matchLabels: {pod: b}}}]}]}");
    lab.check(&[("y/b", "x/a", "TCP/80", true), ("y/c", "x/a", "TCP/80", false)]);
    // The peer's label, on this node and on another.
    lab.local("y/c", "10.0.0.22", "{pod: b}");
    lab.check(&[("y/c", "x/a", "TCP/80", true)]);
    lab.local("y/b", "10.0.0.21", "{pod: other}");
    lab.check(&[("y/b", "x/a", "TCP/80", false)]);
    lab.namespace("z", "{ns: y}");
    lab.check(&[("z/b", "x/a", "TCP/80", true)]);
    lab.remote("z/b", "10.0.9.31", "{}");
    lab.check(&[("z/b", "x/a", "TCP/80", false)]);
    lab.namespace("y", "{}");
    lab.check(&[("y/c", "x/a", "TCP/80", false)]);
    // The selected pod's own label.
    lab.local("x/a", "10.0.0.10", "{pod: free}");
    lab.check(&[("y/c", "x/a", "TCP/80", true)]);
    lab.local("x/b", "10.0.0.11", "{pod: a}");
    lab.check(&[("y/c", "x/b", "TCP/80", false)]);
    // The policy.
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{}]}");
    lab.check(&[("y/c", "x/b", "TCP/80", true)]);
}

#[test]
fn c18_deleting_a_policy_reopens() {
    let mut lab = Lab::grid();
    lab.policy("x/deny", DENY_INGRESS);
    lab.policy("x/out", "{podSelector: {}, policyTypes: [Egress]}");
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("x/a", "y/a", "TCP/80", false)]);
    lab.delete_policy("x/out");
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("x/a", "y/a", "TCP/80", true)]);
    lab.delete_policy("x/deny");
    lab.check(&[("y/a", "x/a", "TCP/80", true)]);
    let image = lab.image();
    assert!(image.groups.is_empty() && image.cidrs.is_empty());
}

#[test]
fn c19_a_policy_of_sctp_isolates_all_and_allows_sctp_only() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, ingress: [{ports: [{port: 80, protocol: SCTP}]}]}");
    lab.check(&[
        ("y/a", "x/a", "SCTP/80", true),
        ("y/a", "x/a", "SCTP/81", false),
        ("y/a", "x/a", "TCP/80", false),
        ("y/a", "x/a", "UDP/80", false),
    ]);
}
