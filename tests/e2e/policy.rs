//! NetworkPolicies: who gets through, before and after a change.

use crate::script::*;

#[test]
fn c1_c17_c18_a_policy_allows_denies_changes_and_goes() {
    let node = node("policy");
    node.write("web.yaml", &web(2, "one", "")).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    node.write("stranger.yaml", &pod("stranger", "sleep")).unwrap();
    wait_running(&node, "web", 2);
    wait_running(&node, "client", 1);
    wait_running(&node, "stranger", 1);
    let get = format!("get http://{WEB_IP}/ --timeout 1");

    // Nobody selects web: all may come.
    wait_ok(&node, "client", &get);
    wait_ok(&node, "stranger", &get);

    // Only the client.
    node.write("policy.yaml", &allow("web", "web", &["client"])).unwrap();
    wait_fails(&node, "stranger", &get, "timed out");
    let output = exec(&node, "client", &format!("{get} --count 20"));
    assert!(output.ok(), "{}", output.text);
    let explain =
        node.longshore("explain flow --from e2e/stranger --to e2e/web:80").output().unwrap();
    assert!(explain.text.contains("e2e/web"), "{}", explain.text);

    // The node itself always reaches its pods (C12): probes depend on it.
    assert!(node.on_host(&get).output().unwrap().ok());

    // Edited: both.
    node.write("policy.yaml", &allow("web", "web", &["client", "stranger"])).unwrap();
    wait_ok(&node, "stranger", &get);

    // Edited: nobody.
    node.write("policy.yaml", &allow("web", "web", &[])).unwrap();
    wait_fails(&node, "client", &get, "timed out");

    // Removed: all again.
    node.remove("policy.yaml").unwrap();
    wait_ok(&node, "client", &get);
    wait_ok(&node, "stranger", &get);
}

#[test]
fn c15_a_new_policy_reaches_an_established_connection() {
    let node = node("epoch");
    node.write("echo.yaml", &pod("echo", "stream-server --port 7000")).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: e2e}\nspec:\n  \
        clusterIP: 10.97.0.70\n  selector: {app: echo}\n  ports: [{port: 70, targetPort: 7000}]\n";
    node.write("service.yaml", service).unwrap();
    wait_running(&node, "echo", 1);
    wait_running(&node, "client", 1);
    wait_ok(&node, "client", "connect 10.97.0.70:70 --timeout 1");

    let stream = node.exec_run("e2e", "client", "stream-client 10.97.0.70:70 --stall 3").unwrap();
    let mut stream = stream.start(&node.dir().join("stream.log")).unwrap();
    longshore_tests::process::wait_for("the stream", 5, || Ok(stream.log().contains("connected")))
        .unwrap();
    node.write("policy.yaml", &allow("echo", "echo", &[])).unwrap();
    // It stalls and the client gives up: it was allowed only before.
    assert_ne!(stream.wait(30).unwrap(), Some(0), "{}", stream.log());
}

#[test]
fn c16_no_packet_passes_before_the_policy_is_programmed() {
    let node = node("closed");
    node.write("policy.yaml", &allow("web", "web", &["nobody"])).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    // It tries without a pause from its first instruction on.
    let stranger = format!("get http://{WEB_IP}/ --timeout 0.3 --count 0 --interval 1");
    node.write("stranger.yaml", &pod("stranger", &stranger)).unwrap();
    wait_running(&node, "stranger", 1);
    for round in 0..5 {
        node.write("web.yaml", &web(2, &format!("v{round}"), "")).unwrap();
        wait_running(&node, "web", 2);
        std::thread::sleep(std::time::Duration::from_millis(500));
        node.remove("web.yaml").unwrap();
        longshore_tests::process::wait_for("web to be gone", 30, || {
            Ok(running(&node, "web").is_empty())
        })
        .unwrap();
    }
    // Its answers would be lines of its log.
    let logs = pod_logs(&node, "stranger");
    assert!(!logs.contains("web-"), "an answer came through:\n{logs}");
}

/// Everything that the containers of a pod printed.
fn pod_logs(node: &longshore_tests::node::Node, pod: &str) -> String {
    let mut text = String::new();
    let container = node.ctr().find("e2e", pod).unwrap();
    let info = node.ctr().run().args(["containers", "info", &container.id]).check().unwrap();
    assert!(info.contains(&container.id));
    let marker = format!("e2e_{pod}_");
    collect(&node.pod_logs_dir(), &marker, &mut text);
    assert!(!text.is_empty(), "no log of {pod} below {}", node.pod_logs_dir().display());
    text
}

fn collect(dir: &std::path::Path, marker: &str, text: &mut String) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, marker, text);
        } else if path.to_string_lossy().contains(marker)
            && path.extension().is_some_and(|e| e == "log")
        {
            text.push_str(&std::fs::read_to_string(path).unwrap_or_default());
        }
    }
}
