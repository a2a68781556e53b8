//! From nothing to a cluster that is ready, and back.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use super::control::{self, Control};
use super::render::Credential;
use super::state::State;
use super::{API_SERVER_ROLE, Agent, Cluster, ClusterNode, ClusterOptions, LIMIT_S, leftovers};
use crate::cgroup;
use crate::containerd::{Containerd, unmount_below};
use crate::pid::Identity;
use crate::process::{Child, wait_for};

impl Cluster {
    /// Makes it and waits until its nodes are Ready; with [`Agent::None`] on one, until the API
    /// server is. A left-over of the same name is removed first.
    ///
    /// # Errors
    /// Something does not start; the error holds the end of its log.
    pub fn up(options: &ClusterOptions) -> Result<Self> {
        options.check()?;
        leftovers::remove(options)?;
        std::fs::create_dir_all(options.dir())?;
        let state = State::new(options);
        state.write(&options.dir())?;
        let mut cluster = Self {
            options: options.clone(),
            state,
            kept: false,
            nodes: Vec::new(),
            control: Some(Control::prepare(options)?),
        };
        match cluster.start() {
            Ok(()) => Ok(cluster),
            Err(error) => {
                let logs = cluster.save_logs();
                Err(error.context(format!("no cluster; its logs are in {}", logs.display())))
            }
        }
    }

    fn start(&mut self) -> Result<()> {
        self.start_control(&["etcd", API_SERVER_ROLE])?;
        // Nodes are made while the API server starts.
        self.prepare_nodes()?;
        self.control_mut().wait_ready()?;
        self.start_control(&["kube-controller-manager", "kube-scheduler"])?;
        self.grant_dataplane()?;
        for number in 1..=self.options.nodes {
            self.start_agent(number)?;
        }
        if self.options.agents().all(|agent| agent != Agent::None) {
            self.finish_nodes().map_err(|error| error.context(self.report()))?;
        }
        Ok(())
    }

    /// Copies all logs to where they outlive the cluster; gives the directory.
    pub fn save_logs(&self) -> PathBuf {
        let name = format!("{}-logs", self.options.full_name());
        let dir = self.options.lab.dir.join(name);
        // Those of an earlier failure go. What cannot be copied is not worth another failure.
        let _ = std::fs::remove_dir_all(&dir);
        let _ = std::fs::create_dir_all(&dir);
        for (name, path) in self.logs() {
            let _ = std::fs::copy(path, dir.join(format!("{name}.log")));
        }
        dir
    }

    /// Leaves everything running; [`Cluster::attach`] finds it again.
    pub fn keep(mut self) {
        self.kept = true;
        self.control_mut().keep();
        for node in &mut self.nodes {
            node.netns.keep();
            node.containerd.iter_mut().for_each(Containerd::keep);
            let children = [&mut node.agent, &mut node.proxy, &mut node.mounts];
            children.into_iter().flatten().for_each(Child::keep);
        }
    }

    /// Ends and removes it, and looks whether that worked.
    ///
    /// # Errors
    /// Something is left: a namespace, mount, cgroup, process or file.
    pub fn down(mut self) -> Result<()> {
        self.end()?;
        let left = leftovers::find(&self.options, &self.state);
        if !left.is_empty() {
            bail!("left behind:\n{}", left.join("\n"));
        }
        Ok(())
    }

