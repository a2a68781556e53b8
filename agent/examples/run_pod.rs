//! Runs one pod from a JSON manifest through the pod worker against a real runtime, until it is
//! ready, waits for a line on standard input, deletes it, and says what is left.
//!
//! `run_pod SOCKET STATE_DIR CGROUP_ROOT MANIFEST.json [keep]`. For hostNetwork pods: nothing here
//! makes a network. With `keep` it leaves the pod running, as a daemon that is killed does.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use longshore::effects::cgroup::KernelCgroups;
use longshore::effects::cri::Cri;
use longshore::effects::events::Recorder;
use longshore::effects::images::Images;
use longshore::observe::Observer;
use longshore::supervise::{Policy, Supervisor};
use longshore::workers::heartbeat::Heartbeat;
use longshore::workers::{Explanations, PodSink, Programmed, STEP_PATIENCE, Shared, pods};
use longshore::world::Store;
use longshore_core::config::KubeletConfig;
use longshore_core::model::{Change, NodeView, ObjectKey, PodUid};

struct Sink(Store);

impl PodSink for Sink {
    fn finished(&self, key: &ObjectKey, _: &PodUid) {
        self.0.edit(|world| {
            world.pods.remove(key);
            vec![Change::Pod(key.clone())]
        });
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter("info,longshore=debug").init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, state_dir, cgroup_root, manifest, rest @ ..] = &arguments[..] else {
        anyhow::bail!("run_pod SOCKET STATE_DIR CGROUP_ROOT MANIFEST.json [keep]");
    };
    let pod: Pod = serde_json::from_slice(&std::fs::read(manifest)?)?;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let key = ObjectKey::new(pod.metadata.namespace.clone().unwrap_or_default(), name);
    let uid = PodUid::new(pod.metadata.uid.clone().unwrap_or_default());
    let mut supervisor = Supervisor::default();
    let store = Store::default();
    let shared = shared(&supervisor, &store, socket, Path::new(state_dir), cgroup_root).await?;
    let scope = supervisor.scope();
    let (a, b) = (shared.observer.clone(), shared.observer.clone());
    let _watch = scope.spawn("watch", Policy::Critical, async move { a.watch_pods().await });
    let _status = scope.spawn("status", Policy::Critical, async move { b.watch_status().await });
    let _pods = scope.spawn("pods", Policy::Critical, pods::run(shared.clone()));
    store.edit(|world| {
        world.pods.insert(key.clone(), Arc::new(pod));
        world.synced = true;
        vec![Change::Pod(key.clone()), Change::Synced]
    });
    let started = longshore::clock::now();
    let is_ready = || store.snapshot().local.get(&uid).is_some_and(|local| local.ready);
    tokio::select! {
        biased;
        name = supervisor.first_end() => anyhow::bail!("{name} ended"),
        () = until(is_ready) => {}
    }
    println!("READY after {} ms", longshore::clock::now().since_ms(started));
    if rest.iter().any(|word| word == "keep") {
        return Ok(());
    }
    scope.blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    let status = store.snapshot().local[&uid].status.clone();
    println!("{}", serde_json::to_string_pretty(&status)?);
    let started = longshore::clock::now();
    store.edit(|world| {
        let mut pod = Pod::clone(&world.pods[&key]);
        pod.metadata.deletion_timestamp = Some(longshore::clock::now().to_api());
        world.pods.insert(key.clone(), Arc::new(pod));
        vec![Change::Pod(key.clone())]
    });
    until(|| store.snapshot().pods.is_empty()).await;
    println!("GONE after {} ms", longshore::clock::now().since_ms(started));
    println!("cgroups left: {:?}", shared.cgroups.pods());
    println!(
        "directories left: {:?}",
        longshore::effects::volumes::pods(&Path::new(state_dir).join("pods"))
    );
    Ok(())
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn shared(
    supervisor: &Supervisor,
    store: &Store,
    socket: &str,
    state_dir: &Path,
    cgroup_root: &str,
) -> anyhow::Result<Arc<Shared>> {
    let kubepods = format!("{}/kubepods", cgroup_root.trim_end_matches('/'));
    let cgroups = KernelCgroups::new(cgroup_root, &kubepods)?;
    println!("{:?}", cgroups.node_facts());
    let cri = Cri::new(socket)?;
    let version = cri.wait_ready().await?;
    println!("{version:?}, systemd cgroups: {:?}", cri.systemd_cgroups().await?);
    let (pods_dir, logs_dir) = (state_dir.join("pods"), state_dir.join("logs"));
    let node = NodeView {
        name: "lab".into(),
        ips: vec!["127.0.0.1".parse()?],
        addresses: vec!["127.0.0.1".parse()?],
        service_cidr: "10.96.0.0/16".parse()?,
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        resolv: Default::default(),
        hosts_file: std::fs::read_to_string("/etc/hosts")?,
        cpu_milli: 2000,
        memory_bytes: 4 << 30,
        pids_max: None,
        kubepods_cgroup: kubepods,
        systemd_cgroups: false,
        cgroup_v2: cgroups.node_facts().cgroup_v2,
        pods_dir: pods_dir.display().to_string(),
        pod_logs_dir: logs_dir.display().to_string(),
    };
    let programmed = Programmed::default();
    programmed.set(BTreeSet::new());
    Ok(Arc::new(Shared {
        store: store.clone(),
        scope: supervisor.scope(),
        node: Arc::new(node),
        config: Arc::new(KubeletConfig::default()),
        images: Images::new(cri.clone(), 1),
        observer: Observer::new(cri.channel(), pods_dir, logs_dir),
        cri,
        cgroups: Arc::new(cgroups),
        recorder: Recorder::default(),
        programmed,
        sink: Arc::new(Sink(store.clone())),
        extra_hosts: Arc::new(|_, _| Vec::new()),
        interface_lost: Arc::new(|_| Box::pin(std::future::ready(false))),
        patience: STEP_PATIENCE,
        runtime_name: version.name,
        explanations: Explanations::default(),
        heartbeat: Heartbeat::default(),
    }))
}
