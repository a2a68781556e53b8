//! Bad objects, conflicts, and what goes away in an unlucky order.

use crate::lab::{Lab, NODE, WORLD, ip, key};
use longshore_core::image::{PeerTerm, PortSet};

/// One policy of x with an item that cannot be read, beside one that can: the first allows
/// nothing, the second holds, and the problem names the field.
fn check_invalid(item: &str, field: &str) {
    let mut lab = Lab::grid();
    lab.policy("x/p", &format!("{{podSelector: {{}}, ingress: [{item}, {{from: [{{podSelector: {{matchLabels: {{pod: c}}}}}}], ports: [{{port: 7}}]}}]}}"));
    lab.check(&[
        ("y/a", "x/a", "TCP/80", false),
        ("x/b", "x/a", "TCP/80", false),
        (WORLD, "x/a", "TCP/80", false),
        ("x/c", "x/a", "TCP/7", true),
        ("y/a", "y/b", "TCP/80", true),
    ]);
    let problems = lab.problems();
    assert!(problems.iter().any(|p| p.contains(field)), "{field} in {problems:#?}");
}

#[test]
fn i9_an_invalid_item_allows_nothing_and_the_policy_isolates() {
    let peer = |peer: &str| format!("{{from: [{peer}]}}");
    let port = |port: &str| format!("{{ports: [{port}]}}");
    let at = "NetworkPolicy x/p: spec.ingress[0]";
    for (item, field) in [
        (peer("{ipBlock: {cidr: nonsense}}"), ".from[0].ipBlock.cidr"),
        (peer("{ipBlock: {cidr: 203.0.113.0/33}}"), ".from[0].ipBlock.cidr"),
        (peer("{ipBlock: {cidr: '::ffff:203.0.113.0/120'}}"), ".from[0].ipBlock.cidr"),
        (
            peer("{ipBlock: {cidr: 203.0.113.0/24, except: [10.0.0.0/8]}}"),
            ".from[0].ipBlock.except[0]",
        ),
        (
            peer("{ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.0/24]}}"),
            ".from[0].ipBlock.except[0]",
        ),
        (peer("{ipBlock: {cidr: 203.0.113.0/24, except: [x]}}"), ".from[0].ipBlock.except[0]"),
        (peer("{ipBlock: {cidr: 0.0.0.0/0}, podSelector: {}}"), ".from[0]: ipBlock cannot"),
        (peer("{}"), ".from[0]: names no peer"),
        (
            peer("{podSelector: {matchExpressions: [{key: pod, operator: Like, values: [a]}]}}"),
            ".from[0].podSelector.matchExpressions[0].operator",
        ),
        (
            peer("{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: []}]}}"),
            ".from[0].podSelector.matchExpressions[0].values",
        ),
        (
            peer("{podSelector: {matchExpressions: [{key: pod, operator: In}]}}"),
            ".from[0].podSelector.matchExpressions[0].values",
        ),
        (
            peer("{podSelector: {matchExpressions: [{key: pod, operator: Exists, values: [a]}]}}"),
            ".from[0].podSelector.matchExpressions[0].values",
        ),
        (
            peer("{namespaceSelector: {matchExpressions: [{key: ns, operator: '', values: [a]}]}}"),
            ".from[0].namespaceSelector.matchExpressions[0].operator",
        ),
        (port("{port: 90, endPort: 80}"), ".ports[0].endPort"),
        (port("{endPort: 80}"), ".ports[0].endPort"),
        (port("{port: web, endPort: 80}"), ".ports[0].endPort"),
        (port("{port: 80, endPort: 65536}"), ".ports[0].endPort"),
        (port("{port: 0}"), ".ports[0].port"),
        (port("{port: 65616}"), ".ports[0].port"),
        (port("{port: '80'}"), ".ports[0].port"),
        (port("{port: 80, protocol: ICMP}"), ".ports[0].protocol"),
        (port("{port: 80, protocol: tcp}"), ".ports[0].protocol"),
    ] {
        check_invalid(&item, &format!("{at}{field}"));
    }
}

