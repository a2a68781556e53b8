//! A cluster in a box: a control plane and nodes with a containerd each, in network namespaces.
//!
//! `cargo xtask lab` and the end-to-end tests use the same code; the one keeps a cluster, the others
//! drop it. Every process is recorded with its start time, so that whoever ends a cluster later, in
//! another program, ends that process or none. Deliberately absent: a client of the API. kubectl is
//! what users have.

mod control;
mod leftovers;
mod life;
mod node;
mod options;
mod pki;
mod prepare;
mod render;
mod state;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::containerd::tail;
use crate::netns::Netns;
use crate::process::{Child, Run, wait_for};
use control::Control;
pub use node::ClusterNode;
pub use options::{Agent, ClusterOptions, MAX_NODES, Parts, Proxy, SHARED_CLUSTER};
pub use render::{API_SERVER, CLUSTER_CIDR, CLUSTER_DNS_IP, CLUSTER_DOMAIN, SERVICE_CIDR, node_ip};
use state::State;

/// The API server's role in [`Cluster::processes`] and the name of its log.
const API_SERVER_ROLE: &str = "kube-apiserver";

/// How long anything may take to start. Long: it is a machine's whole load that decides, and only a
/// failure waits so long.
const LIMIT_S: u64 = 120;

/// A cluster. Dropping it ends and removes all of it unless [`Cluster::keep`] was said.
pub struct Cluster {
    options: ClusterOptions,
    state: State,
    kept: bool,
    // Dropped in this order.
    nodes: Vec<ClusterNode>,
    control: Option<Control>,
}

/// A node as the API server sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeState {
    pub name: String,
    /// Empty before the controller manager has given it one.
    pub pod_cidr: String,
    pub ready: bool,
    /// `v1.37.1`, `v1.37.1+longshore.0.1.0`
    pub kubelet_version: String,
}

impl Cluster {
    /// The one in `dir` that an earlier program kept. Dropping it removes it, as if made here.
    ///
    /// # Errors
    /// There is none.
    pub fn attach(dir: &Path) -> Result<Self> {
        let state = State::read(dir)?;
        let options = state.options()?;
        let nodes = (1..=options.nodes)
            .map(|number| ClusterNode::attach(&options, &state, number))
            .collect();
        let control = Some(Control::attach(&options, &state));
        Ok(Self { options, state, kept: false, nodes, control })
    }

    /// Whether a program with the same options made one and left it running.
    pub fn is_up(options: &ClusterOptions) -> bool {
        State::read(&options.dir())
            .is_ok_and(|state| state.processes().iter().any(|(_, process)| process.alive()))
    }

    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    pub fn dir(&self) -> PathBuf {
        self.options.dir()
    }

    /// The control plane's network namespace; for nodes it is also the world outside the cluster.
    pub fn control_plane(&self) -> &Netns {
        &self.control().netns
    }

