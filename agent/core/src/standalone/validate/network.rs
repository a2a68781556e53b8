//! Services and NetworkPolicies.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Findings;
use super::text::{dns_label, dns_subdomain, port_name};
use crate::model::labels;

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

pub(super) fn service(service: &Service, out: &mut Findings) {
    let Some(spec) = &service.spec else { return out.add("spec", "is missing") };
    let kind = spec.type_.as_deref().unwrap_or_default();
    out.one_of("spec.type", Some(kind), &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]);
    out.one_of("spec.sessionAffinity", spec.session_affinity.as_deref(), &["None", "ClientIP"]);
    let policies = &["Cluster", "Local"];
    out.one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), policies);
    out.one_of("spec.externalTrafficPolicy", spec.external_traffic_policy.as_deref(), policies);
    out.one_of(
        "spec.ipFamilyPolicy",
        spec.ip_family_policy.as_deref(),
        &["SingleStack", "PreferDualStack"],
    );
    out.one_of(
        "spec.trafficDistribution",
        spec.traffic_distribution.as_deref(),
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
    );
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        out.one_of(format!("spec.ipFamilies[{index}]"), Some(family), &["IPv4", "IPv6"]);
    }
    if let Some(timeout) = spec
        .session_affinity_config
        .as_ref()
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client| client.timeout_seconds)
    {
        out.range("spec.sessionAffinityConfig.clientIP.timeoutSeconds", timeout.into(), 1, 86_400);
    }
    super::meta::label_map(
        "spec.selector",
        spec.selector.as_ref().unwrap_or(&Default::default()),
        out,
    );
    if kind == "ExternalName" {
        let name = spec.external_name.as_deref().unwrap_or_default();
        return out.check("spec.externalName", dns_subdomain(name.trim_end_matches('.')));
    }
    cluster_ip(spec.cluster_ip.as_deref(), spec.cluster_ips.as_deref(), out);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && spec.cluster_ip.as_deref() != Some("None") {
        out.add("spec.ports", "must name at least one port");
    }
    service_ports(ports, out);
}

fn cluster_ip(one: Option<&str>, all: Option<&[String]>, out: &mut Findings) {
    if let Some(text) = one.filter(|text| !text.is_empty() && *text != "None")
        && text.parse::<IpAddr>().is_err()
    {
        out.add("spec.clusterIP", format!("{text:?} is not an IP address, None or empty"));
    }
    match all.unwrap_or_default() {
        [] => {}
        [first] if one.unwrap_or_default().is_empty() || one == Some(first) => {
            if first != "None" && first.parse::<IpAddr>().is_err() {
                out.add("spec.clusterIPs[0]", format!("{first:?} is not an IP address or None"));
            }
        }
        [_] => out.add("spec.clusterIPs[0]", "must be the same as clusterIP"),
        _ => out.add("spec.clusterIPs", "one address is given: the service range has one family"),
    }
}

fn service_ports(ports: &[ServicePort], out: &mut Findings) {
    let mut pairs = std::collections::BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{index}].{field}");
        out.range(at("port"), port.port.into(), 1, 65_535);
        out.one_of(at("protocol"), port.protocol.as_deref(), PROTOCOLS);
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => {
                out.add(at("name"), "every port needs a name when there are several")
            }
            "" => {}
            name => out.check(at("name"), dns_label(name)),
        }
        match &port.target_port {
            Some(IntOrString::Int(number)) => {
                out.range(at("targetPort"), (*number).into(), 1, 65_535)
            }
            Some(IntOrString::String(name)) => out.check(at("targetPort"), port_name(name)),
            None => {}
        }
        if let Some(node_port) = port.node_port.filter(|port| *port != 0) {
            out.range(at("nodePort"), node_port.into(), 1, 65_535);
        }
        if !pairs.insert((port.port, port.protocol.clone())) {
            out.add(at("port"), "the same port and protocol is there twice");
        }
    }
    out.unique(ports.iter().enumerate().map(|(index, port)| {
        (format!("spec.ports[{index}].name"), port.name.as_deref().unwrap_or_default())
    }));
}

