//! What is wrong from the start, and what goes wrong while the daemon is away.

use longshore_tests::cluster::{Cluster, SERVICE_CIDR};
use longshore_tests::process::{Run, wait_for};

use crate::script::*;

/// The daemon's command line with some values changed; an empty value leaves the flag out.
fn daemon(cluster: &Cluster, changes: &[(&str, &str)]) -> Run {
    let node = cluster.node(1);
    let text = |path: std::path::PathBuf| path.display().to_string();
    let cni = node.dir().join("cni");
    let usual = [
        ("--kubeconfig", text(node.kubeconfig())),
        ("--dataplane-kubeconfig", text(node.dataplane_kubeconfig())),
        ("--config", text(node.config())),
        ("--root-dir", text(node.root_dir())),
        ("--state-dir", text(node.state_dir())),
        ("--cgroup-root", node.cgroup_root()),
        ("--cni-conf-dir", text(cni.join("net.d"))),
        ("--cni-bin-dir", text(cni.join("bin"))),
        ("--container-runtime-endpoint", node.containerd().endpoint()),
        ("--service-cidr", SERVICE_CIDR.to_owned()),
        ("--hostname-override", node.name()),
        ("--node-ip", node.ip()),
    ];
    let longshore = text(cluster.options().lab.longshore.clone());
    let run = node.netns().run(&longshore).arg("node");
    let changed = |flag: &str| changes.iter().find(|(name, _)| *name == flag).map(|(_, to)| *to);
    let run = usual.iter().fold(run, |run, (flag, value)| match changed(flag) {
        Some("") => run,
        Some(to) => run.args([*flag, to]),
        None => run.args([*flag, value.as_str()]),
    });
    let more = changes.iter().filter(|(flag, _)| usual.iter().all(|(name, _)| name != flag));
    more.fold(run, |run, (flag, value)| run.args([*flag, *value]))
}

/// The line that a person reads first: the daemon refuses and ends.
fn refusal(run: Run) -> String {
    let output = run.limit_s(60).output().unwrap();
    assert!(matches!(output.code, Some(1..)), "{:?}: {}", output.code, output.text);
    let error = output.text.lines().find(|line| line.to_lowercase().contains("error"));
    error.unwrap_or_else(|| panic!("no error line: {}", output.text)).to_owned()
}

#[test]
fn f06_a209_what_cannot_work_is_refused_in_one_line_and_harms_no_pod() {
    let mut cluster = cluster("bad", 1, |_| {});
    e2e(&cluster).apply(&pod("bystander", "sleep", ""));
    e2e(&cluster).wait_ready("bystander");
    let tasks = running(cluster.node(1), E2E);
    cluster.stop_agent(1).unwrap();
    let dir = cluster.dir();
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = std::fs::read_to_string(cluster.node(1).config()).unwrap();
    let garbage = file("garbage.conf", "apiVersion: v1\nkind: Config\nclusters: [\n");
    let elsewhere = dir.join("is-not-there.conf").display().to_string();
    let unknown_ca = file("no-ca.yaml", &config.replace("ca.crt", "is-not-there.crt"));
    let weak = file("weak.yaml", &format!("{config}protectKernelDefaults: true\n"));
    for (what, changes, wants) in [
        ("an unknown flag", vec![("--node-lables", "a=b")], vec!["--node-lables"]),
        ("no second identity", vec![("--dataplane-kubeconfig", "")], vec!["deploy/rbac.yaml"]),
        (
            "a second identity that is not there",
            vec![("--dataplane-kubeconfig", elsewhere.as_str())],
            vec!["is-not-there.conf"],
        ),
        (
            "no kubeconfig there",
            vec![("--kubeconfig", elsewhere.as_str())],
            vec!["is-not-there.conf"],
        ),
        ("a broken kubeconfig", vec![("--kubeconfig", garbage.as_str())], vec!["garbage.conf"]),
        (
            "a CA file that is not there",
            vec![("--config", unknown_ca.as_str())],
            vec!["is-not-there.crt"],
        ),
        (
            "what would weaken isolation",
            vec![("--config", weak.as_str())],
            vec!["protectKernelDefaults"],
        ),
        (
            "a label of others",
            vec![("--node-labels", "kubernetes.io/a=b")],
            vec!["kubernetes.io/a"],
        ),
    ] {
        let line = refusal(daemon(&cluster, &changes));
        println!("{what}: {line}");
        for want in wants {
            assert!(line.contains(want), "{what}: {line}");
        }
        assert_eq!(running(cluster.node(1), E2E), tasks, "{what}");
    }
    // Somebody else has the port.
    let log = dir.join("port.log");
    let mut holder = cluster.node(1).on_host("web --port 10250").start(&log).unwrap();
    wait_for("the port to be taken", 20, || Ok(holder.log().contains("serves"))).unwrap();
    let line = refusal(daemon(&cluster, &[]));
    assert!(line.contains("10250"), "{line}");
    holder.kill9().unwrap();
    assert_eq!(running(cluster.node(1), E2E), tasks, "a taken port");

    // A pod of this node is taken away while nobody is there to see it.
    e2e(&cluster).kubectl("delete pod bystander --grace-period=0 --force").check().unwrap();
    cluster.start_agent(1).unwrap();
    poll("the pod that no longer exists to end", || Ok(running(cluster.node(1), E2E).is_empty()))
        .unwrap();
    cluster.wait_ready(LIMIT_S).unwrap();
    e2e(&cluster).apply(&pod("next", "sleep", ""));
    e2e(&cluster).wait_ready("next");
}

