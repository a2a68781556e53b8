//! Names of Services for the /etc/hosts of pods: what a cluster DNS would have answered.
//!
//! Deliberately absent: aliases (ExternalName), SRV records and names of single pods.

use std::net::IpAddr;

use super::services::address_of;
use crate::model::World;

/// Lines for pods of `namespace`: `web` (own namespace only), `web.ns`, `web.ns.svc`,
/// `web.ns.svc.<domain>`. A headless Service has one line for each ready endpoint. Sorted by
/// namespace and name.
pub fn hosts_entries(world: &World, namespace: &str, domain: &str) -> Vec<(IpAddr, Vec<String>)> {
    let mut entries = Vec::new();
    for (key, service) in &world.services {
        let full = format!("{}.{}", key.name, key.namespace);
        let mut names = vec![full.clone(), format!("{full}.svc"), format!("{full}.svc.{domain}")];
        if &*key.namespace == namespace {
            names.insert(0, key.name.to_string());
        }
        match address_of(service) {
            Some(ip) => entries.push((ip, names)),
            None => {
                let mut ips = headless(world, key);
                ips.sort();
                ips.dedup();
                entries.extend(ips.into_iter().map(|ip| (ip, names.clone())));
            }
        }
    }
    entries
}

fn headless(world: &World, service: &crate::model::ObjectKey) -> Vec<IpAddr> {
    let slices = world.endpoint_slices.iter().filter(|(key, slice)| {
        let labels = crate::model::labels::of(&slice.metadata);
        key.namespace == service.namespace
            && labels.get("kubernetes.io/service-name").is_some_and(|name| **name == *service.name)
    });
    slices
        .flat_map(|(_, slice)| slice.endpoints.iter().flatten())
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
        .flat_map(|endpoint| endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()))
        .collect()
}
