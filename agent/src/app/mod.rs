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
use longshore_core::config::{self, CgroupDriver, KubeletConfig};
use longshore_core::model::{NodeView, ObjectKey, PodUid, SandboxState, Severity};
use longshore_core::net::{masquerade as masquerade_plan, pod_mtu};
use longshore_core::standalone::{Settings, hosts_entries};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cli::StandaloneArgs;
use crate::clock;
use crate::cni::{Cni, CniConfig, Conf, Ledger};
use crate::dataplane::{Dataplane, DataplaneConfig, object};
use crate::effects::cgroup::KernelCgroups;
use crate::effects::cri::{Cri, RuntimeVersion};
use crate::effects::events::Recorder;
use crate::effects::images::Images;
use crate::effects::network::{Network, ended_links, masquerade, sysctl};
use crate::observe::Observer;
use crate::serve::{Admin, NodeFacts};
use crate::supervise::{Policy, Scope, Supervisor};
use crate::workers::dataplane::DataplaneWorker;
use crate::workers::{Explanations, Programmed, STEP_PATIENCE, Shared, flows, pods};
use crate::world::Store;
use crate::world::files::Files;

use ground::{CgroupV2, StateDir};

/// What `longshore standalone` was asked to do. Kept in the state directory, for `cleanup`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Options {
    pub manifests: PathBuf,
    pub state_dir: PathBuf,
    /// `None`: the configuration decides.
    pub container_runtime_endpoint: Option<String>,
    pub config: Option<PathBuf>,
    /// `None`: the configuration decides.
    pub cgroup_root: Option<String>,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    pub node_ip: Option<IpAddr>,
    pub node_name: Option<String>,
    pub bpf_log: bool,
}

impl Options {
    pub fn of(args: StandaloneArgs) -> Self {
        Self {
            manifests: args.directory,
            state_dir: args.place.state_dir,
            container_runtime_endpoint: args.container_runtime_endpoint,
            config: args.config,
            cgroup_root: args.cgroup_root,
            cni_conf_dir: args.cni_conf_dir,
            cni_bin_dir: args.cni_bin_dir,
            pod_cidr: args.pod_cidr,
            service_cidr: args.service_cidr,
            node_ip: args.node_ip,
            node_name: args.node_name,
            bpf_log: args.bpf_log,
        }
    }

    /// With what the configuration decided, so that the file is not needed again.
    fn resolved(&self, config: &KubeletConfig) -> Self {
        Self {
            container_runtime_endpoint: Some(config.container_runtime_endpoint.clone()),
            cgroup_root: Some(config.cgroup_root.clone()),
            config: None,
            ..self.clone()
        }
    }
}

/// What an overlay adds to each packet: there is none.
const OVERLAY_BYTES: u32 = 0;
/// How often interfaces of vanished sandboxes are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(30);
/// How long the runtime may take to list a sandbox whose ADD was answered.
const LAST_MOMENTS_MS: i64 = 5_000;

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
    // A full disk must not keep the daemon from the pods that run (F34).
    if let Err(error) = cleanup::remember(&state, &options.resolved(&config)) {
        tracing::error!(error = format!("{error:#}"), "`longshore cleanup` will not know this run");
    }
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

