//! Labels that a node gives itself, and those that it may (A2, A3).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::Identity;
use crate::model::{Kind, ObjectKey, Problem, Severity, labels};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Labels that are put right on every pass, and on a node that exists already.
pub(super) fn defaults(identity: &Identity) -> BTreeMap<String, String> {
    let arch = identity.architecture.as_str();
    [
        (HOSTNAME, identity.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// A patch that gives a Node its `os` and `arch` back when somebody took them (A2): asked on every
/// pass, unlike the others of [`super::register_difference`].
pub fn label_repair(node: &Node, identity: &Identity) -> Option<Value> {
    let mut wanted = labels(identity);
    wanted.retain(|key, _| ["kubernetes.io/os", "kubernetes.io/arch"].contains(&key.as_str()));
    let has = labels::of(&node.metadata);
    wanted.retain(|key, value| has.get(key) != Some(value));
    (!wanted.is_empty()).then(|| json!({ "metadata": { "labels": wanted } }))
}

/// The defaults with the command line's over them.
pub(super) fn labels(identity: &Identity) -> BTreeMap<String, String> {
    let mut labels = defaults(identity);
    labels.extend(identity.labels.clone());
    labels
}

/// Keys of Kubernetes' own domains that a node may set on itself.
const OWN_KEYS: [&str; 11] = [
    HOSTNAME,
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
/// Domains, with what is below them, that are a node's own.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Keys of `--node-labels` that the API server would refuse (A3), and texts that are no labels.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Vec<Problem> {
    labels
        .iter()
        .filter_map(|(key, value)| {
            let message = wrong(key, value)?;
            Some(Problem {
                kind: Kind::Node,
                key: ObjectKey::new("", ""),
                severity: Severity::Error,
                reason: "InvalidNodeLabel",
                field: format!("--node-labels[{key}]"),
                message,
            })
        })
        .collect()
}

fn wrong(key: &str, value: &str) -> Option<String> {
    let (domain, name) = key.split_once('/').unwrap_or(("", key));
    if !is_name(name) || key.contains('/') && !is_domain(domain) {
        return Some("is no label key: use letters, digits, '-', '_', '.' and one '/'".into());
    }
    if !value.is_empty() && !is_name(value) {
        return Some(format!("{value:?} is no label value: at most 63 letters, digits, '-_.'"));
    }
    let within = |own: &str| {
        domain == own || domain.strip_suffix(own).is_some_and(|rest| rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return Some("is for administrators: a node may not set it on itself".into());
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    if kubernetes && !OWN_KEYS.contains(&key) && !OWN_DOMAINS.into_iter().any(within) {
        return Some(
            "is in a domain of Kubernetes: a node may not set it on itself; use another domain or \
             node.kubernetes.io/"
                .into(),
        );
    }
    None
}

fn is_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn is_domain(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= 253
        && text.split('.').all(|part| {
            edge(part.chars().next())
                && edge(part.chars().last())
                && part.chars().all(|c| c == '-' || edge(Some(c)))
        })
}
