//! Pod specs: what belongs to the pod as a whole, and volumes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, PodSecurityContext, PodSpec, Volume,
    VolumeProjection,
};

use super::text::{dns_label, dns_subdomain, inner_path, key_of_data};
use super::{Findings, container};
use crate::model::Quantity;

pub(super) fn pod_spec(spec: &PodSpec, path: &str, out: &mut Findings) {
    let at = |field: &str| format!("{path}.{field}");
    out.one_of(
        at("restartPolicy"),
        spec.restart_policy.as_deref(),
        &["Always", "OnFailure", "Never"],
    );
    out.one_of(
        at("dnsPolicy"),
        spec.dns_policy.as_deref(),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    // The API has no upper bound, and its arithmetic overflows; 68 years are one.
    if let Some(grace) = spec.termination_grace_period_seconds {
        out.range(at("terminationGracePeriodSeconds"), grace, 0, i32::MAX.into());
    }
    if let Some(deadline) = spec.active_deadline_seconds {
        out.range(at("activeDeadlineSeconds"), deadline, 1, i32::MAX.into());
    }
    if let Some(hostname) = &spec.hostname {
        out.check(at("hostname"), dns_label(hostname));
    }
    if let Some(subdomain) = &spec.subdomain {
        out.check(at("subdomain"), dns_label(subdomain));
    }
    dns(spec, path, out);
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if alias.ip.parse::<IpAddr>().is_err() {
            out.add(
                at(&format!("hostAliases[{index}].ip")),
                format!("{:?} is not an IP address", alias.ip),
            );
        }
        for (inner, name) in alias.hostnames.iter().flatten().enumerate() {
            out.check(at(&format!("hostAliases[{index}].hostnames[{inner}]")), dns_subdomain(name));
        }
    }
    for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        out.check(at(&format!("imagePullSecrets[{index}].name")), dns_subdomain(&secret.name));
    }
    if let Some(context) = &spec.security_context {
        security_context(context, &at("securityContext"), out);
    }
    needs_a_server(spec, path, out);
    let volumes = volumes(spec, path, out);
    containers(spec, path, &volumes, out);
}

/// Objects that only an API server can make or sign (A32, CVE row 10).
fn needs_a_server(spec: &PodSpec, path: &str, out: &mut Findings) {
    const WHY: &str = "needs an API server; standalone has none";
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        out.add(
            format!("{path}.ephemeralContainers"),
            "are added to running pods by an API server; standalone has none",
        );
    }
    if spec.resource_claims.as_ref().is_some_and(|list| !list.is_empty()) {
        out.add(format!("{path}.resourceClaims"), WHY);
    }
    if spec.scheduling_gates.as_ref().is_some_and(|list| !list.is_empty()) {
        out.add(format!("{path}.schedulingGates"), WHY);
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = format!("{path}.volumes[{index}]");
        if volume.persistent_volume_claim.is_some() {
            out.add(format!("{path}.persistentVolumeClaim"), WHY);
        }
        if volume.ephemeral.is_some() {
            out.add(format!("{path}.ephemeral"), WHY);
        }
        let sources =
            volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for (inner, source) in sources.enumerate() {
            for (name, present) in [
                ("serviceAccountToken", source.service_account_token.is_some()),
                ("clusterTrustBundle", source.cluster_trust_bundle.is_some()),
                ("podCertificate", source.pod_certificate.is_some()),
            ] {
                if present {
                    out.add(format!("{path}.projected.sources[{inner}].{name}"), WHY);
                }
            }
        }
    }
}

fn dns(spec: &PodSpec, path: &str, out: &mut Findings) {
    let config = spec.dns_config.as_ref();
    let servers = config.and_then(|config| config.nameservers.as_deref()).unwrap_or_default();
    for (index, server) in servers.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            out.add(
                format!("{path}.dnsConfig.nameservers[{index}]"),
                format!("{server:?} is not an IP address"),
            );
        }
    }
    if servers.len() > 3 {
        out.add(format!("{path}.dnsConfig.nameservers"), "may have at most 3 addresses");
    }
    if spec.dns_policy.as_deref() == Some("None") && servers.is_empty() {
        out.add(
            format!("{path}.dnsConfig.nameservers"),
            "must have an address when dnsPolicy is None",
        );
    }
    let searches = config.and_then(|config| config.searches.as_deref()).unwrap_or_default();
    for (index, search) in searches.iter().enumerate() {
        // "." alone is allowed, and so are names with a final dot and underscores.
        let name = search.trim_end_matches('.').replace('_', "-");
        if search != "." {
            out.check(
                format!("{path}.dnsConfig.searches[{index}]"),
                dns_subdomain(name.trim_matches('-')),
            );
        }
    }
}

