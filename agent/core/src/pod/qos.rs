//! QoS class and the sums of requests and limits of a pod (A140–A145, A158).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::model::{NodeView, Quantity};

/// `status.qosClass` (A144).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

type List = Option<BTreeMap<String, ApiQuantity>>;

/// A positive quantity of `resource`; what cannot be read counts as not set (`unsupported` holds
/// such a pod).
fn amount(list: &List, resource: &str) -> Option<Quantity> {
    list.as_ref()?.get(resource).and_then(|q| Quantity::from_api(q).ok()).filter(|q| q.milli > 0)
}

/// Limit of a container or a pod.
pub fn limit(resources: Option<&ResourceRequirements>, resource: &str) -> Option<Quantity> {
    amount(&resources?.limits, resource)
}

/// Request; a limit without a request is one too (the API server's default).
pub fn request(resources: Option<&ResourceRequirements>, resource: &str) -> Option<Quantity> {
    amount(&resources?.requests, resource).or_else(|| limit(resources, resource))
}

/// Init container that keeps running beside the others (A43).
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// A144: pod-level resources decide when they are there (A158).
pub fn class(spec: &PodSpec) -> Qos {
    let lists: Vec<Option<&ResourceRequirements>> = match &spec.resources {
        Some(resources) => vec![Some(resources)],
        None => spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .map(|container| container.resources.as_ref())
            .collect(),
    };
    let names = ["cpu", "memory"];
    let any = lists
        .iter()
        .any(|list| names.iter().any(|n| request(*list, n).is_some() || limit(*list, n).is_some()));
    if !any {
        return Qos::BestEffort;
    }
    let all = lists.iter().all(|list| {
        names.iter().all(|n| limit(*list, n).is_some() && limit(*list, n) == request(*list, n))
    });
    if all { Qos::Guaranteed } else { Qos::Burstable }
}

/// What the pod needs of `resource` as a whole: containers and sidecars together, or one init
/// container beside the sidecars before it, whichever is more; pod-level values win (A158).
/// `None` when some part has no value and `every` part must have one.
fn total(
    spec: &PodSpec,
    resource: &str,
    every: bool,
    of: fn(Option<&ResourceRequirements>, &str) -> Option<Quantity>,
) -> Option<Quantity> {
    if let Some(amount) = of(spec.resources.as_ref(), resource) {
        return Some(amount);
    }
    let mut sidecars = 0i128;
    let mut peak = 0i128;
    for container in spec.init_containers.iter().flatten() {
        let amount = of(container.resources.as_ref(), resource);
        if every && amount.is_none() {
            return None;
        }
        let milli = amount.map_or(0, |q| q.milli);
        if is_sidecar(container) {
            sidecars = sidecars.saturating_add(milli);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(milli));
        }
    }
    let mut running = sidecars;
    for container in &spec.containers {
        let amount = of(container.resources.as_ref(), resource);
        if every && amount.is_none() {
            return None;
        }
        running = running.saturating_add(amount.map_or(0, |q| q.milli));
    }
    Some(Quantity::from_milli(running.max(peak)))
}

/// Sum of requests.
pub fn pod_request(spec: &PodSpec, resource: &str) -> Quantity {
    total(spec, resource, false, request).unwrap_or_default()
}

/// Limit of the whole pod, if every container has one (A142).
pub fn pod_limit(spec: &PodSpec, resource: &str) -> Option<Quantity> {
    total(spec, resource, true, limit)
}

/// `cpu.shares` of a request (A140).
pub fn cpu_shares(request: Quantity) -> u64 {
    let shares = request.milli.clamp(0, 1 << 40) * 1024 / 1000;
    u64::try_from(shares).unwrap_or(0).clamp(2, 262_144)
}

/// `cpu.cfs_quota_us` of a limit; at least 1 ms (A141).
pub fn cpu_quota_us(limit: Quantity, period_us: u64) -> i64 {
    let quota = limit.milli.clamp(0, 1 << 40) * i128::from(period_us) / 1000;
    i64::try_from(quota).unwrap_or(i64::MAX).max(1000)
}

