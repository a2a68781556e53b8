//! Whether a pod fits on this node beside the others, once, when it is first seen (A74).
//!
//! A scheduler has asked the same, but not of pods that come with `spec.nodeName` set, and not of two
//! schedulers together. Deliberately absent: affinity and taints, which nobody but a scheduler looks
//! at here, and making room for critical pods by ending others (A76): these are let in.

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};

use super::mirror::is_static;
use super::{Input, qos};
use crate::model::{ObjectKey, PodUid, Quantity, World, labels};

/// Priority of `system-cluster-critical` and above.
const CRITICAL: i32 = 2_000_000_000;
/// In the kubelet's order, with the reasons of pods that were too many for them.
const RESOURCES: [(&str, &str); 3] = [
    ("cpu", "OutOfcpu"),
    ("memory", "OutOfmemory"),
    ("ephemeral-storage", "OutOfephemeral-storage"),
];

/// `status.reason` and what is wrong.
pub fn reject(input: &Input<'_>) -> Option<(&'static str, String)> {
    let spec = input.pod.spec.as_ref()?;
    let others = others(input);
    if !is_critical(input.pod) {
        let node = input.world.nodes.get(&ObjectKey::new("", input.node.name.as_str()))?;
        let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
        let amount = |name: &str| allocatable.get(name).and_then(|q| Quantity::from_api(q).ok());
        if let Some(pods) = amount("pods").map(Quantity::units)
            && i64::try_from(others.len()).is_ok_and(|used| used + 1 > pods)
        {
            return Some(("OutOfpods", too_much("pods", 1, others.len() as i64, pods)));
        }
        for (name, reason) in RESOURCES {
            let Some(capacity) = amount(name) else { continue };
            let requested = needs(spec, name);
            let used = others.iter().map(|other| needs(other, name)).sum::<i128>();
            if requested > 0 && used.saturating_add(requested) > capacity.milli {
                let of = |milli: i128| match name {
                    "cpu" => Quantity::from_milli(milli).milli_units(),
                    _ => Quantity::from_milli(milli).units(),
                };
                return Some((reason, too_much(name, of(requested), of(used), of(capacity.milli))));
            }
        }
        let labels = labels::of(&node.metadata);
        let selector = spec.node_selector.iter().flatten();
        if selector.into_iter().any(|(key, value)| labels.get(key) != Some(value)) {
            let text =
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
            return Some(("NodeAffinity", text.to_owned()));
        }
    }
    let taken: Vec<HostPort> = others.iter().flat_map(|other| host_ports(other)).collect();
    let conflict = host_ports(spec).any(|port| taken.iter().any(|other| port.conflicts(other)));
    conflict.then(|| {
        let text = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        ("NodePorts", text.to_owned())
    })
}

fn too_much(name: &str, requested: i64, used: i64, capacity: i64) -> String {
    format!(
        "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
    )
}

fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    is_static(pod) || priority.is_some_and(|priority| priority >= CRITICAL)
}

/// Pods of this node that have their place before this one: those that were let in, and of those that
/// nobody has looked at yet the older ones, so that two at once do not send each other away.
fn others<'a>(input: &Input<'a>) -> Vec<&'a PodSpec> {
    let rank = |pod: &'a Pod| {
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, pod.metadata.uid.as_deref())
    };
    let mine = rank(input.pod);
    let all = input.world.pods.iter().filter(|(key, _)| *key != input.key);
    all.filter_map(|(_, pod)| {
        let spec = pod.spec.as_ref()?;
        let here = spec.node_name.as_deref() == Some(input.node.name.as_str());
        let statuses = statuses(input.world, pod);
        let is_over = statuses
            .iter()
            .any(|status| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")));
        let is_in = statuses.iter().any(|status| status.start_time.is_some());
        (here && !is_over && (is_in || rank(pod) < mine)).then_some(spec)
    })
    .collect()
}

/// What this node and what the API server say of it.
fn statuses<'a>(world: &'a World, pod: &'a Pod) -> Vec<&'a PodStatus> {
    let local = pod.metadata.uid.as_deref().and_then(|uid| world.local.get(&PodUid::new(uid)));
    local.map(|local| &local.status).into_iter().chain(&pod.status).collect()
}

/// Thousandths of the sum of requests, and the overhead of its runtime.
fn needs(spec: &PodSpec, resource: &str) -> i128 {
    let overhead = spec.overhead.as_ref().and_then(|list| list.get(resource));
    let overhead = overhead.and_then(|quantity| Quantity::from_api(quantity).ok());
    qos::pod_request(spec, resource).milli.saturating_add(overhead.map_or(0, |q| q.milli))
}

struct HostPort<'a> {
    ip: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        (self.protocol, self.port) == (other.protocol, other.port)
            && (any(self.ip) || any(other.ip) || self.ip == other.ip)
    }
}

