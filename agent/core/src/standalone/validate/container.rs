//! Containers: names, environment, mounts, ports, resources, probes.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, HTTPGetAction, LifecycleHandler, Probe, ResourceRequirements,
    SecurityContext,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Findings;
use super::pod::id;
use super::text::{dns_label, dns_subdomain, env_name, inner_path, key_of_data, port_name};
use crate::model::Quantity;

pub(super) fn container(
    container: &Container,
    path: &str,
    init: bool,
    volumes: &BTreeSet<String>,
    host_network: bool,
    out: &mut Findings,
) {
    let at = |field: &str| format!("{path}.{field}");
    out.check(at("name"), dns_label(&container.name));
    let image = container.image.as_deref().unwrap_or_default();
    if image.is_empty() || image.trim() != image || image.contains(|c: char| c.is_control()) {
        out.add(at("image"), "must be an image reference such as registry.example/app:1.2");
    }
    out.one_of(
        at("imagePullPolicy"),
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
    );
    out.one_of(
        at("terminationMessagePolicy"),
        container.termination_message_policy.as_deref(),
        &["File", "FallbackToLogsOnError"],
    );
    let restart = container.restart_policy.as_deref();
    out.one_of(at("restartPolicy"), restart, &["Always", "OnFailure", "Never"]);
    environment(container, path, out);
    mounts(container, path, volumes, out);
    ports(container, path, host_network, out);
    if let Some(resources) = &container.resources {
        self::resources(resources, &at("resources"), out);
    }
    if let Some(context) = &container.security_context {
        security_context(context, &at("securityContext"), out);
    }
    let sidecar = init && restart == Some("Always");
    for (name, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let Some(one) = probe else { continue };
        if init && !sidecar {
            out.add(at(name), "is only for init containers with restartPolicy Always");
        }
        self::probe(one, &at(name), name, container, out);
    }
    if let Some(lifecycle) = &container.lifecycle {
        for (name, handler) in
            [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)]
        {
            if let Some(handler) = handler {
                self::handler(handler, &at(&format!("lifecycle.{name}")), container, out);
            }
        }
    }
}

fn environment(container: &Container, path: &str, out: &mut Findings) {
    let env = container.env.as_deref().unwrap_or_default();
    for (index, one) in env.iter().enumerate() {
        variable(one, &format!("{path}.env[{index}]"), out);
    }
    out.unique(
        env.iter()
            .enumerate()
            .map(|(index, env)| (format!("{path}.env[{index}].name"), env.name.as_str())),
    );
    for (index, from) in container.env_from.iter().flatten().enumerate() {
        let path = format!("{path}.envFrom[{index}]");
        if from.config_map_ref.is_some() == from.secret_ref.is_some() {
            out.add(&path, "must have one of configMapRef and secretRef");
        }
        if let Some(reference) = &from.config_map_ref {
            out.check(format!("{path}.configMapRef.name"), dns_subdomain(&reference.name));
        }
        if let Some(reference) = &from.secret_ref {
            out.check(format!("{path}.secretRef.name"), dns_subdomain(&reference.name));
        }
        if let Some(prefix) = from.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            out.check(format!("{path}.prefix"), env_name(prefix));
        }
    }
}

fn variable(env: &EnvVar, path: &str, out: &mut Findings) {
    out.check(format!("{path}.name"), env_name(&env.name));
    let Some(from) = &env.value_from else { return };
    let path = format!("{path}.valueFrom");
    if env.value.as_deref().is_some_and(|value| !value.is_empty()) {
        out.add(&path, "excludes value");
    }
    let sources = [
        from.config_map_key_ref.is_some(),
        from.secret_key_ref.is_some(),
        from.field_ref.is_some(),
        from.resource_field_ref.is_some(),
        from.file_key_ref.is_some(),
    ];
    if sources.iter().filter(|present| **present).count() != 1 {
        out.add(&path, "must have exactly one source");
    }
    if let Some(reference) = &from.config_map_key_ref {
        out.check(format!("{path}.configMapKeyRef.name"), dns_subdomain(&reference.name));
        out.check(format!("{path}.configMapKeyRef.key"), key_of_data(&reference.key));
    }
    if let Some(reference) = &from.secret_key_ref {
        out.check(format!("{path}.secretKeyRef.name"), dns_subdomain(&reference.name));
        out.check(format!("{path}.secretKeyRef.key"), key_of_data(&reference.key));
    }
    if let Some(field) = &from.field_ref
        && !known_field(&field.field_path)
    {
        out.add(
            format!("{path}.fieldRef.fieldPath"),
            format!("{:?} is not a field that variables can have", field.field_path),
        );
    }
}

fn known_field(path: &str) -> bool {
    const FIELDS: &[&str] = &[
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let subscript = |prefix: &str| {
        path.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix("']"))
            .is_some_and(|key| !key.is_empty())
    };
    FIELDS.contains(&path) || subscript("metadata.labels['") || subscript("metadata.annotations['")
}

