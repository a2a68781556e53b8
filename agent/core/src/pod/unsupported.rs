//! Fields that Longshore does not act on yet, and values that it must not act on: such a pod is
//! held Pending and the user is told the field. Nothing is ignored silently.
//!
//! One visitor sees every list of containers (CVE row 9). Deliberately absent: fields with no
//! effect on a node (tolerations, affinity, priority, scheduling), which need no reader here.

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, PodSpec, Probe, ResourceRequirements, Volume,
};

use super::{Input, hosts, paths, visit};
use crate::model::{Kind, Problem, Quantity, Severity};

/// What keeps the pod from being started, in the order of the spec. Warnings do not: they are about
/// ephemeral containers, which come to pods that run, and those go on without them.
pub fn unsupported(input: &Input<'_>) -> Vec<Problem> {
    let mut visitor = Visitor { input, problems: Vec::new() };
    match &input.pod.spec {
        None => visitor.invalid("spec", "is missing"),
        Some(spec) => visitor.pod(spec),
    }
    for problem in &mut visitor.problems {
        if problem.field.starts_with(EPHEMERAL) {
            problem.severity = Severity::Warning;
        }
    }
    visitor.problems
}

const EPHEMERAL: &str = "spec.ephemeralContainers";

struct Visitor<'a> {
    input: &'a Input<'a>,
    problems: Vec<Problem>,
}

