//! The ground itself: an own containerd runs a pod, is restarted, and leaves nothing.

use longshore_tests::cgroup;
use longshore_tests::cri::{BarePod, Cri};
use longshore_tests::lab::{Lab, PAUSE_IMAGE, WORKLOAD_IMAGE};
use longshore_tests::leak::Snapshot;
use longshore_tests::node::Node;
use longshore_tests::process::wait_for;

fn bare(node: &Node, name: &str) -> BarePod {
    BarePod {
        name: name.to_owned(),
        image: WORKLOAD_IMAGE.to_owned(),
        args: vec!["web".to_owned(), "--port".to_owned(), "8099".to_owned()],
        cgroup_parent: format!("{}/kubepods/besteffort/pod{name}", node.cgroup_root()),
        host_network: true,
    }
}

#[test]
fn i3_a_lab_without_the_daemon_leaves_nothing() {
    let lab = Lab::from_env().unwrap();
    let (name, dir, root, socket);
    {
        let mut node = Node::new(&lab, "ground").unwrap();
        (name, dir, root) = (node.name().to_owned(), node.dir().clone(), node.cgroup_root());
        socket = node.containerd().socket().display().to_string();
        let before = Snapshot::take(&node).unwrap();

        // A pod of the host network needs no CNI plugin.
        let mut cri = Cri::connect(&node.containerd().socket()).unwrap();
        assert!(cri.images().unwrap().iter().any(|image| image == PAUSE_IMAGE));
        let sandbox = cri.run_pod(&bare(&node, "one")).unwrap();
        let live = cgroup::containers(&root);
        assert_eq!(live.len(), 2, "a sandbox and a container: {live:?}");
        assert!(live.values().all(|one| one.pod == "podone"), "{live:?}");
        assert!(node.on_host("get http://127.0.0.1:8099/").output().unwrap().ok());
        let grown = before.differences(&Snapshot::take(&node).unwrap());
        assert!(grown.iter().any(|line| line.starts_with("left behind: cgroup")), "{grown:?}");
        assert!(grown.iter().any(|line| line.starts_with("left behind: process")), "{grown:?}");

        // A command in a container, as all scripts give them.
        let output = node.exec("bare", "one", "get http://127.0.0.1:8099/bytes/5000").unwrap();
        assert!(output.text.contains("5000 bytes, every one as sent"), "{}", output.text);
        let output = node.exec("bare", "one", "connect 127.0.0.1:9 --timeout 1").unwrap();
        assert!(!output.ok() && output.text.contains("refused"), "{}", output.text);

        // The pod goes on without containerd.
        node.containerd_mut().restart().unwrap();
        assert_eq!(cgroup::containers(&root), live);
        let mut cri = Cri::connect(&node.containerd().socket()).unwrap();
        // Its socket answers before its CRI plugin has read what runs.
        wait_for("the CRI plugin to be ready", 20, || Ok(cri.sandboxes().is_ok())).unwrap();
        assert_eq!(cri.sandboxes().unwrap().len(), 1);
        cri.remove_pod(&sandbox).unwrap();

        // A second one is left running: the lab must take it away by itself.
        cri.run_pod(&bare(&node, "two")).unwrap();
    }
    assert!(!dir.exists(), "{} is left", dir.display());
    assert!(cgroup::below(&root).is_empty(), "{:?}", cgroup::below(&root));
    assert!(!std::path::Path::new("/run/netns").join(&name).exists());
    let left = longshore_tests::process::processes(|line| line.contains(&socket));
    assert!(left.is_empty(), "{left:?}");
}