#[test]
fn i9_a_list_of_invalid_items_is_not_an_empty_list() {
    // CVE-2025-64715: "empty" must not become "absent".
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{}]}, {ports: [{port: 0}]}], egress: [{to: [{ipBlock: {cidr: x}}]}, {ports: [{protocol: X}]}]}");
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("x/a", "y/a", "TCP/80", false)]);
    assert_eq!(lab.problems().len(), 4);
    let image = lab.image();
    assert!(image.groups.values().all(|group| group.rules.is_empty()));
}

#[test]
fn i9_an_unreadable_pod_selector_isolates_what_the_rest_of_it_selects() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}, matchExpressions: [{key: q, operator: Nope}]}, ingress: [{}]}");
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("y/a", "x/b", "TCP/80", true)]);
    assert!(lab.problems()[0].contains("spec.podSelector.matchExpressions[0].operator"));
}

#[test]
fn i9_an_unknown_policy_type_leaves_the_default() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, policyTypes: [Egres]}");
    lab.check(&[("y/a", "x/a", "TCP/80", false), ("x/a", "y/a", "TCP/80", true)]);
    assert!(lab.problems()[0].contains("spec.policyTypes[0]"));
}

#[test]
fn c10_a_name_of_a_block_is_told() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: web}]}]}");
    lab.check(&[("x/a", WORLD, "TCP/80", false)]);
    assert!(lab.problems()[0].contains("never matches an ipBlock"));
}

#[test]
fn i14_a_problem_is_told_once_and_ends_with_its_cause() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, ingress: [{from: [{}]}]}");
    assert_eq!(lab.apply().len(), 1);
    lab.policy("x/p", "{podSelector: {}, ingress: [{from: [{}]}, {}]}");
    assert_eq!(lab.apply().len(), 0);
    lab.policy("x/p", "{podSelector: {}}");
    assert_eq!(lab.apply().len(), 0);
    assert!(lab.problems().is_empty());
}

#[test]
fn i14_labels_that_no_policy_asks_for_change_no_row() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}");
    let before = lab.image();
    lab.local("x/b", "10.0.0.11", "{pod: b, version: '7'}");
    lab.remote("z/c", "10.0.9.32", "{pod: c, version: '7'}");
    lab.namespace("x", "{ns: x, version: '7'}");
    let dirty = std::mem::take(&mut lab.dirty);
    let (changes, _) = lab.compiler.apply(&lab.world, &dirty, &lab.node);
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(lab.image(), before);
}

#[test]
fn only_policies_of_pods_of_this_node_make_terms() {
    let mut lab = Lab::grid();
    lab.policy("z/p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}, {ipBlock: {cidr: 1.0.0.0/8}}]}]}");
    let image = lab.image();
    assert!(image.groups.is_empty() && image.cidrs.is_empty());
    assert!(image.endpoints.values().all(|row| row.class.terms.is_empty()));
}

#[test]
fn f50_two_pods_of_one_address_get_nothing_and_a_problem() {
    let mut lab = Lab::grid();
    lab.policy(
        "x/p",
        "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}]}]}",
    );
    // A forged status claims the address of x/b, which x/a lets in.
    lab.remote("z/thief", "10.0.0.11", "{}");
    lab.check(&[
        ("x/b", "x/a", "TCP/80", false),
        ("y/a", "x/b", "TCP/80", false),
        ("x/b", "y/a", "TCP/80", true),
        ("x/c", "x/a", "TCP/80", true),
    ]);
    let row = lab.image().endpoints[&ip("10.0.0.11")].clone();
    assert_eq!(row.pod, Some(key("x/b")));
    let problems = lab.problems();
    assert!(problems[0].contains("z/thief") && problems[0].contains("10.0.0.11"), "{problems:?}");
    lab.delete_pod("z/thief");
    lab.check(&[("x/b", "x/a", "TCP/80", true), ("y/a", "x/b", "TCP/80", true)]);
    assert!(lab.problems().is_empty());
}