impl Visitor<'_> {
    fn push(&mut self, reason: &'static str, field: &str, message: String) {
        self.problems.push(Problem {
            kind: Kind::Pod,
            key: self.input.key.clone(),
            severity: Severity::Error,
            reason,
            field: field.into(),
            message,
        });
    }

    fn invalid(&mut self, field: &str, why: impl Into<String>) {
        self.push("FailedValidation", field, why.into());
    }

    /// `present`: the user set the field.
    fn absent(&mut self, present: bool, field: &str) {
        if present {
            let text = "is not supported yet: remove it or run this pod on another node";
            self.push("UnsupportedField", field, text.into());
        }
    }

    fn one_of(&mut self, value: Option<&str>, known: &[&str], field: &str) {
        if let Some(value) = value.filter(|value| !known.contains(value)) {
            self.invalid(field, format!("is {value:?}: use one of {}", known.join(", ")));
        }
    }

    fn pod(&mut self, spec: &PodSpec) {
        let policies = ["Always", "OnFailure", "Never"];
        self.one_of(spec.restart_policy.as_deref(), &policies, "spec.restartPolicy");
        let dns = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
        self.one_of(spec.dns_policy.as_deref(), &dns, "spec.dnsPolicy");
        self.absent(spec.host_users == Some(false), "spec.hostUsers");
        self.absent(some(&spec.resource_claims), "spec.resourceClaims");
        if some(&spec.ephemeral_containers) {
            let text = "are not supported yet: the pod goes on without them";
            self.push("UnsupportedField", EPHEMERAL, text.into());
        }
        self.absent(some(&spec.scheduling_gates), "spec.schedulingGates");
        self.absent(spec.hostname_override.is_some(), "spec.hostnameOverride");
        if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
            self.invalid("spec.terminationGracePeriodSeconds", "is negative");
        }
        if spec.active_deadline_seconds.is_some_and(|s| s < 1) {
            self.invalid("spec.activeDeadlineSeconds", "is less than 1");
        }
        for (name, field) in
            [(&spec.hostname, "spec.hostname"), (&spec.subdomain, "spec.subdomain")]
        {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if name.as_deref().is_some_and(|name| !name.bytes().all(plain)) {
                self.invalid(field, "is not a DNS label");
            }
        }
        if let Err(error) = hosts::names(self.input, spec) {
            self.invalid("spec.setHostnameAsFQDN", error);
        }
        self.resources("spec", spec.resources.as_ref());
        self.pod_security(spec);
        for (i, volume) in spec.volumes.iter().flatten().enumerate() {
            self.volume(&format!("spec.volumes[{i}]"), volume);
        }
        let mut names = std::collections::BTreeSet::new();
        for (place, container) in visit::every(spec) {
            if !names.insert(container.name.clone()) {
                self.invalid(&format!("{place}.name"), "is the name of another container too");
            }
            self.container(&place, &container, spec);
        }
        if spec.containers.is_empty() {
            self.invalid("spec.containers", "is empty");
        }
    }

    fn pod_security(&mut self, spec: &PodSpec) {
        let Some(context) = &spec.security_context else { return };
        let at = |field: &str| format!("spec.securityContext.{field}");
        self.absent(context.windows_options.is_some(), &at("windowsOptions"));
        self.absent(
            context.se_linux_change_policy.as_deref().is_some_and(|p| p != "Recursive"),
            &at("seLinuxChangePolicy"),
        );
        let policies = ["Merge", "Strict"];
        let policy = context.supplemental_groups_policy.as_deref();
        self.one_of(policy, &policies, &at("supplementalGroupsPolicy"));
        let changes = ["Always", "OnRootMismatch"];
        self.one_of(
            context.fs_group_change_policy.as_deref(),
            &changes,
            &at("fsGroupChangePolicy"),
        );
        self.id(context.fs_group, &at("fsGroup"));
        for group in context.supplemental_groups.iter().flatten() {
            self.id(Some(*group), &at("supplementalGroups"));
        }
    }

    /// Linux IDs are 0..2^32-2; anything else could turn into another one (CVE row 67).
    fn id(&mut self, id: Option<i64>, field: &str) {
        if id.is_some_and(|id| !(0..i64::from(u32::MAX)).contains(&id)) {
            self.invalid(field, "is not an ID between 0 and 4294967294");
        }
    }

    fn volume(&mut self, place: &str, volume: &Volume) {
        if !paths::is_path_name(&volume.name) {
            self.invalid(&format!("{place}.name"), "cannot be part of a path");
        }
        let mut known = 0;
        if let Some(source) = &volume.empty_dir {
            known += 1;
            let medium = source.medium.as_deref().unwrap_or_default();
            self.absent(!matches!(medium, "" | "Memory"), &format!("{place}.emptyDir.medium"));
            self.absent(source.mode.is_some(), &format!("{place}.emptyDir.mode"));
            let disk_limit = medium.is_empty() && source.size_limit.is_some();
            self.absent(disk_limit, &format!("{place}.emptyDir.sizeLimit"));
        }
        known += u32::from(volume.host_path.is_some());
        if let Some(source) = &volume.config_map {
            known += 1;
            self.absent(source.default_user.is_some(), &format!("{place}.configMap.defaultUser"));
            self.items(&format!("{place}.configMap"), source.items.as_deref());
        }
        if let Some(source) = &volume.secret {
            known += 1;
            self.absent(source.default_user.is_some(), &format!("{place}.secret.defaultUser"));
            self.items(&format!("{place}.secret"), source.items.as_deref());
        }
        if let Some(source) = &volume.downward_api {
            known += 1;
            self.absent(source.default_user.is_some(), &format!("{place}.downwardAPI.defaultUser"));
            self.downward(&format!("{place}.downwardAPI"), source.items.as_deref());
        }
        if let Some(source) = &volume.projected {
            known += 1;
            self.absent(source.default_user.is_some(), &format!("{place}.projected.defaultUser"));
            for (i, part) in source.sources.iter().flatten().enumerate() {
                let at = format!("{place}.projected.sources[{i}]");
                // Only an API server issues tokens; files alone say everything that they know.
                self.absent(
                    part.service_account_token.is_some() && self.input.world.known.is_none(),
                    &format!("{at}.serviceAccountToken"),
                );
                self.absent(
                    part.cluster_trust_bundle.is_some(),
                    &format!("{at}.clusterTrustBundle"),
                );
                self.absent(part.pod_certificate.is_some(), &format!("{at}.podCertificate"));
                let map = part.config_map.as_ref().and_then(|m| m.items.as_deref());
                self.items(&format!("{at}.configMap"), map);
                let secret = part.secret.as_ref().and_then(|s| s.items.as_deref());
                self.items(&format!("{at}.secret"), secret);
                let downward = part.downward_api.as_ref().and_then(|d| d.items.as_deref());
                self.downward(&format!("{at}.downwardAPI"), downward);
            }
        }
        if known == 0 {
            self.absent(true, &format!("{place}.{}", foreign_type(volume)));
        } else if known > 1 {
            self.invalid(place, "has more than one type");
        }
    }

    fn items(&mut self, place: &str, items: Option<&[KeyToPath]>) {
        for (i, item) in items.unwrap_or_default().iter().enumerate() {
            self.absent(item.user.is_some(), &format!("{place}.items[{i}].user"));
        }
    }

    fn downward(&mut self, place: &str, items: Option<&[DownwardAPIVolumeFile]>) {
        for (i, item) in items.unwrap_or_default().iter().enumerate() {
            self.absent(item.user.is_some(), &format!("{place}.items[{i}].user"));
        }
    }

    fn resources(&mut self, place: &str, resources: Option<&ResourceRequirements>) {
        let Some(resources) = resources else { return };
        self.absent(some(&resources.claims), &format!("{place}.resources.claims"));
        for (list, name) in [(&resources.limits, "limits"), (&resources.requests, "requests")] {
            for (resource, amount) in list.iter().flatten() {
                let field = format!("{place}.resources.{name}[{resource}]");
                match Quantity::from_api(amount) {
                    Err(error) => self.invalid(&field, error),
                    Ok(amount) if amount.milli < 0 => self.invalid(&field, "is negative"),
                    Ok(_) => {}
                }
                // A request for disk is the scheduler's; a limit is for eviction, which is not here.
                let known = matches!(resource.as_str(), "cpu" | "memory")
                    || (resource == "ephemeral-storage" && name == "requests");
                self.absent(!known, &field);
            }
        }
    }

    fn container(&mut self, place: &str, container: &Container, spec: &PodSpec) {
        let at = |field: &str| format!("{place}.{field}");
        if !paths::is_path_name(&container.name) {
            self.invalid(&at("name"), "cannot be part of a path");
        }
        let policies = ["Always", "OnFailure", "Never"];
        self.one_of(container.restart_policy.as_deref(), &policies, &at("restartPolicy"));
        let pulls = ["Always", "IfNotPresent", "Never"];
        self.one_of(container.image_pull_policy.as_deref(), &pulls, &at("imagePullPolicy"));
        let messages = ["File", "FallbackToLogsOnError"];
        let policy = container.termination_message_policy.as_deref();
        self.one_of(policy, &messages, &at("terminationMessagePolicy"));
        self.absent(some(&container.restart_policy_rules), &at("restartPolicyRules"));
        let init = place.starts_with("spec.initContainers");
        let own_policy = container.restart_policy.as_deref().is_some_and(|p| p != "Always");
        self.absent(init && own_policy, &at("restartPolicy"));
        self.absent(some(&container.volume_devices), &at("volumeDevices"));
        if let Some(lifecycle) = &container.lifecycle {
            self.absent(lifecycle.post_start.is_some(), &at("lifecycle.postStart"));
            self.absent(lifecycle.pre_stop.is_some(), &at("lifecycle.preStop"));
            self.absent(lifecycle.stop_signal.is_some(), &at("lifecycle.stopSignal"));
        }
        let probes = [
            (&container.startup_probe, "startupProbe"),
            (&container.liveness_probe, "livenessProbe"),
            (&container.readiness_probe, "readinessProbe"),
        ];
        for (probe, name) in probes {
            self.probe(&at(name), probe.as_ref());
        }
        self.ports(place, container, spec);
        self.resources(place, container.resources.as_ref());
        for (i, variable) in container.env.iter().flatten().enumerate() {
            let file = variable.value_from.as_ref().is_some_and(|v| v.file_key_ref.is_some());
            self.absent(file, &at(&format!("env[{i}].valueFrom.fileKeyRef")));
        }
        self.mounts(place, container, spec);
        let windows =
            container.security_context.as_ref().is_some_and(|c| c.windows_options.is_some());
        self.absent(windows, &at("securityContext.windowsOptions"));
    }

    fn ports(&mut self, place: &str, container: &Container, spec: &PodSpec) {
        let host_network = spec.host_network.unwrap_or(false);
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let field = format!("{place}.ports[{i}]");
            if !(1..=65535).contains(&port.container_port) {
                self.invalid(&format!("{field}.containerPort"), "is not between 1 and 65535");
            }
            let host_port = port.host_port.unwrap_or(0) != 0 && !host_network;
            self.absent(host_port, &format!("{field}.hostPort"));
        }
    }

    fn mounts(&mut self, place: &str, container: &Container, spec: &PodSpec) {
        for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let at = |field: &str| format!("{place}.volumeMounts[{i}].{field}");
            self.absent(mount.sub_path.as_deref().is_some_and(|p| !p.is_empty()), &at("subPath"));
            let expr = mount.sub_path_expr.as_deref().is_some_and(|p| !p.is_empty());
            self.absent(expr, &at("subPathExpr"));
            self.absent(some(&mount.bind_mount_options), &at("bindMountOptions"));
            let propagations = ["None", "HostToContainer", "Bidirectional"];
            self.one_of(mount.mount_propagation.as_deref(), &propagations, &at("mountPropagation"));
            let recursive = ["Disabled", "IfPossible", "Enabled"];
            self.one_of(mount.recursive_read_only.as_deref(), &recursive, &at("recursiveReadOnly"));
            if !spec.volumes.iter().flatten().any(|volume| volume.name == mount.name) {
                self.invalid(&at("name"), format!("{:?} is not a volume of the pod", mount.name));
            }
            if !paths::is_mount_path(&mount.mount_path) {
                self.invalid(&at("mountPath"), "is not a path without \"..\" and ':'");
            }
        }
    }

    fn probe(&mut self, place: &str, probe: Option<&Probe>) {
        let Some(probe) = probe else { return };
        self.absent(probe.grpc.is_some(), &format!("{place}.grpc"));
        let protocol = probe.http_get.as_ref().is_some_and(|get| get.protocol.is_some());
        self.absent(protocol, &format!("{place}.httpGet.protocol"));
        let handlers = u8::from(probe.exec.is_some())
            + u8::from(probe.http_get.is_some())
            + u8::from(probe.tcp_socket.is_some());
        if handlers != 1 && probe.grpc.is_none() {
            self.invalid(place, "needs one of exec, httpGet, tcpSocket");
        }
    }
}

