use serde_json::{Value, json};

use super::super::parse::parse;

/// Parses one object as a file and compares `field: part of the message` of its problems.
fn check(object: Value, expect: &[(&str, &str)]) {
    let parsed = parse("f.json", &object.to_string());
    let got: Vec<String> = parsed
        .problems
        .iter()
        .map(|p| format!("{}: {}", p.problem.field, p.problem.message))
        .collect();
    assert_eq!(got.len(), expect.len(), "{object}\n{got:#?}");
    for (field, message) in expect {
        assert!(
            got.iter()
                .any(|line| line.starts_with(&format!("{field}: ")) && line.contains(message)),
            "{field}: {message} not in {got:#?}"
        );
    }
    assert_eq!(
        parsed.manifests.is_empty(),
        !expect.is_empty(),
        "an object with an error is refused whole"
    );
}

fn pod(spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "a", "image": "x"}]);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

fn container(fields: Value) -> Value {
    let mut container = json!({"name": "a", "image": "x"});
    container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    pod(json!({"containers": [container], "volumes": [{"name": "v"}]}))
}

#[test]
fn cve22_path_shaped_names_are_refused() {
    for name in ["../x", "a/b", "..", ".", "", "A", "a\u{0}", "a\nb", "\u{202e}a", &"a".repeat(254)]
    {
        let mut object = pod(json!({}));
        object["metadata"]["name"] = json!(name);
        assert!(parse("f.json", &object.to_string()).manifests.is_empty(), "{name:?}");
        let mut object = pod(json!({}));
        object["metadata"]["namespace"] = json!(name);
        // Empty is "not given": the namespace default.
        assert_eq!(
            parse("f.json", &object.to_string()).manifests.is_empty(),
            !name.is_empty(),
            "{name:?}"
        );
    }
    check(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"../x": "1", "..data": "2"}}),
        &[("data[../x]", "is not a key"), ("data[..data]", "is not a key")],
    );
}

#[test]
fn f65_pods_with_impossible_values_are_refused() {
    check(pod(json!({})), &[]);
    check(pod(json!({"containers": []})), &[("spec.containers", "at least one")]);
    check(
        pod(json!({"restartPolicy": "Sometimes"})),
        &[("spec.restartPolicy", "not one of Always")],
    );
    check(
        pod(json!({"terminationGracePeriodSeconds": -1})),
        &[("spec.terminationGracePeriodSeconds", "between")],
    );
    check(
        pod(json!({"dnsPolicy": "None"})),
        &[("spec.dnsConfig.nameservers", "must have an address")],
    );
    check(
        pod(json!({"securityContext": {"runAsUser": 4_294_967_296_i64}})),
        &[("spec.securityContext.runAsUser", "between")],
    );
    check(
        pod(json!({"securityContext": {"runAsUser": -1}})),
        &[("spec.securityContext.runAsUser", "between")],
    );
    check(
        pod(json!({"securityContext": {"sysctls": [{"name": "net/../x", "value": "1"}]}})),
        &[("spec.securityContext.sysctls[0].name", "not a sysctl")],
    );
    check(
        pod(json!({"volumes": [{"name": "v"}, {"name": "v", "hostPath": {"path": "../x"}}]})),
        &[("spec.volumes[1].name", "twice"), ("spec.volumes[1].hostPath.path", "absolute")],
    );
    check(
        pod(json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]})),
        &[("spec.volumes[0]", "more than one source")],
    );
    check(
        pod(
            json!({"volumes": [{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "../../etc"}]}}]}),
        ),
        &[("spec.volumes[0].configMap.items[0].path", "..")],
    );
}

#[test]
fn f65_containers_with_impossible_values_are_refused() {
    check(
        container(json!({"env": [{"name": "A"}, {"name": "A"}, {"name": "a=b"}]})),
        &[
            ("spec.containers[0].env[1].name", "twice"),
            ("spec.containers[0].env[2].name", "not a name"),
        ],
    );
    check(
        container(json!({"volumeMounts": [{"name": "w", "mountPath": "/d"}]})),
        &[("spec.containers[0].volumeMounts[0].name", "no volume")],
    );
    check(
        container(json!({"volumeMounts": [{"name": "v", "mountPath": "/d", "subPath": "../x"}]})),
        &[("spec.containers[0].volumeMounts[0].subPath", "relative")],
    );
    check(
        container(
            json!({"ports": [{"containerPort": -1}, {"containerPort": 70000, "name": "UPPER"}]}),
        ),
        &[
            ("spec.containers[0].ports[0].containerPort", "between"),
            ("spec.containers[0].ports[1].containerPort", "between"),
            ("spec.containers[0].ports[1].name", "port name"),
        ],
    );
    check(
        container(
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2", "memory": "1e400"}}}),
        ),
        &[
            ("spec.containers[0].resources.requests[cpu]", "more than the limit"),
            ("spec.containers[0].resources.requests[memory]", "quantity"),
        ],
    );
    check(
        container(json!({"livenessProbe": {"httpGet": {"port": "web"}, "successThreshold": 2}})),
        &[
            ("spec.containers[0].livenessProbe.httpGet.port", "no port named"),
            ("spec.containers[0].livenessProbe.successThreshold", "must be 1"),
        ],
    );
    check(
        container(
            json!({"readinessProbe": {"tcpSocket": {"port": 1}, "exec": {"command": ["x"]}}}),
        ),
        &[("spec.containers[0].readinessProbe", "exactly one")],
    );
    check(
        container(
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]}),
        ),
        &[("spec.containers[0].env[0].valueFrom.fieldRef.fieldPath", "not a field")],
    );
}