#[test]
fn f50_the_winner_is_the_running_and_then_the_newest_pod() {
    let pod = |name: &str, phase: &str, created: &str| {
        format!(
            "metadata: {{name: {name}, uid: {name}, creationTimestamp: '{created}'}}
spec: {{nodeName: node-b, containers: []}}
status: {{phase: {phase}, podIP: 10.0.9.99}}"
        )
    };
    for (a, b, winner) in [
        (("Running", "2026-01-01T00:00:00Z"), ("Pending", "2026-01-02T00:00:00Z"), "z/one"),
        (("Running", "2026-01-01T00:00:00Z"), ("Running", "2026-01-02T00:00:00Z"), "z/two"),
        (("Running", "2026-01-01T00:00:00Z"), ("Failed", "2026-01-02T00:00:00Z"), "z/one"),
    ] {
        let mut lab = Lab::default();
        lab.pod("z/one", &pod("one", a.0, a.1));
        lab.pod("z/two", &pod("two", b.0, b.1));
        assert_eq!(lab.image().endpoints[&ip("10.0.9.99")].pod, Some(key(winner)));
        assert_eq!(lab.problems().is_empty(), b.0 == "Failed");
    }
}

#[test]
fn f50_the_nodes_address_stays_the_nodes() {
    let mut lab = Lab::grid();
    lab.remote("z/liar", NODE, "{pod: a}");
    assert_eq!(lab.image().endpoints[&ip(NODE)].pod, None);
    assert!(lab.problems()[0].contains("this node"));
}

#[test]
fn f29_an_address_that_is_used_again_has_nothing_of_its_last_owner() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}");
    lab.check(&[("x/b", "x/a", "TCP/80", true)]);
    lab.delete_pod("x/b");
    lab.detach("x/b");
    lab.local("x/new", "10.0.0.11", "{pod: c}");
    lab.check(&[("x/new", "x/a", "TCP/80", false)]);
    // The name comes back with another UID and address.
    lab.pod(
        "x/b",
        "metadata: {name: b, uid: second, labels: {pod: b}}
spec: {nodeName: node-b, containers: []}
status: {phase: Running, podIP: 10.0.9.50}",
    );
    lab.check(&[("10.0.9.50", "x/a", "TCP/80", true), ("x/new", "x/a", "TCP/80", false)]);
}

#[test]
fn ended_pods_lose_their_row_at_once() {
    for phase in ["Succeeded", "Failed"] {
        let mut lab = Lab::grid();
        lab.policy("x/p", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}");
        lab.pod(
            "z/a",
            &format!(
                "metadata: {{name: a, uid: z-a}}
spec: {{nodeName: node-b, containers: []}}
status: {{phase: {phase}, podIP: 10.0.9.30}}"
            ),
        );
        lab.pod(
            "x/a",
            &format!(
                "metadata: {{name: a, uid: x-a}}
spec: {{nodeName: node-a, containers: []}}
status: {{phase: {phase}}}"
            ),
        );
        let image = lab.image();
        assert!(!image.endpoints.contains_key(&ip("10.0.9.30")));
        assert!(!image.endpoints.contains_key(&ip("10.0.0.10")));
        lab.check(&[("10.0.9.30", "x/b", "TCP/80", false)]);
    }
}

const DENY: &str = "podSelector: {}\npolicyTypes: [Ingress, Egress]";

