//! A pod's place breaks under it, and the pod gets a new one.

use longshore_tests::process::wait_for;

use crate::script::*;

/// containerd can forget a task whose start was cut off; here it never heard of it.
#[test]
fn f20_a_task_that_the_runtime_has_lost_does_not_keep_its_pod() {
    let mut node = node("task");
    node.kill9().unwrap();
    node.set_env("LONGSHORE_FAILPOINT", "pod.create_container.after:1");
    node.start_daemon_unready().unwrap();
    node.write("lost.yaml", &pod("lost", "sleep")).unwrap();
    wait_for("the daemon to die", 40, || Ok(node.daemon_exited()?.is_some())).unwrap();
    node.clear_env("LONGSHORE_FAILPOINT");
    let created = node.ctr().containers().unwrap();
    let [container] = &created[..] else { panic!("{created:?}") };
    assert_eq!(container.pid, None, "it was not started");
    let words = ["tasks", "start", "-d", "--null-io", &container.id];
    node.ctr().run().args(words).check().unwrap();
    assert!(node.ctr().tasks().unwrap().contains_key(&container.id));
    node.remove("lost.yaml").unwrap();
    node.start_daemon().unwrap();
    wait_empty(&node);
    assert!(node.last_log(400).contains("lost a running task"), "{}", node.last_log(400));
    wait_for("no shim to be left", 20, || Ok(node.containerd().shims().is_empty())).unwrap();
}

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
