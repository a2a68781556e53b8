//! What every role that runs pods stands on: network, dataplane, runtime, and the pods' workers.
//!
//! Deliberately absent: where the World comes from (`standalone`, `node_role`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use longshore_core::config::{CgroupDriver, KubeletConfig};
use longshore_core::model::{NodeView, ObjectKey, PodUid, SandboxState, Time};
use longshore_core::net::pod_mtu;
use longshore_core::pod::cgroup::of_all_pods;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::ground::{self, CgroupV2, StateDir};
use super::{Options, cleanup, facts, options, sinks};
use crate::clock;
use crate::cni::{Cni, CniConfig, Conf, Ledger};
use crate::dataplane::{Dataplane, DataplaneConfig, object};
use crate::effects::cgroup::KernelCgroups;
use crate::effects::cri::{Cri, RuntimeVersion};
use crate::effects::events::Recorder;
use crate::effects::images::Images;
use crate::effects::network::{Network, ended_links, sysctl};
use crate::observe::Observer;
use crate::serve::NodeFacts;
use crate::supervise::{Policy, Scope, Supervisor};
use crate::workers::dataplane::{DataplaneWorker, SharedImage, View};
use crate::workers::heartbeat::Heartbeat;
use crate::workers::{
    Explanations, ExtraHosts, PodSink, Programmed, STEP_PATIENCE, Shared, allocatable, flows, pods,
};
use crate::world::Store;

/// What an overlay adds to each packet: there is none.
const OVERLAY_BYTES: u32 = 0;
/// How often interfaces of vanished sandboxes are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(30);
/// How long the runtime may take to list a sandbox whose ADD was answered.
const LAST_MOMENTS_MS: i64 = 5_000;

/// What was prepared before anything runs.
pub struct Prepared {
    pub options: Options,
    pub state: StateDir,
    pub config: KubeletConfig,
    conf: Conf,
}

