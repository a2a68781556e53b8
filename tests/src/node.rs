//! A node in a box: a network namespace, a containerd, a directory of manifests and the daemon.
//!
//! `world` is a second namespace at the far end of the node's uplink: what a pod reaches outside.
//! When a test panics, the node prints what a person would ask for first.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cgroup;
use crate::containerd::{Containerd, Place, tail, unmount_below};
use crate::ctr::Ctr;
use crate::lab::{Lab, PAUSE_IMAGE};
use crate::netns::Netns;
use crate::process::{Child, Output, Run, wait_for};

/// The node's own address, and the world's at the other end of its uplink.
pub const NODE_IP: &str = "192.0.2.10";
pub const WORLD_IP: &str = "192.0.2.1";
pub const POD_CIDR: &str = "10.244.7.0/24";
pub const SERVICE_CIDR: &str = "10.97.0.0/16";

const CONFIG: &str = "config.yaml";
const LOGS: &str = "log/pods";

/// A node with its parts. Dropping it ends and removes all of it unless [`Node::keep`] was said.
pub struct Node {
    lab: Lab,
    name: String,
    dir: PathBuf,
    keep: bool,
    daemon: Option<Child>,
    extra_env: Vec<(String, String)>,
    // Dropped in this order: the runtime before the namespaces.
    containerd: Option<Containerd>,
    netns: Netns,
    world: Netns,
}

impl Node {
    /// Everything except the daemon.
    ///
    /// # Errors
    /// Root, iproute2 or the runtime is missing.
    pub fn new(lab: &Lab, name: &str) -> Result<Self> {
        let name = format!("{}-{name}", lab.prefix);
        let dir = lab.dir.join(&name);
        remove_leftovers(&dir, &format!("/{name}"))?;
        std::fs::create_dir_all(dir.join("manifests"))?;
        std::fs::write(dir.join(CONFIG), kubelet_configuration(&dir))?;
        let netns = Netns::new(&name)?;
        let world = Netns::new(&format!("{name}-world"))?;
        netns.link("up0", &format!("{NODE_IP}/24"), &world, "down0", &format!("{WORLD_IP}/24"))?;
        netns.ip(&format!("route add default via {WORLD_IP}"))?;
        let place = Place {
            dir: dir.join("containerd"),
            cni_conf_dir: dir.join("cni/net.d"),
            cni_bin_dir: dir.join("cni/bin"),
            sandbox_image: PAUSE_IMAGE.to_owned(),
        };
        let containerd = Containerd::start(&lab.runtime, &place, &netns)?;
        for tar in &lab.images {
            containerd.ctr().import(tar)?;
        }
        Ok(Self {
            lab: lab.clone(),
            name,
            dir,
            keep: false,
            daemon: None,
            extra_env: Vec::new(),
            containerd: Some(containerd),
            netns,
            world,
        })
    }

