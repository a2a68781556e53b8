//! What is given to `kubectl apply`.

pub const WORKLOAD: &str = "localhost/longshore/workload:1";
pub const AGNHOST: &str = "localhost/longshore/agnhost:1";

/// A pod of one container with the label `app: NAME`; `args` are the workload's words, `extra` is
/// YAML of the pod's spec, indented by 2.
pub fn pod(name: &str, args: &str, extra: &str) -> String {
    pod_of(name, args, WORKLOAD, extra)
}

/// As [`pod`], of another image.
pub fn pod_of(name: &str, args: &str, image: &str, extra: &str) -> String {
    let args: Vec<String> = args.split(' ').map(|word| format!("'{word}'")).collect();
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 2
{extra}  containers:
    - name: main
      image: {image}
      args: [{}]
",
        args.join(", ")
    )
}

/// For `extra` of [`pod`]: bound by the scheduler, to that node.
pub fn on(node: &str) -> String {
    format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n")
}

/// A pod with a shell script in it.
pub fn shell(name: &str, script: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 2
{extra}  containers:
    - name: main
      image: {AGNHOST}
      command: [/bin/sh, -c]
      args:
        - |
{}
",
        script.lines().map(|line| format!("          {line}\n")).collect::<String>()
    )
}

/// `netexec` on port 8080, spread evenly over the nodes, behind the Service of the same name at
/// port 80. `more` are further words of netexec, `extra` YAML of the pod's spec, indented by 6.
pub fn netexec(name: &str, replicas: u32, more: &str, extra: &str) -> String {
    let args: Vec<String> = format!("netexec --http-port=8080 {more}")
        .split_whitespace()
        .map(|word| format!("'{word}'"))
        .collect();
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 20
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {{matchLabels: {{app: {name}}}}}
          matchLabelKeys: [pod-template-hash]
{extra}      containers:
        - name: main
          image: {AGNHOST}
          args: [{}]
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{httpGet: {{path: /hostname, port: http}}, periodSeconds: 1}}
---
{}",
        args.join(", "),
        service(name, 80, "http")
    )
}

/// A Service of the pods with `app: NAME`.
pub fn service(name: &str, port: u16, target: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: {port}, targetPort: {target}}}]
"
    )
}

/// Ingress to `app: TO` only from pods of the same namespace labelled `app: FROM`.
pub fn allow(to: &str, from: &[&str]) -> String {
    let peers: Vec<String> = from
        .iter()
        .map(|app| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}"))
        .collect();
    let ingress =
        if from.is_empty() { String::new() } else { format!("{{from: [{}]}}", peers.join(", ")) };
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {to}}}
spec:
  podSelector: {{matchLabels: {{app: {to}}}}}
  policyTypes: [Ingress]
  ingress: [{ingress}]
"
    )
}