/// Runs a role until it ends: everything that can be refused is refused before the first task.
///
/// # Errors
/// The first line says what is missing and what to do.
pub fn run<F: Future<Output = Result<()>>>(
    options: Options,
    role: impl FnOnce(Prepared) -> F,
) -> Result<()> {
    ground::require_root()?;
    let state = StateDir::create(&options.state_dir)?;
    let _lock = state.lock()?;
    let config = options::configuration(&options)?;
    let conf = Conf {
        conf_dir: options.cni_conf_dir.clone(),
        bin_dir: options.cni_bin_dir.clone(),
        socket: state.cni_socket(),
    };
    conf.check()?;
    ground::make_private(&options.pods_dir(&state.root))?;
    // A full disk must not keep the daemon from the pods that run (F34).
    if let Err(error) = cleanup::remember(&state, &options.resolved(&config)) {
        tracing::error!(error = format!("{error:#}"), "`longshore cleanup` will not know this run");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(role(Prepared { options, state, config, conf }));
    // Blocking calls that hang (a dead mount) must not hold the process: stop is not remove.
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// The parts, running; pods are not yet.
pub struct Body {
    pub supervisor: Supervisor,
    pub scope: Scope,
    pub store: Store,
    pub started_at: Time,
    pub config: Arc<KubeletConfig>,
    pub network: Network,
    pub node: Arc<NodeView>,
    pub dataplane: Arc<Dataplane>,
    pub image: SharedImage,
    pub view: watch::Receiver<View>,
    pub flows: watch::Receiver<flows::View>,
    pub cni: Cni,
    pub cri: Cri,
    pub version: RuntimeVersion,
    pub observer: Observer,
    pub recorder: Recorder,
    pub explanations: Explanations,
    pub heartbeat: Heartbeat,
    programmed: Programmed,
    cgroups: Arc<KernelCgroups>,
    conf: Conf,
}

impl Body {
    /// Loads the dataplane, adopts the pod network that is there, connects to the runtime and
    /// waits for its first complete list.
    pub async fn build(prepared: Prepared) -> Result<Self> {
        let Prepared { options, state, config, conf } = prepared;
        let supervisor = Supervisor::default();
        let scope = supervisor.scope();
        let store = Store::default();
        let started_at = clock::now();
        let network = Network::open(&scope)?;
        let cgroups = check_machine(&config)?;
        let (node, place) = find_node(&options, &state, &config, &network, &cgroups).await?;
        let dataplane = Arc::new(open_dataplane(&options, &state, &config, &cgroups, &node)?);
        if options.bpf_log {
            dataplane.spawn_log(&scope)?;
        }
        sysctl::enable_forwarding()?;
        let range = options.pod_cidr().map(ipv4).transpose()?;
        let cni = start_cni(&state, &scope, &store, &network, &dataplane, place, range).await?;
        if cni.range().await.is_some() {
            conf.install(object::CNI_SHIM)?;
        }
        let programmed = Programmed::default();
        let (worker, view, image) = DataplaneWorker::new(
            store.clone(),
            node.clone(),
            dataplane.clone(),
            programmed.clone(),
        );
        scope.detach("dataplane", Policy::Critical, worker.run());
        let (flows_view, flows) = watch::channel(flows::View::default());
        let walker = flows::run(dataplane.clone(), scope.clone(), flows_view);
        scope.detach("flows", Policy::Critical, walker);
        let (cri, version) = connect(&config).await?;
        check_cgroup_driver(&cri).await?;
        let observer = observe(&scope, &cri, &node).await;
        recover(&cni, &observer).await;
        let kernel_cgroups = KernelCgroups::new(&config.cgroup_root, &node.kubepods_cgroup)?
            .with_all_pods(of_all_pods(&node, &config.node).map_err(anyhow::Error::msg)?);
        kernel_cgroups.ensure_levels()?;
        Ok(Self {
            supervisor,
            scope,
            store,
            started_at,
            config: Arc::new(config),
            network,
            node: Arc::new(node),
            dataplane,
            image,
            view,
            flows,
            cni,
            cri,
            version,
            observer,
            recorder: Recorder::default(),
            explanations: Explanations::default(),
            heartbeat: Heartbeat::default(),
            programmed,
            cgroups: Arc::new(kernel_cgroups),
            conf,
        })
    }

    pub fn opener(&self) -> Opener {
        Opener { cni: self.cni.clone(), conf: self.conf.clone() }
    }

    /// Starts the pods' workers. `sink` hears of pods that have ended.
    ///
    /// # Errors
    /// The kernel does not tell of interfaces.
    pub fn run_pods(&self, sink: Arc<dyn PodSink>, extra_hosts: Arc<ExtraHosts>) -> Result<()> {
        let cni = self.cni.clone();
        let interface_lost = Arc::new(move |sandbox: &str| {
            let (cni, sandbox) = (cni.clone(), sandbox.to_owned());
            let lost: futures::future::BoxFuture<'static, bool> =
                Box::pin(async move { cni.interface_lost(&sandbox).await });
            lost
        });
        let shared = Shared {
            store: self.store.clone(),
            scope: self.scope.clone(),
            node: self.node.clone(),
            config: self.config.clone(),
            cgroups: self.cgroups.clone(),
            images: Images::new(self.cri.clone(), pulls_at_once(&self.config)),
            cri: self.cri.clone(),
            recorder: self.recorder.clone(),
            observer: self.observer.clone(),
            programmed: self.programmed.clone(),
            sink,
            extra_hosts,
            runtime_name: self.version.name.clone(),
            explanations: self.explanations.clone(),
            heartbeat: self.heartbeat.clone(),
            interface_lost,
            patience: STEP_PATIENCE,
        };
        self.scope.detach("pods", Policy::Critical, pods::run(Arc::new(shared)));
        let lose = lose(self.cni.clone(), ended_links(&self.scope)?);
        self.scope.detach("lost-interfaces", Policy::Critical, lose);
        let limit = allocatable::run(
            self.cgroups.clone(),
            self.scope.clone(),
            self.recorder.clone(),
            self.node.name.clone(),
        );
        self.scope.detach("allocatable", Policy::Critical, limit);
        let collect = collect(self.cni.clone(), self.observer.clone());
        self.scope.detach("collect-interfaces", Policy::Critical, collect);
        Ok(())
    }

    /// Pods that the runtime has, by their labels.
    pub fn running(&self) -> Vec<(ObjectKey, PodUid)> {
        self.observer.pods().into_iter().map(|(uid, pod)| (pod.key, uid)).collect()
    }

    /// The node's line in `status`.
    pub fn facts(&self, role: &str) -> NodeFacts {
        NodeFacts {
            name: self.node.name.clone(),
            ips: self.node.ips.iter().map(ToString::to_string).collect(),
            role: role.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            runtime: format!("{} {}", self.version.name, self.version.version),
            started_at: self.started_at,
            flows: None,
            degraded: Vec::new(),
        }
    }

    /// Until a signal, or the end of a task that must not end.
    pub async fn wait(&mut self) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            name = self.supervisor.first_end() => bail!("the task {name} ended; see the log above"),
        }
        tracing::info!("Stopping; pods, Services and policies stay in force");
        self.supervisor.stop();
        Ok(())
    }
}

