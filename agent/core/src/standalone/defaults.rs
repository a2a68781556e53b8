//! What the API server fills in before anyone sees an object (A50, A90, B24, C3).
//!
//! Only defaulting is here; what admission plugins add (tolerations, priorities, ServiceAccounts)
//! needs a cluster and is deliberately absent.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    ClientIPConfig, Container, EmptyDirVolumeSource, EnvVar, Lifecycle, Pod, PodSecurityContext,
    PodSpec, Probe, ResourceFieldSelector, Secret, Service, SessionAffinityConfig, Volume,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Fills `slot` when it is empty.
fn set<T>(slot: &mut Option<T>, value: impl Into<T>) {
    if slot.is_none() {
        *slot = Some(value.into());
    }
}

/// Text fields count as absent when they are empty.
fn set_text(slot: &mut Option<String>, value: &str) {
    if slot.as_deref().unwrap_or_default().is_empty() {
        *slot = Some(value.to_owned());
    }
}

/// Defaults of a pod: those of its spec, and requests from limits, service links and the host ports
/// of the host's network, which a pod template does not get.
pub fn default_pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    default_pod_spec(spec);
    set(&mut spec.enable_service_links, true);
    let host_network = spec.host_network.unwrap_or_default();
    let init = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(init) {
        for port in container.ports.iter_mut().flatten().filter(|_| host_network) {
            if port.host_port.unwrap_or_default() == 0 {
                port.host_port = Some(port.container_port);
            }
        }
        let Some(resources) = &mut container.resources else { continue };
        if let Some(limits) = &resources.limits {
            let requests = resources.requests.get_or_insert_with(BTreeMap::new);
            for (name, limit) in limits {
                requests.entry(name.clone()).or_insert_with(|| limit.clone());
            }
        }
    }
}

/// Defaults of a pod spec, also inside a template.
pub fn default_pod_spec(spec: &mut PodSpec) {
    set_text(&mut spec.dns_policy, "ClusterFirst");
    set_text(&mut spec.restart_policy, "Always");
    set_text(&mut spec.scheduler_name, "default-scheduler");
    set(&mut spec.security_context, PodSecurityContext::default());
    set(&mut spec.termination_grace_period_seconds, 30);
    // The API keeps `serviceAccount` as the old name of the same field.
    if spec.service_account_name.is_none() {
        spec.service_account_name.clone_from(&spec.service_account);
    }
    let init = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(init) {
        default_container(container);
    }
    for volume in spec.volumes.iter_mut().flatten() {
        default_volume(volume);
    }
}

fn default_container(container: &mut Container) {
    let policy = pull_policy_of(container.image.as_deref().unwrap_or_default());
    set_text(&mut container.image_pull_policy, policy);
    set_text(&mut container.termination_message_path, "/dev/termination-log");
    set_text(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    for port in container.ports.iter_mut().flatten() {
        set_text(&mut port.protocol, "TCP");
    }
    for env in container.env.iter_mut().flatten() {
        default_env(env);
    }
    for probe in [
        &mut container.liveness_probe,
        &mut container.readiness_probe,
        &mut container.startup_probe,
    ]
    .into_iter()
    .flatten()
    {
        default_probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        default_lifecycle(lifecycle);
    }
}

fn default_env(env: &mut EnvVar) {
    if let Some(field) = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
        set_text(&mut field.api_version, "v1");
    }
    if let Some(resource) = env.value_from.as_mut().and_then(|f| f.resource_field_ref.as_mut()) {
        default_divisor(resource);
    }
}

/// Zero: the unit of the resource.
fn default_divisor(resource: &mut ResourceFieldSelector) {
    resource.divisor.get_or_insert_with(|| Quantity("0".into()));
}

/// `Always` for `:latest` and for no tag at all, else `IfNotPresent` (A50). A digest is a tag enough.
pub fn pull_policy_of(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

fn default_probe(probe: &mut Probe) {
    // Zero is "not given" in the API's own types.
    for (slot, value) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if slot.unwrap_or_default() == 0 {
            *slot = Some(value);
        }
    }
    if let Some(http) = &mut probe.http_get {
        set_text(&mut http.path, "/");
        set_text(&mut http.scheme, "HTTP");
    }
    if let Some(grpc) = &mut probe.grpc {
        set(&mut grpc.service, "");
    }
}

fn default_lifecycle(lifecycle: &mut Lifecycle) {
    for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        if let Some(http) = &mut handler.http_get {
            set_text(&mut http.path, "/");
            set_text(&mut http.scheme, "HTTP");
        }
    }
}

