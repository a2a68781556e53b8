//! Random clusters, random edits: the compiler against the API's text and against itself.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::cells::{self, Party};
use crate::lab::{Lab, WORLD, image_of, ip, key, opens, protocol, uid};
use longshore_core::image::Image;
use longshore_core::model::PodUid;
use longshore_core::policy::{PolicyCompiler, everything};

const PODS: [&str; 6] = ["x/a", "x/b", "y/a", "y/b", "z/a", "z/b"];
const OUTSIDERS: [&str; 3] = [WORLD, "203.0.113.130", "10.0.9.200"];
const PORTS: [&str; 5] = ["TCP/80", "TCP/81", "TCP/443", "UDP/80", "SCTP/81"];

fn addr_of(pod: &str) -> String {
    let n = PODS.iter().position(|p| *p == pod).unwrap();
    if pod.starts_with('z') { format!("10.0.9.{}", 10 + n) } else { format!("10.0.0.{}", 10 + n) }
}

#[derive(Clone, Debug)]
enum Edit {
    Pod {
        pod: &'static str,
        labels: String,
        ports: String,
    },
    DeletePod(&'static str),
    /// The object goes, the interface stays.
    Orphan(&'static str),
    Namespace {
        name: &'static str,
        labels: String,
    },
    DeleteNamespace(&'static str),
    Policy {
        name: &'static str,
        spec: String,
    },
    DeletePolicy(&'static str),
    Apply,
}

fn labels() -> impl Strategy<Value = String> {
    let one = |key: &'static str| {
        prop_oneof![
            2 => Just(String::new()),
            3 => select(vec!["1", "2"]).prop_map(move |v| format!("{key}: v{v}")),
        ]
    };
    (one("k"), one("l")).prop_map(|(k, l)| {
        let labels: Vec<String> = [k, l].into_iter().filter(|s| !s.is_empty()).collect();
        format!("{{{}}}", labels.join(", "))
    })
}

fn selector() -> impl Strategy<Value = String> {
    let expression = (
        select(vec!["k", "l", "kubernetes.io/metadata.name"]),
        select(vec!["In", "NotIn", "Exists", "DoesNotExist"]),
        subsequence(vec!["v1", "v2", "x", "y"], 1..=2),
    )
        .prop_map(|(key, operator, values)| {
            let values = if operator.ends_with("In") {
                format!(", values: [{}]", values.join(", "))
            } else {
                String::new()
            };
            format!("{{matchExpressions: [{{key: {key}, operator: {operator}{values}}}]}}")
        });
    prop_oneof![
        2 => Just("{}".to_owned()),
        3 => labels().prop_map(|labels| format!("{{matchLabels: {labels}}}")),
        2 => expression,
    ]
}

fn peer() -> impl Strategy<Value = String> {
    let block = prop_oneof![
        Just("{cidr: 203.0.113.0/24, except: [203.0.113.128/25]}"),
        Just("{cidr: 203.0.113.128/32}"),
        Just("{cidr: 203.0.113.130/31}"),
        Just("{cidr: 0.0.0.0/0, except: [10.0.0.0/8, 203.0.113.8/30]}"),
        Just("{cidr: 10.0.0.0/16, except: [10.0.9.0/24]}"),
        Just("{cidr: 10.0.9.14/32}"),
        Just("{cidr: 0.0.0.0/0}"),
    ];
    prop_oneof![
        selector().prop_map(|s| format!("{{podSelector: {s}}}")),
        selector().prop_map(|s| format!("{{namespaceSelector: {s}}}")),
        (selector(), selector())
            .prop_map(|(n, p)| format!("{{namespaceSelector: {n}, podSelector: {p}}}")),
        block.prop_map(|b| format!("{{ipBlock: {b}}}")),
    ]
}

fn port() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{port: 80}".to_owned()),
        Just("{port: 80, protocol: UDP}".to_owned()),
        Just("{port: 80, endPort: 443}".to_owned()),
        Just("{protocol: SCTP}".to_owned()),
        Just("{port: web}".to_owned()),
        Just("{port: web, protocol: UDP}".to_owned()),
        Just("{port: 81, protocol: SCTP}".to_owned()),
    ]
}

fn list(name: &'static str, item: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just(String::new()),
        1 => Just(format!("{name}: []")),
        4 => prop::collection::vec(item, 1..3).prop_map(move |items| format!("{name}: [{}]", items.join(", "))),
    ]
}

fn rules(section: &'static str, peers: &'static str) -> impl Strategy<Value = String> {
    let rule = (list(peers, peer()), list("ports", port())).prop_map(|(peers, ports)| {
        let parts: Vec<String> = [peers, ports].into_iter().filter(|s| !s.is_empty()).collect();
        format!("{{{}}}", parts.join(", "))
    });
    list(section, rule)
}

fn spec() -> impl Strategy<Value = String> {
    let types = select(vec![
        "",
        "policyTypes: []",
        "policyTypes: [Ingress]",
        "policyTypes: [Egress]",
        "policyTypes: [Ingress, Egress]",
    ]);
    (selector(), types, rules("ingress", "from"), rules("egress", "to")).prop_map(
        |(selector, types, ingress, egress)| {
            let parts = [format!("podSelector: {selector}"), types.to_owned(), ingress, egress];
            let parts: Vec<String> = parts.into_iter().filter(|s| !s.is_empty()).collect();
            format!("{{{}}}", parts.join(", "))
        },
    )
}

