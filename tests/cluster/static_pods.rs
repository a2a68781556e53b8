//! Pods from a directory of the node, and their mirrors.

use serde_json::Value;

use crate::script::*;

#[test]
fn a29_a30_a31_a_file_is_a_pod_with_a_mirror() {
    let space = Shared::new("static");
    let node = space.cluster.node(2);
    let file = node.manifests_dir().join("web.yaml");
    let text = |version: &str| {
        pod("web", "web --port 8080", "").replace(
            "metadata: {name: web,",
            &format!(
                "metadata: {{name: web, namespace: {}, annotations: {{version: {version}}},",
                space.name
            ),
        )
    };
    let write = |text: &str| {
        let hidden = node.manifests_dir().join(".web.yaml.new");
        std::fs::write(&hidden, text).unwrap();
        std::fs::rename(hidden, &file).unwrap();
    };
    write(&text("one"));
    let mirror = space.wait("pod web-n2", "Ready", is_ready);
    let annotation = |name: &str| mirror["metadata"]["annotations"][name].clone();
    assert_eq!(annotation("kubernetes.io/config.source"), "file");
    let hash = annotation("kubernetes.io/config.hash");
    assert!(hash.is_string());
    assert_eq!(annotation("kubernetes.io/config.mirror"), hash);
    assert!(annotation("kubernetes.io/config.seen").is_string());
    assert_eq!(annotation("version"), "one");
    let owner = &mirror["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"], &owner["controller"]),
        (&"Node".into(), &"n2".into(), &true.into())
    );
    assert_eq!(mirror["spec"]["nodeName"], "n2");
    let tolerates = |pod: &Value| {
        let all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        all.iter().any(|one| {
            one["operator"] == "Exists" && one["effect"] == "NoExecute" && one["key"].is_null()
        })
    };
    assert!(tolerates(&mirror), "{:#}", mirror["spec"]["tolerations"]);
    let tasks = running(node, space.name);
    assert_eq!(tasks.keys().map(|(pod, _)| pod.as_str()).collect::<Vec<_>>(), ["web-n2"]);
    // It is like any other pod: an address, a log, a command.
    let pod = Pod::of(&mirror);
    wait_host_ok(node, &format!("get http://{}:8080/ --timeout 2", pod.ip));
    assert!(space.kubectl("logs web-n2").check().unwrap().contains("serves on port 8080"));
    let output = space.kubectl("exec web-n2 -- /bin/longshore-workload get http://127.0.0.1:8080/");
    assert_eq!(output.check().unwrap().trim(), "web-n2");

    // Deleting the mirror deletes a copy: the pod goes on, and there is another copy.
    space.kubectl("delete pod web-n2 --wait=false").check().unwrap();
    space.wait("pod web-n2", "another mirror, Ready", |pod| {
        is_ready(pod) && !is_deleting(pod) && pod["metadata"]["uid"] != mirror["metadata"]["uid"]
    });
    assert_eq!(running(node, space.name), tasks, "no container was touched");

    // Another text is another pod.
    write(&text("two").replace("8080", "8081"));
    let changed = space.wait("pod web-n2", "the second version, Ready", |pod| {
        is_ready(pod) && pod["metadata"]["annotations"]["version"] == "two"
    });
    wait_host_ok(node, &format!("get http://{}:8081/ --timeout 2", Pod::of(&changed).ip));
    assert_ne!(changed["metadata"]["annotations"]["kubernetes.io/config.hash"], hash);
    poll("one container", || Ok(running(node, space.name).len() == 1)).unwrap();

    std::fs::remove_file(&file).unwrap();
    space.wait("pods", "no mirror", |list| items(list).is_empty());
    poll("no container", || Ok(running(node, space.name).is_empty())).unwrap();
}

#[test]
fn a32_a_static_pod_may_not_need_the_api() {
    let space = Shared::new("static-refs");
    let node = space.cluster.node(1);
    let file = node.manifests_dir().join("needs.yaml");
    let extra = "  volumes: [{name: text, configMap: {name: text}}]\n";
    let text = pod("needs", "sleep", extra).replace(
        "metadata: {name: needs,",
        &format!("metadata: {{name: needs, namespace: {},", space.name),
    );
    std::fs::write(&file, text).unwrap();
    let said = poll("the refusal in status or log", || {
        let status = node.longshore("status").output()?.text;
        let log = std::fs::read_to_string(node.agent_log()).unwrap_or_default();
        let names = |text: &str| {
            text.lines().any(|line| line.contains("needs.yaml") || line.contains("needs-n1"))
        };
        Ok(names(&status) || names(&log))
    });
    let nothing = running(node, space.name).is_empty() && items(&space.get("pods")).is_empty();
    std::fs::remove_file(&file).unwrap();
    said.unwrap();
    assert!(nothing, "a pod that may not be is there");
}