fn mounts(container: &Container, path: &str, volumes: &BTreeSet<String>, out: &mut Findings) {
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    for (index, mount) in mounts.iter().enumerate() {
        let at = |field: &str| format!("{path}.volumeMounts[{index}].{field}");
        if !volumes.contains(&mount.name) {
            out.add(at("name"), format!("there is no volume {:?} in this pod", mount.name));
        }
        if mount.mount_path.is_empty() || mount.mount_path.contains([':', '\0']) {
            out.add(at("mountPath"), format!("{:?} is not a path (no ':')", mount.mount_path));
        }
        for (field, sub_path) in
            [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)]
        {
            if let Some(sub_path) = sub_path {
                out.check(at(field), inner_path(sub_path));
            }
        }
        if mount.sub_path.as_deref().is_some_and(|path| !path.is_empty())
            && mount.sub_path_expr.as_deref().is_some_and(|path| !path.is_empty())
        {
            out.add(at("subPathExpr"), "excludes subPath");
        }
        out.one_of(
            at("mountPropagation"),
            mount.mount_propagation.as_deref(),
            &["None", "HostToContainer", "Bidirectional"],
        );
        let recursive = mount.recursive_read_only.as_deref();
        out.one_of(at("recursiveReadOnly"), recursive, &["Disabled", "IfPossible", "Enabled"]);
        if matches!(recursive, Some("IfPossible" | "Enabled")) && mount.read_only != Some(true) {
            out.add(at("recursiveReadOnly"), "needs readOnly: true");
        }
    }
    out.unique(mounts.iter().enumerate().map(|(index, mount)| {
        (format!("{path}.volumeMounts[{index}].mountPath"), mount.mount_path.as_str())
    }));
}

fn ports(container: &Container, path: &str, host_network: bool, out: &mut Findings) {
    let ports = container.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("{path}.ports[{index}].{field}");
        out.range(at("containerPort"), port.container_port.into(), 1, 65_535);
        out.one_of(at("protocol"), port.protocol.as_deref(), &["TCP", "UDP", "SCTP"]);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.check(at("name"), port_name(name));
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            out.range(at("hostPort"), host_port.into(), 1, 65_535);
            if host_network && host_port != port.container_port {
                out.add(at("hostPort"), "must be the containerPort when hostNetwork is set");
            }
        }
        if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty())
            && ip.parse::<std::net::IpAddr>().is_err()
        {
            out.add(at("hostIP"), format!("{ip:?} is not an IP address"));
        }
    }
    out.unique(ports.iter().enumerate().map(|(index, port)| {
        (format!("{path}.ports[{index}].name"), port.name.as_deref().unwrap_or_default())
    }));
}

fn resources(resources: &ResourceRequirements, path: &str, out: &mut Findings) {
    let mut read = |field: &str, name: &str, text| match Quantity::from_api(text) {
        Ok(quantity) if quantity.milli < 0 => {
            out.add(format!("{path}.{field}[{name}]"), "must not be negative");
            None
        }
        Ok(quantity) => Some(quantity),
        Err(error) => {
            out.add(format!("{path}.{field}[{name}]"), error);
            None
        }
    };
    let mut above = Vec::new();
    for (name, text) in resources.limits.iter().flatten() {
        let limit = read("limits", name, text);
        let request = resources.requests.as_ref().and_then(|requests| requests.get(name));
        let request = request.and_then(|request| Quantity::from_api(request).ok());
        if let (Some(limit), Some(request)) = (limit, request)
            && request > limit
        {
            above.push((name.clone(), request, limit));
        }
    }
    for (name, text) in resources.requests.iter().flatten() {
        read("requests", name, text);
    }
    for (name, request, limit) in above {
        out.add(
            format!("{path}.requests[{name}]"),
            format!("{request} is more than the limit {limit}"),
        );
    }
    if resources.claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        out.add(format!("{path}.claims"), "needs an API server; standalone has none");
    }
}

