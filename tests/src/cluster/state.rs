//! What a cluster remembers of itself in a file, so that another program finds and ends it.
//!
//! Lines of `key=value`. It is written anew after each start of a process: a killed run is found too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::options::{Agent, ClusterOptions, Parts};
use crate::lab::Lab;
use crate::pid::{Identity, boot_id};

/// Options, and the processes by role (`etcd`, `n1/containerd`).
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    lines: Vec<(String, String)>,
}

const PROCESS: &str = "process:";

impl State {
    pub fn new(options: &ClusterOptions) -> Self {
        let mut lines: Vec<(String, String)> = Vec::new();
        let env = options.lab.to_env().into_iter().chain(options.parts.to_env());
        lines.extend(env.map(|(name, value)| (name.to_owned(), value)));
        let mut add = |key: &str, value: String| lines.push((key.to_owned(), value));
        add("name", options.name.clone());
        add("nodes", options.nodes.to_string());
        add("agent", options.agent.to_string());
        let others = options.other_agents.iter().map(|(number, agent)| format!("{number} {agent}"));
        add("other_agents", others.collect::<Vec<_>>().join(","));
        add("proxy", options.proxy.to_string());
        if let Some(range) = &options.pod_cidr {
            add("pod_cidr", range.clone());
        }
        if let Some(seconds) = options.node_monitor_grace_period_s {
            add("node_monitor_grace_period_s", seconds.to_string());
        }
        add("boot", boot_id());
        Self { lines }
    }

    /// Of the cluster in `dir`.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join("state")
    }

    /// # Errors
    /// There is no cluster in that directory.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = Self::file(dir);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("no lab is up there: {}", path.display()))?;
        Ok(Self::parse(&text))
    }

    /// Complete or as it was.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let part = dir.join("state.part");
        std::fs::write(&part, self.text())?;
        Ok(std::fs::rename(part, Self::file(dir))?)
    }

    fn text(&self) -> String {
        self.lines.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }

    fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let (key, value) = line.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        Self { lines: text.lines().filter_map(pair).collect() }
    }

    fn get(&self, key: &str) -> Option<String> {
        self.lines.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    }

    pub fn options(&self) -> Result<ClusterOptions> {
        let need =
            |key: &str| self.get(key).with_context(|| format!("the state file has no {key}"));
        Ok(ClusterOptions {
            lab: Lab::from_variables(&|name| self.get(name))?,
            parts: Parts::from_variables(&|name| self.get(name))?,
            name: need("name")?,
            nodes: need("nodes")?.parse()?,
            agent: need("agent")?.parse()?,
            other_agents: other_agents(&self.get("other_agents").unwrap_or_default())?,
            proxy: need("proxy")?.parse()?,
            node_monitor_grace_period_s: match self.get("node_monitor_grace_period_s") {
                Some(text) => Some(text.parse()?),
                None => None,
            },
            pod_cidr: self.get("pod_cidr"),
        })
    }

    /// A role has one process; `None` takes it out.
    pub fn set(&mut self, role: &str, process: Option<Identity>) {
        let key = format!("{PROCESS}{role}");
        self.lines.retain(|(name, _)| *name != key);
        if let Some(Identity { pid, start }) = process {
            self.lines.push((key, format!("{pid} {start}")));
        }
    }

    /// In the order in which they were started. Empty after a reboot.
    pub fn processes(&self) -> Vec<(String, Identity)> {
        if self.get("boot").is_none_or(|boot| boot != boot_id()) {
            return Vec::new();
        }
        let process = |(key, value): &(String, String)| {
            let (pid, start) = value.split_once(' ')?;
            let identity = Identity { pid: pid.parse().ok()?, start: start.parse().ok()? };
            Some((key.strip_prefix(PROCESS)?.to_owned(), identity))
        };
        self.lines.iter().filter_map(process).collect()
    }

    pub fn process(&self, role: &str) -> Option<Identity> {
        self.processes().into_iter().find(|(name, _)| name == role).map(|(_, process)| process)
    }
}

/// `2 kubelet,3 none`
fn other_agents(text: &str) -> Result<BTreeMap<usize, Agent>> {
    let parse = |word: &str| {
        let (number, agent) = word.split_once(' ').context("no agent after the number")?;
        Ok((number.parse()?, agent.parse()?))
    };
    text.split(',').filter(|word| !word.is_empty()).map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_agents_are_read_back() {
        assert_eq!(other_agents("").unwrap(), BTreeMap::new());
        let two = other_agents("2 kubelet,3 none").unwrap();
        assert_eq!(two, BTreeMap::from([(2, Agent::Kubelet), (3, Agent::None)]));
        assert!(other_agents("2").is_err());
    }

    fn state(boot: &str) -> State {
        State { lines: vec![("boot".to_owned(), boot.to_owned())] }
    }

    #[test]
    fn processes_are_read_back_by_role() {
        let mut state = state(&boot_id());
        let one = Identity { pid: 7, start: 70 };
        state.set("n1/agent", Some(one));
        state.set("etcd", Some(Identity { pid: 8, start: 80 }));
        let again = State::parse(&state.text());
        assert_eq!(again.process("n1/agent"), Some(one));
        assert_eq!(again.processes().len(), 2);
        state.set("n1/agent", None);
        assert_eq!(state.process("n1/agent"), None);
    }

    #[test]
    fn a_restarted_role_has_one_process() {
        let mut state = state(&boot_id());
        for pid in [7, 8] {
            state.set("etcd", Some(Identity { pid, start: 1 }));
        }
        assert_eq!(state.processes(), [("etcd".to_owned(), Identity { pid: 8, start: 1 })]);
    }

    #[test]
    fn no_process_of_an_earlier_boot_is_ours() {
        let mut state = state("another");
        state.set("etcd", Some(Identity { pid: 1, start: 1 }));
        assert_eq!(state.processes(), []);
    }
}