fn default_volume(volume: &mut Volume) {
    const MODE: i32 = 0o644;
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(secret) = &mut volume.secret {
        set(&mut secret.default_mode, MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        set(&mut config_map.default_mode, MODE);
    }
    if let Some(host_path) = &mut volume.host_path {
        set(&mut host_path.type_, "");
    }
    let mut files = Vec::new();
    if let Some(downward) = &mut volume.downward_api {
        set(&mut downward.default_mode, MODE);
        files.extend(downward.items.iter_mut().flatten());
    }
    if let Some(projected) = &mut volume.projected {
        set(&mut projected.default_mode, MODE);
        for source in projected.sources.iter_mut().flatten() {
            let downward = source.downward_api.iter_mut();
            files.extend(downward.flat_map(|downward| downward.items.iter_mut().flatten()));
        }
    }
    for file in files {
        if let Some(field) = &mut file.field_ref {
            set_text(&mut field.api_version, "v1");
        }
        if let Some(resource) = &mut file.resource_field_ref {
            default_divisor(resource);
        }
    }
}

/// True when only the name is set: the one place where an empty source means something (emptyDir).
fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

/// Defaults of a Deployment and of its template.
pub fn default_deployment(deployment: &mut Deployment) {
    let spec = &mut deployment.spec;
    set(&mut spec.replicas, 1);
    set(&mut spec.revision_history_limit, 10);
    set(&mut spec.progress_deadline_seconds, 600);
    let strategy = spec.strategy.get_or_insert_with(DeploymentStrategy::default);
    set_text(&mut strategy.type_, "RollingUpdate");
    if strategy.type_.as_deref() == Some("RollingUpdate") {
        let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDeployment::default);
        set(&mut rolling.max_surge, IntOrString::String("25%".to_owned()));
        set(&mut rolling.max_unavailable, IntOrString::String("25%".to_owned()));
    }
    if let Some(template) = &mut spec.template.spec {
        default_pod_spec(template);
    }
}

/// Defaults of a Service but its address and families: those are given by the allocator.
pub fn default_service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    set_text(&mut spec.type_, "ClusterIP");
    set_text(&mut spec.session_affinity, "None");
    if spec.session_affinity.as_deref() == Some("None") {
        spec.session_affinity_config = None;
    } else if spec.session_affinity.as_deref() == Some("ClientIP") {
        let config =
            spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
        let client_ip = config.client_ip.get_or_insert_with(ClientIPConfig::default);
        set(&mut client_ip.timeout_seconds, 10_800);
    }
    let kind = spec.type_.clone().unwrap_or_default();
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_text(&mut spec.external_traffic_policy, "Cluster");
    }
    if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_text(&mut spec.internal_traffic_policy, "Cluster");
    }
    if kind == "LoadBalancer" {
        set(&mut spec.allocate_load_balancer_node_ports, true);
    }
    for port in spec.ports.iter_mut().flatten() {
        set_text(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
}

/// Protocols of ports; `policyTypes` is Ingress, and Egress when there is an egress rule (C3).
pub fn default_network_policy(policy: &mut NetworkPolicy) {
    let Some(spec) = &mut policy.spec else { return };
    let ingress = spec.ingress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
    let egress = spec.egress.iter_mut().flatten().filter_map(|rule| rule.ports.as_mut());
    ingress.chain(egress).flatten().for_each(default_policy_port);
    if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
        let mut types = vec!["Ingress".to_owned()];
        if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
            types.push("Egress".to_owned());
        }
        spec.policy_types = Some(types);
    }
}

fn default_policy_port(port: &mut NetworkPolicyPort) {
    set_text(&mut port.protocol, "TCP");
}