/// The configuration file, with what the command line says over it.
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
        None => {
            KubeletConfig { fail_cgroup_v1: false, fail_swap_on: false, ..KubeletConfig::default() }
        }
    };
    if let Some(endpoint) = &options.container_runtime_endpoint {
        config.container_runtime_endpoint.clone_from(endpoint);
    }
    if let Some(root) = &options.cgroup_root {
        config.cgroup_root.clone_from(root);
    }
    // `cgroupRoot: ""` and `pods` are `/` and `/pods`.
    config.cgroup_root = format!("/{}", config.cgroup_root.trim_matches('/'));
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
    let started_at = clock::now();
    let network = Network::open(&scope)?;
    if config.cgroup_driver == CgroupDriver::Systemd {
        bail!(
            "cgroupDriver: systemd is not supported yet: set cgroupDriver: cgroupfs in --config, \
             and SystemdCgroup = false in the runtime"
        );
    }
    let cgroups = CgroupV2::find()?;
    if config.fail_cgroup_v1 && !cgroups.has_controllers {
        bail!(
            "the resource controllers of this machine are on cgroup v1, and failCgroupV1 is true: \
             boot with cgroup v2, or set failCgroupV1: false in --config"
        );
    }
    if config.fail_swap_on && ground::has_swap(&std::fs::read_to_string("/proc/swaps")?) {
        bail!(
            "swap is on, and failSwapOn is true: turn it off (swapoff -a), or set failSwapOn: \
             false in --config"
        );
    }
    let (node, place) = find_node(options, state, config, &network, &cgroups).await?;

    let dataplane = Arc::new(open_dataplane(options, state, config, &cgroups, &node)?);
    if options.bpf_log {
        dataplane.spawn_log(&scope)?;
    }
    sysctl::enable_forwarding()?;
    let plan = masquerade_plan(node.pod_cidr, [node.service_cidr]);
    scope.blocking(move || masquerade::apply(&plan)).await??;

    let cni = start_cni(state, &scope, &store, &network, &dataplane, place).await?;
    conf.install(object::CNI_SHIM)?;

    let programmed = Programmed::default();
    let (worker, view, image) =
        DataplaneWorker::new(store.clone(), node.clone(), dataplane.clone(), programmed.clone());
    scope.detach("dataplane", Policy::Critical, worker.run());

    let (flows_view, flows_seen) = watch::channel(flows::View::default());
    let walker = flows::run(dataplane.clone(), scope.clone(), flows_view);
    scope.detach("flows", Policy::Critical, walker);

    let (cri, version) = connect(config).await?;
    check_cgroup_driver(&cri).await?;
    let observer = observe(&scope, &cri, state, &node).await;
    recover(&cni, &observer).await;
    let (files, source) = Files::open(
        &options.manifests,
        &state.root,
        Settings::of(&node),
        store.clone(),
        running(&observer),
    );
    scope.detach("manifests", Policy::Critical, source.run());

    let kernel_cgroups =
        KernelCgroups::new(&config.cgroup_root, &node.kubepods_cgroup, node.cpu_milli)?;
    kernel_cgroups.ensure_levels()?;
    let recorder = Recorder::default();
    let explanations = Explanations::default();
    let shared = Shared {
        store: store.clone(),
        scope: scope.clone(),
        node: Arc::new(node.clone()),
        config: Arc::new(config.clone()),
        cgroups: Arc::new(kernel_cgroups),
        images: Images::new(cri.clone(), pulls_at_once(config)),
        cri,
        recorder: recorder.clone(),
        observer: observer.clone(),
        programmed,
        sink: Arc::new(files.clone()),
        extra_hosts: {
            let domain = node.cluster_domain.clone();
            Arc::new(move |world, pod: &ObjectKey| hosts_entries(world, &pod.namespace, &domain))
        },
        interface_lost: {
            let cni = cni.clone();
            Arc::new(move |sandbox: &str| {
                let (cni, sandbox) = (cni.clone(), sandbox.to_owned());
                Box::pin(async move { cni.interface_lost(&sandbox).await })
            })
        },
        patience: STEP_PATIENCE,
        runtime_name: version.name.clone(),
        explanations: explanations.clone(),
    };
    scope.detach("pods", Policy::Critical, pods::run(Arc::new(shared)));
    scope.detach("lost-interfaces", Policy::Critical, lose(cni.clone(), ended_links(&scope)?));
    scope.detach("collect-interfaces", Policy::Critical, collect(cni, observer.clone()));

    let windows = views::Windows {
        store,
        node: NodeFacts {
            name: node.name.clone(),
            ips: node.ips.iter().map(ToString::to_string).collect(),
            role: "standalone".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            runtime: format!("{} {}", version.name, version.version),
            started_at,
            flows: None,
            degraded: Vec::new(),
        },
        files,
        recorder,
        explanations,
        runtime: observer.status(),
        dataplane,
        image,
        view,
        flows: flows_seen,
    };
    let admin = Admin::bind(&state.root)?;
    scope.detach("admin", Policy::Critical, admin.run(Arc::new(windows)));
    tracing::info!(manifests = %options.manifests.display(), state = %state.root.display(), "Longshore is running");
    wait(&mut supervisor).await
}

/// Until a signal, or the end of a task that must not end.
async fn wait(supervisor: &mut Supervisor) -> Result<()> {
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

async fn connect(config: &KubeletConfig) -> Result<(Cri, RuntimeVersion)> {
    let endpoint = &config.container_runtime_endpoint;
    let cri = Cri::new(endpoint)?;
    if let Err(error) = cri.version().await {
        tracing::warn!(endpoint, %error, "No container runtime answers yet; waiting up to 30 s");
    }
    let version = cri.wait_ready().await.with_context(|| {
        format!(
            "no container runtime answers at {endpoint}: is containerd running, with its CRI \
             plugin on? Start it, or name another socket with --container-runtime-endpoint"
        )
    })?;
    Ok((cri, version))
}

/// Pod cgroups are made by path. A runtime that takes the path for a systemd slice's name refuses
/// every sandbox (A149); one that does not say (containerd 1.6) is taken to use cgroupfs.
async fn check_cgroup_driver(cri: &Cri) -> Result<()> {
    let systemd = cri.systemd_cgroups().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "The runtime does not tell its cgroup driver; cgroupfs is assumed");
        None
    });
    if systemd == Some(true) {
        bail!(
            "the container runtime uses the systemd cgroup driver, which longshore does not have \
             yet: set SystemdCgroup = false in the runtime's configuration (containerd: the \
             options of the runc runtime in config.toml) and restart it"
        );
    }
    Ok(())
}

