//! The only place that wires: makes every room's parts, gives them to each other, and waits.
//!
//! Nobody imports it. Start-up is the same reconcile as always: there is no "first run".

pub mod cleanup;
pub mod ground;
pub mod node;
pub mod sinks;
pub mod views;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use longshore_core::config::{self, KubeletConfig};
use longshore_core::model::{NodeView, Severity};
use longshore_core::net::masquerade as masquerade_plan;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::cni::{Cni, CniConfig, Conf, Ledger};
use crate::dataplane::{self, Dataplane, DataplaneConfig};
use crate::effects::network::{Network, masquerade, sysctl};
use crate::observe::Observer;
use crate::supervise::{Policy, Scope, Supervisor};
use crate::workers::dataplane::DataplaneWorker;
use crate::workers::{self, Programmed};
use crate::world::{Store, files};
use crate::{clock, serve};

use ground::{CgroupV2, StateDir};

/// What `longshore standalone` was asked to do. Kept in the state directory, for `cleanup`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Options {
    pub manifests: PathBuf,
    pub state_dir: PathBuf,
    /// Of the command line; `None`: the configuration's.
    pub container_runtime_endpoint: Option<String>,
    pub config: Option<PathBuf>,
    pub cgroup_root: Option<String>,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    pub node_ip: Option<IpAddr>,
    pub node_name: Option<String>,
    pub bpf_log: bool,
}

/// Time that a runtime which is not there yet is waited for (A209).
const RUNTIME_WAIT: Duration = Duration::from_secs(30);
/// How often interfaces of vanished sandboxes are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(30);

/// Runs the standalone role until a signal or the end of a critical task.
///
/// # Errors
/// The first line says what is missing and what to do.
pub fn standalone(options: &Options) -> Result<()> {
    ground::require_root()?;
    let state = StateDir::create(&options.state_dir)?;
    let _lock = state.lock()?;
    let config = configuration(options)?;
    let conf = Conf {
        conf_dir: options.cni_conf_dir.clone(),
        bin_dir: options.cni_bin_dir.clone(),
        socket: state.cni_socket(),
    };
    conf.check()?;
    cleanup::remember(&state, options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(run(options, &state, &config, &conf));
    // Blocking calls that hang (a dead mount) must not hold the process: stop is not remove.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The configuration file, with the command line over it.
fn configuration(options: &Options) -> Result<KubeletConfig> {
    let mut config = match &options.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("read --config {}", path.display()))?;
            let (config, problems) = config::parse(&text);
            for problem in &problems {
                tracing::warn!(file = %path.display(), %problem, "Configuration");
            }
            if let Some(error) = problems.iter().find(|p| p.severity == Severity::Error) {
                bail!("{}: {error}", path.display());
            }
            config
        }
        // Without a file nobody asked for the kubelet's refusals of cgroup v1 and swap.
        None => KubeletConfig { fail_cgroup_v1: false, fail_swap_on: false, ..KubeletConfig::default() },
    };
    if let Some(endpoint) = &options.container_runtime_endpoint {
        config.container_runtime_endpoint.clone_from(endpoint);
    }
    if let Some(root) = &options.cgroup_root {
        config.cgroup_root.clone_from(root);
    }
    Ok(config)
}

