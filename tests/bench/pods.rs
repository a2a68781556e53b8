//! From the wish for a pod to the first instruction of its container.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use longshore_tests::cgroup;
use longshore_tests::cluster::Parts;
use longshore_tests::cri::{BarePod, Cri};
use longshore_tests::lab::{Lab, WORKLOAD_IMAGE};
use longshore_tests::node::Node;
use longshore_tests::process::wait_for;

use crate::{median, ms};

/// Milliseconds, by who started the pod.
pub struct Starts {
    floor: Vec<f64>,
    longshore: Vec<f64>,
}

impl Starts {
    pub fn ratio(&self) -> f64 {
        median(self.longshore.clone()) / median(self.floor.clone())
    }
}

impl std::fmt::Display for Starts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ours, floor) = (median(self.longshore.clone()), median(self.floor.clone()));
        write!(f, "{ours:.0} ms and {floor:.0} ms, {} pods each", self.floor.len())
    }
}

/// A node without a daemon whose containerd calls the upstream bridge plugin.
pub fn floor_node(lab: &Lab, parts: &Parts) -> Result<Node> {
    let plugins = parts.cni_plugins.display();
    let node = Node::new(lab, "floor")?;
    let place = node.containerd().place();
    for name in ["bridge", "host-local", "loopback"] {
        std::fs::copy(format!("{plugins}/{name}"), place.cni_bin_dir.join(name))?;
    }
    let conflist = format!(
        r#"{{"cniVersion":"0.4.0","name":"floor","plugins":[{{"type":"bridge","bridge":"br0","isGateway":true,
        "ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.245.0.0/24"}}]]}}}}]}}"#,
        node.dir().join("ipam").display()
    );
    std::fs::write(place.cni_conf_dir.join("10-floor.conflist"), conflist)?;
    Ok(node)
}

/// `count` pods by each, in turn.
pub fn starts(floor: &Node, node: &Node, count: usize) -> Result<Starts> {
    let mut starts = Starts { floor: Vec::new(), longshore: Vec::new() };
    let mut cri = Cri::connect(&floor.containerd().socket())?;
    for round in 0..=count {
        let bare = floor_start(floor, &mut cri, round)?;
        let ours = our_start(node, round)?;
        // The first round fills caches.
        if round > 0 {
            starts.floor.push(bare);
            starts.longshore.push(ours);
        }
    }
    Ok(starts)
}

/// As little of a pod as CRI allows.
pub fn bare_pod(node: &Node, name: String, args: [String; 2]) -> BarePod {
    BarePod {
        image: WORKLOAD_IMAGE.to_owned(),
        args: args.to_vec(),
        cgroup_parent: format!("{}/kubepods/besteffort/pod{name}", node.cgroup_root()),
        host_network: false,
        name,
    }
}

fn floor_start(node: &Node, cri: &mut Cri, round: usize) -> Result<f64> {
    let pod = bare_pod(node, format!("bare{round}"), ["sleep".to_owned(), marker(round)]);
    let root = node.cgroup_root();
    let wanted = format!("sleep {}", marker(round));
    let start = Instant::now();
    // Seen in the same way as ours; the calls themselves return a little later.
    let seen = std::thread::spawn(move || first_seen(&root, &wanted));
    let sandbox = cri.run_pod(&pod)?;
    let seen = seen.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
    cri.remove_pod(&sandbox)?;
    Ok(ms(seen - start))
}

fn our_start(node: &Node, round: usize) -> Result<f64> {
    let name = format!("start{round}.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: start{round}, namespace: bench}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n    - name: main\n      \
         image: {WORKLOAD_IMAGE}\n      args: [sleep, '{}']\n",
        marker(round)
    );
    let start = Instant::now();
    node.write(&name, &text)?;
    let seen = first_seen(&node.cgroup_root(), &format!("sleep {}", marker(round)))?;
    node.remove(&name)?;
    wait_for("the pod to be gone", 30, || {
        Ok(node.ctr().run().args(["containers", "ls", "-q"]).check()?.trim().is_empty())
    })?;
    Ok(ms(seen - start))
}

/// A sleep that nothing else does.
fn marker(round: usize) -> String {
    format!("{}", 100_000 + round)
}

fn first_seen(root: &str, words: &str) -> Result<Instant> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        if cgroup::containers(root).values().any(|one| one.command.ends_with(words)) {
            return Ok(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("no process `{words}` below {root} in 30 s")
}