/// `stringData` wins over `data` and disappears; the type is Opaque.
pub fn default_secret(secret: &mut Secret) {
    set_text(&mut secret.type_, "Opaque");
    if let Some(texts) = secret.string_data.take() {
        let data = secret.data.get_or_insert_with(BTreeMap::new);
        for (key, text) in texts {
            data.insert(key, k8s_openapi::ByteString(text.into_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check<T>(given: Value, defaults: impl Fn(&mut T), expect: Value)
    where
        T: serde::de::DeserializeOwned + serde::Serialize,
    {
        let mut object: T = serde_json::from_value(given).unwrap();
        defaults(&mut object);
        let first = serde_json::to_value(&object).unwrap();
        for (path, want) in expect.as_object().unwrap() {
            assert_eq!(first.pointer(path).unwrap_or(&Value::Null), want, "{path} of {first}");
        }
        defaults(&mut object);
        assert_eq!(serde_json::to_value(&object).unwrap(), first, "defaulting is idempotent");
    }

    #[test]
    fn a50_pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("localhost:5000/nginx", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/a/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy_of(image), policy, "{image}");
        }
    }

    #[test]
    fn a90_pod_defaults_are_the_api_servers() {
        check::<Pod>(
            json!({"spec": {"hostNetwork": true, "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}],
                "containers": [{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
                "resources": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m"}},
                "readinessProbe": {"httpGet": {"port": 80}}}]}}),
            default_pod,
            json!({"/spec/restartPolicy": "Always", "/spec/dnsPolicy": "ClusterFirst",
                "/spec/terminationGracePeriodSeconds": 30, "/spec/securityContext": {},
                "/spec/schedulerName": "default-scheduler", "/spec/enableServiceLinks": true,
                "/spec/volumes/0/emptyDir": {}, "/spec/volumes/1/configMap/defaultMode": 420,
                "/spec/containers/0/imagePullPolicy": "IfNotPresent",
                "/spec/containers/0/ports/0/protocol": "TCP", "/spec/containers/0/ports/0/hostPort": 80,
                "/spec/containers/0/env/0/valueFrom/fieldRef/apiVersion": "v1",
                "/spec/containers/0/env/1/valueFrom/resourceFieldRef/divisor": "0",
                "/spec/containers/0/resources/requests": {"cpu": "500m", "memory": "64Mi"},
                "/spec/containers/0/terminationMessagePath": "/dev/termination-log",
                "/spec/containers/0/terminationMessagePolicy": "File",
                "/spec/containers/0/readinessProbe": {"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}}),
        );
    }

    #[test]
    fn b24_service_defaults_are_the_api_servers() {
        check::<Service>(
            json!({"spec": {"ports": [{"port": 80}, {"port": 53, "targetPort": "dns", "protocol": "UDP", "name": "d"}]}}),
            default_service,
            json!({"/spec/type": "ClusterIP", "/spec/sessionAffinity": "None",
                "/spec/internalTrafficPolicy": "Cluster", "/spec/externalTrafficPolicy": null,
                "/spec/ports/0/targetPort": 80, "/spec/ports/0/protocol": "TCP",
                "/spec/ports/1/targetPort": "dns"}),
        );
        check::<Service>(
            json!({"spec": {"sessionAffinity": "ClientIP"}}),
            default_service,
            json!({"/spec/sessionAffinityConfig/clientIP/timeoutSeconds": 10800}),
        );
    }

    #[test]
    fn c3_policy_types_follow_the_rules_given() {
        let policy = |spec: Value| json!({"spec": spec});
        for (spec, types) in [
            (json!({"podSelector": {}}), json!(["Ingress"])),
            (json!({"podSelector": {}, "egress": []}), json!(["Ingress"])),
            (json!({"podSelector": {}, "egress": [{}]}), json!(["Ingress", "Egress"])),
            (json!({"podSelector": {}, "policyTypes": ["Egress"]}), json!(["Egress"])),
        ] {
            check::<NetworkPolicy>(
                policy(spec),
                default_network_policy,
                json!({"/spec/policyTypes": types}),
            );
        }
        check::<NetworkPolicy>(
            policy(json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80}]}]})),
            default_network_policy,
            json!({"/spec/ingress/0/ports/0/protocol": "TCP"}),
        );
    }

    #[test]
    fn a90_deployment_defaults_leave_requests_to_the_pod() {
        check::<Deployment>(
            json!({"spec": {"selector": {}, "template": {"spec": {"hostNetwork": true, "containers": [
                {"name": "a", "image": "x", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"cpu": "1"}}}]}}}}),
            default_deployment,
            json!({"/spec/replicas": 1, "/spec/revisionHistoryLimit": 10, "/spec/progressDeadlineSeconds": 600,
                "/spec/strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                "/spec/template/spec/containers/0/resources/requests": null,
                "/spec/template/spec/containers/0/ports/0/hostPort": null,
                "/spec/template/spec/containers/0/imagePullPolicy": "Always",
                "/spec/template/spec/enableServiceLinks": null}),
        );
    }

    #[test]
    fn a103_string_data_wins_over_data() {
        check::<Secret>(
            json!({"data": {"a": "b2xk"}, "stringData": {"a": "new"}}),
            default_secret,
            json!({"/data/a": "bmV3", "/stringData": null, "/type": "Opaque"}),
        );
    }
}
