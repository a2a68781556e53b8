//! One file → manifests and what is wrong with them (F65, F67).

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::defaults;
use super::manifest::{Located, Manifest, Object, Parsed};
use super::strict::{self, FieldError};
use super::validate::{dns_subdomain, validate};
use super::yaml::{self, Document};
use crate::model::hash::uid_of;
use crate::model::{Kind, ObjectKey, Problem, Severity};

/// What a directory may hold, with the API version that is read.
const KINDS: &[(&str, &str, Kind)] = &[
    ("v1", "Pod", Kind::Pod),
    ("apps/v1", "Deployment", Kind::Deployment),
    ("v1", "Service", Kind::Service),
    ("networking.k8s.io/v1", "NetworkPolicy", Kind::NetworkPolicy),
    ("v1", "ConfigMap", Kind::ConfigMap),
    ("v1", "Secret", Kind::Secret),
    ("v1", "Namespace", Kind::Namespace),
];

/// Parses, decodes strictly, defaults and validates `text`. YAML with any number of documents, or
/// JSON when the name ends in `.json`; a `List` counts as its items.
pub fn parse(file: &str, text: &str) -> Parsed {
    let documents = match yaml::read(text, file.ends_with(".json")) {
        Ok(documents) => documents,
        Err(unreadable) => return self::unreadable(file, unreadable.line, unreadable.message),
    };
    let mut parsed = Parsed { complete: true, ..Parsed::default() };
    for document in documents {
        if document.value.get("kind").and_then(Value::as_str).is_some_and(|kind| kind == "List") {
            for item in document.items() {
                object(file, &item, &mut parsed);
            }
        } else {
            object(file, &document, &mut parsed);
        }
    }
    parsed
}

/// A file that cannot be used at all: nothing that came from it changes.
pub fn unreadable(file: &str, line: u64, message: String) -> Parsed {
    let problem = Problem {
        kind: Kind::File,
        key: ObjectKey::new("", file),
        severity: Severity::Error,
        reason: "InvalidFile",
        field: String::new(),
        message: format!("{message}; objects of this file stay as they were"),
    };
    let problems = vec![Located { file: file.to_owned(), line, problem }];
    Parsed { problems, ..Parsed::default() }
}

