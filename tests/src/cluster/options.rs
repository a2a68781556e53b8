//! What a cluster is made of: the programs, and what is asked for.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::lab::{Lab, path};

/// Programs beside the runtime's, which [`Lab`] has. A directory each, or none where nothing that
/// is asked for needs it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parts {
    /// `kube-apiserver`, `kube-controller-manager`, `kube-scheduler`, `kubectl`; where a cluster
    /// needs them `kubelet` and `kube-proxy`.
    pub kubernetes: PathBuf,
    /// `etcd`
    pub etcd: PathBuf,
    /// `bridge`, `host-local`, `loopback`, `portmap`: the pod network beside a kubelet.
    pub cni_plugins: PathBuf,
    /// `crictl`
    pub cri_tools: PathBuf,
    /// `rbac.yaml`, as users apply it.
    pub rbac: PathBuf,
}

impl Parts {
    /// Reads what `cargo xtask` has set.
    ///
    /// # Errors
    /// A variable is missing: the test was started without xtask.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// As [`Parts::from_env`], from what [`Parts::to_env`] gave, wherever it was kept.
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        Ok(Self {
            kubernetes: path(get, "LONGSHORE_LAB_KUBERNETES")?,
            etcd: path(get, "LONGSHORE_LAB_ETCD")?,
            cni_plugins: path(get, "LONGSHORE_LAB_CNI_PLUGINS")?,
            cri_tools: path(get, "LONGSHORE_LAB_CRI_TOOLS")?,
            rbac: path(get, "LONGSHORE_LAB_RBAC")?,
        })
    }

    /// The variables for [`Parts::from_env`].
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LONGSHORE_LAB_KUBERNETES", text(&self.kubernetes)),
            ("LONGSHORE_LAB_ETCD", text(&self.etcd)),
            ("LONGSHORE_LAB_CNI_PLUGINS", text(&self.cni_plugins)),
            ("LONGSHORE_LAB_CRI_TOOLS", text(&self.cri_tools)),
            ("LONGSHORE_LAB_RBAC", text(&self.rbac)),
        ]
    }
}

/// Who runs the pods of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Agent {
    Longshore,
    /// The real one, with the bridge plugin and static routes: the oracle.
    Kubelet,
    /// Nobody: a person starts one by hand.
    None,
}

/// Who makes Services work beside a kubelet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxy {
    None,
    Iptables,
    Nftables,
}

const AGENTS: [(Agent, &str); 3] =
    [(Agent::Longshore, "longshore"), (Agent::Kubelet, "kubelet"), (Agent::None, "none")];
const PROXIES: [(Proxy, &str); 3] =
    [(Proxy::None, "none"), (Proxy::Iptables, "iptables"), (Proxy::Nftables, "nftables")];

fn name_of<T: PartialEq>(all: &[(T, &'static str)], one: &T) -> &'static str {
    all.iter().find(|(value, _)| value == one).map_or("", |(_, name)| name)
}

fn parse<T: Copy>(all: &[(T, &'static str)], text: &str) -> Result<T> {
    match all.iter().find(|(_, name)| *name == text) {
        Some((value, _)) => Ok(*value),
        None => {
            let names: Vec<&str> = all.iter().map(|(_, name)| *name).collect();
            bail!("{text} is none of {}", names.join(", "))
        }
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&AGENTS, self))
    }
}

impl FromStr for Agent {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        parse(&AGENTS, text)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&PROXIES, self))
    }
}

impl FromStr for Proxy {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self> {
        parse(&PROXIES, text)
    }
}

/// What [`Cluster::up`](super::Cluster::up) makes.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub lab: Lab,
    pub parts: Parts,
    /// Short, of letters, digits and `-`; everything is named `<lab.prefix>-<name>`.
    pub name: String,
    /// 1 to [`MAX_NODES`]; they are called `n1`, `n2`, …
    pub nodes: usize,
    pub agent: Agent,
    /// Nodes that somebody else runs, by number: to compare agents in one cluster.
    pub other_agents: BTreeMap<usize, Agent>,
    /// Beside kubelets only.
    pub proxy: Proxy,
    /// After how long without a Lease a node is Unknown and its pods are taken from Services. `None`:
    /// the controller manager's default. Long where a test stops the API server.
    pub node_monitor_grace_period_s: Option<u32>,
    /// `podCIDR` of the nodes' configuration: the control plane then gives none.
    pub pod_cidr: Option<String>,
}

