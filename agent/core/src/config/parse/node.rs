//! Fields of the Node object and of the loops that keep it (A1–A14).

use std::collections::BTreeMap;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use serde_json::Value;

use super::reader::Reader;
use crate::config::NodeConfig;
use crate::model::{Quantity, Severity};

const HOUR_MS: i64 = 3_600_000;
/// How often a pod is looked at when nothing changes.
const RESYNC_MS: i64 = 60_000;
const RESERVABLE: [&str; 4] = ["cpu", "memory", "ephemeral-storage", "pid"];

impl Reader {
    pub(super) fn node(&mut self, node: &mut NodeConfig) {
        self.flag("registerNode", &mut node.register);
        self.taints(node);
        self.text("providerID", &mut node.provider_id);
        self.count("maxPods", 1..=i64::from(i32::MAX), &mut node.max_pods);
        self.number("podsPerCore", 0..=i64::from(i32::MAX), &mut node.pods_per_core);
        self.pod_cidr(node);
        self.text("staticPodPath", &mut node.static_pod_path);
        self.millis("fileCheckFrequency", 1..=24 * HOUR_MS, &mut node.file_check_frequency_ms);
        self.sync_frequency();
        self.reporting(node);
        self.reservations(node);
        self.enforcement(node);
        self.not_there_yet();
    }

    fn reporting(&mut self, node: &mut NodeConfig) {
        let mut update = 0;
        self.millis("nodeStatusUpdateFrequency", 1..=HOUR_MS, &mut update);
        if update > 0 {
            node.status_update_frequency_ms = update;
            // The kubelet's default of the second follows a first that is set.
            node.status_report_frequency_ms = update;
        }
        self.millis(
            "nodeStatusReportFrequency",
            1..=24 * HOUR_MS,
            &mut node.status_report_frequency_ms,
        );
        let mut seconds = i64::from(node.lease_duration_s);
        self.count("nodeLeaseDurationSeconds", 1..=i64::from(i32::MAX), &mut seconds);
        node.lease_duration_s = i32::try_from(seconds).unwrap_or(i32::MAX);
        let mut images = 50;
        self.number("nodeStatusMaxImages", -1..=i64::from(i32::MAX), &mut images);
        node.status_max_images = usize::try_from(images).ok();
    }

    /// Pods are looked at when something of theirs changes, and each minute whatever it says (A34).
    fn sync_frequency(&mut self) {
        let mut asked_ms = RESYNC_MS;
        self.millis("syncFrequency", 1..=24 * HOUR_MS, &mut asked_ms);
        if asked_ms != RESYNC_MS {
            let text = "has no effect: pods are looked at on every change, and each minute";
            self.problem(Severity::Warning, "syncFrequency", text.into());
        }
    }

    fn pod_cidr(&mut self, node: &mut NodeConfig) {
        let mut text = String::new();
        self.text("podCIDR", &mut text);
        if text.is_empty() {
            return;
        }
        match text.parse::<IpNet>() {
            Ok(net) => node.pod_cidr = Some(net.trunc()),
            Err(_) => self.error("podCIDR", format!("{text:?} is not a range like 10.88.0.0/24")),
        }
    }

    fn taints(&mut self, node: &mut NodeConfig) {
        let items = match self.fields.remove("registerWithTaints") {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items,
            Some(_) => return self.error("registerWithTaints", "is not a list".into()),
        };
        for (i, item) in items.into_iter().enumerate() {
            let field = format!("registerWithTaints[{i}]");
            match serde_json::from_value::<Taint>(item) {
                Err(error) => self.error(&field, format!("is not a taint: {error}")),
                Ok(taint) if taint.key.is_empty() => self.error(&field, "has no key".into()),
                Ok(taint) => match taint.effect.as_str() {
                    "NoSchedule" | "PreferNoSchedule" | "NoExecute" => node.taints.push(taint),
                    other => self.error(
                        &format!("{field}.effect"),
                        format!("is {other:?}: use NoSchedule, PreferNoSchedule or NoExecute"),
                    ),
                },
            }
        }
    }

    fn reservations(&mut self, node: &mut NodeConfig) {
        node.system_reserved = self.reserved("systemReserved");
        node.kube_reserved = self.reserved("kubeReserved");
    }

    fn reserved(&mut self, field: &str) -> BTreeMap<String, Quantity> {
        let mut known = BTreeMap::new();
        for (name, text) in self.mapping(field).unwrap_or_default() {
            let at = format!("{field}.{name}");
            match Quantity::parse(&text) {
                _ if !RESERVABLE.contains(&name.as_str()) => {
                    self.error(&at, format!("cannot be reserved: use {}", RESERVABLE.join(", ")));
                }
                Ok(quantity) if quantity.milli >= 0 => drop(known.insert(name, quantity)),
                Ok(_) => self.error(&at, format!("{text:?} is negative")),
                Err(error) => self.error(&at, error),
            }
        }
        known
    }

    /// What is limited to the node's allocatable (A150), and how pods' cgroups are laid out (A146).
    fn enforcement(&mut self, node: &mut NodeConfig) {
        let mut per_qos = true;
        self.flag("cgroupsPerQOS", &mut per_qos);
        if !per_qos {
            self.error(
                "cgroupsPerQOS",
                "is false: pods would have no cgroups of their own; set it to true".into(),
            );
        }
        // An empty list is not an absent one: it enforces nothing.
        let asked = self.fields.get("enforceNodeAllocatable").is_some_and(|field| !field.is_null());
        let mut groups = Vec::new();
        self.texts("enforceNodeAllocatable", &mut groups);
        node.enforce_pods = !asked || groups.iter().any(|group| group == "pods");
        for (i, group) in groups.iter().enumerate() {
            let field = format!("enforceNodeAllocatable[{i}]");
            match group.as_str() {
                "none" | "" | "pods" => {}
                other => self.error(
                    &field,
                    format!(
                        "{other:?} is not supported, and the node's own daemons would have no \
                         limit: use pods or none"
                    ),
                ),
            }
        }
    }

    /// Switched on by users, and without effect: said in the words of what happens instead.
    fn not_there_yet(&mut self) {
        for (field, instead) in [
            (
                "rotateCertificates",
                "is not supported yet: the credential of the kubeconfig is used as it is; renew \
                 it before it expires",
            ),
            (
                "serverTLSBootstrap",
                "is not supported yet: the serving certificate is that of tlsCertFile, or \
                 self-signed",
            ),
        ] {
            let mut on = false;
            self.flag(field, &mut on);
            if on {
                self.warning(field, instead);
            }
        }
        let gates = self.fields.remove("featureGates");
        match gates {
            None | Some(Value::Null) => {}
            Some(Value::Object(gates)) => {
                for gate in gates.keys() {
                    self.warning(
                        &format!("featureGates.{gate}"),
                        "is not read: Longshore has no feature gates",
                    );
                }
            }
            Some(_) => self.error("featureGates", "is not a mapping".into()),
        }
    }
}