fn object(file: &str, document: &Document, parsed: &mut Parsed) {
    let text = |pointer: &str| {
        document.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
    let known = KINDS.iter().find(|(_, known, _)| *known == kind);
    let namespace = match (text("/metadata/namespace"), known) {
        (_, Some((_, _, Kind::Namespace))) => String::new(),
        (given, _) if given.is_empty() => "default".to_owned(),
        (given, _) => given,
    };
    let key = ObjectKey::new(namespace.as_str(), name.as_str());
    let problem = |kind: Kind, field: &str, message: String| Located {
        file: file.to_owned(),
        line: document.line_of(field),
        problem: Problem {
            kind,
            key: key.clone(),
            severity: Severity::Error,
            reason: "InvalidManifest",
            field: field.to_owned(),
            message,
        },
    };
    if dns_subdomain(&name).is_err() {
        // Without a usable name nobody can tell which object of the file this is.
        parsed.complete = false;
    }
    let Some((_, _, kind)) = known.filter(|(want, _, _)| *want == version) else {
        let message = unknown_kind(&version, &kind, known.map(|(want, _, _)| *want));
        let name = if name.is_empty() { String::new() } else { format!(" (object {key})") };
        parsed.problems.push(problem(Kind::File, "kind", message + &name));
        parsed.refused.push((None, key));
        return;
    };
    let decoded = decode(*kind, &document.value, &namespace);
    let (object, content) = match decoded {
        Ok(decoded) => decoded,
        Err(errors) => {
            for (field, message) in errors {
                parsed.problems.push(problem(*kind, &field, message));
            }
            parsed.refused.push((Some(*kind), key));
            return;
        }
    };
    let errors = validate(&object);
    if errors.is_empty() {
        let file = file.to_owned();
        parsed.manifests.push(Manifest { file, line: document.line, content, object });
    } else {
        for (field, message) in errors {
            parsed.problems.push(problem(*kind, &field, message));
        }
        parsed.refused.push((Some(*kind), key));
    }
}

fn unknown_kind(version: &str, kind: &str, want: Option<&str>) -> String {
    if kind.is_empty() || version.is_empty() {
        return "apiVersion and kind are needed (for example apiVersion: v1, kind: Pod)".to_owned();
    }
    if let Some(want) = want {
        return format!("{kind} is read as apiVersion {want}, not {version}");
    }
    let names: Vec<&str> = KINDS.iter().map(|(_, kind, _)| *kind).collect();
    let hint = strict::nearest(kind, &names)
        .map(|near| format!("; did you mean {near}?"))
        .unwrap_or_default();
    format!("kind {kind} ({version}) is not one that standalone runs: {}{hint}", names.join(", "))
}

type Decoded = Result<(Object, String), Vec<FieldError>>;

/// Strict decoding, then defaults. The text of a pod spec before defaults is its content.
fn decode(kind: Kind, value: &Value, namespace: &str) -> Decoded {
    fn typed<T>(value: &Value, secret: bool) -> Result<T, Vec<FieldError>>
    where
        T: DeserializeOwned
            + Serialize
            + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta>,
    {
        strict::decode(value, secret)
    }
    let content = |part: Option<&Value>| {
        part.map(|part| uid_of(&[&without_nulls(part).to_string()])).unwrap_or_default()
    };
    let mut content_hash = String::new();
    let mut object = match kind {
        Kind::Pod => {
            let mut pod: k8s_openapi::api::core::v1::Pod = typed(value, false)?;
            content_hash = content(value.get("spec"));
            defaults::default_pod(&mut pod);
            pod.status = None;
            Object::Pod(Arc::new(pod))
        }
        Kind::Deployment => {
            let mut deployment: k8s_openapi::api::apps::v1::Deployment = typed(value, false)?;
            content_hash = content(value.pointer("/spec/template"));
            defaults::default_deployment(&mut deployment);
            deployment.status = None;
            Object::Deployment(Arc::new(deployment))
        }
        Kind::Service => {
            let mut service: k8s_openapi::api::core::v1::Service = typed(value, false)?;
            defaults::default_service(&mut service);
            service.status = None;
            Object::Service(Arc::new(service))
        }
        Kind::NetworkPolicy => {
            let mut policy = typed(value, false)?;
            defaults::default_network_policy(&mut policy);
            Object::NetworkPolicy(Arc::new(policy))
        }
        Kind::ConfigMap => Object::ConfigMap(Arc::new(typed(value, false)?)),
        Kind::Secret => {
            let mut secret = typed(value, true)?;
            defaults::default_secret(&mut secret);
            Object::Secret(Arc::new(secret))
        }
        _ => {
            let mut space: k8s_openapi::api::core::v1::Namespace = typed(value, false)?;
            space.status = None;
            Object::Namespace(Arc::new(space))
        }
    };
    set_namespace(&mut object, namespace);
    Ok((object, content_hash))
}

/// A field that is null is a field that is not there.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect(),
        ),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Namespaced objects are in `default` unless they say otherwise. Fields of a metadata that the
/// server owns are dropped: files made with `kubectl get -o yaml` work.
fn set_namespace(object: &mut Object, namespace: &str) {
    let metadata = match object {
        Object::Pod(object) => &mut Arc::make_mut(object).metadata,
        Object::Deployment(object) => &mut Arc::make_mut(object).metadata,
        Object::Service(object) => &mut Arc::make_mut(object).metadata,
        Object::NetworkPolicy(object) => &mut Arc::make_mut(object).metadata,
        Object::ConfigMap(object) => &mut Arc::make_mut(object).metadata,
        Object::Secret(object) => &mut Arc::make_mut(object).metadata,
        Object::Namespace(object) => {
            clear_server_fields(&mut Arc::make_mut(object).metadata);
            return;
        }
    };
    clear_server_fields(metadata);
    metadata.namespace = Some(namespace.to_owned());
}