/// A145. A sidecar is never killed after the app containers of its pod.
pub fn oom_score_adj(spec: &PodSpec, container: &Container, node: &NodeView) -> i64 {
    // system-node-critical and above.
    if spec.priority.is_some_and(|priority| priority >= 2_000_001_000) {
        return -997;
    }
    match class(spec) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let own = burstable_adj(container, node);
            let lowest_app = spec.containers.iter().map(|c| burstable_adj(c, node)).min();
            match (is_sidecar(container), lowest_app) {
                (true, Some(lowest)) => own.min(lowest),
                _ => own,
            }
        }
    }
}

fn burstable_adj(container: &Container, node: &NodeView) -> i64 {
    let requested =
        request(container.resources.as_ref(), "memory").map_or(0, |q| q.units().clamp(0, 1 << 52));
    let adj = 1000 - 1000 * requested / node.memory_bytes.max(1);
    adj.clamp(3, 999)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::{self, node};

    fn spec(text: &str) -> PodSpec {
        testing::pod(text).spec.unwrap()
    }

    #[test]
    fn a144_qos_classes() {
        let check = |text: &str, expect: Qos| assert_eq!(class(&spec(text)), expect, "{text}");
        check("{containers: [{name: a}]}", Qos::BestEffort);
        check(
            "{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}]}",
            Qos::Guaranteed,
        );
        check(
            "{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}, {name: b}]}",
            Qos::Burstable,
        );
        check(
            "{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}}]}",
            Qos::Burstable,
        );
        check("{containers: [{name: a, resources: {requests: {cpu: 0}}}]}", Qos::BestEffort);
        check(
            "{resources: {limits: {cpu: 1, memory: 1Gi}}, containers: [{name: a}]}",
            Qos::Guaranteed,
        );
    }

    #[test]
    fn a140_a141_shares_and_quotas() {
        for (milli, shares) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (10_000_000, 262_144)] {
            assert_eq!(cpu_shares(Quantity::from_milli(milli)), shares, "{milli}");
        }
        assert_eq!(cpu_quota_us(Quantity::from_milli(500), 100_000), 50_000);
        assert_eq!(cpu_quota_us(Quantity::from_milli(1), 100_000), 1000);
        assert_eq!(cpu_shares(Quantity::from_milli(i128::MAX)), 262_144);
    }

    #[test]
    fn a142_a158_pod_sums_count_sidecars_and_the_largest_init_container() {
        let text = "{initContainers: [
              {name: s, restartPolicy: Always, resources: {limits: {memory: 10, cpu: 1}}},
              {name: i, resources: {limits: {memory: 100, cpu: 1}}}],
            containers: [{name: a, resources: {limits: {memory: 50, cpu: 2}}}]}";
        assert_eq!(pod_limit(&spec(text), "memory"), Some(Quantity::from_units(110)));
        assert_eq!(pod_limit(&spec(text), "cpu"), Some(Quantity::from_units(3)));
        let open = "{containers: [{name: a, resources: {limits: {memory: 50}}}, {name: b}]}";
        assert_eq!(pod_limit(&spec(open), "memory"), None);
        assert_eq!(pod_request(&spec(open), "memory"), Quantity::from_units(50));
        let level = "{resources: {limits: {memory: 70}}, containers: [{name: a}]}";
        assert_eq!(pod_limit(&spec(level), "memory"), Some(Quantity::from_units(70)));
    }

    #[test]
    fn a145_oom_score_adj_follows_the_class_and_sidecars_go_last() {
        let node = node();
        let score = |text: &str| {
            let spec = spec(text);
            let container = spec.init_containers.iter().flatten().chain(&spec.containers).next();
            oom_score_adj(&spec, container.unwrap(), &node)
        };
        assert_eq!(score("{containers: [{name: a}]}"), 1000);
        assert_eq!(
            score("{containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}]}"),
            -997
        );
        assert_eq!(
            score("{containers: [{name: a, resources: {requests: {memory: 4Gi}}}]}"),
            500,
            "half of the node's 8 GiB"
        );
        assert_eq!(
            score(
                "{initContainers: [{name: s, restartPolicy: Always}],
                  containers: [{name: a, resources: {requests: {memory: 4Gi}}}]}"
            ),
            500
        );
        assert_eq!(score("{priority: 2000001000, containers: [{name: a}]}"), -997);
    }
}
