//! A pod of a file on a node that has a control plane (A29, A30, A32).
//!
//! Deliberately absent: its copy in the API server, which `pod::mirror` decides.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};

use super::manifest::{Located, Object, Parsed};
use crate::model::hash::uid_of;
use crate::model::{Kind, Problem, Severity, Time};

/// Pods that one file asks for, and what is wrong with it.
#[derive(Default, Debug)]
pub struct StaticPods {
    pub pods: Vec<Arc<Pod>>,
    pub problems: Vec<Located>,
    /// The file says everything that it has to say: what it no longer names may end.
    pub complete: bool,
}

/// `path`: of the file; like the node's name it is part of the UID, so that two nodes or two files
/// with one text have different pods.
pub fn static_pods(parsed: Parsed, path: &str, node_name: &str, now: Time) -> StaticPods {
    let complete = parsed.complete && parsed.refused.is_empty();
    let mut found = StaticPods { pods: Vec::new(), problems: parsed.problems, complete };
    for manifest in &parsed.manifests {
        let key = manifest.object.key();
        let problem = |kind: Kind, field: &str, message: String| Located {
            file: manifest.file.clone(),
            line: manifest.line,
            problem: Problem {
                kind,
                key: key.clone(),
                severity: Severity::Error,
                reason: "InvalidManifest",
                field: field.to_owned(),
                message,
            },
        };
        let Object::Pod(pod) = &manifest.object else {
            let kind = manifest.object.kind();
            let text = "is no pod: staticPodPath holds pods; give it to the API server";
            found.problems.push(problem(kind, "kind", text.into()));
            continue;
        };
        let references = pod.spec.as_ref().map(api_references).unwrap_or_default();
        if !references.is_empty() {
            found.complete = false;
        }
        for field in &references {
            let text = "names an object of the API server, which a static pod cannot have";
            found.problems.push(problem(Kind::Pod, field, text.into()));
        }
        if references.is_empty() {
            found.pods.push(Arc::new(make(pod, path, node_name, now)));
        }
    }
    found
}

