//! PodSandboxConfig (A80, A138, A196–A200, A204, A206).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use longshore_proto::cri;

use super::keys;
use super::resources;
use super::security;
use crate::model::labels;
use crate::pod::{Input, cgroup, dns, hosts, paths, visit};

/// The configuration for one attempt.
pub fn config(input: &Input<'_>, spec: &PodSpec, attempt: u32) -> cri::PodSandboxConfig {
    let host_network = spec.host_network.unwrap_or(false);
    let hostname = match host_network {
        true => String::new(),
        // A name that does not fit holds the pod before this (`unsupported`).
        false => hosts::names(input, spec).map(|names| names.kernel).unwrap_or_default(),
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: input.key.name.to_string(),
            uid: input.uid.to_string(),
            namespace: input.key.namespace.to_string(),
            attempt,
        }),
        hostname,
        log_directory: paths::log_dir(input.node, input.key, input.uid),
        dns_config: Some(dns::config(input, spec).0),
        port_mappings: Vec::new(),
        labels: pod_labels(input, true),
        annotations: annotations(input),
        linux: Some(linux(input, spec)),
        windows: None,
    }
}

/// The identity of the pod and, for a sandbox, its own labels.
pub fn pod_labels(input: &Input<'_>, own: bool) -> BTreeMap<String, String> {
    let mut all = match own {
        true => labels::of(&input.pod.metadata).clone(),
        false => BTreeMap::new(),
    };
    all.insert(keys::POD_NAME.into(), input.key.name.to_string());
    all.insert(keys::POD_NAMESPACE.into(), input.key.namespace.to_string());
    all.insert(keys::POD_UID.into(), input.uid.to_string());
    all
}

/// Prefixes of annotations that runtimes act on: a pod may not speak to them (CVE rows 68, 70).
const RUNTIME_PREFIXES: [&str; 7] = [
    "cdi.k8s.io",
    "io.containerd",
    "io.katacontainers",
    "io.kubernetes",
    "io.kubernetes.cri",
    "org.opencontainers",
    "run.oci",
];

/// The pod's annotations but those of the runtimes.
fn annotations(input: &Input<'_>) -> BTreeMap<String, String> {
    let given = input.pod.metadata.annotations.iter().flatten();
    let plain = given.filter(|(key, value)| {
        let domain = key.split('/').next().unwrap_or_default();
        let runtime = RUNTIME_PREFIXES.iter().any(|prefix| {
            domain == *prefix || domain.strip_prefix(prefix).is_some_and(|r| r.starts_with('.'))
        });
        !runtime && !key.contains(char::is_control) && !value.contains('\0')
    });
    plain.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn linux(input: &Input<'_>, spec: &PodSpec) -> cri::LinuxPodSandboxConfig {
    let plan = cgroup::plan(input.node, input.config, input.uid, spec);
    let context = spec.security_context.as_ref();
    let sysctls = context.and_then(|context| context.sysctls.as_ref());
    let privileged = visit::containers(spec).any(|(_, container)| {
        container.security_context.as_ref().is_some_and(|c| c.privileged.unwrap_or(false))
    });
    let id = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let run_as_user = id(context.and_then(|c| c.run_as_user));
    cri::LinuxPodSandboxConfig {
        cgroup_parent: cgroup::parent_of_sandbox(input.node, &plan.path),
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(security::namespaces(spec)),
            selinux_options: security::selinux(context.and_then(|c| c.se_linux_options.as_ref())),
            // A group without a user is an error to the runtime.
            run_as_group: run_as_user.and_then(|_| id(context.and_then(|c| c.run_as_group))),
            run_as_user,
            supplemental_groups: security::supplemental_groups(spec),
            supplemental_groups_policy: security::groups_policy(spec),
            privileged,
            // The pause process needs nothing (A134).
            seccomp: Some(security::runtime_default()),
            ..cri::LinuxSandboxSecurityContext::default()
        }),
        sysctls: sysctls
            .into_iter()
            .flatten()
            .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
            .collect(),
        overhead: None,
        resources: Some(resources::of_pod(&plan)),
    }
}