/// Starts the observer and waits for its first complete list.
async fn observe(scope: &Scope, cri: &Cri, state: &StateDir, node: &NodeView) -> Observer {
    let observer = Observer::new(cri.channel(), state.pods(), PathBuf::from(&node.pod_logs_dir));
    let (lists, conditions) = (observer.clone(), observer.clone());
    scope.detach("observe-pods", Policy::Critical, async move { lists.watch_pods().await });
    scope.detach("observe-runtime", Policy::Critical, async move {
        conditions.watch_status().await;
    });
    let mut listed = observer.listed();
    // The sender lives as long as the observer does.
    let _ = listed.wait_for(|lists| *lists > 0).await;
    observer
}

/// Finds the interfaces of running pods again when the network ledger was lost (F39).
async fn recover(cni: &Cni, observer: &Observer) {
    let listed = observer.pods();
    let sandboxes = listed.values().flat_map(|pod| pod.sandboxes.iter().cloned()).collect();
    let unknown = cni.unknown(sandboxes).await;
    for (uid, pod) in listed {
        if !pod.sandboxes.iter().any(|id| unknown.contains(id)) {
            continue;
        }
        let Ok(seen) = observer.pod(&uid).await else { continue };
        for sandbox in seen.sandboxes.iter().filter(|s| s.state == SandboxState::Ready) {
            let ip = sandbox.ips.iter().find_map(|ip| match ip {
                IpAddr::V4(ip) => Some(*ip),
                IpAddr::V6(_) => None,
            });
            if let (Some(ip), false, true) =
                (ip, sandbox.host_network, unknown.contains(&sandbox.id))
            {
                cni.recover(&sandbox.id, &pod.key, &uid, ip).await;
            }
        }
    }
}

/// Pods that the runtime has, by their labels.
fn running(observer: &Observer) -> Vec<(ObjectKey, PodUid)> {
    observer.pods().into_iter().map(|(uid, pod)| (pod.key, uid)).collect()
}

/// `None` is no limit, which here is more than a node ever pulls at once.
fn pulls_at_once(config: &KubeletConfig) -> usize {
    config.max_parallel_image_pulls.map_or(64, |pulls| pulls as usize)
}

/// What this node is, and its address and MTU towards pods.
async fn find_node(
    options: &Options,
    state: &StateDir,
    config: &KubeletConfig,
    network: &Network,
    cgroups: &CgroupV2,
) -> Result<(NodeView, Place)> {
    let IpNet::V4(pod_cidr) = options.pod_cidr else {
        bail!("--pod-cidr {}: IPv6 pod ranges are not supported yet", options.pod_cidr);
    };
    let given = node::Given {
        name: options.node_name.clone(),
        ip: options.node_ip,
        pod_cidr,
        service_cidr: options.service_cidr,
        cgroup_root: config.cgroup_root.clone(),
        pods_dir: state.pods().display().to_string(),
    };
    let (uplink, own) = node::addresses(network, &given).await?;
    let view = node::view(&given, config, &uplink, own, cgroups.has_controllers)?;
    Ok((view, Place { pod_cidr, own, mtu: pod_mtu(uplink.mtu, OVERLAY_BYTES) }))
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
        service_cidr: match node.service_cidr {
            IpNet::V4(range) => Some(range),
            IpNet::V6(_) => None,
        },
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
    if let Err(error) = ledger.check() {
        let error = format!("{:#}", anyhow::Error::new(error));
        tracing::error!(error, "The network ledger; running pods are not affected");
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

/// Tells of pods' interfaces that end. Without the kernel's word for it a worker finds out when it
/// looks again by itself (A34).
async fn lose(cni: Cni, mut ended: mpsc::UnboundedReceiver<u32>) {
    while let Some(ifindex) = ended.recv().await {
        cni.interface_ended(ifindex).await;
    }
    tracing::warn!("The kernel does not tell of ended interfaces any more");
    std::future::pending().await
}

/// Frees what belongs to no sandbox of the runtime's last complete list; there is one.
async fn collect(cni: Cni, observer: Observer) {
    let mut listed = observer.listed();
    let started_at = cni.started_at();
    // A sandbox that the last daemon asked for in its last moments may still appear in the list.
    let mut rounds = [
        (Some(started_at.plus_ms(-LAST_MOMENTS_MS)), Duration::from_millis(LAST_MOMENTS_MS as u64)),
        (Some(started_at), COLLECT_EVERY),
    ]
    .into_iter();
    loop {
        let (found_before, pause) = rounds.next().unwrap_or((None, COLLECT_EVERY));
        let live: BTreeSet<String> =
            observer.pods().into_values().flat_map(|pod| pod.sandboxes).collect();
        cni.collect(&live, found_before).await;
        tokio::time::sleep(pause).await;
        // While the runtime does not answer, its last list says nothing of newer sandboxes (F11).
        listed.mark_unchanged();
        // The sender lives as long as the observer does.
        let _ = listed.changed().await;
    }
}
