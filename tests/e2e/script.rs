//! Words for the scripts: nodes, manifests, and waiting for what a user waits for.

use std::collections::BTreeSet;

use longshore_tests::lab::Lab;
use longshore_tests::node::Node;
use longshore_tests::process::{Output, wait_for};

/// The address of the Service of [`web`].
pub const WEB_IP: &str = "10.97.0.80";

/// A node with its daemon running and no manifest.
pub fn node(name: &str) -> Node {
    let lab = Lab::from_env().unwrap();
    Node::start(&lab, name, &[]).unwrap()
}

/// A Deployment of `replicas` web servers. `extra` goes into the container, indented by 10.
pub fn web(replicas: u32, version: &str, extra: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: e2e}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web, version: {version}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
        - name: web
          image: localhost/longshore/workload:1
          args: [web, --port, '8080']
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /healthz, port: http}}, periodSeconds: 1}}
{extra}"
    )
}

/// The Service of [`web`] at [`WEB_IP`].
pub fn web_service() -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: e2e}}
spec:
  clusterIP: {WEB_IP}
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: http}}]
"
    )
}

/// A pod of one container with label `app: NAME`. `args` are the workload's words.
pub fn pod(name: &str, args: &str) -> String {
    let args: Vec<String> = args.split(' ').map(|word| format!("'{word}'")).collect();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: e2e, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 2
  containers:
    - name: main
      image: localhost/longshore/workload:1
      args: [{}]
",
        args.join(", ")
    )
}

/// Ingress to `to` only from pods labelled `app: FROM`, one policy object.
pub fn allow(name: &str, to: &str, from: &[&str]) -> String {
    let peers: String = from
        .iter()
        .map(|app| format!("        - podSelector: {{matchLabels: {{app: {app}}}}}\n"))
        .collect();
    let ingress = if from.is_empty() {
        "  ingress: []\n".to_owned()
    } else {
        format!("  ingress:\n    - from:\n{peers}")
    };
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}, namespace: e2e}}
spec:
  podSelector: {{matchLabels: {{app: {to}}}}}
  policyTypes: [Ingress]
{ingress}"
    )
}

/// Running containers of pods whose names begin with `prefix`: pod names.
pub fn running(node: &Node, prefix: &str) -> BTreeSet<String> {
    let all = node.ctr().containers().unwrap();
    all.into_iter()
        .filter(|one| one.pid.is_some() && one.pod.starts_with(prefix))
        .map(|one| one.pod)
        .collect()
}

pub fn wait_running(node: &Node, prefix: &str, count: usize) {
    wait_for(&format!("{count} running pods {prefix}*"), 40, || {
        Ok(running(node, prefix).len() == count)
    })
    .unwrap();
}

/// Waits until no container and no sandbox is left.
pub fn wait_empty(node: &Node) {
    wait_for("every container to be gone", 40, || {
        Ok(node.ctr().run().args(["containers", "ls", "-q"]).check()?.trim().is_empty())
    })
    .unwrap();
}

/// Repeats a command in a pod until it succeeds.
pub fn wait_ok(node: &Node, pod: &str, command: &str) {
    let mut last = String::new();
    let result = wait_for(&format!("`{command}` in {pod} to work"), 20, || {
        let output = node.exec("e2e", pod, command)?;
        last.clone_from(&output.text);
        Ok(output.ok())
    });
    assert!(result.is_ok(), "{result:?}: {last}");
}

/// Repeats a command in a pod until it fails with `how` (`timed out`, `refused`).
pub fn wait_fails(node: &Node, pod: &str, command: &str, how: &str) {
    let mut last = String::new();
    let result = wait_for(&format!("`{command}` in {pod} to fail: {how}"), 20, || {
        let output = node.exec("e2e", pod, command)?;
        last.clone_from(&output.text);
        Ok(!output.ok() && output.text.contains(how))
    });
    assert!(result.is_ok(), "{result:?}: {last}");
}

/// Runs a command in a pod now.
pub fn exec(node: &Node, pod: &str, command: &str) -> Output {
    node.exec("e2e", pod, command).unwrap()
}

/// Waits until `longshore status` or the log says something.
pub fn wait_said(node: &Node, what: &str) {
    let result = wait_for(&format!("`{what}` in status or log"), 20, || {
        Ok(node.status()?.text.contains(what) || node.last_log(200).contains(what))
    });
    assert!(result.is_ok(), "{result:?}");
}
