//! resolv.conf of a pod (A196–A198).

use k8s_openapi::api::core::v1::PodSpec;
use longshore_proto::cri::DnsConfig;

use super::Input;

const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_BYTES: usize = 2048;

/// The configuration, and what the user should know of it (event reason, text).
pub fn config(input: &Input<'_>, spec: &PodSpec) -> (DnsConfig, Vec<(&'static str, String)>) {
    let mut notes = Vec::new();
    let mut config = base(input, spec, &mut notes);
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = option.name.as_deref().filter(|name| !name.is_empty()) else {
                continue;
            };
            let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            // The pod's own value of an option replaces the other (A198).
            let same = |known: &String| known.split(':').next() == Some(name);
            config.options.retain(|known| !same(known));
            config.options.push(text);
        }
    }
    for list in [&mut config.servers, &mut config.searches, &mut config.options] {
        // One word each: a line break would be a line of its own (CVE row 70).
        list.retain(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic()));
        let mut seen = std::collections::BTreeSet::new();
        list.retain(|word| seen.insert(word.clone()));
    }
    if trim(&mut config) {
        let text = format!(
            "Nameserver or search limits were exceeded, some have been omitted, the applied nameserver line is: {}; the applied search line is: {}",
            config.servers.join(" "),
            config.searches.join(" ")
        );
        notes.push(("DNSConfigForming", text));
    }
    (config, notes)
}

/// What dnsPolicy alone gives.
fn base(input: &Input<'_>, spec: &PodSpec, notes: &mut Vec<(&'static str, String)>) -> DnsConfig {
    let node = &input.node.resolv;
    let from_node = || DnsConfig {
        servers: node.nameservers.clone(),
        searches: node.searches.clone(),
        options: node.options.clone(),
    };
    let host_network = spec.host_network.unwrap_or(false);
    let cluster_first = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => return DnsConfig::default(),
        "Default" => return from_node(),
        "ClusterFirstWithHostNet" => true,
        // ClusterFirst, and the safest meaning of anything else.
        _ => !host_network,
    };
    if !cluster_first {
        return from_node();
    }
    if input.node.cluster_dns.is_empty() {
        let text = "clusterDNS is not configured: falling back to the policy \"Default\"";
        notes.push(("MissingClusterDNS", text.to_owned()));
        return from_node();
    }
    let (namespace, domain) = (&input.key.namespace, &input.node.cluster_domain);
    let mut searches = Vec::new();
    if !domain.is_empty() {
        searches.push(format!("{namespace}.svc.{domain}"));
        searches.push(format!("svc.{domain}"));
        searches.push(domain.clone());
    }
    searches.extend(node.searches.iter().cloned());
    DnsConfig {
        servers: input.node.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".into()],
    }
}

/// A198. True when something was cut.
fn trim(config: &mut DnsConfig) -> bool {
    let before = (config.servers.len(), config.searches.len());
    config.servers.truncate(MOST_SERVERS);
    config.searches.truncate(MOST_SEARCHES);
    while config.searches.iter().map(|s| s.len() + 1).sum::<usize>() > MOST_SEARCH_BYTES + 1 {
        config.searches.pop();
    }
    before != (config.servers.len(), config.searches.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::Case;

    fn text(case: &Case) -> String {
        let (config, notes) = config(&case.input(), case.pod.spec.as_ref().unwrap());
        let notes: Vec<_> = notes.iter().map(|(reason, _)| *reason).collect();
        [
            config.servers.join(" "),
            config.searches.join(" "),
            config.options.join(" "),
            notes.join(" "),
        ]
        .join("|")
    }

    fn check(spec: &str, expect: &str) {
        assert_eq!(text(&Case::spec(spec)), expect, "{spec}");
    }

    const CLUSTER: &str =
        "10.96.0.10|default.svc.cluster.local svc.cluster.local cluster.local example.org|ndots:5|";

    #[test]
    fn a196_a197_policies() {
        check("{containers: []}", CLUSTER);
        check("{hostNetwork: true, containers: []}", "192.0.2.53|example.org||");
        check("{hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet, containers: []}", CLUSTER);
        check("{dnsPolicy: Default, containers: []}", "192.0.2.53|example.org||");
        check(
            "{dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.9]}, containers: []}",
            "192.0.2.9|||",
        );
        let mut case = Case::spec("{containers: []}");
        case.node.cluster_dns.clear();
        assert_eq!(text(&case), "192.0.2.53|example.org||MissingClusterDNS");
    }

    #[test]
    fn a198_dns_config_is_merged_and_limits_are_told() {
        check(
            "{dnsPolicy: Default, dnsConfig: {searches: [a, a], options: [{name: ndots, value: '2'}, {name: edns0}]}, containers: []}",
            "192.0.2.53|example.org a|ndots:2 edns0|",
        );
        check(
            "{dnsConfig: {options: [{name: ndots, value: '2'}]}, containers: []}",
            "10.96.0.10|default.svc.cluster.local svc.cluster.local cluster.local example.org|ndots:2|",
        );
        check(
            "{dnsPolicy: None, dnsConfig: {nameservers: ['1.1.1.1', '1.1.1.2', '1.1.1.3', '1.1.1.4']}, containers: []}",
            "1.1.1.1 1.1.1.2 1.1.1.3|||DNSConfigForming",
        );
    }

    #[test]
    fn cve70_a_line_break_never_reaches_resolv_conf() {
        check(
            "{dnsPolicy: None, dnsConfig: {nameservers: [\"1.1.1.1\\nnameserver 6.6.6.6\"], searches: [\"a b\"]}, containers: []}",
            "|||",
        );
    }
}