    /// All nodes at once.
    fn prepare_nodes(&mut self) -> Result<()> {
        let (options, control, dir) = (&self.options, self.control(), self.dir());
        let state = Mutex::new(self.state.clone());
        let record = |role: &str, child: &Child| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.set(role, Some(child.identity()));
            state.write(&dir)
        };
        let nodes: Vec<Result<ClusterNode>> = std::thread::scope(|scope| {
            let record = &record;
            let prepare = |number| {
                scope.spawn(move || ClusterNode::prepare(options, control, number, record))
            };
            let threads: Vec<_> = (1..=options.nodes).map(prepare).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<ClusterNode>>| {
                thread.join().unwrap_or_else(|_| bail!("the thread of a node panicked"))
            };
            threads.into_iter().map(join).collect()
        });
        self.state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut failed = None;
        for node in nodes {
            match node {
                Ok(node) => self.nodes.push(node),
                Err(error) => failed = Some(error),
            }
        }
        for at in 0..self.nodes.len() {
            let node = &self.nodes[at];
            let (role, containerd) = (format!("{}/containerd", node.name()), node.containerd());
            let identity = containerd.identity();
            self.record(&role, Some(identity))?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// The second identity of a node: what a user does with deploy/rbac.yaml.
    fn grant_dataplane(&mut self) -> Result<()> {
        let rbac = self.options.parts.rbac.display().to_string();
        // Its namespace is made by the API server itself, a moment after it is ready.
        wait_for("deploy/rbac.yaml to be applied", LIMIT_S, || {
            let applied = self.kubectl(["apply", "-f", &rbac]).output()?;
            let missing = applied.text.contains("namespaces \"kube-system\" not found");
            if !applied.ok() && !missing {
                bail!("{}", applied.text);
            }
            Ok(applied.ok())
        })?;
        let words = "-n kube-system create token longshore-dataplane --duration=24h";
        let token = self.kubectl(words.split(' ')).check()?;
        let path = control::kubeconfig(&self.dir(), "dataplane");
        let credential = Credential::Token(token.trim());
        self.control().write_kubeconfig(&path, "longshore-dataplane", &credential)
    }

    fn finish_nodes(&mut self) -> Result<()> {
        let given = self.options.pod_cidr.is_some();
        wait_for("every node to have a pod range", LIMIT_S, || {
            for node in &mut self.nodes {
                if let Some(code) = node.agent_exited()? {
                    bail!("the agent of {} ended ({code:?})", node.name());
                }
            }
            let states = self.node_states()?;
            Ok(states.len() == self.nodes.len()
                && states.iter().all(|one| given || !one.pod_cidr.is_empty()))
        })?;
        let is_kubelet = |node: &&ClusterNode| node.options.agent == Agent::Kubelet;
        let kubelets: Vec<&ClusterNode> = self.nodes.iter().filter(is_kubelet).collect();
        if !kubelets.is_empty() {
            let number = |name: &str| name.trim_start_matches('n').parse().unwrap_or(0);
            let ranges: Vec<(usize, String)> = self
                .node_states()?
                .into_iter()
                .map(|state| (number(&state.name), state.pod_cidr))
                .collect();
            kubelets.iter().try_for_each(|node| node.connect_pods(&ranges))?;
        }
        self.wait_ready(LIMIT_S)?;
        self.check_agents()
    }

    /// A comparison of two agents that are one and the same would pass for a result.
    fn check_agents(&self) -> Result<()> {
        for state in self.node_states()? {
            let node = self.nodes.iter().find(|node| node.name() == state.name);
            let wanted = node.map(|node| node.options.agent == Agent::Longshore);
            let version = &state.kubelet_version;
            if wanted.is_some_and(|wanted| wanted != version.contains("longshore")) {
                bail!("{} is run by another agent than was asked for: {version}", state.name);
            }
        }
        Ok(())
    }

    /// Ends everything, innermost first: clients, agents, pods, runtimes, the control plane.
    fn end(&mut self) -> Result<()> {
        self.kept = true;
        leftovers::end(&Identity::recorded(&leftovers::clients(&self.dir())));
        for node in &mut self.nodes {
            for mut child in [node.agent.take(), node.proxy.take()].into_iter().flatten() {
                let _ = child.kill9();
            }
            cgroup::remove(&node.cgroup_root());
        }
        // Each waits for its containerd to end.
        std::thread::scope(|scope| {
            for node in &mut self.nodes {
                scope.spawn(|| node.containerd = None);
            }
        });
        for node in &self.nodes {
            leftovers::remove_runtime_files(&node.place().dir);
            cgroup::remove(&node.cgroup_root());
        }
        self.nodes.clear();
        self.control = None;
        let dir = self.options.dir();
        unmount_below(&dir);
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() {
            eprintln!("{}\nall logs: {}", self.report(), self.save_logs().display());
        }
        if let Err(error) = self.end() {
            eprintln!("{}: {error:#}", self.dir().display());
        }
    }
}
