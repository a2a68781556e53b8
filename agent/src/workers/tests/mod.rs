//! Workers, observer and executors against a runtime in memory.

mod api;
mod fake;
mod hanging;
mod lifecycle;
mod observing;
mod probing;
mod pulling;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore_core::config::KubeletConfig;
use longshore_core::model::{NodeView, ObjectKey, PodUid};
use longshore_core::pod::action::CgroupPlan;

use super::heartbeat::Heartbeat;
use super::{Explanations, PodSink, Programmed, Shared};
use crate::effects::cgroup::{CgroupError, Cgroups};
use crate::effects::cri::Cri;
use crate::effects::events::Recorder;
use crate::effects::images::Images;
use crate::observe::Observer;
use crate::supervise::Supervisor;
use crate::world::Store;
use fake::Fake;

/// A node of one daemon and its runtime, in a directory of its own.
struct Node {
    dir: PathBuf,
    supervisor: Supervisor,
    fake: Fake,
    shared: Arc<Shared>,
    finished: Arc<Mutex<Vec<PodUid>>>,
    cgroups: Arc<FakeCgroups>,
}

#[derive(Default)]
struct FakeCgroups {
    paths: Mutex<std::collections::BTreeSet<String>>,
    /// The next `ensure` takes it and waits until its sender is gone.
    hangs: Mutex<Option<std::sync::mpsc::Receiver<()>>>,
}

impl Cgroups for FakeCgroups {
    fn ensure(&self, plan: &CgroupPlan) -> Result<(), CgroupError> {
        let hangs = self.hangs.lock().unwrap().take();
        if let Some(hangs) = hangs {
            let _ended = hangs.recv();
        }
        self.paths.lock().unwrap().insert(plan.path.clone());
        Ok(())
    }

    fn remove(&self, plan: &CgroupPlan) -> Result<(), CgroupError> {
        let name = plan.path.rsplit('/').next().unwrap();
        self.paths.lock().unwrap().retain(|path| !path.ends_with(name));
        Ok(())
    }

    fn exists(&self, plan: &CgroupPlan) -> bool {
        self.paths.lock().unwrap().contains(&plan.path)
    }

    fn pods(&self) -> Vec<String> {
        self.paths.lock().unwrap().iter().cloned().collect()
    }
}

struct Sink {
    store: Store,
    finished: Arc<Mutex<Vec<PodUid>>>,
}

impl PodSink for Sink {
    fn finished(&self, key: &ObjectKey, uid: &PodUid) {
        self.finished.lock().unwrap().push(uid.clone());
        self.store.edit(|world| {
            if world.pod_of(key, uid).is_none() {
                return Vec::new();
            }
            world.pods.remove(key);
            vec![longshore_core::model::Change::Pod(key.clone())]
        });
    }
}

impl Node {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("longshore-w-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir_all(&dir).unwrap();
        let supervisor = Supervisor::default();
        let fake = Fake::start(&supervisor.scope(), &dir);
        let store = Store::default();
        let finished: Arc<Mutex<Vec<PodUid>>> = Arc::default();
        let cgroups: Arc<FakeCgroups> = Arc::default();
        let sink = Sink { store: store.clone(), finished: finished.clone() };
        let shared = shared_of(&dir, &supervisor, &fake, store, cgroups.clone(), Arc::new(sink));
        Self { dir, supervisor, fake, shared, finished, cgroups }
    }

    /// The same machine after the daemon died: nothing is kept but runtime, disk and cgroups.
    fn restarted(&self) -> Arc<Shared> {
        let sink = Sink { store: Store::default(), finished: self.finished.clone() };
        let store = sink.store.clone();
        let (supervisor, cgroups) = (&self.supervisor, self.cgroups.clone());
        shared_of(&self.dir, supervisor, &self.fake, store, cgroups, Arc::new(sink))
    }

    /// Waits until `holds`, for at most ten seconds.
    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = self.fake.with(|r| r.log[r.log.len().saturating_sub(40)..].to_vec());
        let events = self.shared.recorder.all();
        let events: Vec<_> = events.iter().map(|e| (e.count, &e.reason, &e.message)).collect();
        let why = self.shared.explanations.why.lock().unwrap().clone();
        panic!("never: {what}\ncalls: {log:?}\nevents: {events:#?}\nwhy: {why:#?}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.supervisor.stop();
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn shared_of(
    dir: &std::path::Path,
    supervisor: &Supervisor,
    fake: &Fake,
    store: Store,
    cgroups: Arc<FakeCgroups>,
    sink: Arc<dyn PodSink>,
) -> Arc<Shared> {
    let cri = Cri::new(&format!("unix://{}", fake.socket.display())).unwrap();
    let (pods, logs) = (dir.join("pods"), dir.join("logs"));
    Arc::new(Shared {
        store,
        scope: supervisor.scope(),
        node: Arc::new(node_view(&pods, &logs)),
        config: Arc::new(KubeletConfig::default()),
        images: Images::new(cri.clone(), 1),
        observer: Observer::new(cri.channel(), pods, logs),
        cri,
        cgroups,
        recorder: Recorder::default(),
        programmed: Programmed::default(),
        sink,
        extra_hosts: Arc::new(|_, _| Vec::new()),
        interface_lost: {
            let fake = fake.clone();
            Arc::new(move |sandbox: &str| {
                let lost = fake.with(|r| r.lost_interfaces.contains(sandbox));
                Box::pin(std::future::ready(lost))
            })
        },
        patience: Duration::from_millis(300),
        runtime_name: "fake".into(),
        explanations: Explanations::default(),
        heartbeat: Heartbeat::default(),
    })
}

fn node_view(pods: &std::path::Path, logs: &std::path::Path) -> NodeView {
    NodeView {
        name: "node".into(),
        ips: vec!["192.0.2.1".parse().unwrap()],
        addresses: vec!["192.0.2.1".parse().unwrap()],
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        resolv: Default::default(),
        hosts_file: "127.0.0.1 localhost\n".into(),
        cpu_milli: 2000,
        pids_max: None,
        memory_bytes: 4 << 30,
        kubepods_cgroup: "/test/kubepods".into(),
        systemd_cgroups: false,
        cgroup_v2: false,
        pods_dir: pods.display().to_string(),
        pod_logs_dir: logs.display().to_string(),
    }
}
