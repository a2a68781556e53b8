//! A node of a cluster: its namespaces, its containerd, its files, and the command line of its agent.

use std::path::PathBuf;

use anyhow::Result;

use super::control::{kubeconfig, log};
use super::options::{Agent, ClusterOptions};
use super::render::{SERVICE_CIDR, node_ip};
use super::state::State;
use crate::containerd::{Containerd, Place};
use crate::ctr::Ctr;
use crate::lab::PAUSE_IMAGE;
use crate::netns::Netns;
use crate::process::{Child, Output, Run};

/// `n1`, `n2`, …; made, started and stopped by its [`Cluster`](super::Cluster).
pub struct ClusterNode {
    pub(super) number: usize,
    /// Its own: see [`ClusterOptions::of_node`].
    pub(super) options: ClusterOptions,
    pub(super) agent: Option<Child>,
    pub(super) proxy: Option<Child>,
    pub(super) containerd: Option<Containerd>,
    /// Holds the mount namespace of a kubelet and its containerd.
    pub(super) mounts: Option<Child>,
    pub(super) netns: Netns,
    pub(super) extra: Vec<Extra>,
}

/// What a test adds to the agent's command line.
pub(super) enum Extra {
    Arg(String),
    Env(String, String),
}

impl ClusterNode {
    /// What an earlier program started and kept.
    pub(super) fn attach(options: &ClusterOptions, state: &State, number: usize) -> Self {
        let (dir, name) = (options.dir(), format!("n{number}"));
        let attach = |part: &str| {
            let role = format!("{name}/{part}");
            Some(Child::attach(state.process(&role)?, &log(&dir, &role), &role))
        };
        let mut node = Self {
            number,
            options: options.of_node(number),
            agent: attach("agent"),
            proxy: attach("kube-proxy"),
            containerd: None,
            mounts: attach("mounts"),
            netns: Netns::owned(&format!("{}-{name}", options.full_name())),
            extra: Vec::new(),
        };
        if let Some(holder) = &node.mounts {
            node.netns.with_mounts_of(holder.pid());
        }
        let identity = state.process(&format!("{name}/containerd"));
        node.containerd = identity.map(|identity| {
            Containerd::attach(&options.lab.runtime, &node.place(), &node.netns, identity)
        });
        node
    }

    /// As in its Node object.
    pub fn name(&self) -> String {
        format!("n{}", self.number)
    }

    pub fn ip(&self) -> String {
        node_ip(self.number)
    }

    pub fn dir(&self) -> PathBuf {
        self.options.dir().join(self.name())
    }

    /// Its KubeletConfiguration.
    pub fn config(&self) -> PathBuf {
        self.dir().join("config.yaml")
    }