/// User and group ids are 32 bits, of which the kernel keeps the last for "none" (F65: an id that
/// wraps around evades runAsNonRoot).
pub(super) fn id(path: String, value: Option<i64>, out: &mut Findings) {
    if let Some(value) = value {
        out.range(path, value, 0, i64::from(i32::MAX));
    }
}

fn security_context(context: &PodSecurityContext, path: &str, out: &mut Findings) {
    id(format!("{path}.runAsUser"), context.run_as_user, out);
    id(format!("{path}.runAsGroup"), context.run_as_group, out);
    id(format!("{path}.fsGroup"), context.fs_group, out);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(format!("{path}.supplementalGroups[{index}]"), Some(*group), out);
    }
    out.one_of(
        format!("{path}.fsGroupChangePolicy"),
        context.fs_group_change_policy.as_deref(),
        &["Always", "OnRootMismatch"],
    );
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let shape = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/');
        if sysctl.name.is_empty() || !sysctl.name.chars().all(shape) || sysctl.name.contains("..") {
            out.add(
                format!("{path}.sysctls[{index}].name"),
                format!("{:?} is not a sysctl name", sysctl.name),
            );
        }
    }
    if let Some(profile) = &context.seccomp_profile {
        container::profile(
            &format!("{path}.seccompProfile"),
            &profile.type_,
            profile.localhost_profile.as_deref(),
            out,
        );
    }
    if let Some(profile) = &context.app_armor_profile {
        container::profile(
            &format!("{path}.appArmorProfile"),
            &profile.type_,
            profile.localhost_profile.as_deref(),
            out,
        );
    }
}

fn containers(spec: &PodSpec, path: &str, volumes: &BTreeSet<String>, out: &mut Findings) {
    if spec.containers.is_empty() {
        out.add(format!("{path}.containers"), "must have at least one container");
    }
    let all = |path: &str| -> Vec<(String, bool, &Container)> {
        let main = spec.containers.iter().enumerate();
        let init = spec.init_containers.iter().flatten().enumerate();
        main.map(|(index, container)| (format!("{path}.containers[{index}]"), false, container))
            .chain(init.map(|(index, container)| {
                (format!("{path}.initContainers[{index}]"), true, container)
            }))
            .collect()
    };
    let all = all(path);
    out.unique(
        all.iter().map(|(path, _, container)| (format!("{path}.name"), container.name.as_str())),
    );
    for (path, init, one) in &all {
        container::container(one, path, *init, volumes, spec.host_network == Some(true), out);
    }
    let mut host_ports = BTreeSet::new();
    for (path, init, container) in &all {
        for (index, port) in container.ports.iter().flatten().enumerate().filter(|_| !init) {
            let Some(number) = port.host_port.filter(|port| *port != 0) else { continue };
            if !host_ports.insert((number, port.protocol.clone(), port.host_ip.clone())) {
                out.add(
                    format!("{path}.ports[{index}].hostPort"),
                    format!("{number} is taken by another port of this pod"),
                );
            }
        }
    }
}

/// Names of the volumes that are there.
fn volumes(spec: &PodSpec, path: &str, out: &mut Findings) -> BTreeSet<String> {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    out.unique(
        volumes
            .iter()
            .enumerate()
            .map(|(index, volume)| (format!("{path}.volumes[{index}].name"), volume.name.as_str())),
    );
    for (index, one) in volumes.iter().enumerate() {
        volume(one, &format!("{path}.volumes[{index}]"), out);
    }
    volumes.iter().map(|volume| volume.name.clone()).collect()
}

