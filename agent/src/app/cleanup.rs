//! `longshore cleanup`: removes everything that is this daemon's. Stop never does.
//!
//! What to remove is read from the state directory; nothing else is looked for, so nothing of
//! others can be hit. Each step says what it does and goes on when another fails.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use longshore_core::config::KubeletConfig;
use longshore_core::model::observed::Attachment;
use longshore_core::model::{ObjectKey, PodUid};
use longshore_core::net::{Routes, masquerade as masquerade_plan};
use longshore_core::pod::paths;

use super::Options;
use super::ground::{StateDir, require_root};
use super::options::configuration;
use crate::clock;
use crate::cni::{AttachmentSink, Cni, CniConfig, Conf, Hooks, Ledger};
use crate::dataplane::Dataplane;
use crate::effects::cgroup::KernelCgroups;
use crate::effects::cri::Cri;
use crate::effects::logs;
use crate::effects::network::{Network, masquerade};
use crate::effects::volumes;
use crate::observe::Observer;
use crate::supervise::Supervisor;

const OPTIONS: &str = "options.json";

/// Keeps what the daemon was asked to do, so that cleanup finds it.
///
/// # Errors
/// The state directory cannot be written.
pub fn remember(state: &StateDir, options: &Options) -> Result<()> {
    let path = state.root.join(OPTIONS);
    let text = serde_json::to_vec_pretty(options)?;
    if std::fs::read(&path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let fresh = state.root.join("options.new");
    std::fs::write(&fresh, text).and_then(|()| std::fs::rename(&fresh, &path)).with_context(|| {
        format!(
            "write {}: the state directory must be writable (is its disk full or read-only?)",
            path.display()
        )
    })
}

/// Removes the pods, interfaces, rules, hooks, cgroups and files of the daemon that ran on
/// `state_dir`.
///
/// # Errors
/// A daemon still runs there, or some step failed: all others were done.
pub fn cleanup(state_dir: &Path) -> Result<()> {
    require_root()?;
    if !state_dir.exists() {
        println!("{} does not exist: nothing to clean up", state_dir.display());
        return Ok(());
    }
    let state = StateDir::create(state_dir)?;
    let lock = state.lock().context("a running daemon cannot be cleaned up")?;
    let text = std::fs::read(state.root.join(OPTIONS))
        .with_context(|| format!("{} is no state directory of longshore", state.root.display()))?;
    let options: Options = serde_json::from_slice(&text).context("read the daemon's options")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let failed = runtime.block_on(steps(&state, &options))?;
    drop(lock);
    if failed > 0 {
        bail!("{failed} step(s) failed (see above); run cleanup again when their cause is gone");
    }
    std::fs::remove_dir_all(&state.root)
        .with_context(|| format!("remove {}", state.root.display()))?;
    println!("removed {}", state.root.display());
    Ok(())
}

async fn steps(state: &StateDir, options: &Options) -> Result<usize> {
    let config = configuration(options)?;
    let supervisor = Supervisor::default();
    let scope = supervisor.scope();
    let conf = Conf {
        conf_dir: options.cni_conf_dir.clone(),
        bin_dir: options.cni_bin_dir.clone(),
        socket: state.cni_socket(),
    };
    let range = match options.pod_cidr() {
        Some(IpNet::V4(range)) => Some(range),
        _ => None,
    };
    let pods_dir = options.pods_dir(&state.root);
    let mut failed = 0;
    let network = Network::open(&scope)?;
    let (ledger, _) = Ledger::load(&state.ledger(), range, &super::facts::boot_id()?, clock::now());
    let interfaces: Vec<String> =
        ledger.entries().values().map(|entry| entry.attachment.ifname.clone()).collect();

    // The runtime tears sandboxes down through the plugin, and the plugin asks this socket.
    let place = CniConfig { node_address: Ipv4Addr::UNSPECIFIED, mtu: 0 };
    let cni =
        Cni::new(place, network.clone(), Box::new(Ending), Box::new(Ending), ledger, scope.clone());
    report(&mut failed, "the last daemon's CNI socket", cni.serve(&state.cni_socket()));
    let pods = volumes::pods(&pods_dir);
    let removed = remove_pods(&config, &pods).await;
    report(&mut failed, &format!("{} pod(s) in the runtime", pods.len()), removed);
    report(&mut failed, "CNI configuration and plugin", conf.remove());
    for name in interfaces {
        report(&mut failed, &format!("interface {name}"), network.delete_link(&name).await);
    }
    report(&mut failed, "routes to other nodes", network.set_routes(&Routes::new()).await);
    // Of the plan only the table's name counts.
    let plan = masquerade_plan(options.service_cidr, []);
    report(&mut failed, &format!("nftables table {}", plan.table), masquerade::remove(&plan));
    report(&mut failed, "eBPF programs, links and maps", Dataplane::remove(&state.bpffs()));
    let root = config.cgroup_root.trim_end_matches('/').to_owned();
    let kubepods = format!("{root}/kubepods");
    let cgroups =
        KernelCgroups::new(&config.cgroup_root, &kubepods).and_then(|c| c.remove_pods(&pods));
    report(&mut failed, &format!("the pods' cgroups below {kubepods}"), cgroups);
    for uid in pods {
        let dir = pods_dir.join(&uid).display().to_string();
        report(&mut failed, &format!("volumes of {uid}"), volumes::remove(&pods_dir, &dir));
        for logs in logs_of(Path::new(&config.pod_logs_dir), &uid) {
            let removed = logs::remove(Path::new(&config.pod_logs_dir), &logs);
            report(&mut failed, &logs.display().to_string(), removed);
        }
    }
    let links = paths::log_links_dir(&config.pod_logs_dir);
    let swept = logs::sweep(Path::new(&links), Path::new(&config.pod_logs_dir));
    report(&mut failed, &format!("links to logs in {links}"), swept);
    Ok(failed)
}

/// Ends every sandbox that carries one of `uids`; the runtime ends its containers with it.
async fn remove_pods(config: &KubeletConfig, uids: &[String]) -> Result<()> {
    if uids.is_empty() {
        return Ok(());
    }
    let cri = Cri::new(&config.container_runtime_endpoint)?;
    let observer = Observer::new(cri.channel(), PathBuf::new(), PathBuf::new());
    for uid in uids {
        let seen = observer.pod(&PodUid::new(uid.as_str())).await?;
        for sandbox in seen.sandboxes {
            cri.stop_sandbox(&sandbox.id).await?;
            cri.remove_sandbox(&sandbox.id).await?;
        }
    }
    Ok(())
}

/// Log directories of a pod: `<namespace>_<name>_<uid>` (A206).
fn logs_of(pod_logs_dir: &Path, uid: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(pod_logs_dir) else { return Vec::new() };
    let ending = format!("_{uid}");
    let names = entries.flatten().map(|entry| entry.path());
    names.filter(|path| path.to_string_lossy().ends_with(&ending)).collect()
}

/// Hooks and listener of a node that is being cleaned up: no new pod, and nobody to tell.
struct Ending;

impl Hooks for Ending {
    fn attach(&self, _ifname: &str) -> Result<(), String> {
        Err("this node is being cleaned up".into())
    }
}

impl AttachmentSink for Ending {
    fn attached(&self, _key: &ObjectKey, _uid: &PodUid, _attachment: &Attachment) {}
    fn detached(&self, _uid: &PodUid, _sandbox_id: &str) {}
}

fn report<E: Into<anyhow::Error>>(failed: &mut usize, what: &str, result: Result<(), E>) {
    match result {
        Ok(()) => println!("removed {what}"),
        Err(error) => {
            *failed += 1;
            eprintln!("cannot remove {what}: {:#}", error.into());
        }
    }
}