    /// The node's own identity, `system:node:n1`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir().join("kubeconfig")
    }

    /// The ServiceAccount `kube-system/longshore-dataplane`.
    pub fn dataplane_kubeconfig(&self) -> PathBuf {
        kubeconfig(&self.options.dir(), "dataplane")
    }

    pub fn root_dir(&self) -> PathBuf {
        self.dir().join("root")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Of static pods.
    pub fn manifests_dir(&self) -> PathBuf {
        self.dir().join("manifests")
    }

    /// The configuration's `podLogsDir`.
    pub fn pod_logs_dir(&self) -> PathBuf {
        self.dir().join("pods-log")
    }

    /// Of links to the logs of containers: `containers` beside `podLogsDir`.
    pub fn log_links_dir(&self) -> PathBuf {
        self.dir().join("containers")
    }

    pub fn cgroup_root(&self) -> String {
        format!("/{}-{}", self.options.full_name(), self.name())
    }

    pub fn netns(&self) -> &Netns {
        &self.netns
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

    /// `crictl …` against this node's runtime.
    pub fn crictl(&self) -> Run {
        let program = self.options.parts.cri_tools.join("crictl");
        let endpoint = self.containerd().endpoint();
        self.netns.run(&program.to_string_lossy()).args([
            "--runtime-endpoint",
            &endpoint,
            "--image-endpoint",
            &endpoint,
        ])
    }

    /// From the next start of the agent on, it has this argument too.
    pub fn agent_arg(&mut self, arg: &str) {
        self.extra.push(Extra::Arg(arg.to_owned()));
    }

    /// From the next start of the agent on, it has this in its environment.
    pub fn agent_env(&mut self, name: &str, value: &str) {
        self.extra.push(Extra::Env(name.to_owned(), value.to_owned()));
    }

    /// Forgets what [`Self::agent_arg`] and [`Self::agent_env`] said.
    pub fn agent_as_usual(&mut self) {
        self.extra.clear();
    }

    /// The command line of the agent, not yet started. `None`: a person starts one.
    pub fn agent_run(&self) -> Option<Run> {
        let run = match self.options.agent {
            Agent::None => return None,
            Agent::Kubelet => self
                .netns
                .run(&self.options.parts.kubernetes.join("kubelet").to_string_lossy())
                .arg("--cert-dir")
                .arg(self.dir().join("kubelet-pki"))
                .arg("--v=2"),
            Agent::Longshore => self
                .longshore_run("node")
                .arg("--dataplane-kubeconfig")
                .arg(self.dataplane_kubeconfig())
                .args(["--container-runtime-endpoint", &self.containerd().endpoint()])
                .args(["--cgroup-root", &self.cgroup_root()])
                .arg("--state-dir")
                .arg(self.state_dir())
                .arg("--cni-conf-dir")
                .arg(&self.place().cni_conf_dir)
                .arg("--cni-bin-dir")
                .arg(&self.place().cni_bin_dir)
                .args(["--service-cidr", SERVICE_CIDR]),
        };
        let run = run
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--config")
            .arg(self.config())
            .arg("--root-dir")
            .arg(self.root_dir())
            .args(["--hostname-override", &self.name(), "--node-ip", &self.ip()]);
        Some(self.extra.iter().fold(run, |run, extra| match extra {
            Extra::Arg(arg) => run.arg(arg),
            Extra::Env(name, value) => run.env(name, value),
        }))
    }

    fn longshore_run(&self, command: &str) -> Run {
        self.netns.run(&self.options.lab.longshore.to_string_lossy()).words(command)
    }

    /// `longshore COMMAND… --state-dir …`: questions to a running daemon.
    pub fn longshore(&self, words: &str) -> Run {
        self.longshore_run(words).arg("--state-dir").arg(self.state_dir()).limit_s(10)
    }

    /// A workload command on the node itself: in its network namespace, in no pod.
    pub fn on_host(&self, command: &str) -> Run {
        self.netns.run(&self.options.lab.workload.to_string_lossy()).words(command)
    }

    /// A workload command in the container of a pod whose name begins with `pod`.
    pub fn exec(&self, namespace: &str, pod: &str, command: &str) -> Result<Output> {
        let container = self.ctr().find(namespace, pod)?;
        let words: Vec<&str> =
            std::iter::once("/bin/longshore-workload").chain(command.split(' ')).collect();
        self.ctr().exec(&container.id, &words).output()
    }

    pub fn agent_log(&self) -> PathBuf {
        log(&self.options.dir(), &format!("{}/agent", self.name()))
    }

    pub fn agent_pid(&self) -> Option<i32> {
        self.agent.as_ref().map(Child::pid)
    }

    /// `None`: it has no kube-proxy.
    pub fn proxy_pid(&self) -> Option<i32> {
        self.proxy.as_ref().map(Child::pid)
    }

    /// `None`: it runs. `Some(None)`: ended by a signal, or never started.
    pub fn agent_exited(&mut self) -> Result<Option<Option<i32>>> {
        self.agent.as_mut().map_or(Ok(Some(None)), Child::exited)
    }

    /// Mount points as the node's agent and its containerd see them.
    pub fn mounts(&self) -> Vec<String> {
        let whose =
            self.mounts.as_ref().map_or("self".to_owned(), |holder| holder.pid().to_string());
        let text = std::fs::read_to_string(format!("/proc/{whose}/mounts")).unwrap_or_default();
        text.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
    }

    pub(super) fn proxy_run(&self) -> Run {
        self.netns
            .run(&self.options.parts.kubernetes.join("kube-proxy").to_string_lossy())
            .arg("--config")
            .arg(self.dir().join("kube-proxy.yaml"))
            .arg("--v=2")
    }

    pub(super) fn place(&self) -> Place {
        let dir = self.dir();
        Place {
            dir: dir.join("containerd"),
            cni_conf_dir: dir.join("cni/net.d"),
            cni_bin_dir: match self.options.agent {
                Agent::Kubelet => self.options.parts.cni_plugins.clone(),
                _ => dir.join("cni/bin"),
            },
            sandbox_image: PAUSE_IMAGE.to_owned(),
        }
    }
}
