//! Random clusters as API objects: pods of this node and of others, namespaces and policies.
//!
//! The pods of this node are those of [`crate::generate::PODS`], so that their interfaces exist.

use longshore_core::image::Image;
use longshore_core::policy::compile_full;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::cluster::{Lab, image_of, ip};

pub const LOCALS: [(&str, &str); 3] =
    [("x/a", "10.0.0.1"), ("x/b", "10.0.0.2"), ("y/a", "10.0.0.3")];
pub const REMOTES: [(&str, &str); 2] = [("x/c", "10.0.1.1"), ("y/b", "10.0.1.2")];
pub const OUTSIDE: [&str; 2] = ["1.2.3.4", "1.2.4.4"];
pub const NODE: &str = "192.168.0.1";

/// A pod of this node as it is found.
#[derive(Clone, Debug)]
enum Local {
    Running {
        labels: &'static str,
        ports: &'static str,
    },
    /// Its interface is there and its object is not: nobody knows its policy.
    Orphan,
    /// Its object has no interface yet, so it has no row.
    Absent,
}

/// Everything that an image is made of.
#[derive(Clone, Debug)]
pub struct Cluster {
    locals: [Local; 3],
    remotes: [Option<&'static str>; 2],
    namespaces: [&'static str; 2],
    policies: Vec<(&'static str, String)>,
}

/// What changes of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Pods and namespaces: their labels, and whether they are there.
    Pods,
    Policies,
}

impl Cluster {
    /// This cluster with one part of `other`.
    pub fn with(&self, part: Part, other: Cluster) -> Self {
        match part {
            Part::Pods => Self { policies: self.policies.clone(), ..other },
            Part::Policies => Self { policies: other.policies, ..self.clone() },
        }
    }

    pub fn image(&self) -> Image {
        let mut lab = Lab::default();
        lab.node.addresses = vec![ip(NODE)];
        for ((pod, addr), local) in LOCALS.iter().zip(&self.locals) {
            match local {
                Local::Running { labels, ports } => lab.local_with_ports(pod, addr, labels, ports),
                Local::Orphan => lab.attach(pod, addr),
                Local::Absent => {}
            }
        }
        for ((pod, addr), labels) in REMOTES.iter().zip(self.remotes) {
            if let Some(labels) = labels {
                lab.remote_with_ports(pod, addr, labels, "[{name: web, containerPort: 80}]");
            }
        }
        for (name, labels) in ["x", "y"].iter().zip(self.namespaces) {
            lab.namespace(name, labels);
        }
        for (name, spec) in &self.policies {
            lab.policy(name, spec);
        }
        image_of(compile_full(&lab.world, &lab.node))
    }
}

fn labels() -> impl Strategy<Value = &'static str> {
    select(vec!["{}", "{k: v1}", "{k: v2}", "{k: v1, l: v1}", "{l: v1}"])
}

fn local() -> impl Strategy<Value = Local> {
    let ports = select(vec![
        "[]",
        "[{name: web, containerPort: 80}]",
        "[{name: web, containerPort: 8080}, {name: web, containerPort: 53, protocol: UDP}]",
    ]);
    prop_oneof![
        16 => (labels(), ports).prop_map(|(labels, ports)| Local::Running { labels, ports }),
        1 => Just(Local::Orphan),
        1 => Just(Local::Absent),
    ]
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("{}".to_owned()),
        4 => labels().prop_map(|labels| format!("{{matchLabels: {labels}}}")),
        1 => Just("{matchExpressions: [{key: k, operator: NotIn, values: [v1]}]}".to_owned()),
        1 => Just("{matchExpressions: [{key: l, operator: Exists}]}".to_owned()),
    ]
}

fn peer() -> impl Strategy<Value = String> {
    let block = select(vec![
        "{cidr: 1.2.0.0/16, except: [1.2.3.0/24]}",
        "{cidr: 1.2.3.4/32}",
        "{cidr: 1.2.0.0/21, except: [1.2.4.0/30, 1.2.4.4/31]}",
        "{cidr: 0.0.0.0/0, except: [10.0.0.0/8, 1.2.3.0/29]}",
        "{cidr: 10.0.0.0/15, except: [10.0.1.0/31]}",
        "{cidr: 0.0.0.0/0}",
        "{cidr: '::/0', except: ['2001:db8::/32']}",
    ]);
    prop_oneof![
        3 => selector().prop_map(|s| format!("{{podSelector: {s}}}")),
        1 => selector().prop_map(|s| format!("{{namespaceSelector: {s}}}")),
        1 => (selector(), selector())
            .prop_map(|(n, p)| format!("{{namespaceSelector: {n}, podSelector: {p}}}")),
        2 => block.prop_map(|b| format!("{{ipBlock: {b}}}")),
    ]
}

fn port() -> impl Strategy<Value = String> {
    let port = select(vec![
        "{port: 80}",
        "{port: 53, protocol: UDP}",
        "{port: 53, endPort: 8079}",
        "{port: 1024, endPort: 65535, protocol: UDP}",
        "{port: 40000}",
        "{protocol: TCP}",
        "{protocol: SCTP}",
        "{port: web}",
        "{port: web, protocol: UDP}",
        "{port: 8080, protocol: SCTP}",
    ]);
    port.prop_map(str::to_owned)
}

fn list(name: &'static str, item: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just(String::new()),
        5 => vec(item, 1..3).prop_map(move |items| format!("{name}: [{}]", items.join(", "))),
    ]
}

fn rules(section: &'static str, peers: &'static str) -> BoxedStrategy<String> {
    let rule = (list(peers, peer()), list("ports", port()))
        .prop_map(|(peers, ports)| joined(&[peers, ports]));
    list(section, rule.boxed()).boxed()
}

fn joined(parts: &[String]) -> String {
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|s| !s.is_empty()).collect();
    format!("{{{}}}", parts.join(", "))
}

fn spec() -> impl Strategy<Value = String> {
    let types = select(vec!["[Ingress]", "[Egress]", "[Ingress, Egress]"]);
    (selector(), types, rules("ingress", "from"), rules("egress", "to")).prop_map(
        |(selector, types, ingress, egress)| {
            let head = [format!("podSelector: {selector}"), format!("policyTypes: {types}")];
            joined(&[&head[..], &[ingress, egress]].concat())
        },
    )
}

prop_compose! {
    pub fn cluster()(
        locals in [local(), local(), local()],
        remotes in [proptest::option::weighted(0.8, labels()), proptest::option::weighted(0.8, labels())],
        namespaces in [labels(), labels()],
        policies in vec((select(vec!["x/p", "x/q", "x/r", "y/p", "y/q"]), spec()), 1..7),
    ) -> Cluster {
        Cluster { locals, remotes, namespaces, policies }
    }
}