fn security_context(context: &SecurityContext, path: &str, out: &mut Findings) {
    id(format!("{path}.runAsUser"), context.run_as_user, out);
    id(format!("{path}.runAsGroup"), context.run_as_group, out);
    out.one_of(
        format!("{path}.procMount"),
        context.proc_mount.as_deref(),
        &["Default", "Unmasked"],
    );
    let escalates = context.allow_privilege_escalation == Some(false);
    if escalates && context.privileged == Some(true) {
        out.add(
            format!("{path}.allowPrivilegeEscalation"),
            "cannot be false for a privileged container",
        );
    }
    let adds =
        context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
    if escalates
        && adds.into_iter().any(|name| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN"))
    {
        out.add(
            format!("{path}.allowPrivilegeEscalation"),
            "cannot be false with capability SYS_ADMIN",
        );
    }
    if let Some(seccomp) = &context.seccomp_profile {
        profile(
            &format!("{path}.seccompProfile"),
            &seccomp.type_,
            seccomp.localhost_profile.as_deref(),
            out,
        );
    }
    if let Some(app_armor) = &context.app_armor_profile {
        profile(
            &format!("{path}.appArmorProfile"),
            &app_armor.type_,
            app_armor.localhost_profile.as_deref(),
            out,
        );
    }
}

pub(super) fn profile(path: &str, kind: &str, localhost: Option<&str>, out: &mut Findings) {
    out.one_of(format!("{path}.type"), Some(kind), &["RuntimeDefault", "Unconfined", "Localhost"]);
    match (kind, localhost) {
        ("Localhost", None | Some("")) => {
            out.add(format!("{path}.localhostProfile"), "is needed with type Localhost")
        }
        ("Localhost", Some(profile)) => {
            out.check(format!("{path}.localhostProfile"), inner_path(profile))
        }
        (_, Some(_)) => out.add(format!("{path}.localhostProfile"), "is only for type Localhost"),
        (_, None) => {}
    }
}

fn probe(probe: &Probe, path: &str, name: &str, container: &Container, out: &mut Findings) {
    for (field, value, low) in [
        ("initialDelaySeconds", probe.initial_delay_seconds, 0),
        ("timeoutSeconds", probe.timeout_seconds, 1),
        ("periodSeconds", probe.period_seconds, 1),
        ("successThreshold", probe.success_threshold, 1),
        ("failureThreshold", probe.failure_threshold, 1),
    ] {
        if let Some(value) = value {
            out.range(format!("{path}.{field}"), value.into(), low, i32::MAX.into());
        }
    }
    if name != "readinessProbe" && probe.success_threshold.is_some_and(|threshold| threshold > 1) {
        out.add(format!("{path}.successThreshold"), "must be 1 for liveness and startup probes");
    }
    match probe.termination_grace_period_seconds {
        Some(_) if name == "readinessProbe" => {
            out.add(format!("{path}.terminationGracePeriodSeconds"), "is not for readiness probes");
        }
        Some(seconds) => {
            out.range(format!("{path}.terminationGracePeriodSeconds"), seconds, 1, i32::MAX.into())
        }
        None => {}
    }
    let handlers = [
        probe.exec.is_some(),
        probe.http_get.is_some(),
        probe.tcp_socket.is_some(),
        probe.grpc.is_some(),
    ];
    if handlers.iter().filter(|present| **present).count() != 1 {
        out.add(path, "must have exactly one of exec, httpGet, tcpSocket and grpc");
    }
    if let Some(exec) = &probe.exec {
        command(path, exec.command.as_deref(), out);
    }
    if let Some(http) = &probe.http_get {
        http_get(http, path, container, out);
    }
    if let Some(tcp) = &probe.tcp_socket {
        port(&format!("{path}.tcpSocket.port"), &tcp.port, container, out);
    }
    if let Some(grpc) = &probe.grpc {
        out.range(format!("{path}.grpc.port"), grpc.port.into(), 1, 65_535);
    }
}

fn handler(handler: &LifecycleHandler, path: &str, container: &Container, out: &mut Findings) {
    let handlers = [
        handler.exec.is_some(),
        handler.http_get.is_some(),
        handler.tcp_socket.is_some(),
        handler.sleep.is_some(),
    ];
    if handlers.iter().filter(|present| **present).count() != 1 {
        out.add(path, "must have exactly one of exec, httpGet and sleep");
    }
    if let Some(exec) = &handler.exec {
        command(path, exec.command.as_deref(), out);
    }
    if let Some(http) = &handler.http_get {
        http_get(http, path, container, out);
    }
    if let Some(sleep) = &handler.sleep {
        out.range(format!("{path}.sleep.seconds"), sleep.seconds, 0, i32::MAX.into());
    }
}

fn command(path: &str, command: Option<&[String]>, out: &mut Findings) {
    if command.is_none_or(<[String]>::is_empty) {
        out.add(format!("{path}.exec.command"), "must not be empty");
    }
}

fn http_get(http: &HTTPGetAction, path: &str, container: &Container, out: &mut Findings) {
    port(&format!("{path}.httpGet.port"), &http.port, container, out);
    out.one_of(format!("{path}.httpGet.scheme"), http.scheme.as_deref(), &["HTTP", "HTTPS"]);
    for (index, header) in http.http_headers.iter().flatten().enumerate() {
        let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if header.name.is_empty() || !header.name.chars().all(token) {
            out.add(
                format!("{path}.httpGet.httpHeaders[{index}].name"),
                format!("{:?} is not a header name", header.name),
            );
        }
        if header.value.contains(['\r', '\n', '\0']) {
            out.add(format!("{path}.httpGet.httpHeaders[{index}].value"), "must be one line");
        }
    }
}

/// A number, or the name of a port of this container.
fn port(path: &str, port: &IntOrString, container: &Container, out: &mut Findings) {
    match port {
        IntOrString::Int(number) => out.range(path, (*number).into(), 1, 65_535),
        IntOrString::String(name) => {
            out.check(path, port_name(name));
            let known =
                container.ports.iter().flatten().any(|port| port.name.as_deref() == Some(name));
            if !known {
                out.add(path, format!("this container has no port named {name:?}"));
            }
        }
    }
}