fn container_ports() -> impl Strategy<Value = String> {
    select(vec![
        "[]",
        "[{name: web, containerPort: 80}]",
        "[{name: web, containerPort: 81}]",
        "[{name: web, containerPort: 443}, {name: web, containerPort: 80, protocol: UDP}]",
    ])
    .prop_map(str::to_owned)
}

fn edit() -> impl Strategy<Value = Edit> {
    let pod = || select(PODS.to_vec());
    let namespace = || select(vec!["x", "y", "z"]);
    let policy = || select(vec!["x/p", "x/q", "x/r", "y/p", "y/q", "z/p"]);
    prop_oneof![
        5 => (pod(), labels(), container_ports()).prop_map(|(pod, labels, ports)| Edit::Pod { pod, labels, ports }),
        1 => pod().prop_map(Edit::DeletePod),
        1 => pod().prop_map(Edit::Orphan),
        2 => (namespace(), labels()).prop_map(|(name, labels)| Edit::Namespace { name, labels }),
        1 => namespace().prop_map(Edit::DeleteNamespace),
        6 => (policy(), spec()).prop_map(|(name, spec)| Edit::Policy { name, spec }),
        2 => policy().prop_map(Edit::DeletePolicy),
        3 => Just(Edit::Apply),
    ]
}

fn perform(lab: &mut Lab, edit: &Edit) {
    match edit {
        Edit::Pod { pod, labels, ports } if pod.starts_with('z') => {
            lab.remote_with_ports(pod, &addr_of(pod), labels, ports);
        }
        Edit::Pod { pod, labels, ports } => {
            lab.local_with_ports(pod, &addr_of(pod), labels, ports);
        }
        Edit::DeletePod(pod) => {
            lab.delete_pod(pod);
            lab.detach(pod);
        }
        Edit::Orphan(pod) => lab.delete_pod(pod),
        Edit::Namespace { name, labels } => lab.namespace(name, labels),
        Edit::DeleteNamespace(name) => lab.delete_namespace(name),
        Edit::Policy { name, spec } => lab.policy(name, spec),
        Edit::DeletePolicy(name) => lab.delete_policy(name),
        Edit::Apply => drop(lab.apply()),
    }
}

/// Ends what only a memory knows: interfaces without a pod, and policies that outlive a namespace.
fn settle(lab: &mut Lab) {
    lab.apply();
    for pod in PODS {
        if !lab.world.pods.contains_key(&key(pod)) {
            lab.detach(pod);
        }
    }
    for name in ["x", "y", "z"] {
        if !lab.world.namespaces.contains_key(&key(name)) {
            lab.namespace(name, "{}");
        }
    }
}

/// Every party to every other on every port, against the API's text.
fn compare_cells(lab: &Lab, image: &Image) -> Result<(), TestCaseError> {
    let present = PODS.iter().filter(|pod| lab.world.pods.contains_key(&key(pod)));
    let names: Vec<&str> = present.chain(&OUTSIDERS).copied().collect();
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    let party = |i: usize| {
        let pod = lab.world.pods.get(&keys[i]).map(|pod| (&keys[i], &**pod));
        let addr = if pod.is_some() { ip(&addr_of(names[i])) } else { ip(names[i]) };
        Party { addr, pod }
    };
    let here = |pod: &k8s_openapi::api::core::v1::Pod| {
        pod.spec.as_ref().unwrap().node_name.as_deref() == Some("node-a")
    };
    for from in 0..names.len() {
        for to in 0..names.len() {
            let (src, dst) = (party(from), party(to));
            if src.addr == dst.addr {
                continue;
            }
            for port in PORTS {
                let (proto, number) = protocol(port);
                let want = cells::allowed(&lab.world, &src, &dst, proto, number, here);
                let got = opens(image, src.addr, dst.addr, port);
                prop_assert_eq!(got, want, "{} → {} on {}", names[from], names[to], port);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// C1–C10, C19: compiled and walked, the cluster is what the API's text says.
    #[test]
    fn i8_every_cell_is_what_the_api_text_says(edits in prop::collection::vec(edit(), 1..40)) {
        let mut lab = Lab::default();
        for pod in PODS {
            perform(&mut lab, &Edit::Pod { pod, labels: "{k: v1}".into(), ports: "[]".into() });
        }
        for edit in &edits {
            perform(&mut lab, edit);
        }
        settle(&mut lab);
        let image = lab.image();
        compare_cells(&lab, &image)?;
    }

    /// I15: edits in any batches, and a fresh compiler fed in any order, give one image.
    #[test]
    fn i15_incremental_is_full_after_any_edits(
        edits in prop::collection::vec(edit(), 1..60),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut lab = Lab::default();
        for edit in &edits {
            perform(&mut lab, edit);
        }
        settle(&mut lab);
        let image = lab.image();
        let all: Vec<_> = everything(&lab.world).into_iter().collect();
        let (head, tail) = all.split_at(cut.index(all.len()));
        let mut other = PolicyCompiler::new();
        for part in [tail, head] {
            other.apply(&lab.world, &part.iter().cloned().collect::<BTreeSet<_>>(), &lab.node);
        }
        prop_assert_eq!(image_of(other.compiled()), image);
        // Everything taken away leaves nothing.
        for name in lab.world.policies.keys().cloned().collect::<Vec<_>>() {
            lab.delete_policy(&name.to_string());
        }
        for pod in PODS {
            lab.delete_pod(pod);
            lab.detach(pod);
        }
        let image = lab.image();
        prop_assert!(image.groups.is_empty() && image.cidrs.is_empty());
        prop_assert_eq!(image.endpoints.len(), lab.node.addresses.len());
        prop_assert!(lab.world.local.get(&PodUid::new(uid("x/a"))).is_none());
    }
}
