//! A container's environment (A120–A126).
//!
//! Deliberately absent: fileKeyRef (held by `unsupported`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, EnvVarSource, Service};

use super::expand::expand;
use super::{Input, fields, volumes};
use crate::model::ObjectKey;

/// Variables in the order in which they were first named. `Err` is the message of
/// CreateContainerConfigError (A124).
pub fn variables(
    input: &Input<'_>,
    container: &Container,
    ips: &[IpAddr],
) -> Result<Vec<(String, String)>, String> {
    let services = services(input);
    let mut result = Ordered::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let (kind, name, optional) = match (&source.config_map_ref, &source.secret_ref) {
            (Some(map), _) => ("configmap", map.name.as_str(), map.optional),
            (None, Some(secret)) => ("secret", secret.name.as_str(), secret.optional),
            (None, None) => continue,
        };
        let Some(data) = object(input, kind, name) else {
            if optional.unwrap_or(false) {
                continue;
            }
            return Err(format!("{kind} {name:?} not found"));
        };
        for (key, value) in data {
            let name = format!("{prefix}{key}");
            // A key that cannot be a variable is left out, as the kubelet does.
            if is_variable(&name) && !value.contains(&0) {
                result.set(name, String::from_utf8_lossy(&value).into_owned());
            }
        }
    }
    // Only what `env` declared before is seen by `$(NAME)`, not what came from envFrom (A121).
    let mut declared: BTreeMap<String, String> = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let lookup = |name: &str| declared.get(name).or_else(|| services.get(name)).cloned();
        let value = match (&variable.value_from, &variable.value) {
            (Some(source), _) => from_source(input, container, source, ips)?,
            (None, value) => Some(expand(value.as_deref().unwrap_or_default(), &lookup)),
        };
        let Some(value) = value else { continue };
        if !is_variable(&variable.name) || value.contains('\0') {
            return Err(format!("env {:?} is not a variable", variable.name));
        }
        declared.insert(variable.name.clone(), value.clone());
        result.set(variable.name.clone(), value);
    }
    for (name, value) in services {
        result.fill(name, value);
    }
    Ok(result.entries)
}

/// Command and arguments with the container's variables in place (A121).
pub fn command_line(words: Option<&[String]>, variables: &[(String, String)]) -> Vec<String> {
    let lookup =
        |name: &str| variables.iter().find(|(known, _)| known == name).map(|(_, v)| v.clone());
    words.unwrap_or_default().iter().map(|word| expand(word, &lookup)).collect()
}

/// Variables that are written in the spec itself: all that an exec probe's command sees (A88).
pub fn literals(container: &Container) -> Vec<(String, String)> {
    let named = container.env.iter().flatten();
    named.filter_map(|v| Some((v.name.clone(), v.value.clone()?))).collect()
}

/// A name that a process can have in its environment.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains('=') && name.bytes().all(|b| (0x20..0x7f).contains(&b))
}

#[derive(Default)]
struct Ordered {
    entries: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Ordered {
    /// The last value wins (A120).
    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name) {
            Some(at) => self.entries[*at].1 = value,
            None => {
                self.index.insert(name.clone(), self.entries.len());
                self.entries.push((name, value));
            }
        }
    }

    fn fill(&mut self, name: String, value: String) {
        if !self.index.contains_key(&name) {
            self.set(name, value);
        }
    }
}

fn object(input: &Input<'_>, kind: &str, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
    let key = ObjectKey::new(input.key.namespace.clone(), name);
    match kind {
        "configmap" => input.world.config_maps.get(&key).map(|map| volumes::config_map_data(map)),
        _ => input.world.secrets.get(&key).map(|secret| volumes::secret_data(secret)),
    }
}

/// `None`: an optional key that is not there.
fn from_source(
    input: &Input<'_>,
    container: &Container,
    source: &EnvVarSource,
    ips: &[IpAddr],
) -> Result<Option<String>, String> {
    let (kind, name, key, optional) = match (&source.config_map_key_ref, &source.secret_key_ref) {
        (Some(map), _) => ("configmap", map.name.as_str(), &map.key, map.optional),
        (None, Some(secret)) => ("secret", secret.name.as_str(), &secret.key, secret.optional),
        (None, None) => {
            return match (&source.field_ref, &source.resource_field_ref) {
                (Some(field), _) => fields::field(input, &field.field_path, ips).map(Some),
                (None, Some(resource)) => {
                    fields::resource(input, resource, Some(container)).map(Some)
                }
                (None, None) => Err("env valueFrom has no source that is supported".into()),
            };
        }
    };
    let optional = optional.unwrap_or(false);
    let Some(data) = object(input, kind, name) else {
        return if optional { Ok(None) } else { Err(format!("{kind} {name:?} not found")) };
    };
    match data.get(key) {
        Some(value) => Ok(Some(String::from_utf8_lossy(value).into_owned())),
        None if optional => Ok(None),
        None => Err(format!("couldn't find key {key} in {kind} {}/{name}", input.key.namespace)),
    }
}

/// A126: of the pod's namespace if it wants them, and always of `default/kubernetes`.
fn services(input: &Input<'_>) -> BTreeMap<String, String> {
    let links = input.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
    let mut result = BTreeMap::new();
    let kubernetes = ObjectKey::new("default", "kubernetes");
    if let Some(service) = input.world.services.get(&kubernetes) {
        add_service(&mut result, &kubernetes, service);
    }
    if links {
        let first = ObjectKey::new(input.key.namespace.clone(), "");
        let own = input.world.services.range(first..);
        for (key, service) in own.take_while(|(key, _)| key.namespace == input.key.namespace) {
            add_service(&mut result, key, service);
        }
    }
    result
}