fn some<T>(list: &Option<Vec<T>>) -> bool {
    list.as_ref().is_some_and(|list| !list.is_empty())
}

/// The API's name of the volume type that is set.
fn foreign_type(volume: &Volume) -> String {
    let json = serde_json::to_value(volume).unwrap_or_default();
    let field = json.as_object().and_then(|map| map.keys().find(|key| *key != "name").cloned());
    field.unwrap_or_else(|| "<no type>".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::Case;

    fn check(spec: &str, expect: &[&str]) {
        let case = Case::spec(spec);
        let found = unsupported(&case.input());
        let fields: Vec<_> = found.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(fields, expect, "{spec}\n{found:?}");
    }

    #[test]
    fn decision_13_a_plain_pod_has_nothing_to_hold() {
        check(
            "{initContainers: [{name: i}, {name: s, restartPolicy: Always}],
              containers: [{name: a, image: x, volumeMounts: [{name: v, mountPath: /v}],
                livenessProbe: {httpGet: {port: 1}}, ports: [{containerPort: 80}]}],
              volumes: [{name: v, emptyDir: {}}]}",
            &[],
        );
    }

    #[test]
    fn decision_13_volumes_and_pod_fields_that_are_not_there_yet_are_named() {
        for (volume, field) in [
            ("persistentVolumeClaim: {claimName: c}", "persistentVolumeClaim"),
            ("csi: {driver: d}", "csi"),
            ("nfs: {server: s, path: /p}", "nfs"),
            ("iscsi: {targetPortal: t, iqn: i, lun: 0}", "iscsi"),
            ("image: {reference: r}", "image"),
            ("gitRepo: {repository: r}", "gitRepo"),
            ("ephemeral: {}", "ephemeral"),
            ("emptyDir: {medium: HugePages}", "emptyDir.medium"),
            ("emptyDir: {sizeLimit: 1Gi}", "emptyDir.sizeLimit"),
            (
                "projected: {sources: [{serviceAccountToken: {path: t}}]}",
                "projected.sources[0].serviceAccountToken",
            ),
        ] {
            let spec = format!("{{containers: [{{name: a}}], volumes: [{{name: v, {volume}}}]}}");
            check(&spec, &[&format!("spec.volumes[0].{field}")]);
        }
        for (text, field) in [
            ("hostUsers: false", "hostUsers"),
            ("resourceClaims: [{name: r}]", "resourceClaims"),
            ("restartPolicy: Sometimes", "restartPolicy"),
            ("hostname: \"a\\n6.6.6.6 b\"", "hostname"),
            ("ephemeralContainers: [{name: e}]", "ephemeralContainers"),
            ("securityContext: {fsGroup: -1}", "securityContext.fsGroup"),
            (
                "securityContext: {supplementalGroups: [4294967296]}",
                "securityContext.supplementalGroups",
            ),
        ] {
            check(&format!("{{containers: [{{name: a}}], {text}}}"), &[&format!("spec.{field}")]);
        }
    }

    #[test]
    fn a106_tokens_are_supported_where_an_api_server_issues_them() {
        let spec = "{containers: [{name: a}], volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}";
        let mut case = crate::pod::testing::Case::spec(spec);
        assert_eq!(unsupported(&case.input()).len(), 1);
        case.world.known = Some(imbl::OrdSet::new());
        assert_eq!(unsupported(&case.input()), []);
    }

    #[test]
    fn cve9_every_list_of_containers_is_seen() {
        let fields = [
            ("lifecycle: {postStart: {sleep: {seconds: 1}}}", "lifecycle.postStart"),
            ("lifecycle: {preStop: {sleep: {seconds: 1}}}", "lifecycle.preStop"),
            ("volumeDevices: [{name: v, devicePath: /d}]", "volumeDevices"),
            ("livenessProbe: {grpc: {port: 1}}", "livenessProbe.grpc"),
            ("ports: [{containerPort: 1, hostPort: 1}]", "ports[0].hostPort"),
            ("resources: {limits: {hugepages-2Mi: 1Mi}}", "resources.limits[hugepages-2Mi]"),
            (
                "resources: {limits: {ephemeral-storage: 1Mi}}",
                "resources.limits[ephemeral-storage]",
            ),
            (
                "env: [{name: A, valueFrom: {fileKeyRef: {key: k, path: p, volumeName: v}}}]",
                "env[0].valueFrom.fileKeyRef",
            ),
            ("volumeMounts: [{name: w, mountPath: /v}]", "volumeMounts[0].name"),
            ("resources: {limits: {memory: 99999999999999999999E}}", "resources.limits[memory]"),
        ];
        for (text, field) in fields {
            check(
                &format!("{{containers: [{{name: a, {text}}}]}}"),
                &[&format!("spec.containers[0].{field}")],
            );
            check(
                &format!("{{initContainers: [{{name: i, {text}}}], containers: [{{name: a}}]}}"),
                &[&format!("spec.initContainers[0].{field}")],
            );
            check(
                &format!(
                    "{{initContainers: [{{name: i, restartPolicy: Always, {text}}}], containers: [{{name: a}}]}}"
                ),
                &[&format!("spec.initContainers[0].{field}")],
            );
            check(
                &format!(
                    "{{containers: [{{name: a}}], ephemeralContainers: [{{name: e, {text}}}]}}"
                ),
                &["spec.ephemeralContainers", &format!("spec.ephemeralContainers[0].{field}")],
            );
        }
    }

    #[test]
    fn cve22_names_that_are_paths_hold_the_pod() {
        check("{containers: [{name: ../a}]}", &["spec.containers[0].name"]);
        check(
            "{containers: [{name: a}], volumes: [{name: ../v, emptyDir: {}}]}",
            &["spec.volumes[0].name"],
        );
        check("{containers: [{name: a}, {name: a}]}", &["spec.containers[1].name"]);
    }
}