fn volume(volume: &Volume, path: &str, out: &mut Findings) {
    out.check(format!("{path}.name"), dns_label(&volume.name));
    // Every field but the name is a source; there may be only one.
    let sources = serde_json::to_value(volume)
        .ok()
        .and_then(|value| value.as_object().map(|fields| fields.len().saturating_sub(1)))
        .unwrap_or_default();
    if sources > 1 {
        out.add(path, "has more than one source");
    }
    if let Some(empty_dir) = &volume.empty_dir {
        let medium = empty_dir.medium.as_deref().unwrap_or_default();
        if !matches!(medium, "" | "Memory") && !medium.starts_with("HugePages") {
            out.add(
                format!("{path}.emptyDir.medium"),
                format!("{medium:?} is not empty, Memory or HugePages"),
            );
        }
        if let Some(limit) = &empty_dir.size_limit {
            match Quantity::from_api(limit) {
                Err(error) => out.add(format!("{path}.emptyDir.sizeLimit"), error),
                Ok(limit) => {
                    out.not_negative(format!("{path}.emptyDir.sizeLimit"), Some(limit.units()))
                }
            }
        }
    }
    if let Some(host_path) = &volume.host_path {
        if !host_path.path.starts_with('/') || host_path.path.split('/').any(|part| part == "..") {
            out.add(
                format!("{path}.hostPath.path"),
                format!("{:?} must be absolute and without \"..\"", host_path.path),
            );
        }
        out.one_of(
            format!("{path}.hostPath.type"),
            host_path.type_.as_deref(),
            &[
                "",
                "DirectoryOrCreate",
                "Directory",
                "FileOrCreate",
                "File",
                "Socket",
                "CharDevice",
                "BlockDevice",
            ],
        );
    }
    if let Some(config_map) = &volume.config_map {
        out.check(format!("{path}.configMap.name"), dns_subdomain(&config_map.name));
        mode(format!("{path}.configMap.defaultMode"), config_map.default_mode, out);
        items(&format!("{path}.configMap"), config_map.items.as_deref(), out);
    }
    if let Some(secret) = &volume.secret {
        out.check(
            format!("{path}.secret.secretName"),
            dns_subdomain(secret.secret_name.as_deref().unwrap_or_default()),
        );
        mode(format!("{path}.secret.defaultMode"), secret.default_mode, out);
        items(&format!("{path}.secret"), secret.items.as_deref(), out);
    }
    if let Some(downward) = &volume.downward_api {
        mode(format!("{path}.downwardAPI.defaultMode"), downward.default_mode, out);
        downward_files(&format!("{path}.downwardAPI"), downward.items.as_deref(), out);
    }
    if let Some(projected) = &volume.projected {
        mode(format!("{path}.projected.defaultMode"), projected.default_mode, out);
        for (index, source) in projected.sources.iter().flatten().enumerate() {
            projection(source, &format!("{path}.projected.sources[{index}]"), out);
        }
    }
}

fn projection(source: &VolumeProjection, path: &str, out: &mut Findings) {
    if let Some(config_map) = &source.config_map {
        out.check(format!("{path}.configMap.name"), dns_subdomain(&config_map.name));
        items(&format!("{path}.configMap"), config_map.items.as_deref(), out);
    }
    if let Some(secret) = &source.secret {
        out.check(format!("{path}.secret.name"), dns_subdomain(&secret.name));
        items(&format!("{path}.secret"), secret.items.as_deref(), out);
    }
    if let Some(downward) = &source.downward_api {
        downward_files(&format!("{path}.downwardAPI"), downward.items.as_deref(), out);
    }
}

fn mode(path: String, mode: Option<i32>, out: &mut Findings) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        out.add(path, format!("{mode} is not a mode between 0 and 0777 octal (511)"));
    }
}

fn items(path: &str, items: Option<&[KeyToPath]>, out: &mut Findings) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        out.check(format!("{path}.items[{index}].key"), key_of_data(&item.key));
        file(format!("{path}.items[{index}].path"), &item.path, out);
        mode(format!("{path}.items[{index}].mode"), item.mode, out);
    }
}

/// Files of one volume: below it, and not among the names that the atomic swap uses (`..data`).
fn file(path: String, name: &str, out: &mut Findings) {
    if name.is_empty() {
        out.add(path, "must not be empty");
    } else if name.starts_with("..") {
        out.add(path, format!("{name:?} must not begin with \"..\""));
    } else {
        out.check(path, inner_path(name));
    }
}

fn downward_files(path: &str, files: Option<&[DownwardAPIVolumeFile]>, out: &mut Findings) {
    for (index, item) in files.into_iter().flatten().enumerate() {
        let path = format!("{path}.items[{index}]");
        file(format!("{path}.path"), &item.path, out);
        mode(format!("{path}.mode"), item.mode, out);
        if item.field_ref.is_some() == item.resource_field_ref.is_some() {
            out.add(path, "must have one of fieldRef and resourceFieldRef");
        }
    }
}
