//! What standalone fills in is what the API server fills in: each manifest is given to both.

use longshore_core::standalone::{self, Object};
use serde_json::Value;

use crate::parity::differences;
use crate::script::*;

/// What the server adds that is no default of the kind: where, and why. Removed from both sides.
const EXCUSED: &[(&str, &str)] = &[
    ("/status", "no default: what the controllers and the node say"),
    ("/metadata/creationTimestamp", "the server's own"),
    ("/metadata/generation", "the server's own"),
    ("/metadata/managedFields", "the server's own"),
    ("/metadata/resourceVersion", "the server's own"),
    ("/metadata/uid", "the server's own"),
    ("/metadata/annotations/deployment.kubernetes.io~1revision", "the Deployment controller's"),
    (
        "/metadata/labels/kubernetes.io~1metadata.name",
        "of Namespaces: standalone adds it to its World",
    ),
    ("/spec/serviceAccount", "admission of ServiceAccounts"),
    ("/spec/serviceAccountName", "admission of ServiceAccounts"),
    ("/spec/priority", "admission of priorities"),
    ("/spec/preemptionPolicy", "admission of priorities"),
    ("/spec/tolerations", "admission of tolerations"),
    ("/spec/clusterIP", "given by the allocator, in standalone by the controller"),
    ("/spec/clusterIPs", "given by the allocator, in standalone by the controller"),
    ("/spec/ipFamilies", "given by the allocator, in standalone by the controller"),
    ("/spec/ipFamilyPolicy", "given by the allocator, in standalone by the controller"),
    ("/spec/finalizers", "of Namespaces: their controller's"),
];

/// Added by the admission of ServiceAccounts, with a random name.
const TOKEN_VOLUME: &str = "kube-api-access-";

const PODS: &[(&str, &str)] = &[
    ("bare", "containers: [{name: c, image: a.example/x:1}]"),
    (
        "latest",
        "containers: [{name: a, image: x}, {name: b, image: 'x:latest'}, {name: c, image: 'x@sha256:1111111111111111111111111111111111111111111111111111111111111111'}, {name: d, image: 'host:5000/x'}]",
    ),
    (
        "probes",
        "containers: [{name: c, image: 'x:1', ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}}, readinessProbe: {tcpSocket: {port: 80}, periodSeconds: 3}, startupProbe: {exec: {command: [a]}, failureThreshold: 30}}, {name: d, image: 'x:1', livenessProbe: {grpc: {port: 99}, terminationGracePeriodSeconds: 7}}]",
    ),
    (
        "lifecycle",
        "containers: [{name: c, image: 'x:1', lifecycle: {postStart: {exec: {command: [a]}}, preStop: {httpGet: {port: 80}}}}]",
    ),
    ("sleep", "containers: [{name: c, image: 'x:1', lifecycle: {preStop: {sleep: {seconds: 3}}}}]"),
    (
        "host",
        "{hostNetwork: true, hostPID: true, containers: [{name: c, image: 'x:1', ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP, name: dns}]}]}",
    ),
    (
        "env",
        "containers: [{name: c, image: 'x:1', env: [{name: A, value: b}, {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: R, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}, {name: K, valueFrom: {configMapKeyRef: {name: m, key: k, optional: true}}}], envFrom: [{secretRef: {name: s}}]}]",
    ),
    (
        "volumes",
        "{containers: [{name: c, image: 'x:1', volumeMounts: [{name: a, mountPath: /a}, {name: h, mountPath: /h, readOnly: true}]}], volumes: [{name: a}, {name: b, emptyDir: {medium: Memory, sizeLimit: 1Mi}}, {name: h, hostPath: {path: /h}}, {name: t, hostPath: {path: /t, type: Directory}}, {name: c, configMap: {name: m, items: [{key: k, path: p}]}}, {name: s, secret: {secretName: s, optional: true, defaultMode: 256}}, {name: d, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}, {name: p, projected: {sources: [{configMap: {name: m}}, {secret: {name: s}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}}]}",
    ),
    (
        "resources",
        "containers: [{name: a, image: 'x:1', resources: {limits: {cpu: 500m, memory: 64Mi}}}, {name: b, image: 'x:1', resources: {requests: {cpu: 10m}, limits: {cpu: '1', memory: 1Gi}}}, {name: c, image: 'x:1', resources: {requests: {memory: 1Mi}}}]",
    ),
    (
        "init",
        "{restartPolicy: OnFailure, initContainers: [{name: i, image: 'x:1', resources: {limits: {cpu: 100m}}}, {name: s, image: 'x:1', restartPolicy: Always, readinessProbe: {httpGet: {port: http}}, ports: [{name: http, containerPort: 80}]}], containers: [{name: c, image: 'x:1'}]}",
    ),
    (
        "security",
        "{securityContext: {runAsUser: 7, fsGroup: 8, seccompProfile: {type: RuntimeDefault}, sysctls: [{name: net.ipv4.ip_local_port_range, value: 1024 65535}]}, containers: [{name: c, image: 'x:1', securityContext: {privileged: true, capabilities: {add: [NET_ADMIN], drop: [ALL]}}}]}",
    ),
    (
        "names",
        "{hostname: h, subdomain: s, dnsPolicy: None, dnsConfig: {nameservers: [192.0.2.1], searches: [a.example], options: [{name: ndots, value: '2'}]}, hostAliases: [{ip: 192.0.2.2, hostnames: [b.example]}], terminationGracePeriodSeconds: 0, automountServiceAccountToken: false, enableServiceLinks: false, containers: [{name: c, image: 'x:1', terminationMessagePolicy: FallbackToLogsOnError}]}",
    ),
];