    /// A node with the daemon running, and `manifests` as its first files: name and text.
    pub fn start(lab: &Lab, name: &str, manifests: &[(&str, &str)]) -> Result<Self> {
        let mut node = Self::new(lab, name)?;
        for (file, text) in manifests {
            node.write(file, text)?;
        }
        node.start_daemon()?;
        Ok(node)
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &PathBuf {
        &self.dir
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn manifests_dir(&self) -> PathBuf {
        self.dir.join("manifests")
    }

    /// The configuration's `podLogsDir`: nothing of a test is to be in the machine's /var/log.
    pub fn pod_logs_dir(&self) -> PathBuf {
        self.dir.join(LOGS)
    }

    /// Of links to the logs of containers: `containers` beside `podLogsDir`.
    pub fn log_links_dir(&self) -> PathBuf {
        self.dir.join("log/containers")
    }

    pub fn cgroup_root(&self) -> String {
        format!("/{}", self.name)
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub fn world(&self) -> &Netns {
        &self.world
    }

    pub fn containerd(&self) -> &Containerd {
        self.containerd.as_ref().expect("taken only by drop")
    }

    pub fn containerd_mut(&mut self) -> &mut Containerd {
        self.containerd.as_mut().expect("taken only by drop")
    }

    pub fn ctr(&self) -> Ctr {
        self.containerd().ctr()
    }

    /// Leaves everything running when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        self.netns.keep();
        self.world.keep();
    }

    /// A variable for the next start of the daemon (`LONGSHORE_FAILPOINT`).
    pub fn set_env(&mut self, name: &str, value: impl Into<String>) {
        self.extra_env.retain(|(known, _)| known != name);
        self.extra_env.push((name.to_owned(), value.into()));
    }

    pub fn clear_env(&mut self, name: &str) {
        self.extra_env.retain(|(known, _)| known != name);
    }

    /// Writes a manifest as an editor does: a new file under a hidden name, then a rename.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        let dir = self.manifests_dir();
        let hidden = dir.join(format!(".{file}.new"));
        std::fs::write(&hidden, text)?;
        Ok(std::fs::rename(hidden, dir.join(file))?)
    }

    pub fn remove(&self, file: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.manifests_dir().join(file))?)
    }

    /// Removes every manifest.
    pub fn remove_all(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.manifests_dir())? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// The daemon's command line.
    pub fn daemon_run(&self) -> Run {
        let place = self.containerd().place();
        let run = self
            .netns
            .run(&self.lab.longshore.to_string_lossy())
            .arg("standalone")
            .arg(self.manifests_dir())
            .arg("--state-dir")
            .arg(self.state_dir())
            .arg("--config")
            .arg(self.dir.join(CONFIG))
            .args(["--container-runtime-endpoint", &self.containerd().endpoint()])
            .args(["--cgroup-root", &self.cgroup_root()])
            .arg("--cni-conf-dir")
            .arg(&place.cni_conf_dir)
            .arg("--cni-bin-dir")
            .arg(&place.cni_bin_dir)
            .args(["--pod-cidr", POD_CIDR, "--service-cidr", SERVICE_CIDR])
            .args(["--node-name", &self.name]);
        self.extra_env.iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    pub fn daemon_log(&self) -> PathBuf {
        self.dir.join("longshore.log")
    }

    /// Starts the daemon and waits until `status` answers and the maps know the node.
    ///
    /// # Errors
    /// It ended, or it does not answer in 20 s.
    pub fn start_daemon(&mut self) -> Result<()> {
        self.start_daemon_unready()?;
        wait_for("`longshore status` to answer and the maps to know the node", 20, || {
            if let Some(code) = self.daemon_exited()? {
                bail!("the daemon ended ({code:?}):\n{}", self.last_log(20));
            }
            let answers = self.status().is_ok_and(|output| matches!(output.code, Some(0 | 1)));
            Ok(answers && self.maps().is_ok_and(|maps| maps.contains("(node)")))
        })
        .with_context(|| self.last_log(20))
    }

    /// Starts the daemon and returns at once: it may be about to fail.
    pub fn start_daemon_unready(&mut self) -> Result<()> {
        let child = self.daemon_run().start(&self.daemon_log())?;
        self.daemon = Some(child);
        Ok(())
    }

    /// `None`: it runs. `Some(None)`: ended by a signal.
    pub fn daemon_exited(&mut self) -> Result<Option<Option<i32>>> {
        self.daemon.as_mut().map_or(Ok(Some(None)), Child::exited)
    }

    pub fn daemon_pid(&self) -> Option<i32> {
        self.daemon.as_ref().map(Child::pid)
    }

    /// `kill -9`.
    pub fn kill9(&mut self) -> Result<()> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.kill9(),
            None => bail!("the daemon does not run"),
        }
    }

    /// SIGTERM: the daemon goes, the pods stay.
    pub fn stop_daemon(&mut self) -> Result<Option<i32>> {
        match self.daemon.take() {
            Some(mut daemon) => daemon.stop(10),
            None => bail!("the daemon does not run"),
        }
    }

    /// `longshore COMMAND… --state-dir …`, inside the node's namespace.
    pub fn longshore(&self, words: &str) -> Run {
        self.netns
            .run(&self.lab.longshore.to_string_lossy())
            .words(words)
            .arg("--state-dir")
            .arg(self.state_dir())
            .limit_s(10)
    }

    pub fn status(&self) -> Result<Output> {
        self.longshore("status").output()
    }

    pub fn maps(&self) -> Result<String> {
        self.longshore("maps dump").check()
    }

    /// A workload command in the container of a pod whose name begins with `pod`.
    pub fn exec(&self, namespace: &str, pod: &str, command: &str) -> Result<Output> {
        self.exec_run(namespace, pod, command)?.output()
    }

    /// As [`Node::exec`], not yet started.
    pub fn exec_run(&self, namespace: &str, pod: &str, command: &str) -> Result<Run> {
        let container = self.ctr().find(namespace, pod)?;
        let words: Vec<&str> =
            std::iter::once("/bin/longshore-workload").chain(command.split(' ')).collect();
        Ok(self.ctr().exec(&container.id, &words))
    }

    /// A workload command on the node itself: in its network namespace, in no pod.
    pub fn on_host(&self, command: &str) -> Run {
        self.netns.run(&self.lab.workload.to_string_lossy()).words(command)
    }

    /// A workload command outside the node, at the other end of its uplink.
    pub fn in_world(&self, command: &str) -> Run {
        self.world.run(&self.lab.workload.to_string_lossy()).words(command)
    }

    pub fn last_log(&self, lines: usize) -> String {
        tail(&std::fs::read_to_string(self.daemon_log()).unwrap_or_default(), lines)
    }

    /// What to look at when something is wrong.
    pub fn report(&self) -> String {
        let text = |output: Result<Output>| output.map_or_else(|e| format!("{e:#}"), |o| o.text);
        format!(
            "--- longshore status\n{}\n--- last lines of {}\n{}\n--- longshore maps dump\n{}\n\
             --- last lines of containerd\n{}",
            text(self.status()),
            self.daemon_log().display(),
            self.last_log(60),
            text(self.longshore("maps dump").output()),
            tail(&self.containerd().log(), 15),
        )
    }
}

