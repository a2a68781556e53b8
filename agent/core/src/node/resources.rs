//! Capacity and allocatable (A6, A7).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::config::NodeConfig;
use crate::model::{MachineFacts, Quantity};

pub(super) type Resources = BTreeMap<String, ApiQuantity>;

/// What a status without one of these is not ready for (A11).
pub(super) const REQUIRED: [&str; 4] = ["cpu", "memory", "pods", "ephemeral-storage"];

/// Capacity (A6). What could not be measured is missing. Resources of `previous` that others
/// advertise (extended resources) stay.
pub fn capacity(machine: &MachineFacts, config: &NodeConfig, previous: &Resources) -> Resources {
    let mut capacity: Resources =
        previous.iter().filter(|(name, _)| is_extended(name)).map(owned).collect();
    if let Some(cpus) = machine.cpus {
        capacity.insert("cpu".into(), count(cpus));
    }
    if let Some(bytes) = machine.memory_bytes {
        capacity.insert("memory".into(), binary(bytes));
    }
    if let Some(nodefs) = machine.nodefs {
        capacity.insert("ephemeral-storage".into(), binary(nodefs.capacity_bytes));
    }
    capacity.insert("pods".into(), count(pods(machine.cpus, config)));
    for (size, pages) in &machine.huge_pages {
        let name = format!("hugepages-{}", binary(*size).0);
        capacity.insert(name, binary(size.saturating_mul(*pages)));
    }
    capacity
}

fn owned((name, quantity): (&String, &ApiQuantity)) -> (String, ApiQuantity) {
    (name.clone(), quantity.clone())
}

fn pods(cpus: Option<i64>, config: &NodeConfig) -> i64 {
    match (config.pods_per_core, cpus) {
        (1.., Some(cpus)) => cpus.saturating_mul(config.pods_per_core).min(config.max_pods),
        _ => config.max_pods,
    }
}

/// Capacity minus what is reserved, never below zero (A7): `systemReserved`, `kubeReserved`, the
/// hard thresholds of memory and nodefs, and memory that is in huge pages.
pub fn allocatable(capacity: &Resources, config: &NodeConfig) -> Resources {
    let mut allocatable = Resources::new();
    for (name, quantity) in capacity {
        let Ok(whole) = Quantity::from_api(quantity) else {
            allocatable.insert(name.clone(), quantity.clone());
            continue;
        };
        let mut left = whole.milli - config.reserved(name).milli;
        left -= i128::from(config.kept_free(name, whole)) * 1000;
        if name == "memory" {
            left -= capacity
                .iter()
                .filter(|(name, _)| name.starts_with("hugepages-"))
                .filter_map(|(_, pages)| Quantity::from_api(pages).ok())
                .map(|pages| pages.milli)
                .sum::<i128>();
        }
        let left = Quantity::from_milli(left.max(0));
        let text = match name.as_str() {
            "memory" => binary(left.units()),
            _ => ApiQuantity(left.to_string()),
        };
        let text = if left == whole { quantity.clone() } else { text };
        allocatable.insert(name.clone(), text);
    }
    allocatable
}

/// Names with a domain that is not Kubernetes' own.
pub(super) fn is_extended(name: &str) -> bool {
    let Some((domain, _)) = name.split_once('/') else { return false };
    !domain.ends_with("kubernetes.io")
}

/// As Kubernetes writes bytes: the largest power of 1024 that divides them.
pub(super) fn binary(bytes: i64) -> ApiQuantity {
    let mut value = bytes;
    let mut suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].into_iter();
    let mut suffix = suffixes.next().unwrap_or_default();
    while value != 0 && value % 1024 == 0 {
        let Some(next) = suffixes.next() else { break };
        (value, suffix) = (value / 1024, next);
    }
    ApiQuantity(format!("{value}{suffix}"))
}

fn count(units: i64) -> ApiQuantity {
    ApiQuantity(units.to_string())
}