/// Of containers that run as long as the pod does.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort<'_>> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| qos::is_sidecar(c));
    sidecars
        .chain(&spec.containers)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                ip: port.host_ip.as_deref().unwrap_or(""),
                protocol: port.protocol.as_deref().unwrap_or("TCP"),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::pod::testing::{Case, pod_with};

    const NODE: &str = "nodeName: node-a, ";

    /// A node of 2 cores, 4 GiB and 3 pods, with a pod of these requests on it already.
    fn case(spec: &str) -> Case {
        let mut case = Case::spec(&spec.replacen('{', &format!("{{{NODE}"), 1));
        let node = json!({
            "metadata": {"name": "node-a", "labels": {"disk": "ssd"}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
        });
        case.world
            .nodes
            .insert(ObjectKey::new("", "node-a"), Arc::new(serde_json::from_value(node).unwrap()));
        put(&mut case, "old", "2026-01-01T00:00:00Z", "{cpu: 1500m, memory: 1Gi}");
        case
    }

    fn put(case: &mut Case, name: &str, created: &str, requests: &str) {
        let spec = format!(
            "{{{NODE}containers: [{{name: a, image: x, resources: {{requests: {requests}}}, ports: [{{containerPort: 80, hostPort: 8080}}]}}]}}"
        );
        let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "creationTimestamp": created});
        case.world
            .pods
            .insert(ObjectKey::new("default", name), Arc::new(pod_with(&spec, metadata)));
    }

    fn told(case: &Case, name: &str, status: serde_json::Value) -> Case {
        let mut case = case.clone();
        let key = ObjectKey::new("default", name);
        let mut pod = Pod::clone(&case.world.pods[&key]);
        pod.status = Some(serde_json::from_value(status).unwrap());
        case.world.pods.insert(key, Arc::new(pod));
        case
    }

    fn check(case: &Case, expect: &str) {
        let got = reject(&case.input());
        let text = got.map(|(reason, message)| format!("{reason}: {message}")).unwrap_or_default();
        assert!(text.starts_with(expect), "{text:?}, wanted {expect:?}");
        assert_eq!(text.is_empty(), expect.is_empty(), "{text}");
    }

    fn asks(requests: &str) -> String {
        format!("{{containers: [{{name: a, image: x, resources: {{requests: {requests}}}}}]}}")
    }

    #[test]
    fn a74_requests_must_fit_beside_the_other_pods() {
        let created = |mut case: Case| {
            let time = serde_json::from_value(json!("2026-01-02T00:00:00Z")).unwrap();
            case.pod.metadata.creation_timestamp = Some(time);
            case
        };
        check(&created(case(&asks("{cpu: 500m}"))), "");
        let full = created(case(&asks("{cpu: 501m}")));
        check(
            &full,
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000",
        );
        check(&created(case(&asks("{memory: 3Gi}"))), "");
        check(&created(case(&asks("{memory: 3073Mi}"))), "OutOfmemory: ");
        // Nothing is known of a node that is not registered, and nothing is refused then.
        let mut unknown = full.clone();
        unknown.world.nodes.clear();
        check(&unknown, "");
        // The other is over, or on another node.
        check(&told(&full, "old", json!({"phase": "Failed"})), "");
        let mut elsewhere = full.clone();
        elsewhere.node.name = "node-b".into();
        check(&elsewhere, "");
        // What a cluster cannot do without is let in.
        let mut critical = full.clone();
        critical.pod.spec.as_mut().unwrap().priority = Some(CRITICAL);
        check(&critical, "");
    }

    #[test]
    fn a74_of_two_pods_at_once_the_older_has_the_place() {
        let mut young = case(&asks("{cpu: 1}"));
        let time = serde_json::from_value(json!("2025-12-31T00:00:00Z")).unwrap();
        young.pod.metadata.creation_timestamp = Some(time);
        check(&young, "");
        // Unless the other is in already.
        check(&told(&young, "old", json!({"startTime": "2026-01-01T00:00:01Z"})), "OutOfcpu: ");
    }

    #[test]
    fn a74_no_more_pods_than_max_pods() {
        let mut case = case("{containers: [{name: a, image: x}]}");
        let time = serde_json::from_value(json!("2026-01-03T00:00:00Z")).unwrap();
        case.pod.metadata.creation_timestamp = Some(time);
        put(&mut case, "second", "2026-01-01T00:00:00Z", "{}");
        check(&case, "");
        put(&mut case, "third", "2026-01-02T00:00:00Z", "{}");
        check(&case, "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 3");
    }

    #[test]
    fn a74_ports_of_the_host_and_labels_of_the_node() {
        let time = serde_json::from_value(json!("2026-01-03T00:00:00Z")).unwrap();
        let with = |spec: &str| {
            let mut case = case(spec);
            case.pod.metadata.creation_timestamp = Some(Clone::clone(&time));
            case
        };
        let port = |more: &str| {
            with(&format!(
                "{{containers: [{{name: a, image: x, ports: [{{containerPort: 1, {more}}}]}}]}}"
            ))
        };
        check(&port("hostPort: 8080"), "NodePorts: ");
        check(&port("hostPort: 8080, hostIP: 192.0.2.1"), "NodePorts: ");
        check(&port("hostPort: 8080, protocol: UDP"), "");
        check(&port("hostPort: 8081"), "");
        check(&with("{nodeSelector: {disk: ssd}, containers: [{name: a, image: x}]}"), "");
        check(
            &with("{nodeSelector: {disk: hdd}, containers: [{name: a, image: x}]}"),
            "NodeAffinity: Predicate NodeAffinity failed",
        );
    }
}