#[test]
fn c16_a_terminating_pod_keeps_its_policy_to_the_end() {
    // CVE-2025-32793: the object goes first, the interface last.
    let mut lab = Lab::grid();
    lab.policy("x/deny", DENY);
    lab.check(&[("y/a", "x/a", "TCP/80", false)]);
    lab.delete_pod("x/a");
    lab.check_remembered(&[
        ("y/a", "x/a", "TCP/80", false),
        ("x/a", "y/a", "TCP/80", false),
        ("x/a", NODE, "TCP/80", true),
    ]);
    // Policy deletion reopens even then (C18).
    lab.delete_policy("x/deny");
    lab.check_remembered(&[("y/a", "x/a", "TCP/80", true)]);
    lab.detach("x/a");
    let image = lab.image();
    assert!(!image.endpoints.contains_key(&ip("10.0.0.10")));
}

#[test]
fn c16_a_pod_of_the_same_name_does_not_inherit() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {matchLabels: {pod: a}}}");
    lab.check(&[("y/a", "x/a", "TCP/80", false)]);
    lab.pod(
        "x/a",
        "metadata: {name: a, uid: second, labels: {pod: free}}
spec: {nodeName: node-b, containers: []}
status: {phase: Running, podIP: 10.0.9.50}",
    );
    lab.check_remembered(&[
        ("y/a", "10.0.0.10", "TCP/80", false),
        ("y/a", "10.0.9.50", "TCP/80", true),
    ]);
    lab.detach("x/a");
    lab.image();
}

type Edit = fn(&mut Lab);

/// Orders in which a namespace's end may be seen.
#[test]
fn f54_the_end_of_a_namespace_does_not_open_its_pods() {
    let steps: [(&str, Edit); 4] = [
        ("terminating", |lab| lab.terminate_namespace("x")),
        ("policy", |lab| lab.delete_policy("x/deny")),
        ("pod", |lab| lab.delete_pod("x/a")),
        ("namespace", |lab| lab.delete_namespace("x")),
    ];
    // Before the first step nothing may go; the namespace goes last, or with the rest in one batch.
    for order in [[0, 1, 2, 3], [0, 2, 1, 3], [0, 2, 3, 1]] {
        for batch in 1..=4 {
            let mut lab = Lab::grid();
            lab.policy("x/deny", DENY);
            lab.check(&[("y/a", "x/a", "TCP/80", false)]);
            for chunk in order.chunks(batch) {
                for step in chunk {
                    steps[*step].1(&mut lab);
                }
                lab.apply();
                let seen =
                    format!("{order:?} by {batch}, after {}", steps[chunk[chunk.len() - 1]].0);
                let image = lab.remembered();
                let (a, x) = (lab.addr("y/a"), ip("10.0.0.10"));
                assert!(!crate::lab::opens(&image, a, x, "TCP/80"), "{seen}");
                assert!(!crate::lab::opens(&image, x, a, "TCP/80"), "{seen}");
            }
            for pod in ["x/a", "x/b", "x/c"] {
                lab.detach(pod);
                lab.delete_pod(pod);
            }
            let image = lab.image();
            assert!(image.groups.is_empty());
        }
    }
}

#[test]
fn f54_a_namespace_that_comes_back_starts_anew() {
    let mut lab = Lab::grid();
    lab.policy("x/deny", DENY);
    lab.apply();
    lab.terminate_namespace("x");
    lab.delete_policy("x/deny");
    lab.check_remembered(&[("y/a", "x/a", "TCP/80", false)]);
    lab.namespace("x", "{ns: x}");
    lab.check(&[("y/a", "x/a", "TCP/80", true)]);
}

#[test]
fn c18_a_namespace_object_that_goes_alone_opens_and_closes_nothing() {
    // A directory of manifests may lose the Namespace and keep its pods.
    let mut lab = Lab::grid();
    lab.policy("x/deny", DENY);
    lab.check(&[("y/a", "x/a", "TCP/80", false)]);
    lab.delete_namespace("x");
    lab.check(&[("y/a", "x/a", "TCP/80", false)]);
    lab.delete_policy("x/deny");
    lab.check(&[("y/a", "x/a", "TCP/80", true)]);
}

