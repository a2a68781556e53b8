//! What a machine holds because of a node, as sets, so that before and after can be compared (I3).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cgroup;
use crate::cluster::ClusterNode;
use crate::containerd::Containerd;
use crate::netns::Netns;
use crate::node::Node;
use crate::process::Run;

const LEDGER: &str = "network.json";

/// What a snapshot asks a node for.
pub trait Ground {
    /// Everything of the node is below it.
    fn dir(&self) -> PathBuf;
    /// Those that the daemon writes.
    fn own_dirs(&self) -> Vec<PathBuf>;
    /// Where the daemon keeps who has which address.
    fn ledger(&self) -> PathBuf;
    fn netns(&self) -> &Netns;
    fn cgroup_root(&self) -> String;
    fn containerd(&self) -> &Containerd;
    /// `longshore maps dump`
    ///
    /// # Errors
    /// The daemon does not answer.
    fn maps(&self) -> Result<String>;
}

impl Ground for Node {
    fn dir(&self) -> PathBuf {
        Self::dir(self).clone()
    }
    fn own_dirs(&self) -> Vec<PathBuf> {
        vec![self.state_dir(), self.pod_logs_dir(), self.log_links_dir()]
    }
    fn ledger(&self) -> PathBuf {
        self.state_dir().join(LEDGER)
    }
    fn netns(&self) -> &Netns {
        Self::netns(self)
    }
    fn cgroup_root(&self) -> String {
        Self::cgroup_root(self)
    }
    fn containerd(&self) -> &Containerd {
        Self::containerd(self)
    }
    fn maps(&self) -> Result<String> {
        Self::maps(self)
    }
}

impl Ground for ClusterNode {
    fn dir(&self) -> PathBuf {
        Self::dir(self)
    }
    fn own_dirs(&self) -> Vec<PathBuf> {
        vec![self.state_dir(), self.root_dir(), self.pod_logs_dir(), self.log_links_dir()]
    }
    fn ledger(&self) -> PathBuf {
        self.state_dir().join(LEDGER)
    }
    fn netns(&self) -> &Netns {
        Self::netns(self)
    }
    fn cgroup_root(&self) -> String {
        Self::cgroup_root(self)
    }
    fn containerd(&self) -> &Containerd {
        Self::containerd(self)
    }
    fn maps(&self) -> Result<String> {
        self.longshore("maps dump").check()
    }
}

/// By kind of thing. Two snapshots of the same desired state are equal.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot(BTreeMap<&'static str, BTreeSet<String>>);

impl Snapshot {
    /// Only what belongs to `node`: other programs of this machine may come and go.
    ///
    /// # Errors
    /// A tool that lists things is missing.
    pub fn take(node: &impl Ground) -> Result<Self> {
        let mut sets = BTreeMap::new();
        let dir = node.dir().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let own = |at: &&str| at.starts_with(&dir) || at.starts_with("/run/netns/cni-");
        sets.insert(
            "mount",
            mounts
                .lines()
                .filter_map(|line| line.split(' ').nth(1))
                .filter(own)
                .map(str::to_owned)
                .collect(),
        );
        sets.insert("network interface", links(&node.netns().ip("-o link")?));
        // Link-local routes of IPv6 come when the kernel has checked an address, in its own time.
        let routes = lines(&node.netns().ip("route show table all")?);
        sets.insert("route", routes.into_iter().filter(|route| !route.contains("fe80:")).collect());
        sets.insert("nftables rule", lines(&nft(node)?));
        sets.insert(
            "cgroup",
            cgroup::below(&node.cgroup_root())
                .iter()
                .map(|dir| dir.display().to_string())
                .collect(),
        );
        sets.insert(
            "process",
            cgroup::containers(&node.cgroup_root())
                .into_iter()
                .map(|(id, live)| format!("{id} {}", live.command))
                .collect(),
        );
        let forgotten = node.containerd().forgotten_shims()?;
        if !forgotten.is_empty() {
            println!("containerd has forgotten these processes of its own: {forgotten:?}");
        }
        let shims = node.containerd().shims().into_iter().map(|(_, line)| line);
        sets.insert("shim", shims.filter(|line| !forgotten.contains(line)).collect());
        sets.insert(
            "container",
            lines(&node.containerd().ctr().run().args(["containers", "ls", "-q"]).check()?),
        );
        let mut files = BTreeSet::new();
        node.own_dirs().iter().for_each(|dir| walk(dir, &mut files));
        sets.insert("file, pin, log or pod directory", files);
        sets.insert("address", addresses(&node.ledger())?);
        sets.insert("map entry", node.maps().map(|text| lines(&text)).unwrap_or_default());
        Ok(Self(sets))
    }