/// Opens the pod network when its range is known.
pub struct Opener {
    cni: Cni,
    conf: Conf,
}

impl Opener {
    /// Pods get addresses of `range` from now on, and the runtime finds the plugin.
    pub async fn open(&self, range: Ipv4Net) -> Result<()> {
        self.cni.set_range(range).await;
        Ok(self.conf.install(object::CNI_SHIM)?)
    }
}

/// What of the machine the configuration refuses.
fn check_machine(config: &KubeletConfig) -> Result<CgroupV2> {
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
    Ok(cgroups)
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
async fn observe(scope: &Scope, cri: &Cri, node: &NodeView) -> Observer {
    let observer = Observer::new(
        cri.channel(),
        PathBuf::from(&node.pods_dir),
        PathBuf::from(&node.pod_logs_dir),
    );
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

/// `None` is no limit, which here is more than a node ever pulls at once.
fn pulls_at_once(config: &KubeletConfig) -> usize {
    config.max_parallel_image_pulls.map_or(64, |pulls| pulls as usize)
}

fn ipv4(range: IpNet) -> Result<Ipv4Net> {
    match range {
        IpNet::V4(range) => Ok(range),
        IpNet::V6(_) => bail!("--pod-cidr {range}: IPv6 pod ranges are not supported yet"),
    }
}

/// What this node is, and its address and MTU towards pods.
async fn find_node(
    options: &Options,
    state: &StateDir,
    config: &KubeletConfig,
    network: &Network,
    cgroups: &CgroupV2,
) -> Result<(NodeView, CniConfig)> {
    let given = facts::Given {
        name: options.node_name.clone(),
        ip: options.node_ip,
        pod_cidr: options.pod_cidr().map(ipv4).transpose()?,
        service_cidr: options.service_cidr,
        cgroup_root: config.cgroup_root.clone(),
        pods_dir: options.pods_dir(&state.root).display().to_string(),
    };
    let (uplink, own) = facts::addresses(network, &given).await?;
    let view = facts::view(&given, config, &uplink, own, cgroups.has_controllers)?;
    Ok((view, CniConfig { node_address: own, mtu: pod_mtu(uplink.mtu, OVERLAY_BYTES) }))
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

async fn start_cni(
    state: &StateDir,
    scope: &Scope,
    store: &Store,
    network: &Network,
    dataplane: &Arc<Dataplane>,
    place: CniConfig,
    range: Option<Ipv4Net>,
) -> Result<Cni> {
    let (ledger, problems) = Ledger::load(&state.ledger(), range, &facts::boot_id()?, clock::now());
    for problem in problems {
        tracing::error!(problem, "The network ledger");
    }
    if let Err(error) = ledger.check() {
        let error = format!("{:#}", anyhow::Error::new(error));
        tracing::error!(error, "The network ledger; running pods are not affected");
    }
    let cni = Cni::new(
        place,
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

/// Tells of pods' interfaces that end. Without the kernel's word for it a worker finds out when it
/// looks again by itself (A34).
async fn lose(cni: Cni, mut ended: mpsc::UnboundedReceiver<u32>) {
    while let Some(ifindex) = ended.recv().await {
        cni.interface_ended(ifindex).await;
    }
    tracing::warn!("The kernel does not tell of ended interfaces any more");
    std::future::pending().await
}
