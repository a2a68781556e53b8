//! Documents → typed objects, refusing what the type does not know: a misspelt field would otherwise
//! be ignored silently.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A field (API notation) and what is wrong with it.
pub type FieldError = (String, String);

/// Decodes `value`; a field that is `null` counts as absent, as in the API.
///
/// # Errors
/// The first field of a wrong type, or every field that the type does not have. Values are not
/// repeated when `secret` is set.
pub fn decode<T: DeserializeOwned + Serialize>(
    value: &Value,
    secret: bool,
) -> Result<T, Vec<FieldError>> {
    let typed: T = serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        let what = if secret {
            "has the wrong type, or is not base64 (values of Secrets are not shown)".to_owned()
        } else {
            let inner = error.inner().to_string();
            // YAML reads 8080 as a number and yes as true.
            let hint = if inner.ends_with("expected a string") { "; put it in quotes" } else { "" };
            format!("has the wrong type: {inner}{hint}")
        };
        vec![(path, what)]
    })?;
    // What the type kept is what it knows.
    let kept =
        serde_json::to_value(&typed).map_err(|error| vec![(String::new(), error.to_string())])?;
    let mut errors = Vec::new();
    compare(value, &kept, String::new(), &mut errors);
    if errors.is_empty() { Ok(typed) } else { Err(errors) }
}

fn compare(given: &Value, kept: &Value, path: String, errors: &mut Vec<FieldError>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match kept.get(key) {
                    Some(kept) => compare(value, kept, path, errors),
                    None => errors.push((path, unknown(key))),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                compare(given, kept, format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

fn unknown(key: &str) -> String {
    match nearest(key, FIELDS) {
        Some(field) => format!("unknown field; did you mean {field}?"),
        None => "unknown field".to_owned(),
    }
}

/// The word of `words` that is at most two edits (and less than half its length) from `word`.
pub fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let near = |candidate: &&&str| {
        let edits = distance(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase());
        (edits <= 2 && edits * 2 < candidate.len().max(3)).then_some(edits)
    };
    words.iter().filter(|w| near(w).is_some()).min_by_key(|w| near(w)).copied()
}

/// Levenshtein distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = if x == *y { diagonal } else { diagonal + 1 };
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Field names that people write; only for "did you mean".
const FIELDS: &[&str] = &[
    "annotations",
    "apiVersion",
    "args",
    "binaryData",
    "capabilities",
    "cidr",
    "clusterIP",
    "command",
    "configMap",
    "configMapKeyRef",
    "configMapRef",
    "containerPort",
    "containers",
    "data",
    "defaultMode",
    "dnsConfig",
    "dnsPolicy",
    "egress",
    "emptyDir",
    "enableServiceLinks",
    "endPort",
    "env",
    "envFrom",
    "except",
    "exec",
    "failureThreshold",
    "fieldPath",
    "fieldRef",
    "fsGroup",
    "from",
    "host",
    "hostAliases",
    "hostNetwork",
    "hostPID",
    "hostPath",
    "hostPort",
    "hostname",
    "httpGet",
    "image",
    "imagePullPolicy",
    "imagePullSecrets",
    "ingress",
    "initContainers",
    "initialDelaySeconds",
    "internalTrafficPolicy",
    "ipBlock",
    "items",
    "key",
    "kind",
    "labels",
    "lifecycle",
    "limits",
    "livenessProbe",
    "matchExpressions",
    "matchLabels",
    "maxSurge",
    "maxUnavailable",
    "medium",
    "metadata",
    "minReadySeconds",
    "mode",
    "mountPath",
    "name",
    "namespace",
    "namespaceSelector",
    "nodePort",
    "nodeSelector",
    "operator",
    "optional",
    "path",
    "periodSeconds",
    "podSelector",
    "policyTypes",
    "port",
    "ports",
    "preStop",
    "privileged",
    "progressDeadlineSeconds",
    "projected",
    "protocol",
    "publishNotReadyAddresses",
    "readOnly",
    "readOnlyRootFilesystem",
    "readinessProbe",
    "replicas",
    "requests",
    "resources",
    "restartPolicy",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "scheme",
    "secret",
    "secretKeyRef",
    "secretName",
    "secretRef",
    "securityContext",
    "selector",
    "sessionAffinity",
    "sizeLimit",
    "sources",
    "spec",
    "startupProbe",
    "stdin",
    "strategy",
    "stringData",
    "subPath",
    "successThreshold",
    "sysctls",
    "targetPort",
    "tcpSocket",
    "template",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
    "to",
    "tolerations",
    "tty",
    "type",
    "value",
    "valueFrom",
    "values",
    "volumeMounts",
    "volumes",
    "workingDir",
];

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use serde_json::json;

    use super::*;

    fn check(value: Value, expect: &[(&str, &str)]) {
        let errors = decode::<Pod>(&value, false).err().unwrap_or_default();
        assert_eq!(errors.len(), expect.len(), "{errors:?}");
        for ((path, message), (want_path, want)) in errors.iter().zip(expect) {
            assert_eq!(path, want_path);
            assert!(message.contains(want), "{message}");
        }
    }

    #[test]
    fn f65_unknown_fields_and_wrong_types_name_their_path() {
        let pod = |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": spec});
        check(
            pod(json!({"containers": [{"name": "a", "imge": "x", "tty": null}]})),
            &[("spec.containers[0].imge", "did you mean image?")],
        );
        check(
            pod(json!({"containers": [{"name": "a", "image": 5}]})),
            &[("spec.containers[0].image", "wrong type")],
        );
        check(
            pod(json!({"contaners": [], "zzz": {"deep": 1}})),
            &[("spec.contaners", "containers"), ("spec.zzz", "unknown field")],
        );
        check(
            pod(
                json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": 0.5, "memory": 64}}}]}),
            ),
            &[],
        );
    }

    #[test]
    fn f65_secret_values_do_not_reach_messages() {
        let value = json!({"apiVersion": "v1", "kind": "Secret", "data": {"password": "hunter2!"}});
        let errors = decode::<Secret>(&value, true).unwrap_err();
        assert!(!format!("{errors:?}").contains("hunter2"));
        assert!(errors[0].0.starts_with("data"), "{errors:?}");
    }
}