    /// One line for each thing that only one of the two has. Empty: nothing leaked, nothing lost.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (kind, before) in &self.0 {
            let empty = BTreeSet::new();
            let after = after.0.get(kind).unwrap_or(&empty);
            found.extend(after.difference(before).map(|one| format!("left behind: {kind} {one}")));
            found.extend(before.difference(after).map(|one| format!("taken away: {kind} {one}")));
        }
        found
    }
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// `7: eth0@if8: <…` → `eth0`: indexes differ from run to run.
fn links(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned()))
        .collect()
}

fn nft(node: &impl Ground) -> Result<String> {
    let run: Run = node.netns().run("nft").args(["-s", "list", "ruleset"]);
    run.check()
}

/// Who has an address, and who an interface. Without the range, and the addresses that were given
/// before: those stay.
fn addresses(ledger: &Path) -> Result<BTreeSet<String>> {
    match std::fs::read_to_string(ledger) {
        Ok(text) => owners(&text).with_context(|| format!("read {}", ledger.display())),
        // Before the first start, and of another agent.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", ledger.display())),
    }
}

fn owners(text: &str) -> Result<BTreeSet<String>> {
    let ledger: Value = serde_json::from_str(text)?;
    let table = |value: &Value, what: &str| {
        value.as_object().cloned().with_context(|| format!("no table of {what}"))
    };
    let mut found = BTreeSet::new();
    for (sandbox, lease) in table(&ledger["ipam"]["leases"], "leases")? {
        let ip = lease["ip"].as_str().context("a lease without an address")?;
        found.insert(format!("{ip} of sandbox {sandbox}"));
    }
    for (sandbox, entry) in table(&ledger["entries"], "entries")? {
        let name = entry["attachment"]["ifname"].as_str().context("an entry without interface")?;
        found.insert(format!("interface {name} of sandbox {sandbox}"));
    }
    Ok(found)
}

/// Paths below `dir`. The log and sockets' contents do not matter, their names do.
fn walk(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i3_what_is_new_and_what_is_gone_are_both_named() {
        let with =
            |name: &str| Snapshot(BTreeMap::from([("mount", BTreeSet::from([name.to_owned()]))]));
        assert_eq!(with("/a").differences(&with("/a")), Vec::<String>::new());
        assert_eq!(
            with("/a").differences(&with("/b")),
            ["left behind: mount /b", "taken away: mount /a"]
        );
    }

    #[test]
    fn i3_an_address_that_nobody_gave_back_is_named() {
        let ledger = |leases: &str, entries: &str| {
            owners(&format!(
                r#"{{"boot_id":"b","ipam":{{"version":1,"range":"10.0.0.0/24","next":7,
                "leases":{{{leases}}},"released":[[5,"10.0.0.9"]]}},"entries":{{{entries}}}}}"#
            ))
        };
        assert_eq!(ledger("", "").unwrap(), BTreeSet::new());
        let lease = r#""s1":{"ip":"10.0.0.2","uid":"u","since":5}"#;
        let entry = r#""s1":{"key":"ns/web","attachment":{"ifname":"ls0","ip":"10.0.0.2"}}"#;
        let both = ["10.0.0.2 of sandbox s1", "interface ls0 of sandbox s1"].map(str::to_owned);
        assert_eq!(ledger(lease, entry).unwrap(), BTreeSet::from(both));
        // A form that this does not know is an error, not an empty set.
        assert!(owners(r#"{"boot_id":"b","leases":{}}"#).is_err());
        assert!(owners("{ torn").is_err());
    }

    #[test]
    fn i3_interfaces_are_told_by_name_not_by_index() {
        let text = "1: lo: <LOOPBACK>\n7: ls1234@if8: <UP>\n";
        assert_eq!(links(text), BTreeSet::from(["lo".to_owned(), "ls1234".to_owned()]));
    }
}
