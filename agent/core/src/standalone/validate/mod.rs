//! What the API server would refuse, for every field that Longshore reads (F65).
//!
//! There is no server before these files: names, numbers and references are checked here and nowhere
//! else. An object with one error is refused whole; its last good version stays.

mod container;
mod meta;
mod network;
mod pod;
mod text;

pub use meta::metadata;
pub use text::{dns_label, dns_subdomain, key_of_data};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::manifest::Object;
use crate::model::labels;

/// Collects errors below a path.
#[derive(Default, Debug)]
pub struct Findings {
    pub errors: Vec<(String, String)>,
}

impl Findings {
    pub fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.errors.push((path.into(), message.into()));
    }

    /// Adds the message of a check that returns what is wrong.
    pub fn check(&mut self, path: impl Into<String>, result: Result<(), String>) {
        if let Err(message) = result {
            self.add(path, message);
        }
    }

    pub fn one_of(&mut self, path: impl Into<String>, value: Option<&str>, allowed: &[&str]) {
        if let Some(value) = value
            && !allowed.contains(&value)
        {
            self.add(path, format!("{value:?} is not one of {}", allowed.join(", ")));
        }
    }

    pub fn range(&mut self, path: impl Into<String>, value: i64, low: i64, high: i64) {
        if !(low..=high).contains(&value) {
            self.add(path, format!("{value} is not between {low} and {high}"));
        }
    }

    pub fn not_negative(&mut self, path: impl Into<String>, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.add(path, format!("{value} must not be negative"));
        }
    }

    /// Every name of `names` once.
    pub fn unique<'a>(&mut self, names: impl Iterator<Item = (String, &'a str)>) {
        let mut seen = std::collections::BTreeSet::new();
        for (path, name) in names {
            if !name.is_empty() && !seen.insert(name) {
                self.add(path, format!("{name:?} is there twice"));
            }
        }
    }
}

/// Checks a defaulted object. Fields in API notation, with messages.
pub fn validate(object: &Object) -> Vec<(String, String)> {
    let mut out = Findings::default();
    metadata(object.kind(), object.metadata(), &mut out);
    match object {
        Object::Pod(pod) => match &pod.spec {
            Some(spec) => pod::pod_spec(spec, "spec", &mut out),
            None => out.add("spec", "is missing"),
        },
        Object::Deployment(object) => deployment(object, &mut out),
        Object::Service(object) => network::service(object, &mut out),
        Object::NetworkPolicy(object) => network::policy(object, &mut out),
        Object::ConfigMap(object) => config_map(object, &mut out),
        Object::Secret(object) => secret(object, &mut out),
        Object::Namespace(_) => {}
    }
    out.errors
}

fn deployment(object: &Deployment, out: &mut Findings) {
    let spec = &object.spec;
    out.not_negative("spec.replicas", spec.replicas.map(i64::from));
    out.not_negative("spec.minReadySeconds", spec.min_ready_seconds.map(i64::from));
    out.not_negative("spec.revisionHistoryLimit", spec.revision_history_limit.map(i64::from));
    if let (Some(deadline), Some(ready)) = (spec.progress_deadline_seconds, spec.min_ready_seconds)
        && deadline <= ready
    {
        out.add("spec.progressDeadlineSeconds", "must be greater than minReadySeconds");
    }
    if spec.paused == Some(true) {
        out.add(
            "spec.paused",
            "is not supported without a control plane: leave the file as it was instead",
        );
    }
    strategy(object, out);
    let template = spec.template.metadata.clone().unwrap_or_default();
    meta::label_map("spec.template.metadata.labels", labels::of(&template), out);
    match labels::parse(&spec.selector) {
        Err(error) => out.add("spec.selector", error),
        Ok(_) if is_empty_selector(&spec.selector) => {
            out.add("spec.selector", "must not be empty: name labels of the template");
        }
        Ok(selector) if !labels::matches(&selector, labels::of(&template)) => {
            out.add("spec.template.metadata.labels", "do not match spec.selector");
        }
        Ok(_) => {}
    }
    let Some(pod) = &spec.template.spec else { return out.add("spec.template.spec", "is missing") };
    pod::pod_spec(pod, "spec.template.spec", out);
    if pod.restart_policy.as_deref() != Some("Always") {
        out.add("spec.template.spec.restartPolicy", "must be Always in a Deployment");
    }
}

fn is_empty_selector(
    selector: &k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
) -> bool {
    selector.match_labels.as_ref().is_none_or(|labels| labels.is_empty())
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

fn strategy(object: &Deployment, out: &mut Findings) {
    let Some(strategy) = &object.spec.strategy else { return };
    out.one_of("spec.strategy.type", strategy.type_.as_deref(), &["RollingUpdate", "Recreate"]);
    let Some(rolling) = &strategy.rolling_update else { return };
    if strategy.type_.as_deref() == Some("Recreate") {
        return out.add("spec.strategy.rollingUpdate", "is not allowed with type Recreate");
    }
    let mut zeros = 0;
    for (name, value) in
        [("maxSurge", &rolling.max_surge), ("maxUnavailable", &rolling.max_unavailable)]
    {
        let Some(value) = value else { continue };
        match share_of(value, 100) {
            Some(0) => zeros += 1,
            Some(share) if share < 0 => {
                out.add(format!("spec.strategy.rollingUpdate.{name}"), "must not be negative")
            }
            Some(_) => {}
            None => out.add(
                format!("spec.strategy.rollingUpdate.{name}"),
                "is neither a number nor a percentage such as 25%",
            ),
        }
    }
    if zeros == 2 {
        out.add("spec.strategy.rollingUpdate.maxUnavailable", "may not be 0 when maxSurge is 0");
    }
}

/// A number, or a percentage of `whole` in hundredths (so that the caller rounds): `None` when it
/// is neither. For `whole == 100` the value itself.
pub(super) fn share_of(value: &IntOrString, whole: i64) -> Option<i64> {
    match value {
        IntOrString::Int(number) => Some(i64::from(*number)),
        IntOrString::String(text) => {
            let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
            (0..=1_000_000).contains(&percent).then(|| percent * whole / 100)
        }
    }
}

fn config_map(object: &ConfigMap, out: &mut Findings) {
    let text = object.data.iter().flatten().map(|(key, value)| ("data", key, value.len()));
    let binary =
        object.binary_data.iter().flatten().map(|(key, value)| ("binaryData", key, value.0.len()));
    data(text.chain(binary), out);
    for key in object.data.iter().flatten().map(|(key, _)| key) {
        if object.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
            out.add(format!("binaryData[{key}]"), "is in data too");
        }
    }
}

fn secret(object: &Secret, out: &mut Findings) {
    data(object.data.iter().flatten().map(|(key, value)| ("data", key, value.0.len())), out);
}

/// Keys become file names; all of it together is at most 1 MiB (F66).
fn data<'a>(entries: impl Iterator<Item = (&'static str, &'a String, usize)>, out: &mut Findings) {
    let mut total = 0;
    for (field, key, length) in entries {
        out.check(format!("{field}[{key}]"), key_of_data(key));
        total += length;
    }
    if total > 1 << 20 {
        out.add("data", format!("has {total} bytes; at most 1048576 are allowed"));
    }
}

#[cfg(test)]
mod tests;