#[test]
fn a23_wrong_credentials_are_named_and_right_ones_are_taken_up() {
    let mut cluster = cluster("creds", 1, |_| {});
    e2e(&cluster).apply(&pod("bystander", "sleep", ""));
    e2e(&cluster).wait_ready("bystander");
    let tasks = running(cluster.node(1), E2E);
    cluster.stop_agent(1).unwrap();
    let dir = cluster.dir();
    let good = std::fs::read_to_string(cluster.node(1).kubeconfig()).unwrap();
    let ca = dir.join("other-ca.crt").display().to_string();
    Run::new("openssl")
        .words(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=other",
        )
        .args(["-keyout", &dir.join("other-ca.key").display().to_string(), "-out", &ca])
        .check()
        .unwrap();
    let own_ca = dir.join("pki/ca.crt").display().to_string();
    let token = "system-node-n1-token";
    assert!(good.contains(&own_ca) && good.contains(token), "{good}");
    let no_user: String = good
        .lines()
        .filter(|line| !line.contains("token:"))
        .map(|line| format!("{line}\n"))
        .collect();
    for (what, text, wants) in [
        ("another authority", good.replace(&own_ca, &ca), ["certificate", "UnknownIssuer"]),
        ("an expired token", good.replace(token, "expired"), ["401", "Unauthorized"]),
        ("no credentials", no_user, ["names no credential", "system:anonymous"]),
    ] {
        let path = dir.join("bad.conf");
        std::fs::write(&path, text).unwrap();
        let log = dir.join(format!("{}.log", what.replace(' ', "-")));
        let path = path.display().to_string();
        let child = daemon(&cluster, &[("--kubeconfig", &path)]).own_group().start(&log).unwrap();
        let said = wait_for("the daemon to say what is wrong", 90, || {
            let text = child.log();
            Ok(wants.iter().any(|want| text.contains(want)))
        });
        assert!(said.is_ok(), "{what}: {}", child.log());
        drop(child);
        assert_eq!(running(cluster.node(1), E2E), tasks, "{what}");
    }

    // A token in a file may become right: nobody has to restart the daemon.
    let file = dir.join("token");
    std::fs::write(&file, "expired").unwrap();
    let text =
        good.replace(&format!("token: \"{token}\""), &format!("tokenFile: \"{}\"", file.display()));
    assert!(text.contains("tokenFile"), "{text}");
    std::fs::write(cluster.node(1).kubeconfig(), text).unwrap();
    cluster.start_agent(1).unwrap();
    let space = e2e(&cluster);
    wait_for("the daemon to say what is wrong", 90, || {
        let log = std::fs::read_to_string(cluster.node(1).agent_log())?;
        Ok(["401", "Unauthorized"].iter().any(|want| log.contains(want)))
    })
    .unwrap();
    space.apply(&pod("waits", "sleep", ""));
    std::fs::write(&file, token).unwrap();
    // Clients read such a file again each minute.
    poll("the right token to be taken up", || Ok(is_ready(&space.get("pod waits")))).unwrap();
    let mut now = running(cluster.node(1), E2E);
    now.retain(|(pod, _), _| pod == "bystander");
    assert_eq!(now, tasks);
}