fn add_service(result: &mut BTreeMap<String, String>, key: &ObjectKey, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| ip.parse::<IpAddr>().is_ok()) else {
        return;
    };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let variable = |name: &str| name.to_uppercase().replace(['-', '.'], "_");
    let prefix = variable(&key.name);
    let at = |port: i32| match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    };
    let protocol = |protocol: &Option<String>| protocol.as_deref().unwrap_or("TCP").to_owned();
    result.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
    result.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let url = format!("{}://{}", protocol(&first.protocol).to_lowercase(), at(first.port));
    result.insert(format!("{prefix}_PORT"), url);
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let name = format!("{prefix}_SERVICE_PORT_{}", variable(name));
            result.insert(name, port.port.to_string());
        }
        let upper = protocol(&port.protocol);
        let lower = upper.to_lowercase();
        let link = format!("{prefix}_PORT_{}_{upper}", port.port);
        result.insert(link.clone(), format!("{lower}://{}", at(port.port)));
        result.insert(format!("{link}_PROTO"), lower);
        result.insert(format!("{link}_PORT"), port.port.to_string());
        result.insert(format!("{link}_ADDR"), ip.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::testing::{self, Case};

    fn check(case: &Case, container: &str, expect: &[&str]) {
        let spec = format!("{{containers: [{container}]}}");
        let case = Case { pod: testing::pod(&spec), ..case.clone() };
        let container = &case.pod.spec.as_ref().unwrap().containers[0];
        let found = match variables(&case.input(), container, &["10.0.0.5".parse().unwrap()]) {
            Err(error) => vec![error],
            Ok(found) => found.into_iter().map(|(k, v)| format!("{k}={v}")).collect(),
        };
        assert_eq!(found, expect, "{container:?}");
    }

    fn case() -> Case {
        Case::spec("{containers: []}")
            .config_map("map", &[("A", "map"), ("B", "map"), ("bad=", "x")])
            .secret("sec", &[("A", "sec")])
    }

    #[test]
    fn a120_env_wins_over_env_from_and_later_wins() {
        check(
            &case(),
            "{name: a, envFrom: [{configMapRef: {name: map}}, {secretRef: {name: sec}, prefix: P_}, {secretRef: {name: sec}}],
              env: [{name: B, value: own}, {name: C, value: 1}, {name: C, value: '2'}]}"
                .replace("value: 1}", "value: '1'}")
                .as_str(),
            &["A=sec", "B=own", "P_A=sec", "C=2"],
        );
    }

    #[test]
    fn a121_values_see_earlier_declared_names_only() {
        check(
            &case(),
            "{name: a, envFrom: [{configMapRef: {name: map}}],
              env: [{name: X, value: '$(V) $(A)'}, {name: V, value: v}, {name: Z, value: '$(V)'}]}",
            &["A=map", "B=map", "X=$(V) $(A)", "V=v", "Z=v"],
        );
    }

    #[test]
    fn a124_missing_keys_are_errors_unless_optional() {
        let check = |source: &str, expect: &[&str]| {
            check(
                &case(),
                &format!("{{name: a, env: [{{name: X, valueFrom: {{{source}}}}}]}}"),
                expect,
            );
        };
        check("configMapKeyRef: {name: map, key: A}", &["X=map"]);
        check("secretKeyRef: {name: sec, key: A}", &["X=sec"]);
        check("configMapKeyRef: {name: none, key: A}", &["configmap \"none\" not found"]);
        check("configMapKeyRef: {name: none, key: A, optional: true}", &[]);
        check("secretKeyRef: {name: sec, key: Z}", &["couldn't find key Z in secret default/sec"]);
        check("secretKeyRef: {name: sec, key: Z, optional: true}", &[]);
        check("fieldRef: {fieldPath: status.podIP}", &["X=10.0.0.5"]);
    }

    #[test]
    fn a126_service_variables_fill_what_is_not_set() {
        let case = Case::spec("{containers: []}")
            .service(
                ("default", "my-db"),
                json!({"clusterIP": "10.96.0.7", "ports": [{"port": 5432, "name": "sql"}]}),
            )
            .service(("default", "headless"), json!({"clusterIP": "None", "ports": [{"port": 1}]}))
            .service(("other", "far"), json!({"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}));
        check(
            &case,
            "{name: a, env: [{name: MY_DB_PORT, value: mine}]}",
            &[
                "MY_DB_PORT=mine",
                "MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432",
                "MY_DB_PORT_5432_TCP_ADDR=10.96.0.7",
                "MY_DB_PORT_5432_TCP_PORT=5432",
                "MY_DB_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_SERVICE_HOST=10.96.0.7",
                "MY_DB_SERVICE_PORT=5432",
                "MY_DB_SERVICE_PORT_SQL=5432",
            ],
        );
        let quiet = "{enableServiceLinks: false, containers: [{name: a}]}";
        let quiet = Case { pod: testing::pod(quiet), ..case };
        let container = &quiet.pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(variables(&quiet.input(), container, &[]), Ok(Vec::new()));
    }
}