#[test]
fn a32_pods_cannot_reference_what_only_a_server_has() {
    check(
        pod(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]})),
        &[("spec.volumes[0].persistentVolumeClaim", "API server")],
    );
    check(
        pod(
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
        ),
        &[("spec.volumes[0].projected.sources[0].serviceAccountToken", "API server")],
    );
    // ConfigMaps and Secrets are objects of the directory.
    check(pod(json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})), &[]);
}

#[test]
fn f65_services_with_impossible_values_are_refused() {
    let service = |spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": spec});
    check(service(json!({"ports": [{"port": 80, "targetPort": "http"}]})), &[]);
    check(service(json!({"clusterIP": "None"})), &[]);
    check(service(json!({})), &[("spec.ports", "at least one")]);
    check(
        service(json!({"ports": [{"port": 0}]})),
        &[("spec.ports[0].port", "between"), ("spec.ports[0].targetPort", "between")],
    );
    check(
        service(json!({"ports": [{"port": 80}, {"port": 80, "name": "b"}]})),
        &[("spec.ports[0].name", "needs a name"), ("spec.ports[1].port", "twice")],
    );
    check(
        service(
            json!({"type": "Nope", "clusterIP": "10.0.0.300", "ports": [{"port": 1, "protocol": "ICMP"}]}),
        ),
        &[
            ("spec.type", "not one of"),
            ("spec.clusterIP", "not an IP"),
            ("spec.ports[0].protocol", "not one of"),
        ],
    );
}

#[test]
fn cve47_policies_never_widen_by_mistake() {
    let policy = |spec: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": spec});
    check(policy(json!({"podSelector": {}})), &[]);
    check(
        policy(json!({"podSelector": {}, "ingress": [{"from": [{}]}]})),
        &[("spec.ingress[0].from[0]", "must have")],
    );
    check(
        policy(
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}}),
        ),
        &[("spec.podSelector.matchExpressions[0].values", "must not be empty")],
    );
    check(
        policy(json!({"podSelector": {}, "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/99"}},
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16", "10.1.0.0/16"]}},
            {"ipBlock": {"cidr": "::/0"}, "podSelector": {}}]}]})),
        &[
            ("spec.egress[0].to[0].ipBlock.cidr", "not a CIDR"),
            ("spec.egress[0].to[1].ipBlock.except[0]", "strict part"),
            ("spec.egress[0].to[2]", "exclude each other"),
        ],
    );
    check(
        policy(
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 80, "endPort": 79}, {"port": "web", "endPort": 90}]}]}),
        ),
        &[
            ("spec.ingress[0].ports[0].endPort", "between"),
            ("spec.ingress[0].ports[1].endPort", "numeric"),
        ],
    );
}

#[test]
fn f65_deployments_with_impossible_values_are_refused() {
    let deployment = |spec: Value| {
        let mut full = json!({"selector": {"matchLabels": {"app": "a"}}, "template": {
            "metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "a", "image": "x"}]}}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": full})
    };
    check(deployment(json!({})), &[]);
    check(deployment(json!({"replicas": -1})), &[("spec.replicas", "negative")]);
    check(deployment(json!({"selector": {}})), &[("spec.selector", "must not be empty")]);
    check(
        deployment(json!({"selector": {"matchLabels": {"app": "b"}}})),
        &[("spec.template.metadata.labels", "do not match")],
    );
    check(
        deployment(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}})),
        &[("spec.strategy.rollingUpdate.maxUnavailable", "may not be 0")],
    );
    check(
        deployment(json!({"strategy": {"rollingUpdate": {"maxSurge": "some"}}})),
        &[("spec.strategy.rollingUpdate.maxSurge", "percentage")],
    );
}
