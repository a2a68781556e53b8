//! A Deployment, its Service, and who reaches it.

use std::collections::BTreeSet;

use crate::script::*;

#[test]
fn b10_a_service_is_answered_by_all_pods_of_a_deployment() {
    let node = node("service");
    node.write("web.yaml", &web(4, "one", "")).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    wait_running(&node, "web", 4);
    wait_running(&node, "client", 1);

    // From a pod: every backend answers, no request fails.
    wait_ok(&node, "client", &format!("get http://{WEB_IP}/ --timeout 1"));
    let by_all = |text: &str| -> BTreeSet<String> {
        text.lines().filter(|line| line.starts_with("web-")).map(str::to_owned).collect()
    };
    longshore_tests::process::wait_for("all four pods to answer", 20, || {
        let output = node.exec("e2e", "client", &format!("get http://{WEB_IP}/ --count 80"))?;
        assert!(output.ok(), "{}", output.text);
        Ok(by_all(&output.stdout) == running(&node, "web"))
    })
    .unwrap();

    // By name, through the pod's hosts entries.
    let output = exec(&node, "client", "get http://web/ --timeout 1");
    assert!(output.ok(), "{}", output.text);

    // From a process of the node that is in no pod.
    let output = node.on_host(&format!("get http://{WEB_IP}/ --count 40")).output().unwrap();
    assert!(output.ok(), "{}", output.text);
    assert_eq!(by_all(&output.stdout), running(&node, "web"));

    // A backend that reaches its own Service, perhaps itself.
    let output = exec(&node, "web", &format!("get http://{WEB_IP}/ --count 40 --timeout 2"));
    assert!(output.ok(), "{}", output.text);
}

#[test]
fn b10_udp_answers_come_from_the_address_that_was_asked() {
    let node = node("udp");
    node.write("echo.yaml", &pod("echo", "udp-echo --port 9000")).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: e2e}\nspec:\n  \
        clusterIP: 10.97.0.53\n  selector: {app: echo}\n  \
        ports: [{port: 53, targetPort: 9000, protocol: UDP}]\n";
    node.write("service.yaml", service).unwrap();
    wait_running(&node, "echo", 1);
    wait_running(&node, "client", 1);
    wait_ok(&node, "client", "udp-get 10.97.0.53:53 --timeout 1");
    let output = exec(&node, "client", "udp-get 10.97.0.53:53 --count 20");
    assert!(output.ok(), "{}", output.text);
}

#[test]
fn b26_a_service_without_endpoints_refuses_at_once() {
    let node = node("empty");
    node.write("service.yaml", &web_service()).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    wait_running(&node, "client", 1);
    wait_fails(&node, "client", &format!("get http://{WEB_IP}/ --timeout 2"), "refused");
}

#[test]
fn a_pod_reaches_the_world_and_the_node_under_the_nodes_address() {
    let node = node("world");
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    wait_running(&node, "client", 1);
    let log = node.dir().join("world.log");
    let _world = node.in_world("web --port 8088 --name world").start(&log).unwrap();
    wait_ok(&node, "client", "get http://192.0.2.1:8088/ --timeout 1");
    let _host = node.on_host("web --port 8089 --name host").start(&log).unwrap();
    wait_ok(&node, "client", "get http://192.0.2.10:8089/ --timeout 1");
}
