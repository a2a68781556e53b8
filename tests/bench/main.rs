//! Small measurements, interleaved in one run and given as ratios: absolute numbers of a shared
//! machine say nothing.
//!
//! The floor of a pod's start is the same CRI calls with the upstream bridge plugin and no agent.
//! The floor of a connection is a bare veth pair. A cluster whose nodes are Longshore's and a kubelet's
//! compares the two through the same API server. All of it stands on one containerd and runc.

mod api;
mod connections;
mod idle;
mod pods;
mod ready;
mod usage;

use std::time::Duration;

use anyhow::{Context, Result};
use longshore_tests::cluster::{Agent, Cluster, ClusterOptions, Parts, Proxy};
use longshore_tests::lab::Lab;
use longshore_tests::node::Node;

/// Of the cluster.
const LONGSHORE_NODE: &str = "n1";
const KUBELET_NODE: &str = "n2";

/// What a line of the result expects.
enum Expect {
    AtMost(f64),
    AtLeast(f64),
}
use Expect::{AtLeast, AtMost};

/// How long the parts take that are better when they take longer.
struct Size {
    ready: usize,
    settle: Duration,
    window: Duration,
}

impl Size {
    fn from_args() -> Self {
        let quick = std::env::args().any(|arg| arg == "--quick");
        let (ready, settle_s, window_s) = if quick { (10, 10, 20) } else { (20, 20, 60) };
        let (settle, window) = (Duration::from_secs(settle_s), Duration::from_secs(window_s));
        Self { ready, settle, window }
    }
}

fn main() -> Result<()> {
    let (lab, parts, size) = (Lab::from_env()?, Parts::from_env()?, Size::from_args());
    let floor = pods::floor_node(&lab, &parts)?;
    println!("containerd {}", lab.runtime.version);
    standalone(&lab, &floor)?;
    cluster(&lab, &parts, &floor, &size)
}

/// A directory of manifests, without a control plane.
fn standalone(lab: &Lab, floor: &Node) -> Result<()> {
    let node = Node::start(lab, "bench", &[])?;
    let rss_mib = || usage::rss_mib(node.daemon_pid().context("the daemon does not run")?);
    let idle = rss_mib()?;

    let starts = pods::starts(floor, &node, 12)?;
    line("pod start, Longshore / CRI floor, p50", starts.ratio(), &AtMost(1.3));
    println!("    {starts}");
    let rates = connections::rates(&node, 4)?;
    let service = rates.service;
    line("new connections, Service / routed pod IP", service / rates.routed, &AtLeast(1.0));
    line("new connections, Service / bare veth", service / rates.veth, &AtLeast(0.0));
    line("new connections, Service / own pod IP", service / rates.pod, &AtLeast(0.0));
    println!("    {rates}");
    let edit_ms = connections::edits(&node, 10)?;
    line("policy edit to effect, p50, ms", edit_ms, &AtMost(200.0));
    line("RSS idle, MiB", idle, &AtMost(60.0));
    line("RSS after the bench, MiB", rss_mib()?, &AtMost(60.0));
    Ok(())
}

/// A node of each agent at one API server.
fn cluster(lab: &Lab, parts: &Parts, floor: &Node, size: &Size) -> Result<()> {
    let mut options = ClusterOptions::new(lab, parts, "api");
    options.other_agents.insert(2, Agent::Kubelet);
    options.proxy = Proxy::Iptables;
    let mut cluster = Cluster::up(&options)?;
    let measured = measure(&mut cluster, floor, size);
    if measured.is_err() {
        eprintln!("{}\nall logs: {}", cluster.report(), cluster.save_logs().display());
    }
    measured?;
    cluster.down()
}

fn measure(cluster: &mut Cluster, floor: &Node, size: &Size) -> Result<()> {
    let api = api::Api::open(cluster)?;
    let starts = ready::starts(floor, &api, size.ready)?;
    let ratio = starts.kubelet_over_longshore();
    line("create to Ready, kubelet / Longshore, p50", ratio, &AtLeast(3.0));
    line("create to Ready, Longshore / CRI floor, p50", starts.over_floor(), &AtMost(1.3));
    println!("{starts}");
    let idle = idle::idle(cluster, &api, size.settle, size.window)?;
    line("idle CPU, kubelet + kube-proxy / Longshore", idle.cpu_ratio(), &AtLeast(10.0));
    line("idle RSS, kubelet + kube-proxy / Longshore", idle.rss_ratio(), &AtLeast(2.0));
    line("idle CPU of Longshore, cores", idle.longshore.cores, &AtMost(0.01));
    line("idle RSS of Longshore, MiB", idle.longshore.rss_mib, &AtMost(60.0));
    println!("{idle}");
    Ok(())
}

fn line(what: &str, value: f64, expect: &Expect) {
    let (wanted, met) = match expect {
        AtMost(limit) => (format!("at most {limit}"), value <= *limit),
        AtLeast(limit) => (format!("at least {limit}"), value >= *limit),
    };
    println!("{what:<44}{value:>9.3}   {wanted}{}", if met { "" } else { "   NOT MET" });
}

/// The middle of some measurements.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
