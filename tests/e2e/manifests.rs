//! Manifests come, change and go; the machine is afterwards as it was before.

use std::path::{Path, PathBuf};

use longshore_tests::leak::Snapshot;
use longshore_tests::process::wait_for;

use crate::script::*;

#[test]
fn i3_deleting_everything_leaves_the_machine_as_before() {
    let node = node("leak");
    let before = Snapshot::take(&node).unwrap();
    node.write("web.yaml", &web(4, "one", VOLUMES)).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    node.write("policy.yaml", &allow("web", "web", &["client"])).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    wait_running(&node, "web", 4);
    wait_running(&node, "client", 1);
    wait_ok(&node, "client", &format!("get http://{WEB_IP}/ --timeout 1"));
    node.remove_all().unwrap();
    wait_empty(&node);
    let mut left = Vec::new();
    let clean = wait_for("nothing to be left", 20, || {
        left = before.differences(&Snapshot::take(&node)?);
        Ok(left.is_empty())
    });
    assert!(clean.is_ok(), "{}", left.join("\n"));
}

const VOLUMES: &str = "          volumeMounts: [{name: scratch, mountPath: /scratch}]
      volumes: [{name: scratch, emptyDir: {medium: Memory}}]
";

#[test]
fn a_manifest_is_edited_added_and_removed() {
    let node = node("edit");
    node.write("web.yaml", &web(1, "one", "")).unwrap();
    wait_running(&node, "web", 1);
    let first = running(&node, "web");

    // More replicas: the first pod stays.
    node.write("web.yaml", &web(3, "one", "")).unwrap();
    wait_running(&node, "web", 3);
    assert!(running(&node, "web").is_superset(&first));

    // Fewer.
    node.write("web.yaml", &web(1, "one", "")).unwrap();
    wait_running(&node, "web", 1);

    // Another file, with a pod; then both go.
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    wait_running(&node, "client", 1);
    node.remove("client.yaml").unwrap();
    wait_for("the client to be gone", 20, || Ok(running(&node, "client").is_empty())).unwrap();
    assert_eq!(running(&node, "web").len(), 1);
    node.remove("web.yaml").unwrap();
    wait_empty(&node);
}

#[test]
fn f39_i7_lost_state_files_lose_no_pod_and_no_connection() {
    let mut node = node("lost");
    node.write("web.yaml", &web(2, "one", "")).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    node.write("client.yaml", &pod("client", "sleep")).unwrap();
    node.write("policy.yaml", &allow("web", "web", &["client"])).unwrap();
    wait_running(&node, "web", 2);
    wait_running(&node, "client", 1);
    let get = format!("get http://{WEB_IP}/ --timeout 1");
    wait_ok(&node, "client", &get);
    let pods = running(&node, "");
    let stream = format!("get http://{WEB_IP}/bytes/4000000?rate=1000000 --timeout 5");
    let stream = node.exec_run("e2e", "client", &stream).unwrap();
    let mut stream = stream.start(&node.dir().join("download.log")).unwrap();

    node.kill9().unwrap();
    for file in ["network.json", "standalone.json"] {
        std::fs::write(node.state_dir().join(file), "{ torn").unwrap();
    }
    node.start_daemon().unwrap();
    wait_ok(&node, "client", &get);
    assert_eq!(stream.wait(20).unwrap(), Some(0), "{}", stream.log());
    assert_eq!(running(&node, ""), pods);

    // Their addresses are taken: a new pod gets one of its own, and is allowed by nobody.
    node.write("late.yaml", &pod("late", "sleep")).unwrap();
    wait_running(&node, "late", 1);
    wait_fails(&node, "late", &get, "timed out");
    wait_ok(&node, "client", &get);
}

#[test]
fn a96_a205_a_stopped_daemon_leaves_its_pods_and_adopts_them() {
    let mut node = node("adopt");
    node.write("web.yaml", &web(2, "one", "")).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    wait_running(&node, "web", 2);
    let get = format!("get http://{WEB_IP}/ --count 20 --timeout 2");
    wait_for("the Service", 20, || Ok(node.on_host(&get).output()?.ok())).unwrap();
    let before = node.ctr().tasks().unwrap();

    assert_eq!(node.stop_daemon().unwrap(), Some(0), "SIGTERM is a clean end");
    assert_eq!(node.ctr().tasks().unwrap(), before);
    assert!(node.on_host(&get).output().unwrap().ok(), "the Service goes on without the daemon");

    node.start_daemon().unwrap();
    // Long enough for a wrong decision to be made and to be seen.
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(node.ctr().tasks().unwrap(), before, "no pod was restarted");
    assert!(node.on_host(&get).output().unwrap().ok());
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn i3_cleanup_removes_everything_of_a_stopped_daemon_and_nothing_else() {
    let mut node = node("cleanup");
    node.write("web.yaml", &web(2, "one", VOLUMES)).unwrap();
    node.write("service.yaml", &web_service()).unwrap();
    wait_running(&node, "web", 2);
    let links_dir = node.log_links_dir();
    wait_for("a link for each container", 20, || Ok(files_of(&links_dir).len() == 2)).unwrap();
    assert_eq!(files_of(&node.pod_logs_dir()).len(), 2);
    for link in files_of(&links_dir) {
        let log = std::fs::read_link(&link).unwrap();
        assert!(log.is_file(), "{} → {}", link.display(), log.display());
        assert!(log.starts_with(node.pod_logs_dir()), "{} → {}", link.display(), log.display());
    }

    // A running daemon is not cleaned up.
    let refused = node.longshore("cleanup").output().unwrap();
    assert!(!refused.ok() && refused.text.contains("stop it first"), "{}", refused.text);
    assert_eq!(running(&node, "web").len(), 2);

    assert_eq!(node.stop_daemon().unwrap(), Some(0));
    let output = node.longshore("cleanup").output().unwrap();
    assert!(output.ok(), "{}", output.text);
    assert!(!node.state_dir().exists(), "{}", output.text);
    assert!(node.ctr().containers().unwrap().is_empty());
    assert_eq!(longshore_tests::cgroup::containers(&node.cgroup_root()).len(), 0);
    let place = node.containerd().place();
    for dir in [&place.cni_conf_dir, &place.cni_bin_dir] {
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "{}", dir.display());
    }
    for dir in [node.pod_logs_dir(), node.log_links_dir()] {
        assert_eq!(files_of(&dir), Vec::<PathBuf>::new());
    }
    let links = node.netns().ip("-o link").unwrap();
    assert!(!links.contains(": ls"), "{links}");
    let rules = node.netns().run("nft").args(["list", "ruleset"]).check().unwrap();
    assert!(!rules.contains("longshore"), "{rules}");
    // Nothing is left that the hooks could do: a connection goes where nobody answers.
    assert!(!node.on_host(&format!("get http://{WEB_IP}/ --timeout 1")).output().unwrap().ok());
}
