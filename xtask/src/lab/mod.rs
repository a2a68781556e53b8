//! `cargo xtask lab`: a real control plane and nodes on this machine, for people and for tests.
//!
//! The cluster itself is `longshore_tests::cluster`; here is what it is made from, and the words.

pub mod go;
mod images;
mod show;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use longshore_tests::cluster::{Agent, Cluster, ClusterOptions, Parts, Proxy, SHARED_CLUSTER};
use longshore_tests::containerd::Runtime;
use longshore_tests::lab::Lab;

use crate::{build, paths, setup};

/// What names of labs begin with, before the checkout's own digits.
const PREFIX: &str = "lsl";
/// As [`PREFIX`], of the clusters of `cargo xtask test cluster`.
const TEST_PREFIX: &str = "lsc";
/// As [`PREFIX`], of `cargo xtask bench`.
const BENCH_PREFIX: &str = "lsb";

#[derive(Subcommand)]
pub enum Command {
    /// Make a control plane and nodes, and leave them running
    Up(Up),
    /// End and remove it, and check that nothing is left
    Down {
        #[command(flatten)]
        which: Which,
    },
    /// Build all that tests of clusters need; prints the environment that tells them where it is
    Env,
    /// Build the images of pause, workload, busybox, agnhost and CoreDNS; prints their paths
    Images,
    /// kubectl as the administrator
    Kubectl {
        #[command(flatten)]
        which: Which,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// A command on a node (n1, n2, …) or on the control plane (cp); a shell without one
    Exec {
        #[command(flatten)]
        which: Which,
        node: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// The names of the logs, or the end of the one named
    Logs {
        #[command(flatten)]
        which: Which,
        log: Option<String>,
        /// Go on with what is written
        #[arg(short, long)]
        follow: bool,
        /// So many lines
        #[arg(long, default_value_t = 100)]
        tail: u32,
    },
    /// The processes, the nodes, and where the files are
    Status {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Args)]
pub struct Which {
    /// Several labs live side by side
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Args)]
pub struct Up {
    #[command(flatten)]
    which: Which,
    /// 1 to 9
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Who runs the pods: longshore, kubelet, or none
    #[arg(long, default_value = "longshore")]
    agent: Agent,
    /// kube-proxy's mode beside a kubelet: none, iptables or nftables [default: iptables with
    /// --agent kubelet, else none]
    #[arg(long)]
    proxy: Option<Proxy>,
    #[arg(long, value_enum, default_value_t = RuntimeKind::Pinned)]
    runtime: RuntimeKind,
    /// Seconds without a Lease after which a node is Unknown [default: the controller manager's]
    #[arg(long)]
    node_monitor_grace_period: Option<u32>,
    /// CoreDNS as a Deployment behind the Service kube-dns
    #[arg(long)]
    dns: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum RuntimeKind {
    /// containerd and runc as tests/lab pins them
    Pinned,
    /// The distribution's packages
    Debian,
}

/// False: it ran and failed, and the output says what.
pub fn run(command: Command) -> Result<bool> {
    setup::need_root()?;
    match command {
        Command::Up(up) => up.run().map(|()| true),
        Command::Down { which } => down(&which).map(|()| true),
        Command::Env => {
            let options = for_tests(&build::quick()?)?;
            for (name, value) in options.lab.to_env().into_iter().chain(options.parts.to_env()) {
                println!("{name}={value}");
            }
            Ok(true)
        }
        Command::Images => {
            let own = crate::images::build()?;
            for tar in own.into_iter().chain(images::for_pods()?).chain([images::coredns()?]) {
                println!("{}", tar.display());
            }
            Ok(true)
        }
        Command::Kubectl { which, args } => which.with(|cluster| show::kubectl(cluster, &args)),
        Command::Exec { which, node, command } => {
            which.with(|cluster| show::exec(cluster, &node, &command))
        }
        Command::Logs { which, log, follow, tail } => {
            which.with(|cluster| show::logs(cluster, log.as_deref(), follow, tail))
        }
        Command::Status { which } => which.with(show::status),
    }
}

impl Which {
    fn dir(&self) -> Result<PathBuf> {
        Ok(paths::lab()?.join(format!("{}-{}", crate::images::prefix(PREFIX), self.name)))
    }

    /// The cluster, which goes on afterwards.
    fn with(&self, ask: impl FnOnce(&Cluster) -> Result<bool>) -> Result<bool> {
        let cluster = Cluster::attach(&self.dir()?)
            .with_context(|| format!("no lab {} (cargo xtask lab up makes one)", self.name))?;
        let answer = ask(&cluster);
        cluster.keep();
        answer
    }
}

fn down(which: &Which) -> Result<()> {
    let start = Instant::now();
    Cluster::attach(&which.dir()?)?.down()?;
    println!("lab {} is gone, nothing is left of it ({:.1} s)", which.name, seconds(start));
    Ok(())
}

impl Up {
    fn run(self) -> Result<()> {
        let start = Instant::now();
        let options = self.options()?;
        if Cluster::is_up(&options) {
            bail!("lab {0} is up: `cargo xtask lab down --name {0}` first", self.which.name);
        }
        println!("everything is built after {:.1} s", seconds(start));
        let start = Instant::now();
        println!(
            "starting the control plane and {} with containerd {} …",
            nodes(options.nodes),
            options.lab.runtime.version
        );
        let cluster = Cluster::up(&options)?;
        println!("lab {} is ready after {:.1} s", self.which.name, seconds(start));
        if self.dns {
            cluster
                .apply(&std::fs::read_to_string(paths::root().join("tests/lab/coredns.yaml"))?)?;
        }
        show::how_to_reach(&cluster, &self.which.name);
        cluster.keep();
        Ok(())
    }

