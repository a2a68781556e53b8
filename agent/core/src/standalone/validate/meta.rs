//! Names, labels and annotations.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Findings;
use super::text::{dns_label, dns_subdomain, label_value, qualified_name};
use crate::model::{Kind, labels};

/// Checks a metadata whose namespace is defaulted already.
pub fn metadata(kind: Kind, metadata: &ObjectMeta, out: &mut Findings) {
    let name = metadata.name.as_deref().unwrap_or_default();
    if name.is_empty() && metadata.generate_name.is_some() {
        out.add("metadata.generateName", "is not for files: give the object a name");
    } else {
        // A Service's name becomes a DNS label and a part of variable names.
        let shape = match kind {
            Kind::Service | Kind::Namespace => dns_label(name),
            _ => dns_subdomain(name),
        };
        out.check("metadata.name", shape);
    }
    if kind != Kind::Namespace {
        out.check(
            "metadata.namespace",
            dns_label(metadata.namespace.as_deref().unwrap_or_default()),
        );
    } else if metadata.namespace.as_deref().is_some_and(|namespace| !namespace.is_empty()) {
        out.add("metadata.namespace", "a Namespace is in no namespace");
    }
    label_map("metadata.labels", labels::of(metadata), out);
    for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
        out.check(format!("metadata.annotations[{key}]"), qualified_name(&key.to_lowercase()));
    }
}

pub(super) fn label_map(path: &str, labels: &BTreeMap<String, String>, out: &mut Findings) {
    for (key, value) in labels {
        out.check(format!("{path}[{key}]"), qualified_name(key));
        out.check(format!("{path}[{key}]"), label_value(value));
    }
}