#[test]
fn a_thousand_policies_of_one_pod_with_a_peer_each_are_one_rule() {
    let mut lab = Lab::grid();
    for n in 0..1000 {
        lab.policy(&format!("x/p{n}"), &format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{client: c{n}}}}}}}], ports: [{{port: 80}}]}}]}}"));
    }
    lab.local("x/client", "10.0.0.60", "{client: c777}");
    lab.check(&[
        ("x/client", "x/a", "TCP/80", true),
        ("x/client", "x/a", "TCP/81", false),
        ("x/b", "x/a", "TCP/80", false),
    ]);
    let image = lab.image();
    let group = &image.groups[&image.endpoints[&ip("10.0.0.10")].ingress.unwrap()];
    assert_eq!((group.rules.len(), group.policies.len()), (1, 1000));
    lab.delete_policy("x/p777");
    lab.check(&[("x/client", "x/a", "TCP/80", false)]);
}

#[test]
fn a_thousand_port_lists_of_one_peer_are_united() {
    let mut lab = Lab::grid();
    for n in 1..=1000 {
        lab.policy(&format!("x/p{n}"), &format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{ports: [{{port: {n}}}]}}]}}"));
    }
    lab.check(&[
        ("y/a", "x/a", "TCP/1", true),
        ("y/a", "x/a", "TCP/1000", true),
        ("y/a", "x/a", "TCP/1001", false),
    ]);
    assert!(lab.problems().is_empty());
}

#[test]
fn i9_more_port_lists_than_a_mask_has_bits_allow_less_and_say_so() {
    let mut lab = Lab::grid();
    for n in 1..=300 {
        lab.policy(&format!("x/p{n}"), &format!("{{podSelector: {{matchLabels: {{pod: a}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{n: n{n}}}}}}}], ports: [{{port: {n}}}]}}]}}"));
    }
    let image = lab.image();
    let group = &image.groups[&image.endpoints[&ip("10.0.0.10")].ingress.unwrap()];
    assert_eq!(group.rules.len(), longshore_abi::Mask::BITS);
    let problems = lab.problems();
    assert_eq!(problems.len(), 44);
    assert!(problems[0].contains("more than 256"), "{}", problems[0]);
    lab.check(&[("x/b", "x/a", "TCP/300", false)]);
}

#[test]
fn selectors_of_one_meaning_are_one_term() {
    let mut lab = Lab::grid();
    for (n, selector) in [
        "{matchLabels: {pod: b, k: v}}",
        "{matchExpressions: [{key: k, operator: In, values: [v]}, {key: pod, operator: In, values: [b, b]}]}",
        "{matchLabels: {k: v}, matchExpressions: [{key: pod, operator: In, values: [b]}]}",
    ]
    .into_iter()
    .enumerate()
    {
        lab.policy(&format!("x/p{n}"), &format!("{{podSelector: {{}}, ingress: [{{from: [{{podSelector: {selector}}}]}}]}}"));
    }
    let image = lab.image();
    let group = &image.groups[&image.endpoints[&ip("10.0.0.10")].ingress.unwrap()];
    let rule = &group.rules[&PortSet::Any];
    assert_eq!(
        rule.peers.iter().collect::<Vec<_>>(),
        [&PeerTerm::Pods { namespaces: "=x".into(), pods: "k=v,pod=b".into(), named_port: None }]
    );
    assert_eq!(rule.policies.len(), 3);
}

#[test]
fn ipv6_blocks_are_compiled_and_match_no_ipv4_address() {
    let mut lab = Lab::grid();
    lab.policy("x/p", "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}}, {ipBlock: {cidr: '::/0'}}]}]}");
    let image = lab.image();
    // The prefixes named, and the fence that keeps `::/0` from covering IPv4.
    assert_eq!(image.cidrs.len(), 4);
    lab.check(&[(WORLD, "x/a", "TCP/80", false)]);
}
