//! ClusterIPs: given once, kept for as long as the Service is there, honoured when asked for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;

use super::controller::{Inputs, Notes, stable_uid};
use super::manifest::{Manifest, Object};
use super::state::State;
use crate::model::hash::hash64;
use crate::model::{Kind, ObjectKey, Problem, Severity};

/// What a Service asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Headless, or a name for somewhere else.
    None,
    Any,
    This(IpAddr),
}

pub(super) fn reconcile(inputs: &Inputs, state: &mut State, notes: &mut Notes) {
    let range = inputs.settings.service_cidr;
    let wanted: BTreeMap<ObjectKey, (&Manifest, &Arc<Service>)> = inputs
        .of_kind(Kind::Service)
        .filter_map(|manifest| match &manifest.object {
            Object::Service(service) => Some((manifest.object.key(), (manifest, service))),
            _ => None,
        })
        .collect();
    let old = std::mem::take(&mut state.services);
    let mut given = Addresses::default();
    for (key, service) in &old {
        let stays = wanted.get(key).is_some_and(|(_, service)| wish_of(service) != Wish::None);
        if let Some(ip) = address_of(service).filter(|ip| stays && range.contains(ip)) {
            given.give(key, ip);
        }
    }
    honour(&wanted, range, &mut given);
    for (key, (manifest, service)) in &wanted {
        let address = match wish_of(service) {
            Wish::None => Ok(None),
            Wish::Any => given.any(key, range).map(Some),
            Wish::This(ip) => given.check(key, ip, range).map(|()| Some(ip)),
        };
        match address {
            Ok(address) => {
                warn_of_types(manifest, service, notes);
                state.services.insert(key.clone(), publish(key, service, address));
            }
            Err(message) => {
                if let Some(service) = old.get(key) {
                    state.services.insert(key.clone(), service.clone());
                }
                notes.problems.push(problem(manifest, Severity::Error, "spec.clusterIP", message));
            }
        }
    }
}

/// Gives the addresses that are asked for by name and free, before any is chosen. A Service that
/// moves frees its old address, which may be what another one waits for: until nothing moves.
fn honour(
    wanted: &BTreeMap<ObjectKey, (&Manifest, &Arc<Service>)>,
    range: IpNet,
    given: &mut Addresses,
) {
    for _ in 0..=wanted.len() {
        let mut moved = false;
        for (key, (_, service)) in wanted {
            if let Wish::This(ip) = wish_of(service)
                && usable(ip, range)
                && !given.by_ip.contains_key(&ip)
            {
                given.give(key, ip);
                moved = true;
            }
        }
        if !moved {
            return;
        }
    }
}

fn wish_of(service: &Service) -> Wish {
    let Some(spec) = &service.spec else { return Wish::None };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Wish::None;
    }
    let first = spec.cluster_ips.as_ref().and_then(|ips| ips.first());
    let text = spec.cluster_ip.as_ref().filter(|text| !text.is_empty()).or(first);
    match text.map(String::as_str) {
        Some("None") => Wish::None,
        // Validation has refused everything else that is not an address.
        Some(text) => text.parse().map_or(Wish::Any, Wish::This),
        None => Wish::Any,
    }
}

/// The ClusterIP of a published Service.
pub fn address_of(service: &Service) -> Option<IpAddr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

#[derive(Default)]
struct Addresses {
    by_ip: BTreeMap<IpAddr, ObjectKey>,
    by_key: BTreeMap<ObjectKey, IpAddr>,
}

impl Addresses {
    fn give(&mut self, key: &ObjectKey, ip: IpAddr) {
        if self.by_ip.contains_key(&ip) {
            return;
        }
        if let Some(old) = self.by_key.insert(key.clone(), ip) {
            self.by_ip.remove(&old);
        }
        self.by_ip.insert(ip, key.clone());
    }

    /// The address that the Service has, or the first free one from a place that its name decides.
    fn any(&mut self, key: &ObjectKey, range: IpNet) -> Result<IpAddr, String> {
        if let Some(ip) = self.by_key.get(key) {
            return Ok(*ip);
        }
        let size = size_of(range);
        let start = hash64(&key.to_string()) % size.max(1);
        let free = (0..size).map(|step| nth(range, 1 + (start + step) % size));
        match free.into_iter().find(|ip| !self.by_ip.contains_key(ip)) {
            Some(ip) => {
                self.give(key, ip);
                Ok(ip)
            }
            None => Err(format!(
                "the service range {range} has no free address; start with a larger --service-cidr"
            )),
        }
    }

    fn check(&self, key: &ObjectKey, ip: IpAddr, range: IpNet) -> Result<(), String> {
        if !usable(ip, range) {
            return Err(format!("{ip} is not in the service range {range} (--service-cidr)"));
        }
        match self.by_ip.get(&ip) {
            Some(holder) if holder != key => Err(format!("{ip} belongs to Service {holder}")),
            _ => Ok(()),
        }
    }
}

fn usable(ip: IpAddr, range: IpNet) -> bool {
    range.contains(&ip) && ip != range.network() && (ip != range.broadcast() || ip.is_ipv6())
}

/// Addresses to choose from: without the network and the broadcast address, at most a million.
fn size_of(range: IpNet) -> u64 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(20);
    (1u64 << bits).saturating_sub(2)
}

fn nth(range: IpNet, offset: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base).wrapping_add(offset as u32)).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base).wrapping_add(offset.into())).into(),
    }
}

fn publish(key: &ObjectKey, service: &Service, address: Option<IpAddr>) -> Arc<Service> {
    let mut service = Service::clone(service);
    service.metadata.uid = Some(stable_uid("Service", key));
    let spec = service.spec.get_or_insert_default();
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    if !external_name {
        let text = address.map_or_else(|| "None".to_owned(), |ip| ip.to_string());
        spec.cluster_ips = Some(vec![text.clone()]);
        spec.cluster_ip = Some(text);
        let family = if address.is_some_and(|ip| ip.is_ipv6()) { "IPv6" } else { "IPv4" };
        if address.is_some() || spec.ip_families.is_none() {
            spec.ip_families = Some(vec![family.to_owned()]);
        }
        spec.ip_family_policy = Some("SingleStack".to_owned());
    }
    Arc::new(service)
}

/// What of a Service is not served, said instead of ignored.
fn warn_of_types(manifest: &Manifest, service: &Service, notes: &mut Notes) {
    let Some(spec) = &service.spec else { return };
    let mut warn = |field: &str, message: &str| {
        notes.problems.push(problem(manifest, Severity::Warning, field, message.to_owned()));
    };
    match spec.type_.as_deref() {
        Some("NodePort") => warn("spec.type", "node ports are not served yet; the ClusterIP is"),
        Some("LoadBalancer") => {
            warn("spec.type", "there is no load balancer in standalone; the ClusterIP is served")
        }
        Some("ExternalName") => warn(
            "spec.type",
            "names of pods are in /etc/hosts, which cannot alias: this name is not answered",
        ),
        _ => {}
    }
    if spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
        warn("spec.externalIPs", "external addresses are not served yet; the ClusterIP is");
    }
}

fn problem(
    manifest: &Manifest,
    severity: Severity,
    field: &str,
    message: String,
) -> super::Located {
    manifest.problem(Problem {
        kind: Kind::Service,
        key: manifest.object.key(),
        severity,
        reason: if severity == Severity::Error { "InvalidService" } else { "NotServed" },
        field: field.to_owned(),
        message,
    })
}