fn make(wanted: &Pod, path: &str, node_name: &str, now: Time) -> Pod {
    let mut pod = wanted.clone();
    // Plain data with text keys: serialising cannot fail.
    let content = serde_json::to_string(&pod).unwrap_or_default();
    let uid = uid_of(&["static pod", &content, node_name, path]);
    let metadata = &mut pod.metadata;
    let name = metadata.name.clone().unwrap_or_default();
    metadata.name = Some(format!("{name}-{}", node_name.to_lowercase()));
    metadata.uid = Some(uid.clone());
    metadata.creation_timestamp = Some(now.to_api());
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert("kubernetes.io/config.source".into(), "file".into());
    annotations.insert("kubernetes.io/config.hash".into(), uid);
    annotations.insert("kubernetes.io/config.seen".into(), now.to_string());
    annotations.remove("kubernetes.io/config.mirror");
    let spec = pod.spec.get_or_insert_with(PodSpec::default);
    spec.node_name = Some(node_name.to_owned());
    let tolerates = |t: &Toleration| {
        t.operator.as_deref() == Some("Exists")
            && t.effect.as_deref() == Some("NoExecute")
            && t.key.as_deref().unwrap_or_default().is_empty()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.iter().any(tolerates) {
        tolerations.push(Toleration {
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            ..Toleration::default()
        });
    }
    pod
}

/// Fields that name objects of the API server (A32).
fn api_references(spec: &PodSpec) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |present: bool, field: String| {
        if present {
            found.push(field);
        }
    };
    let named = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    check(named(&spec.service_account_name), "spec.serviceAccountName".into());
    check(named(&spec.service_account), "spec.serviceAccount".into());
    check(
        spec.image_pull_secrets.as_ref().is_some_and(|list| !list.is_empty()),
        "spec.imagePullSecrets".into(),
    );
    check(
        spec.resource_claims.as_ref().is_some_and(|list| !list.is_empty()),
        "spec.resourceClaims".into(),
    );
    check(
        spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()),
        "spec.ephemeralContainers".into(),
    );
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let at = |field: &str| format!("spec.volumes[{i}].{field}");
        check(volume.config_map.is_some(), at("configMap"));
        check(volume.secret.is_some(), at("secret"));
        check(volume.persistent_volume_claim.is_some(), at("persistentVolumeClaim"));
        check(volume.ephemeral.is_some(), at("ephemeral"));
        check(volume.csi.is_some(), at("csi"));
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for (j, source) in sources.enumerate() {
            let at = |field: &str| at(&format!("projected.sources[{j}].{field}"));
            check(source.config_map.is_some(), at("configMap"));
            check(source.secret.is_some(), at("secret"));
            check(source.service_account_token.is_some(), at("serviceAccountToken"));
            check(source.cluster_trust_bundle.is_some(), at("clusterTrustBundle"));
            check(source.pod_certificate.is_some(), at("podCertificate"));
        }
    }
    let lists = [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", spec.containers.as_slice()),
    ];
    for (list, containers) in lists {
        for (i, container) in containers.iter().enumerate() {
            for (j, source) in container.env_from.iter().flatten().enumerate() {
                let present = source.config_map_ref.is_some() || source.secret_ref.is_some();
                check(present, format!("spec.{list}[{i}].envFrom[{j}]"));
            }
            for (j, variable) in container.env.iter().flatten().enumerate() {
                let present = variable.value_from.as_ref().is_some_and(|source| {
                    source.config_map_key_ref.is_some() || source.secret_key_ref.is_some()
                });
                check(present, format!("spec.{list}[{i}].env[{j}].valueFrom"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standalone::parse;

    fn pods(text: &str, path: &str, node: &str) -> StaticPods {
        static_pods(parse("web.yaml", text), path, node, Time(0))
    }

    fn text(spec: &str) -> String {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {spec}\n")
    }

    #[test]
    fn a30_names_uid_annotations_and_toleration() {
        let text = text("{containers: [{name: a, image: x}]}");
        let found = pods(&text, "/etc/m/web.yaml", "Node-A");
        assert!(found.complete && found.problems.is_empty(), "{:?}", found.problems);
        let (metadata, spec) = (&found.pods[0].metadata, found.pods[0].spec.as_ref().unwrap());
        assert_eq!(metadata.name.as_deref(), Some("web-node-a"));
        assert_eq!(metadata.namespace.as_deref(), Some("default"));
        let annotations = metadata.annotations.as_ref().unwrap();
        assert_eq!(annotations["kubernetes.io/config.source"], "file");
        assert_eq!(Some(&annotations["kubernetes.io/config.hash"]), metadata.uid.as_ref());
        assert_eq!(spec.node_name.as_deref(), Some("Node-A"));
        let toleration = &spec.tolerations.as_ref().unwrap()[0];
        assert_eq!(toleration.effect.as_deref(), Some("NoExecute"));
        let uid = |text: &str, path: &str, node: &str| {
            pods(text, path, node).pods[0].metadata.uid.clone()
        };
        let same = uid(&text, "/etc/m/web.yaml", "Node-A");
        assert_eq!(same, metadata.uid);
        assert_ne!(same, uid(&text, "/etc/m/other.yaml", "Node-A"));
        assert_ne!(same, uid(&text, "/etc/m/web.yaml", "Node-B"));
        assert_ne!(
            same,
            uid(&text.replace("image: x", "image: other"), "/etc/m/web.yaml", "Node-A")
        );
    }

    #[test]
    fn a32_what_names_objects_of_the_api_server_is_refused() {
        for (spec, field) in [
            ("serviceAccountName: robot", "spec.serviceAccountName"),
            ("imagePullSecrets: [{name: s}]", "spec.imagePullSecrets"),
            ("volumes: [{name: v, configMap: {name: m}}]", "spec.volumes[0].configMap"),
            ("volumes: [{name: v, secret: {secretName: m}}]", "spec.volumes[0].secret"),
        ] {
            let found = pods(
                &text(&format!("{{containers: [{{name: a, image: x}}], {spec}}}")),
                "/web.yaml",
                "n",
            );
            assert!(found.pods.is_empty() && !found.complete, "{spec}");
            let fields: Vec<_> = found.problems.iter().map(|p| p.problem.field.as_str()).collect();
            assert_eq!(fields, [field]);
        }
        let env = "{containers: [{name: a, image: x, env: [{name: X, valueFrom: {secretKeyRef: {name: s, key: k}}}]}]}";
        assert_eq!(
            pods(&text(env), "/w", "n").problems[0].problem.field,
            "spec.containers[0].env[0].valueFrom"
        );
    }

    #[test]
    fn a29_other_kinds_are_named_and_the_pods_of_the_file_run() {
        let both = format!(
            "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\n",
            text("{containers: [{name: a, image: x}]}")
        );
        let found = pods(&both, "/w", "n");
        assert_eq!(found.pods.len(), 1);
        assert!(found.problems[0].to_string().contains("is no pod"), "{:?}", found.problems);
    }
}