const OTHERS: &[(&str, &str)] = &[
    (
        "deployment",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec:\n      containers: [{name: c, image: x, ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}}, resources: {limits: {cpu: 100m}}}]\n",
    ),
    (
        "recreate",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: default}\nspec:\n  replicas: 0\n  strategy: {type: Recreate}\n  selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {hostNetwork: true, containers: [{name: c, image: 'x:2', ports: [{containerPort: 80}]}], volumes: [{name: v}]}\n",
    ),
    (
        "surge",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  minReadySeconds: 5\n  strategy: {rollingUpdate: {maxSurge: 1}}\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: b}}\n    spec: {containers: [{name: c, image: 'x:2'}]}\n",
    ),
    (
        "service",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {a: b}, ports: [{port: 80}]}\n",
    ),
    (
        "ports",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {a: b}, ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 53, protocol: UDP, targetPort: 5353}]}\n",
    ),
    (
        "headless",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: None, selector: {a: b}}\n",
    ),
    (
        "affinity",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {sessionAffinity: ClientIP, ports: [{port: 80}]}\n",
    ),
    (
        "affinity-time",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}, internalTrafficPolicy: Local, ports: [{port: 80}]}\n",
    ),
    (
        "external",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: ExternalName, externalName: a.example}\n",
    ),
    (
        "node-port",
        "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}\n",
    ),
    (
        "policy",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}}\n",
    ),
    (
        "ingress",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {matchLabels: {a: b}}\n  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}, {port: dns, protocol: UDP}, {port: 1000, endPort: 2000}]}]\n",
    ),
    (
        "egress",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  podSelector: {}\n  egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.0/28]}}], ports: [{}]}]\n",
    ),
    (
        "types",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {}, policyTypes: [Egress]}\n",
    ),
    (
        "map",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: b}\nbinaryData: {c: AAEC}\nimmutable: true\n",
    ),
    (
        "secret",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: AAEC, b: AAEC}\nstringData: {b: text}\n",
    ),
    (
        "typed",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ntype: kubernetes.io/basic-auth\nstringData: {username: u, password: p}\n",
    ),
    ("namespace", "apiVersion: v1\nkind: Namespace\nmetadata: {name: some, labels: {a: b}}\n"),
];

fn own(text: &str) -> Result<Value, String> {
    let parsed = standalone::parse("table.yaml", text);
    let problems: Vec<String> = parsed.problems.iter().map(ToString::to_string).collect();
    let [manifest] = &parsed.manifests[..] else { return Err(problems.join("; ")) };
    let value = match &manifest.object {
        Object::Pod(object) => serde_json::to_value(&**object),
        Object::Deployment(object) => serde_json::to_value(&**object),
        Object::Service(object) => serde_json::to_value(&**object),
        Object::NetworkPolicy(object) => serde_json::to_value(&**object),
        Object::ConfigMap(object) => serde_json::to_value(&**object),
        Object::Secret(object) => serde_json::to_value(&**object),
        Object::Namespace(object) => serde_json::to_value(&**object),
    };
    value.map_err(|error| error.to_string())
}

/// Without what is excused, and without what the two ways of writing JSON do differently.
fn plain(mut value: Value) -> Value {
    for (pointer, _) in EXCUSED {
        let (parent, last) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(Value::Object(fields)) = value.pointer_mut(parent) {
            fields.remove(&last.replace("~1", "/"));
        }
    }
    // Admission mounts the token in each container.
    let named = |one: &Value| text(one, "/name").starts_with(TOKEN_VOLUME);
    if let Some(Value::Array(volumes)) = value.pointer_mut("/spec/volumes") {
        volumes.retain(|volume| !named(volume));
    }
    for kind in ["/spec/containers", "/spec/initContainers"] {
        let Some(Value::Array(containers)) = value.pointer_mut(kind) else { continue };
        for container in containers {
            if let Some(Value::Array(mounts)) = container.pointer_mut("/volumeMounts") {
                mounts.retain(|mount| !named(mount));
            }
        }
    }
    without_empty(value)
}

/// A list or map that holds nothing is not there; an empty object may mean something, such as
/// `emptyDir: {}`, and stays.
fn without_empty(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, without_empty(value)))
            .filter(|(key, value)| {
                // A Namespace has nothing else in its spec than its controller's finalizers.
                let empty_map = ["labels", "annotations", "spec"].contains(&key.as_str())
                    && value.as_object().is_some_and(serde_json::Map::is_empty);
                !value.is_null()
                    && !empty_map
                    && value.as_array().is_none_or(|list| !list.is_empty())
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(without_empty).collect(),
        other => other,
    }
}

#[test]
fn a50_a90_b24_c3_standalone_fills_in_what_the_api_server_does() {
    let space = Shared::new("defaulting");
    let pods = PODS.iter().map(|(name, spec)| {
        let spec = if spec.starts_with('{') { (*spec).to_owned() } else { format!("{{{spec}}}") };
        (*name, format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {spec}\n"))
    });
    let others = OTHERS.iter().map(|(name, text)| (*name, (*text).to_owned()));
    let mut found = Vec::new();
    for (name, text) in pods.chain(others) {
        let server = space
            .cluster
            .kubectl(["create", "--dry-run=server", "-o", "json", "-n", "default", "-f", "-"])
            .input(&text)
            .unwrap()
            .check();
        match (server, own(&text)) {
            (Ok(server), Ok(own)) => {
                let server: Value = serde_json::from_str(&server).unwrap();
                differences(name, &plain(server), &plain(own), &mut found);
            }
            (Err(error), _) => found.push(format!("{name}: the server refuses it: {error:#}")),
            (_, Err(error)) => found.push(format!("{name}: standalone refuses it: {error}")),
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