    /// `kubectl …` as the administrator. One that is left running (a watch, a proxy) is written down.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Run {
        self.control().kubectl().args(args).recorded(leftovers::clients(&self.dir()))
    }

    /// `kubectl apply` of some YAML; gives what it says.
    ///
    /// # Errors
    /// The API server refuses it.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.kubectl(["apply", "-f", "-"]).input(yaml)?.check()
    }

    /// Number 1 is `n1`.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node(&self, number: usize) -> &ClusterNode {
        &self.nodes[number - 1]
    }

    /// As [`Cluster::node`].
    ///
    /// # Panics
    /// There is no such node.
    pub fn node_mut(&mut self, number: usize) -> &mut ClusterNode {
        &mut self.nodes[number - 1]
    }

    pub fn nodes(&self) -> &[ClusterNode] {
        &self.nodes
    }

    /// What the API server says about nodes, by name.
    pub fn node_states(&self) -> Result<Vec<NodeState>> {
        let path = "jsonpath={range .items[*]}{.metadata.name}|{.spec.podCIDR}|\
            {.status.conditions[?(@.type==\"Ready\")].status}|\
            {.status.nodeInfo.kubeletVersion}{\"\\n\"}{end}";
        let text = self.kubectl(["get", "nodes", "-o", path]).check()?;
        let state = |line: &str| {
            let mut words = line.split('|');
            Some(NodeState {
                name: words.next()?.to_owned(),
                pod_cidr: words.next()?.to_owned(),
                ready: words.next()? == "True",
                kubelet_version: words.next()?.to_owned(),
            })
        };
        Ok(text.lines().filter_map(state).collect())
    }

    /// Waits until every node is Ready.
    pub fn wait_ready(&self, limit_s: u64) -> Result<()> {
        wait_for("all nodes to be Ready", limit_s, || {
            let states = self.node_states()?;
            Ok(states.len() >= self.nodes.len() && states.iter().all(|node| node.ready))
        })
    }

    /// The API server goes away; everything else stays.
    pub fn stop_apiserver(&mut self) -> Result<()> {
        self.control_mut().stop(API_SERVER_ROLE)?;
        self.record(API_SERVER_ROLE, None)
    }

    /// It comes back; waits until it is ready.
    pub fn start_apiserver(&mut self) -> Result<()> {
        self.start_control(&[API_SERVER_ROLE])?;
        self.control_mut().wait_ready()
    }

    /// Starts the agent of a node, and kube-proxy where one is asked for and not there. Returns at
    /// once: the agent may be about to fail.
    pub fn start_agent(&mut self, number: usize) -> Result<()> {
        let dir = self.dir();
        let node = self.node_mut(number);
        let name = node.name();
        if let Some(run) = node.agent_run() {
            node.agent = Some(run.own_group().start(&node.agent_log())?);
        }
        let role = format!("{name}/kube-proxy");
        if node.options.proxy != Proxy::None && node.proxy.is_none() {
            node.proxy = Some(node.proxy_run().own_group().start(&control::log(&dir, &role))?);
        }
        let node = self.node(number);
        let agent = node.agent.as_ref().map(Child::identity);
        let proxy = node.proxy.as_ref().map(Child::identity);
        self.record(&role, proxy)?;
        self.record(&format!("{name}/agent"), agent)
    }

    /// `kill -9` of a node's agent.
    pub fn kill_agent(&mut self, number: usize) -> Result<()> {
        self.take_agent(number)?.kill9()?;
        self.record(&format!("n{number}/agent"), None)
    }

    /// SIGTERM to a node's agent; gives its exit code.
    pub fn stop_agent(&mut self, number: usize) -> Result<Option<i32>> {
        let code = self.take_agent(number)?.stop(10)?;
        self.record(&format!("n{number}/agent"), None)?;
        Ok(code)
    }

    fn take_agent(&mut self, number: usize) -> Result<Child> {
        let agent = self.node_mut(number).agent.take();
        agent.with_context(|| format!("the agent of n{number} does not run"))
    }

    /// Every process by role, and whether it is still that one.
    pub fn processes(&self) -> Vec<(String, i32, bool)> {
        let all = self.state.processes().into_iter();
        all.map(|(role, process)| (role, process.pid, process.alive())).collect()
    }

    /// Logs by name: `kube-apiserver`, `n1-agent`, `n1-containerd`.
    pub fn logs(&self) -> Vec<(String, PathBuf)> {
        let entries = std::fs::read_dir(self.dir().join("log")).into_iter().flatten().flatten();
        let name = |path: &Path| {
            path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let mut logs: Vec<_> = entries.map(|one| (name(&one.path()), one.path())).collect();
        logs.extend(self.nodes.iter().map(|node| {
            (format!("{}-containerd", node.name()), node.place().dir.join("containerd.log"))
        }));
        logs.sort();
        logs
    }

    /// What to look at when something is wrong.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for words in ["get nodes,pods -A -o wide", "get events -A --sort-by=.lastTimestamp"] {
            let run = self.kubectl(words.split(' ')).limit_s(10);
            let output = run.output().map_or_else(|e| format!("{e:#}"), |output| output.text);
            text.push_str(&format!("--- kubectl {words}\n{}\n", tail(&output, 40)));
        }
        for (name, path) in self.logs() {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            let lines = if name.ends_with("-agent") { 40 } else { 6 };
            text.push_str(&format!("--- {}\n{}\n", path.display(), tail(&log, lines)));
        }
        text
    }

    fn control(&self) -> &Control {
        self.control.as_ref().expect("taken only by drop")
    }

    fn control_mut(&mut self) -> &mut Control {
        self.control.as_mut().expect("taken only by drop")
    }

    fn record(&mut self, role: &str, process: Option<crate::pid::Identity>) -> Result<()> {
        self.state.set(role, process);
        self.state.write(&self.dir())
    }

    fn start_control(&mut self, roles: &[&'static str]) -> Result<()> {
        for role in roles {
            self.control_mut().start(role)?;
            let started = self.control().processes().find(|(name, _)| name == role);
            let identity = started.map(|(_, child)| child.identity());
            self.record(role, identity)?;
        }
        Ok(())
    }
}