async fn run(
    options: &Options,
    state: &StateDir,
    config: &KubeletConfig,
    conf: &Conf,
) -> Result<()> {
    let mut supervisor = Supervisor::default();
    let scope = supervisor.scope();
    let store = Store::default();
    let network = Network::open(&scope)?;
    let cgroups = CgroupV2::find()?;
    if config.fail_cgroup_v1 && !cgroups.has_controllers {
        bail!(
            "the resource controllers of this machine are on cgroup v1, and failCgroupV1 is true: \
             boot with cgroup v2, or set failCgroupV1: false in --config"
        );
    }
    let (node, own, mtu) = find_node(options, state, config, &network, &cgroups).await?;

    let dataplane = Arc::new(open_dataplane(options, state, config, &cgroups, &node)?);
    if options.bpf_log {
        dataplane.log_messages(&scope)?;
    }
    sysctl::enable_forwarding()?;
    let plan = masquerade_plan(node.pod_cidr, [node.service_cidr]);
    scope.blocking(move || masquerade::apply(&plan)).await??;

    let place = Place { pod_cidr: node.pod_cidr, own, mtu };
    let cni = start_cni(state, &scope, &store, &network, &dataplane, place).await?;
    conf.install(dataplane::CNI_SHIM)?;

    let programmed = Programmed::default();
    let (worker, view, question) =
        DataplaneWorker::new(store.clone(), node.clone(), dataplane.clone(), programmed.clone());
    scope.detach("dataplane", Policy::Critical, worker.run());

    let cri = workers::connect(&config.container_runtime_endpoint, RUNTIME_WAIT).await?;
    let observer = Arc::new(Observer::new(
        cri.channel(),
        state.pods(),
        PathBuf::from(&node.pod_logs_dir),
    ));
    let source = files::start(
        &scope,
        &store,
        &node,
        files::Paths { manifests: options.manifests.clone(), state: state.root.clone() },
    )?;
    let pods = workers::start(workers::Parts {
        scope: scope.clone(),
        store: store.clone(),
        node: node.clone(),
        config: config.clone(),
        cri,
        observer: observer.clone(),
        programmed,
        sink: source.clone(),
        state_dir: state.root.clone(),
        cgroups: cgroups.root.clone(),
    })
    .await?;
    scope.detach("collect-interfaces", Policy::Critical, collect(cni, observer));
    serve::admin::serve(
        &scope,
        &state.admin_socket(),
        views::Views { store, node, pods, source, dataplane, question, view },
    )?;
    tracing::info!(manifests = %options.manifests.display(), state = %state.root.display(), "Longshore is running");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        name = supervisor.first_end() => bail!("the task {name} ended; see the log above"),
    }
    tracing::info!("Stopping; pods, Services and policies stay in force");
    supervisor.stop();
    Ok(())
}

/// What this node is, and its address and MTU towards pods.
async fn find_node(
    options: &Options,
    state: &StateDir,
    config: &KubeletConfig,
    network: &Network,
    cgroups: &CgroupV2,
) -> Result<(NodeView, Ipv4Addr, u32)> {
    let given = node::Given {
        name: options.node_name.clone(),
        ip: options.node_ip,
        pod_cidr: options.pod_cidr,
        service_cidr: options.service_cidr,
        cgroup_root: config.cgroup_root.clone(),
        pods_dir: state.pods().display().to_string(),
    };
    let (uplink, own) = node::addresses(network, &given).await?;
    let view = node::view(&given, config, &uplink, own, cgroups.has_controllers)?;
    Ok((view, own, uplink.mtu))
}

fn open_dataplane(
    options: &Options,
    state: &StateDir,
    config: &KubeletConfig,
    cgroups: &CgroupV2,
    node: &NodeView,
) -> Result<Dataplane> {
    let cgroup_dir = cgroups.directory(&config.cgroup_root);
    std::fs::create_dir_all(&cgroup_dir)
        .with_context(|| format!("make the cgroup {}", cgroup_dir.display()))?;
    Ok(Dataplane::open(&DataplaneConfig {
        bpffs_dir: state.bpffs(),
        cgroup_v2_root: cgroups.root.clone(),
        cgroup_dir,
        service_cidr: node.service_cidr,
        bpf_log: options.bpf_log,
    })?)
}

/// What every pod interface has in common.
#[derive(Clone, Copy)]
struct Place {
    pod_cidr: Ipv4Net,
    own: Ipv4Addr,
    mtu: u32,
}

async fn start_cni(
    state: &StateDir,
    scope: &Scope,
    store: &Store,
    network: &Network,
    dataplane: &Arc<Dataplane>,
    place: Place,
) -> Result<Cni> {
    let (ledger, problems) =
        Ledger::load(&state.ledger(), place.pod_cidr, &node::boot_id()?, clock::now());
    for problem in problems {
        tracing::error!(problem, "The network ledger");
    }
    let cni = Cni::new(
        CniConfig { node_address: place.own, mtu: place.mtu },
        network.clone(),
        Box::new(sinks::PodHooks(dataplane.clone())),
        Box::new(sinks::Attachments(store.clone())),
        ledger,
        scope.clone(),
    );
    cni.adopt().await?;
    cni.serve(&state.cni_socket()).context("serve the CNI socket")?;
    Ok(cni)
}

/// Frees what belongs to no sandbox, each time the runtime was listed completely.
async fn collect(cni: Cni, observer: Arc<Observer>) {
    let mut listed = observer.listed();
    let mut first = true;
    loop {
        // Only a complete list of the runtime may end an address's life.
        if listed.changed().await.is_err() {
            return;
        }
        let live: BTreeSet<String> =
            observer.pods().into_values().flat_map(|pod| pod.sandboxes).collect();
        cni.collect(&live, first).await;
        first = false;
        tokio::time::sleep(COLLECT_EVERY).await;
    }
}