    fn options(&self) -> Result<ClusterOptions> {
        let default = if self.agent == Agent::Kubelet { Proxy::Iptables } else { Proxy::None };
        let proxy = self.proxy.unwrap_or(default);
        let longshore = match self.agent {
            Agent::Longshore => {
                println!("building longshore (minutes the first time) …");
                build::quick()?
            }
            _ => paths::target().join("demo/longshore"),
        };
        let mut options = options(&longshore, self.runtime, self.agent, proxy)?;
        options.name.clone_from(&self.which.name);
        options.nodes = self.nodes;
        options.node_monitor_grace_period_s = self.node_monitor_grace_period;
        options.lab.images.extend(images::for_pods()?);
        if self.dns {
            options.lab.images.push(images::coredns()?);
        }
        options.check()?;
        Ok(options)
    }
}

/// For tests that make clusters, with Longshore and with kubelets to compare with: the cluster of two
/// nodes that they share, and with its parts any other.
///
/// # Errors
/// Something cannot be built.
pub fn for_tests(longshore: &Path) -> Result<ClusterOptions> {
    setup::need_root()?;
    setup::packages::ensure(&setup::packages::UNIT_TOOLS)?;
    let mut options = options(longshore, RuntimeKind::Pinned, Agent::Kubelet, Proxy::Iptables)?;
    options.lab.prefix = crate::images::prefix(TEST_PREFIX);
    options.lab.images.extend(images::for_pods()?);
    options.lab.images.push(images::coredns()?);
    (options.agent, options.proxy) = (Agent::Longshore, Proxy::None);
    SHARED_CLUSTER.clone_into(&mut options.name);
    Ok(options)
}

/// For the bench: a runtime for all of its nodes, and what a cluster with a kubelet in it needs. Its
/// pods are the workload's.
///
/// # Errors
/// Something cannot be built.
pub fn for_bench(longshore: &Path) -> Result<(Lab, Parts)> {
    setup::need_root()?;
    let options = options(longshore, RuntimeKind::Pinned, Agent::Kubelet, Proxy::Iptables)?;
    let prefix = crate::images::prefix(BENCH_PREFIX);
    Ok((Lab { prefix, ..options.lab }, options.parts))
}

/// Builds what such a cluster needs, and no more.
fn options(
    longshore: &Path,
    runtime: RuntimeKind,
    agent: Agent,
    proxy: Proxy,
) -> Result<ClusterOptions> {
    setup::kernel::check()?;
    setup::packages::ensure(&setup::packages::NODE_TOOLS)?;
    setup::packages::ensure(&setup::packages::CLUSTER_TOOLS)?;
    if proxy == Proxy::Iptables {
        setup::packages::ensure(&setup::packages::IPTABLES_TOOLS)?;
    }
    let parts = parts(agent, proxy)?;
    let runtime = match runtime {
        RuntimeKind::Pinned => pinned_runtime()?,
        RuntimeKind::Debian => setup::runtime::ensure()?,
    };
    let lab = crate::images::lab(longshore, runtime, PREFIX)?;
    Ok(ClusterOptions { agent, proxy, ..ClusterOptions::new(&lab, &parts, "lab") })
}

fn parts(agent: Agent, proxy: Proxy) -> Result<Parts> {
    let mut programs =
        vec!["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"];
    if agent == Agent::Kubelet {
        programs.push("kubelet");
    }
    if proxy != Proxy::None {
        programs.push("kube-proxy");
    }
    let cni_plugins: &[&str] = match agent {
        Agent::Kubelet => &["bridge", "host-local", "loopback", "portmap"],
        _ => &[],
    };
    Ok(Parts {
        kubernetes: go::KUBERNETES.ensure(&programs)?,
        etcd: go::ETCD.ensure(&["etcd"])?,
        cni_plugins: go::CNI_PLUGINS.ensure(cni_plugins)?,
        cri_tools: go::CRI_TOOLS.ensure(&["crictl"])?,
        rbac: paths::root().join("deploy/rbac.yaml"),
    })
}

/// containerd and runc from tests/lab.
fn pinned_runtime() -> Result<Runtime> {
    let dir = go::CONTAINERD.ensure(&["containerd", "containerd-shim-runc-v2", "ctr"])?;
    Runtime::new(dir, go::RUNC.ensure(&["runc"])?.join("runc"))
}

fn nodes(count: usize) -> String {
    if count == 1 { "a node".to_owned() } else { format!("{count} nodes") }
}

fn seconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