pub(super) fn policy(policy: &NetworkPolicy, out: &mut Findings) {
    let Some(spec) = &policy.spec else { return out.add("spec", "is missing") };
    selector("spec.podSelector", spec.pod_selector.as_ref(), out);
    for (index, kind) in spec.policy_types.iter().flatten().enumerate() {
        out.one_of(format!("spec.policyTypes[{index}]"), Some(kind), &["Ingress", "Egress"]);
    }
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let path = format!("spec.ingress[{index}]");
        peers(&format!("{path}.from"), rule.from.as_deref(), out);
        ports(&path, rule.ports.as_deref(), out);
    }
    for (index, rule) in spec.egress.iter().flatten().enumerate() {
        let path = format!("spec.egress[{index}]");
        peers(&format!("{path}.to"), rule.to.as_deref(), out);
        ports(&path, rule.ports.as_deref(), out);
    }
}

fn selector(path: &str, selector: Option<&LabelSelector>, out: &mut Findings) {
    let Some(selector) = selector else { return };
    if let Some(labels) = &selector.match_labels {
        super::meta::label_map(&format!("{path}.matchLabels"), labels, out);
    }
    if let Err(error) = labels::parse(selector) {
        out.add(path, error);
    }
    for (index, term) in selector.match_expressions.iter().flatten().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let operators = &["In", "NotIn", "Exists", "DoesNotExist"];
        out.one_of(format!("{path}.operator"), Some(&term.operator), operators);
        let empty = term.values.as_ref().is_none_or(Vec::is_empty);
        // An empty list must never widen what is selected (CVE row 47).
        match term.operator.as_str() {
            "In" | "NotIn" if empty => {
                out.add(format!("{path}.values"), "must not be empty for In and NotIn")
            }
            "Exists" | "DoesNotExist" if !empty => {
                out.add(format!("{path}.values"), "must be empty for Exists and DoesNotExist");
            }
            _ => {}
        }
    }
}

fn peers(path: &str, peers: Option<&[NetworkPolicyPeer]>, out: &mut Findings) {
    for (index, peer) in peers.into_iter().flatten().enumerate() {
        let path = format!("{path}[{index}]");
        selector(&format!("{path}.podSelector"), peer.pod_selector.as_ref(), out);
        selector(&format!("{path}.namespaceSelector"), peer.namespace_selector.as_ref(), out);
        let selects = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if selects => {
                out.add(&path, "ipBlock and selectors exclude each other in one peer")
            }
            Some(block) => ip_block(&format!("{path}.ipBlock"), block, out),
            None if !selects => {
                out.add(&path, "must have a podSelector, a namespaceSelector or an ipBlock");
            }
            None => {}
        }
    }
}

fn ip_block(path: &str, block: &IPBlock, out: &mut Findings) {
    let Ok(outer) = block.cidr.parse::<IpNet>() else {
        return out.add(
            format!("{path}.cidr"),
            format!("{:?} is not a CIDR such as 10.0.0.0/8", block.cidr),
        );
    };
    for (index, text) in block.except.iter().flatten().enumerate() {
        let path = format!("{path}.except[{index}]");
        match text.parse::<IpNet>() {
            Err(_) => out.add(path, format!("{text:?} is not a CIDR such as 10.1.0.0/16")),
            Ok(inner) if !outer.contains(&inner) || inner.prefix_len() <= outer.prefix_len() => {
                out.add(path, format!("{text} is not a strict part of {}", block.cidr));
            }
            Ok(_) => {}
        }
    }
}

fn ports(path: &str, ports: Option<&[NetworkPolicyPort]>, out: &mut Findings) {
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let at = |field: &str| format!("{path}.ports[{index}].{field}");
        out.one_of(at("protocol"), port.protocol.as_deref(), PROTOCOLS);
        match &port.port {
            Some(IntOrString::Int(number)) => out.range(at("port"), (*number).into(), 1, 65_535),
            Some(IntOrString::String(name)) => out.check(at("port"), port_name(name)),
            None => {}
        }
        match (port.end_port, &port.port) {
            (Some(end), Some(IntOrString::Int(start))) => {
                out.range(at("endPort"), end.into(), i64::from(*start).max(1), 65_535);
            }
            (Some(_), _) => out.add(at("endPort"), "needs a numeric port"),
            (None, _) => {}
        }
    }
}
