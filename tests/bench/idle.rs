//! What agents cost while nothing happens: the same pods on a node of each, in the same window.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use longshore_tests::cluster::{Cluster, ClusterNode};

use crate::api::Api;
use crate::ready::pod;
use crate::usage::{cpu_s, rss_mib};
use crate::{KUBELET_NODE, LONGSHORE_NODE};

pub const PODS: usize = 50;

pub struct Idle {
    window: Duration,
    pub longshore: Usage,
    pub kubelet: Usage,
    /// Longshore does its duties itself.
    pub kube_proxy: Usage,
    runtime_of_longshore: Runtime,
    runtime_of_kubelet: Runtime,
}

/// containerd and its shims, in cores.
struct Runtime {
    with_agent: f64,
    /// The same pods a moment later, their agent ended.
    alone: f64,
}

impl Runtime {
    /// What the agent has them do.
    fn caused(&self) -> f64 {
        self.with_agent - self.alone
    }
}

#[derive(Clone, Copy)]
pub struct Usage {
    pub cores: f64,
    pub rss_mib: f64,
}

impl Idle {
    pub fn cpu_ratio(&self) -> f64 {
        (self.kubelet.cores + self.kube_proxy.cores) / self.longshore.cores
    }

    pub fn rss_ratio(&self) -> f64 {
        (self.kubelet.rss_mib + self.kube_proxy.rss_mib) / self.longshore.rss_mib
    }
}

impl std::fmt::Display for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "    {PODS} pods on each node, {} s:", self.window.as_secs())?;
        for (who, usage) in [
            ("longshore", self.longshore),
            ("kubelet", self.kubelet),
            ("kube-proxy (iptables)", self.kube_proxy),
        ] {
            writeln!(f, "    {who:<38}{:.4} cores {:>6.1} MiB", usage.cores, usage.rss_mib)?;
        }
        write!(
            f,
            "    caused in containerd and its shims, by longshore {}, by the kubelet {}",
            self.runtime_of_longshore, self.runtime_of_kubelet
        )
    }
}

impl std::fmt::Display for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (caused, Self { with_agent, alone }) = (self.caused(), self);
        write!(f, "{caused:.4} cores ({with_agent:.4} with it, {alone:.4} without)")
    }
}

/// Makes the pods, waits until they are Ready and then `settle`, and looks for `window`. Then it ends
/// both agents and looks at the runtimes again.
pub fn idle(cluster: &mut Cluster, api: &Api, settle: Duration, window: Duration) -> Result<Idle> {
    fill(api)?;
    std::thread::sleep(settle);
    let (ours, theirs) = (cluster.node(1), cluster.node(2));
    let running = "an agent does not run";
    let longshore = ours.agent_pid().context(running)?;
    let kubelet = theirs.agent_pid().context(running)?;
    let proxy = theirs.proxy_pid().context(running)?;
    let runtimes = [runtime_pids(ours), runtime_pids(theirs)];
    let [our_runtime, their_runtime] = runtimes.clone();
    let [ours, theirs, beside, our_runtime, their_runtime] =
        cores(&[vec![longshore], vec![kubelet], vec![proxy], our_runtime, their_runtime], window);
    let usage = |cores, pid| -> Result<Usage> { Ok(Usage { cores, rss_mib: rss_mib(pid)? }) };
    let usages = [usage(ours, longshore)?, usage(theirs, kubelet)?, usage(beside, proxy)?];

    cluster.kill_agent(1)?;
    cluster.kill_agent(2)?;
    std::thread::sleep(settle);
    let [our_alone, their_alone] = cores(&runtimes, window);
    let [longshore, kubelet, kube_proxy] = usages;
    Ok(Idle {
        window,
        longshore,
        kubelet,
        kube_proxy,
        runtime_of_longshore: Runtime { with_agent: our_runtime, alone: our_alone },
        runtime_of_kubelet: Runtime { with_agent: their_runtime, alone: their_alone },
    })
}

/// The same pods on both nodes, until all are Ready.
fn fill(api: &Api) -> Result<()> {
    let mut missing = BTreeSet::new();
    for number in 0..PODS {
        for node in [LONGSHORE_NODE, KUBELET_NODE] {
            let name = format!("{node}-idle{number}");
            api.create(&pod(&name, node))?;
            missing.insert(name);
        }
    }
    while !missing.is_empty() {
        let event = api.wait("pods to be Ready", |event| event.ready)?;
        missing.remove(&event.pod);
    }
    Ok(())
}

/// What groups of processes use in the same window.
fn cores<const N: usize>(groups: &[Vec<i32>; N], window: Duration) -> [f64; N] {
    let before = groups.each_ref().map(|pids| cpu_s(pids));
    let start = Instant::now();
    std::thread::sleep(window);
    let after = groups.each_ref().map(|pids| cpu_s(pids));
    let window_s = start.elapsed().as_secs_f64();
    std::array::from_fn(|at| (after[at] - before[at]) / window_s)
}

fn runtime_pids(node: &ClusterNode) -> Vec<i32> {
    let containerd = node.containerd();
    let shims = containerd.shims().into_iter().map(|(pid, _)| pid);
    std::iter::once(containerd.pid()).chain(shims).collect()
}