/// The name of the cluster that tests share.
pub const SHARED_CLUSTER: &str = "shared";
/// Their addresses and pod ranges come from their numbers.
pub const MAX_NODES: usize = 9;

impl ClusterOptions {
    /// Two nodes with Longshore on them.
    pub fn new(lab: &Lab, parts: &Parts, name: &str) -> Self {
        Self {
            lab: lab.clone(),
            parts: parts.clone(),
            name: name.to_owned(),
            nodes: 2,
            agent: Agent::Longshore,
            other_agents: BTreeMap::new(),
            proxy: Proxy::None,
            node_monitor_grace_period_s: None,
            pod_cidr: None,
        }
    }

    /// Who runs the pods of a node.
    pub fn agent_of(&self, number: usize) -> Agent {
        self.other_agents.get(&number).copied().unwrap_or(self.agent)
    }

    /// Of all nodes, in order.
    pub(super) fn agents(&self) -> impl Iterator<Item = Agent> {
        (1..=self.nodes).map(|number| self.agent_of(number))
    }

    /// What concerns one node: its agent, and kube-proxy only where that is a kubelet.
    pub(super) fn of_node(&self, number: usize) -> Self {
        let agent = self.agent_of(number);
        let proxy = if agent == Agent::Kubelet { self.proxy } else { Proxy::None };
        Self { agent, proxy, other_agents: BTreeMap::new(), ..self.clone() }
    }

    /// What all names begin with.
    pub fn full_name(&self) -> String {
        format!("{}-{}", self.lab.prefix, self.name)
    }

    pub fn dir(&self) -> PathBuf {
        self.lab.dir.join(self.full_name())
    }

    /// # Errors
    /// Something is asked for that cannot be; says what.
    pub fn check(&self) -> Result<()> {
        let fits =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        if self.name.is_empty() || self.name.len() > 12 || !self.name.chars().all(fits) {
            bail!("a cluster's name has 1 to 12 letters a-z, digits and -, not {:?}", self.name);
        }
        if !(1..=MAX_NODES).contains(&self.nodes) {
            bail!("a cluster has 1 to {MAX_NODES} nodes, not {}", self.nodes);
        }
        if let Some(number) = self.other_agents.keys().find(|number| **number > self.nodes) {
            bail!("an agent for n{number}, and {} nodes", self.nodes);
        }
        let kubelets = self.agents().any(|agent| agent == Agent::Kubelet);
        if !kubelets && self.proxy != Proxy::None {
            bail!("kube-proxy is for kubelets: Longshore does Services itself");
        }
        // A kubelet sees a /var/lib of its own.
        if kubelets && self.lab.dir.starts_with("/var/lib") {
            bail!(
                "the lab must not be below /var/lib, which a kubelet sees replaced: set \
                 XDG_CACHE_HOME to another place"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (agent, name) in AGENTS {
            assert_eq!(name.parse::<Agent>().unwrap(), agent);
            assert_eq!(agent.to_string(), name);
        }
        let error = "ipvs".parse::<Proxy>().unwrap_err().to_string();
        assert_eq!(error, "ipvs is none of none, iptables, nftables");
    }

    #[test]
    fn a_node_may_have_another_agent() {
        let get = |_: &str| Some("/x".to_owned());
        let lab = Lab::from_variables(&get).unwrap();
        let mut options = ClusterOptions::new(&lab, &Parts::from_variables(&get).unwrap(), "mixed");
        options.proxy = Proxy::Iptables;
        assert!(options.check().is_err(), "a kube-proxy without a kubelet");
        options.other_agents.insert(2, Agent::Kubelet);
        options.check().unwrap();
        let of = |number| {
            let node = options.of_node(number);
            (node.agent, node.proxy)
        };
        assert_eq!(of(1), (Agent::Longshore, Proxy::None));
        assert_eq!(of(2), (Agent::Kubelet, Proxy::Iptables));
        options.nodes = 1;
        assert!(options.check().is_err(), "an agent without a node");
    }

    #[test]
    fn parts_are_read_back() {
        let parts = Parts {
            kubernetes: "/k".into(),
            etcd: "/e".into(),
            cni_plugins: "/c".into(),
            cri_tools: "/t".into(),
            rbac: "/r".into(),
        };
        let env = parts.to_env();
        let get = |name: &str| Some(env.iter().find(|(key, _)| *key == name)?.1.clone());
        assert_eq!(Parts::from_variables(&get).unwrap(), parts);
        assert!(Parts::from_variables(&|_| None).is_err());
    }
}
