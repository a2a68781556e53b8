//! What users get wrong: a clear message, and everything else goes on.

use longshore_tests::lab::Lab;
use longshore_tests::node::Node;
use longshore_tests::process::wait_for;

use crate::script::*;

/// A node with a pod that must not be disturbed.
fn node_with_bystander(name: &str) -> Node {
    let node = node(name);
    node.write("bystander.yaml", &pod("bystander", "sleep")).unwrap();
    wait_running(&node, "bystander", 1);
    node
}

fn unharmed(node: &Node, tasks: &std::collections::BTreeMap<String, i32>) {
    let now = node.ctr().tasks().unwrap();
    assert!(tasks.iter().all(|(id, pid)| now.get(id) == Some(pid)), "{tasks:?} became {now:?}");
}

#[test]
fn wrong_pods_wait_with_a_reason_and_harm_nobody() {
    let node = node_with_bystander("badpods");
    let tasks = node.ctr().tasks().unwrap();
    let impossible = pod("noimage", "sleep").replace("workload:1", "is-not-there:1");
    node.write("image.yaml", &impossible).unwrap();
    wait_said(&node, "ErrImagePull");
    let volume = pod("badvolume", "sleep")
        + "      volumeMounts: [{name: v, mountPath: /v}]\n  volumes: [{name: v, configMap: {name: is-not-there}}]\n";
    node.write("volume.yaml", &volume).unwrap();
    wait_said(&node, "is-not-there");
    let handler =
        pod("badhandler", "sleep").replace("spec:\n", "spec:\n  runtimeClassName: is-unknown\n");
    node.write("handler.yaml", &handler).unwrap();
    wait_said(&node, "is-unknown");
    unharmed(&node, &tasks);
}

#[test]
fn wrong_files_are_named_with_their_line_and_the_last_good_state_stays() {
    let node = node_with_bystander("badfiles");
    node.write("web.yaml", &web(1, "one", "")).unwrap();
    wait_running(&node, "web", 1);
    let tasks = node.ctr().tasks().unwrap();
    for (file, text, said) in [
        (
            "broken.yaml",
            "apiVersion: v1\nkind: Pod\nmetadata: [\n".to_owned(),
            "broken.yaml:3: not YAML",
        ),
        (
            "kind.yaml",
            "apiVersion: v9\nkind: Teapot\nmetadata: {name: x}\n".to_owned(),
            "kind.yaml:2: kind Teapot",
        ),
        ("twice.yaml", pod("bystander", "sleep 1"), "twice.yaml:1: Pod e2e/bystander"),
        (
            "cidr.yaml",
            allow("cidr", "bystander", &["x"])
                .replace("podSelector: {matchLabels: {app: x}}", "ipBlock: {cidr: 10.0.0.0/99}"),
            "cidr.yaml:9: NetworkPolicy e2e/cidr",
        ),
        // The good file that ran becomes a broken one.
        (
            "web.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: many}\n".to_owned(),
            "web.yaml:3: Deployment",
        ),
    ] {
        node.write(file, &text).unwrap();
        wait_said(&node, said);
        unharmed(&node, &tasks);
    }
}

/// Starts a daemon that must refuse; gives what it printed.
fn refused(node: &mut Node) -> String {
    node.start_daemon_unready().unwrap();
    let mut code = None;
    wait_for("the daemon to refuse", 45, || {
        code = node.daemon_exited()?;
        Ok(code.is_some())
    })
    .unwrap();
    assert!(matches!(code, Some(Some(1..))), "{code:?}");
    node.last_log(20)
}

#[test]
fn a_foreign_conflist_is_in_the_way() {
    let lab = Lab::from_env().unwrap();
    let mut node = Node::new(&lab, "foreign").unwrap();
    let foreign = node.containerd().place().cni_conf_dir.join("10-other.conflist");
    std::fs::write(&foreign, r#"{"cniVersion":"1.0.0","name":"other","plugins":[]}"#).unwrap();
    let said = refused(&mut node);
    assert!(said.contains("10-other.conflist"), "{said}");
    assert!(foreign.exists(), "it is not ours to remove");
}

#[test]
fn a209_containerd_that_does_not_run_is_named() {
    let lab = Lab::from_env().unwrap();
    let mut node = Node::new(&lab, "norun").unwrap();
    let socket = node.containerd().socket().display().to_string();
    node.containerd_mut().stop_daemon().unwrap();
    node.start_daemon_unready().unwrap();
    wait_said(&node, &socket);
}

#[test]
fn no_root_is_the_first_line() {
    let lab = Lab::from_env().unwrap();
    let node = Node::new(&lab, "noroot").unwrap();
    // The binary must be readable for a stranger: the home directory of root is not.
    let program = std::env::temp_dir().join(format!("{}-longshore", node.name()));
    std::fs::copy(&lab.longshore, &program).unwrap();
    let output = longshore_tests::process::Run::new("setpriv")
        .words("--reuid 65534 --regid 65534 --clear-groups")
        .arg(&program)
        .words("standalone / --state-dir /nonexistent/longshore")
        .output();
    std::fs::remove_file(&program).unwrap();
    let output = output.unwrap();
    assert!(!output.ok());
    assert!(output.text.lines().next().unwrap_or_default().contains("root"), "{}", output.text);
}

#[test]
fn a_full_state_directory_harms_no_running_pod() {
    let lab = Lab::from_env().unwrap();
    let mut node = Node::new(&lab, "full").unwrap();
    let state = node.state_dir();
    std::fs::create_dir_all(&state).unwrap();
    longshore_tests::process::Run::new("mount")
        .words("-t tmpfs -o size=16m longshore-full")
        .arg(&state)
        .check()
        .unwrap();
    node.start_daemon().unwrap();
    node.write("bystander.yaml", &pod("bystander", "sleep")).unwrap();
    wait_running(&node, "bystander", 1);
    let tasks = node.ctr().tasks().unwrap();
    let filler = state.join("filler");
    // Ends with an error when nothing more fits: that is the point.
    let _ = std::fs::write(&filler, vec![0u8; 32 << 20]);
    node.write("late.yaml", &pod("late", "sleep")).unwrap();
    // Not the pod's name, which is said of it in any case.
    wait_said(&node, "pods cannot get an address until the state directory can be written");
    assert!(running(&node, "late").is_empty());
    unharmed(&node, &tasks);
    // Room again: the pod starts by itself.
    std::fs::remove_file(&filler).unwrap();
    wait_running(&node, "late", 1);
}