/// What the daemon takes without a file, but for where logs are.
fn kubelet_configuration(dir: &Path) -> String {
    let logs = dir.join(LOGS);
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
         failCgroupV1: false\nfailSwapOn: false\npodLogsDir: \"{}\"\n",
        logs.display()
    )
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
        }
        if self.keep {
            // They outlive this process: neither reaped nor killed.
            std::mem::forget(self.daemon.take());
            std::mem::forget(self.containerd.take());
            return;
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill9();
        }
        let root = self.cgroup_root();
        cgroup::remove(&root);
        self.containerd = None;
        if let Err(error) = remove_leftovers(&self.dir, &root) {
            eprintln!("{}: {error:#}", self.dir.display());
        }
    }
}

/// What a killed run of the same name may have left: its processes, mounts, cgroups and files.
fn remove_leftovers(dir: &PathBuf, cgroup_root: &str) -> Result<()> {
    cgroup::remove(cgroup_root);
    if dir.exists() {
        // Every program of a lab names its directory on its command line.
        let marker = format!("{}/", dir.display());
        let own = crate::process::processes(|line| {
            line.contains(&marker)
                && [" standalone ", " registry ", "containerd"].iter().any(|own| line.contains(own))
                && !line.contains("xtask")
        });
        crate::process::kill_all(own.into_iter().map(|(pid, _)| pid));
        wait_for("processes of an earlier run to end", 5, || {
            Ok(crate::process::processes(|line| {
                line.contains(&marker) && line.contains("containerd")
            })
            .is_empty())
        })?;
        unmount_below(dir);
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}
