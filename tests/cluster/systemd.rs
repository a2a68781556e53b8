//! deploy/systemd/longshore.service: systemd reads it, and what it starts says when it is ready.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use longshore_tests::cluster::SERVICE_CIDR;
use longshore_tests::process::Run;
use nix::sys::signal::Signal;

use crate::script::*;

const PROGRAM: &str = "/usr/local/bin/longshore";

fn unit() -> String {
    let path =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/longshore.service");
    std::fs::read_to_string(path).unwrap()
}

/// A setting, with its continued lines, as words.
fn words(unit: &str, name: &str) -> Vec<String> {
    let whole = unit.replace("\\\n", " ");
    let line = whole.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let line = line.unwrap_or_else(|| panic!("the unit has no {name}"));
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn a208_systemd_accepts_the_unit() {
    let lab = longshore_tests::lab::Lab::from_env().unwrap();
    let dir = lab.dir.join(format!("{}-verify", lab.prefix));
    std::fs::create_dir_all(&dir).unwrap();
    // verify looks whether the program is there: it is where this test has it.
    let text = unit().replace(PROGRAM, &lab.longshore.display().to_string());
    let file = dir.join("longshore.service");
    std::fs::write(&file, text).unwrap();
    let output =
        Run::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output().unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert!(output.ok() && output.text.trim().is_empty(), "{:?}: {}", output.code, output.text);
    assert_eq!(words(&unit(), "Type"), ["notify"]);
    assert_eq!(words(&unit(), "KillMode"), ["process"]);
}

#[test]
fn a205_a208_what_the_unit_starts_says_ready_and_its_end_ends_no_pod() {
    let mut cluster = cluster("unit", 1, |_| {});
    e2e(&cluster).apply(&pod("web", "web --port 8080", ""));
    e2e(&cluster).wait_ready("web");
    let tasks = running(cluster.node(1), E2E);
    cluster.stop_agent(1).unwrap();

    let node = cluster.node(1);
    let path = node.dir().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(LIMIT_S))).unwrap();
    let words = words(&unit(), "ExecStart");
    assert_eq!(words[..2], [PROGRAM, "node"]);
    let mut run = node.netns().run(&cluster.options().lab.longshore.display().to_string());
    let mut own = 0;
    for word in &words[1..] {
        // The places of a usual machine, as the lab has them.
        let place = match word.split('=').next().unwrap_or_default() {
            "--kubeconfig" => Some(node.kubeconfig()),
            "--dataplane-kubeconfig" => Some(node.dataplane_kubeconfig()),
            "--config" => Some(node.config()),
            _ => None,
        };
        run = match (word.as_str(), place) {
            ("$LONGSHORE_ARGS", _) => {
                let cni = node.dir().join("cni");
                run.arg("--root-dir")
                    .arg(node.root_dir())
                    .arg("--state-dir")
                    .arg(node.state_dir())
                    .arg("--cni-conf-dir")
                    .arg(cni.join("net.d"))
                    .arg("--cni-bin-dir")
                    .arg(cni.join("bin"))
                    .args(["--service-cidr", SERVICE_CIDR, "--node-ip", &node.ip()])
                    .args(["--hostname-override", &node.name()])
            }
            (flag, Some(place)) => {
                own += 1;
                let flag = flag.split('=').next().unwrap_or_default();
                run.arg(format!("{flag}={}", place.display()))
            }
            (word, None) => run.arg(word),
        };
    }
    assert_eq!(own, 3, "{words:?}");
    let log = cluster.dir().join("unit.log");
    let mut child = run.env("NOTIFY_SOCKET", &path).own_group().start(&log).unwrap();
    let mut message = [0u8; 4096];
    let ready = loop {
        match socket.recv(&mut message) {
            Ok(length)
                if message[..length]
                    .split(|byte| *byte == b'\n')
                    .any(|line| line == b"READY=1") =>
            {
                break true;
            }
            Ok(_) => {}
            Err(_) => break false,
        }
    };
    assert!(ready, "no READY=1: {}", child.log());
    // Ready is a promise: it answers, and its pods are taken over.
    poll("the pod to be in its status", || Ok(own_status(node, E2E, "web")["ready"] == true))
        .unwrap();
    assert_eq!(running(node, E2E), tasks);
    // As `systemctl stop` does with KillMode=process.
    child.signal(Signal::SIGTERM).unwrap();
    assert_eq!(child.wait(20).unwrap(), Some(0), "{}", child.log());
    assert_eq!(running(node, E2E), tasks);
    let pod = e2e(&cluster).pod("web");
    wait_host_ok(node, &format!("get http://{}:8080/ --timeout 2", pod.ip));
}
