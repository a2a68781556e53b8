//! LinuxContainerResources (A140–A142, A145).
//!
//! Deliberately absent: cpusets and huge pages (no CPU manager; held by `unsupported`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use longshore_proto::cri::LinuxContainerResources;

use crate::pod::action::CgroupPlan;
use crate::pod::{Input, qos};

/// What one container gets.
pub fn of_container(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
) -> LinuxContainerResources {
    let own = container.resources.as_ref();
    let period = input.config.cpu_cfs_quota_period_us;
    let cpu = qos::limit(own, "cpu")
        .filter(|_| input.config.cpu_cfs_quota)
        .map(|limit| qos::cpu_quota_us(limit, period));
    let mut unified = BTreeMap::new();
    if input.node.cgroup_v2 && !input.config.single_process_oom_kill {
        // One process of a container killed is all of them killed (A148).
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    let shares = qos::request(own, "cpu").map_or(2, qos::cpu_shares);
    LinuxContainerResources {
        cpu_period: i64::try_from(period).unwrap_or(100_000),
        cpu_quota: cpu.unwrap_or(0),
        cpu_shares: i64::try_from(shares).unwrap_or(2),
        memory_limit_in_bytes: qos::limit(own, "memory").map_or(0, |limit| limit.units()),
        oom_score_adj: qos::oom_score_adj(spec, container, input.node),
        unified,
        ..LinuxContainerResources::default()
    }
}

/// The pod's sum, for runtimes that size a machine by it.
pub fn of_pod(plan: &CgroupPlan) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: i64::try_from(plan.cpu_period_us).unwrap_or(100_000),
        cpu_quota: plan.cpu_quota_us.unwrap_or(0),
        cpu_shares: i64::try_from(plan.cpu_shares).unwrap_or(2),
        memory_limit_in_bytes: plan.memory_bytes.unwrap_or(0),
        ..LinuxContainerResources::default()
    }
}