fn clear_server_fields(metadata: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) {
    metadata.uid = None;
    metadata.resource_version = None;
    metadata.generation = None;
    metadata.creation_timestamp = None;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    metadata.managed_fields = None;
    metadata.self_link = None;
    metadata.owner_references = None;
    metadata.finalizers = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(file: &str, text: &str) -> Vec<String> {
        parse(file, text).problems.iter().map(ToString::to_string).collect()
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: c\n    image: x\n";

    #[test]
    fn f67_problems_name_file_and_line_and_the_rest_of_the_file_is_used() {
        let text = format!(
            "{POD}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: b\nspec:\n  containers:\n  - name: c\n    imge: x\n"
        );
        let parsed = parse("web.yaml", &text);
        assert_eq!(parsed.manifests.len(), 1);
        assert_eq!(parsed.refused, [(Some(Kind::Pod), ObjectKey::new("default", "b"))]);
        assert!(parsed.complete);
        assert_eq!(
            messages("web.yaml", &text),
            [
                "web.yaml:17: Pod default/b: spec.containers[0].imge: unknown field; did you mean image?"
            ]
        );
    }

    #[test]
    fn f67_unknown_kinds_and_versions_say_what_is_read() {
        for (head, want) in [
            (
                "apiVersion: apps/v1\nkind: StatefulSet",
                "kind StatefulSet (apps/v1) is not one that standalone runs",
            ),
            ("apiVersion: apps/v1\nkind: Deploymnt", "did you mean Deployment?"),
            (
                "apiVersion: v1\nkind: Deployment",
                "Deployment is read as apiVersion apps/v1, not v1",
            ),
            ("kind: Pod", "apiVersion and kind are needed"),
        ] {
            let text = format!("# comment\n{head}\nmetadata:\n  name: x\n");
            let got = messages("a.yaml", &text);
            assert!(got[0].contains(want) && got[0].starts_with("a.yaml:"), "{got:?}");
        }
    }

    #[test]
    fn f67_an_object_without_a_name_holds_the_whole_file() {
        assert!(!parse("a.yaml", "apiVersion: v1\nkind: Pod\n").complete);
        assert!(!parse("a.yaml", "just text\n").complete);
        assert!(!parse("a.yaml", "a: [\n").complete);
        assert!(parse("a.yaml", "\n# nothing\n---\n").complete);
    }

    #[test]
    fn f65_yaml_means_what_it_means_to_kubectl() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  a: yes\n";
        let got = messages("c.yaml", text);
        assert_eq!(got.len(), 1, "{got:?}");
        assert!(
            got[0].starts_with("c.yaml:6: ConfigMap default/c: data.a: has the wrong type"),
            "{got:?}"
        );
        assert!(got[0].ends_with("put it in quotes"), "{got:?}");
        assert!(messages("c.yaml", &text.replace("yes", "\"yes\"")).is_empty());
    }

    #[test]
    fn f65_lists_are_their_items_with_lines() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: b}\n  dta: {}\n";
        let parsed = parse("l.yaml", text);
        assert_eq!(parsed.manifests.len(), 1);
        assert_eq!(parsed.problems[0].line, 10, "{:?}", parsed.problems);
    }

    #[test]
    fn f65_an_object_from_kubectl_get_is_a_manifest() {
        let text = POD.replace(
            "  name: a",
            "  name: a\n  uid: x\n  resourceVersion: '1'\n  creationTimestamp: null",
        ) + "status:\n  phase: Running\n";
        let parsed = parse("p.yaml", &text);
        assert_eq!(parsed.problems, []);
        assert_eq!(parsed.manifests[0].object.metadata().uid, None);
    }

    #[test]
    fn a30_content_is_what_was_written_not_what_was_defaulted() {
        let one = parse("p.yaml", POD).manifests.remove(0);
        let same = parse("q.yaml", &POD.replace("  name: a", "  labels: {x: z}\n  name: a"))
            .manifests
            .remove(0);
        let other = parse("p.yaml", &POD.replace("image: x", "image: other")).manifests.remove(0);
        assert_eq!(one.content, same.content, "labels are no reason to replace a pod");
        assert_ne!(one.content, other.content);
    }
}
