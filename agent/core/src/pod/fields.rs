//! Values that a pod can read of itself: fieldRef and resourceFieldRef, for variables and for
//! downward API files (A104, A122, A123).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ResourceFieldSelector};

use super::{Input, qos};
use crate::model::{Quantity, labels};

/// The value of `path` for a variable or a file. `ips` are the pod's own. `Err` says why there is
/// none.
pub fn field(input: &Input<'_>, path: &str, ips: &[IpAddr]) -> Result<String, String> {
    let metadata = &input.pod.metadata;
    let spec = input.pod.spec.as_ref();
    if let Some(key) = subscript(path, "metadata.labels") {
        return Ok(labels::of(metadata).get(key).cloned().unwrap_or_default());
    }
    if let Some(key) = subscript(path, "metadata.annotations") {
        return Ok(metadata
            .annotations
            .as_ref()
            .and_then(|a| a.get(key))
            .cloned()
            .unwrap_or_default());
    }
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    Ok(match path {
        "metadata.name" => input.key.name.to_string(),
        "metadata.namespace" => input.key.namespace.to_string(),
        "metadata.uid" => input.uid.to_string(),
        "metadata.labels" => key_values(labels::of(metadata)),
        "metadata.annotations" => metadata.annotations.as_ref().map(key_values).unwrap_or_default(),
        "spec.nodeName" => input.node.name.clone(),
        "spec.serviceAccountName" => spec
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_else(|| "default".into()),
        "status.hostIP" => join(&input.node.ips[..input.node.ips.len().min(1)]),
        "status.hostIPs" => join(&input.node.ips),
        "status.podIP" => join(&ips[..ips.len().min(1)]),
        "status.podIPs" => join(ips),
        _ => return Err(format!("fieldPath {path:?} is not one that a pod can read")),
    })
}

/// `key` of `<prefix>['<key>']`.
fn subscript<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']")
}

/// `key="value"` lines, values quoted as the kubelet quotes them.
fn key_values(map: &std::collections::BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join("\n")
}

/// A123. `own` is the container of a variable; a file names its container.
pub fn resource(
    input: &Input<'_>,
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
) -> Result<String, String> {
    let spec = input.pod.spec.as_ref().ok_or("the pod has no spec")?;
    let container = match selector.container_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .find(|container| container.name == name)
            .ok_or_else(|| format!("resourceFieldRef: the pod has no container {name:?}"))?,
        None => own.ok_or("resourceFieldRef: containerName is missing")?,
    };
    let divisor = match &selector.divisor {
        None => Quantity::from_units(1),
        Some(text) => match Quantity::from_api(text)? {
            zero if zero.milli == 0 => Quantity::from_units(1),
            divisor if divisor.milli < 0 => {
                return Err("resourceFieldRef: divisor is negative".into());
            }
            divisor => divisor,
        },
    };
    let (kind, name) = selector
        .resource
        .split_once('.')
        .filter(|(kind, _)| matches!(*kind, "limits" | "requests"))
        .ok_or_else(|| format!("resourceFieldRef: resource {:?} is unknown", selector.resource))?;
    let resources = container.resources.as_ref();
    let amount = if kind == "limits" {
        qos::limit(resources, name).or_else(|| allocatable(input, name))
    } else {
        qos::request(resources, name)
    };
    let amount = amount.unwrap_or_default();
    // Rounded up, as the API says.
    let value = amount.milli.div_euclid(divisor.milli)
        + i128::from(amount.milli.rem_euclid(divisor.milli) != 0);
    Ok(value.to_string())
}

/// A limit that is not set is the node's allocatable.
fn allocatable(input: &Input<'_>, resource: &str) -> Option<Quantity> {
    let whole = match resource {
        "cpu" => Quantity::from_milli(i128::from(input.node.cpu_milli)),
        "memory" => Quantity::from_units(input.node.memory_bytes),
        _ => return None,
    };
    let config = &input.config.node;
    let kept = i128::from(config.kept_free(resource, whole)) * 1000;
    let left = whole.milli - config.reserved(resource).milli - kept;
    Some(Quantity::from_milli(left.max(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::Case;

    #[test]
    fn a122_field_references() {
        let case = Case::spec("{serviceAccountName: robot, containers: [{name: a}]}");
        let ips = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        for (path, expect) in [
            ("metadata.name", "web"),
            ("metadata.namespace", "default"),
            ("metadata.uid", "uid-1"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.annotations['note']", "hello"),
            ("metadata.labels", "app=\"web\""),
            ("spec.nodeName", "node-a"),
            ("spec.serviceAccountName", "robot"),
            ("status.hostIP", "192.0.2.1"),
            ("status.podIP", "10.0.0.5"),
            ("status.podIPs", "10.0.0.5,fd00::5"),
        ] {
            assert_eq!(field(&case.input(), path, &ips), Ok(expect.into()), "{path}");
        }
        assert!(field(&case.input(), "spec.containers", &ips).is_err());
    }

    #[test]
    fn a123_resource_references_divide_and_fall_back_to_the_node() {
        let case = Case::spec(
            "{containers: [{name: a, resources: {limits: {cpu: 250m, memory: 64Mi}}}, {name: b}]}",
        );
        let check = |container: &str, name: &str, divisor: &str, expect: &str| {
            let selector = ResourceFieldSelector {
                container_name: Some(container.into()),
                divisor: Some(k8s_openapi::apimachinery::pkg::api::resource::Quantity(
                    divisor.into(),
                )),
                resource: name.into(),
            };
            assert_eq!(resource(&case.input(), &selector, None), Ok(expect.into()), "{name}");
        };
        check("a", "limits.cpu", "1", "1");
        check("a", "limits.cpu", "1m", "250");
        check("a", "limits.memory", "1Mi", "64");
        check("b", "limits.cpu", "1", "4");
        // Without what evictionHard keeps: 100 Mi by default.
        check("b", "limits.memory", "0", "8485076992");
        check("b", "requests.cpu", "1", "0");
    }
}
