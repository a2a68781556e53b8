//! Who may ask the node's own port, and what it answers.

use longshore_tests::process::Output;
use serde_json::Value;

use crate::script::*;

/// A request to a node's port with a bearer token, past the API server.
fn ask(space: &Shared, token: &str, path: &str) -> Output {
    let node = space.cluster.node(1);
    space
        .cluster
        .kubectl(["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "get", "--raw", path])
        .arg(format!("--server=https://{}:10250", node.ip()))
        .arg(format!("--token={token}"))
        .output()
        .unwrap()
}

#[test]
fn a178_a179_a180_the_port_asks_the_api_server_who_may() {
    let space = Shared::new("node-port");
    let stranger = space.kubectl("create token default").check().unwrap();
    let stranger = stranger.trim();
    for (token, path, want) in [
        // kubectl's words for 401.
        ("no-such-token", "/pods", "You must be logged in"),
        (stranger, "/pods", "Forbidden"),
        (stranger, "/healthz", "Forbidden"),
        (stranger, "/metrics", "Forbidden"),
    ] {
        let output = ask(&space, token, path);
        assert!(!output.ok() && output.text.contains(want), "{path}: {}", output.text);
    }
    // Exactly what it is given: metrics of nodes, and nothing else.
    let words = "create clusterrole node-metrics --verb=get --resource=nodes/metrics";
    space.kubectl(words).check().unwrap();
    let words = "create clusterrolebinding node-metrics --clusterrole=node-metrics \
                 --serviceaccount=node-port:default";
    space.kubectl(words).check().unwrap();
    // A denial is remembered for up to 30 s.
    poll("the new right", || Ok(ask(&space, stranger, "/metrics").ok())).unwrap();
    let metrics = ask(&space, stranger, "/metrics");
    assert!(metrics.stdout.contains("# TYPE kubelet_"), "{}", metrics.text);
    assert!(!ask(&space, stranger, "/pods").ok());
    space.kubectl("delete clusterrole,clusterrolebinding node-metrics").check().unwrap();
}

#[test]
fn a181_a189_health_and_pods_through_the_api_server() {
    let space = Shared::new("node-proxy");
    space.apply(&pod("own", "sleep", &on("n1")));
    space.wait_ready("own");
    let raw = |path: &str| {
        space.kubectl(&format!("get --raw /api/v1/nodes/n1/proxy/{path}")).check().unwrap()
    };
    assert_eq!(raw("healthz").trim(), "ok");
    let pods: Value = serde_json::from_str(&raw("pods")).unwrap();
    assert_eq!(pods["kind"], "PodList");
    let own = items(&pods).iter().find(|pod| pod["metadata"]["name"] == "own");
    assert_eq!(own.map(|pod| text(pod, "/status/phase")).as_deref(), Some("Running"), "{pods}");
    assert!(items(&pods).iter().all(|pod| pod["spec"]["nodeName"] == "n1"), "{pods}");
    let config: Value = serde_json::from_str(&raw("configz")).unwrap();
    assert_eq!(config["kubeletconfig"]["clusterDomain"], "cluster.local", "{config}");
    // For the node itself, on its loopback only.
    let health = space.cluster.node(1).on_host("get http://127.0.0.1:10248/healthz");
    assert_eq!(health.check().unwrap().trim(), "ok");
}
