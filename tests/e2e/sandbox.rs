//! A pod's place breaks under it, and the pod gets a new one.

use longshore_tests::process::wait_for;

use crate::script::*;

#[test]
fn a39_a_pod_whose_interface_was_deleted_gets_a_new_sandbox() {
    let node = node("nolink");
    node.write("web.yaml", &web(1, "v1", "")).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    wait_running(&node, "web", 1);
    let answers = |what: &str| {
        wait_for(what, 40, || {
            Ok(node.on_host(&format!("get http://{WEB_IP}/healthz")).output()?.ok())
        })
        .unwrap();
    };
    answers("the Service to answer");

    let links = node.netns().ip("-o link show type veth").unwrap();
    let names = links.lines().filter_map(|line| line.split(": ").nth(1)?.split('@').next());
    let lost: Vec<&str> = names.filter(|name| name.starts_with("ls")).collect();
    assert_eq!(lost.len(), 1, "{links}");
    node.netns().ip(&format!("link delete {}", lost[0])).unwrap();

    wait_said(&node, "SandboxChanged");
    answers("the Service to answer again");
    assert_eq!(running(&node, "web").len(), 1);
    node.remove_all().unwrap();
    wait_empty(&node);
}
