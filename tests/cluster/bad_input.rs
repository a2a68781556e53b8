//! What is wrong from the start, and what goes wrong while the daemon is away.

use std::collections::BTreeMap;
use std::path::Path;

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
    let own_cert = dir.join("pki/node-n1.crt").display().to_string();
    assert!(good.contains(&own_ca) && good.contains(&own_cert), "{good}");
    let expired = good.replace(&own_cert, &expired_certificate(&dir.join("pki"), "node-n1"));
    let no_user: String = good
        .lines()
        .filter(|line| !line.contains("client-"))
        .map(|line| format!("{line}\n"))
        .collect();
    let with_user = |user: &str| {
        no_user.replace("  user:\ncontexts", &format!("  user:\n    {user}\ncontexts"))
    };
    // Said by whoever asks first, in one of two forms.
    let not_accepted = ["accept this credential; renew it", "is not accepted: renew it"];
    for (what, text, want) in [
        ("another authority", good.replace(&own_ca, &ca), ["UnknownIssuer"; 2]),
        ("an expired certificate", expired.clone(), not_accepted),
        ("an unknown token", with_user("token: unknown"), not_accepted),
        ("no credentials", no_user.clone(), ["names no credential"; 2]),
    ] {
        let path = dir.join("bad.conf");
        std::fs::write(&path, text).unwrap();
        let log = dir.join(format!("{}.log", what.replace(' ', "-")));
        let path = path.display().to_string();
        let child = daemon(&cluster, &[("--kubeconfig", &path)]).own_group().start(&log).unwrap();
        let line = first_complaint(what, || child.log());
        drop(child);
        assert!(want.iter().any(|form| line.contains(form)), "{what}: {line}");
        assert_eq!(running(cluster.node(1), E2E), tasks, "{what}");
    }

    // A certificate is read once, and the message says what to do when it was renewed.
    std::fs::write(cluster.node(1).kubeconfig(), expired).unwrap();
    start_afresh(&mut cluster);
    wait_said(&cluster, "after any other change restart longshore");
    e2e(&cluster).apply(&pod("waits", "sleep", ""));
    std::fs::write(cluster.node(1).kubeconfig(), &good).unwrap();
    cluster.stop_agent(1).unwrap();
    start_afresh(&mut cluster);
    e2e(&cluster).wait_ready("waits");
    e2e(&cluster).delete("pod waits");

    // A token in a file may become right: nobody has to restart the daemon.
    let file = dir.join("token");
    std::fs::write(&file, "unknown").unwrap();
    let text = with_user(&format!("tokenFile: \"{}\"", file.display()));
    std::fs::write(cluster.node(1).kubeconfig(), text).unwrap();
    cluster.stop_agent(1).unwrap();
    start_afresh(&mut cluster);
    wait_said(&cluster, "a token of tokenFile is read again by itself");
    e2e(&cluster).apply(&pod("waits", "sleep", ""));
    std::fs::write(&file, "system-node-n1-token").unwrap();
    // Clients read such a file again each minute.
    e2e(&cluster).wait_ready("waits");
    assert_eq!(running_of(&cluster, "bystander"), tasks);
}

#[test]
fn a23_a_wrong_second_identity_is_named_and_its_node_is_not_ready() {
    let mut cluster = cluster("second", 1, |_| {});
    e2e(&cluster).apply(&pod("bystander", "sleep", ""));
    e2e(&cluster).wait_ready("bystander");
    let tasks = running(cluster.node(1), E2E);
    cluster.stop_agent(1).unwrap();
    let path = cluster.node(1).dataplane_kubeconfig();
    let good = std::fs::read_to_string(&path).unwrap();
    let bad: String = good
        .lines()
        .map(|line| if line.contains("token:") { "    token: unknown" } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(good, bad);
    std::fs::write(&path, bad).unwrap();
    start_afresh(&mut cluster);
    wait_said(&cluster, "the credential of --dataplane-kubeconfig is not accepted");
    let space = e2e(&cluster);
    space.wait("node n1", "not Ready", |node| condition(node, "Ready")["status"] == "False");
    assert_eq!(running(cluster.node(1), E2E), tasks);

    wait_said(&cluster, "after any other change restart longshore");
    std::fs::write(&path, good).unwrap();
    cluster.stop_agent(1).unwrap();
    start_afresh(&mut cluster);
    cluster.wait_ready(LIMIT_S).unwrap();
    e2e(&cluster).apply(&pod("next", "sleep", ""));
    e2e(&cluster).wait_ready("next");
    assert_eq!(running_of(&cluster, "bystander"), tasks);
}

/// The first warning of a daemon's log about the API server.
fn first_complaint(what: &str, log: impl Fn() -> String) -> String {
    let mut found = None;
    let said = wait_for("the daemon to say what is wrong", 90, || {
        let text = log();
        // A line is whole when the next one has begun.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let is_complaint =
            |line: &&str| line.starts_with(['W', 'E']) && line.contains("API server");
        found = whole.lines().find(is_complaint).map(str::to_owned);
        Ok(found.is_some())
    });
    assert!(said.is_ok(), "{what}: {}", log());
    found.unwrap_or_default()
}

/// A certificate for the key of `name`, as its own but years too old. `openssl ca`, because no other
/// command of every openssl 3 takes a date.
fn expired_certificate(pki: &Path, name: &str) -> String {
    let at = |file: &str| pki.join(file).display().to_string();
    std::fs::write(pki.join("index.txt"), "").unwrap();
    let config = format!(
        "[ca]\ndefault_ca = own\n[own]\ndatabase = {}\nnew_certs_dir = {}\nrand_serial = yes\n\
         default_md = sha256\npolicy = any\nx509_extensions = client\n[any]\norganizationName = supplied\n\
         commonName = supplied\n[client]\n\
         extendedKeyUsage = clientAuth\n[req]\ndistinguished_name = dn\n[dn]\n",
        at("index.txt"),
        pki.display()
    );
    std::fs::write(pki.join("expired.cnf"), config).unwrap();
    let (request, cert) = (at("expired.csr"), at("expired.crt"));
    Run::new("openssl")
        .args(["req", "-new", "-config", &at("expired.cnf"), "-key", &at(&format!("{name}.key"))])
        .args(["-subj", "/O=system:nodes/CN=system:node:n1", "-out", &request])
        .check()
        .unwrap();
    Run::new("openssl")
        .args(["ca", "-batch", "-notext", "-config", &at("expired.cnf"), "-in", &request])
        .args(["-cert", &at("ca.crt"), "-keyfile", &at("ca.key"), "-out", &cert])
        .words("-startdate 20200101000000Z -enddate 20200102000000Z")
        .check()
        .unwrap();
    cert
}

/// With an empty log, so that what is found there was said by this daemon.
fn start_afresh(cluster: &mut Cluster) {
    std::fs::write(cluster.node(1).agent_log(), "").unwrap();
    cluster.start_agent(1).unwrap();
}

fn wait_said(cluster: &Cluster, words: &str) {
    let log = || std::fs::read_to_string(cluster.node(1).agent_log()).unwrap();
    let said = wait_for("the daemon to say what is wrong", 90, || Ok(log().contains(words)));
    assert!(said.is_ok(), "{words}: {}", log());
}

fn running_of(cluster: &Cluster, pod: &str) -> BTreeMap<(String, String), (String, i32)> {
    let mut all = running(cluster.node(1), E2E);
    all.retain(|(name, _), _| name == pod);
    all
}
