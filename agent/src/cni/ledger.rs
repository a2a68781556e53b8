//! Who owns which address: the one file of the pod network, written before an answer leaves.
//!
//! Written by rename without fsync: it must survive the death of the daemon, not of the machine —
//! after a reboot no namespace of it exists, and the boot id tells (F33).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use ipnet::Ipv4Net;
use longshore_core::model::observed::Attachment;
use longshore_core::model::{ObjectKey, PodUid, Time};
use longshore_core::net::Ipam;
use serde::{Deserialize, Serialize};
use thiserror::Error;

#[derive(Debug, Error)]
pub enum LedgerError {
    #[error(
        "this node has no pod CIDR yet: spec.podCIDR of its Node object is empty (is the \
         controller manager run with --allocate-node-cidrs?)"
    )]
    NoRange,
    #[error("{0}")]
    Full(String),
    #[error(
        "cannot write {path}; pods cannot get an address until the state directory can be written \
         (is its disk full or read-only?)"
    )]
    Write { path: PathBuf, source: io::Error },
}

/// Of a ledger that knows no range: it has no address to give.
const NO_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 32);

/// One sandbox's place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub key: ObjectKey,
    pub uid: PodUid,
    pub attachment: Attachment,
    /// The namespace file the runtime named.
    pub netns: String,
    pub since: Time,
}

/// Addresses and interfaces by sandbox id.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    boot_id: String,
    ipam: Ipam,
    entries: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    boot_id: String,
    ipam: serde_json::Value,
    entries: BTreeMap<String, Entry>,
}

impl Ledger {
    /// Reads the ledger of this boot; without a `pod_cidr` the one that was stored last holds, until
    /// [`Ledger::set_range`]. A bad file is moved aside and named in the second value: a
    /// state file never stops the daemon (F39); what is live is found again by GC.
    pub fn load(
        path: &Path,
        pod_cidr: Option<Ipv4Net>,
        boot_id: &str,
        now: Time,
    ) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let stored = match read(path) {
            Ok(stored) => stored,
            Err(problem) => {
                problems.push(set_aside(path, &problem));
                None
            }
        };
        // The range outlives a boot, the interfaces do not.
        let last = stored.as_ref().and_then(|stored| Ipam::range_of(&stored.ipam));
        let range = pod_cidr.or(last).unwrap_or(NO_RANGE);
        let stored = stored.filter(|stored| stored.boot_id == boot_id);
        let entries = stored.as_ref().map(|stored| stored.entries.clone()).unwrap_or_default();
        let live = entries.values().map(|entry| (&entry.uid, &entry.attachment));
        let restored = Ipam::restore(range, stored.as_ref().map(|stored| &stored.ipam), live, now);
        problems.extend(restored.problems);
        let ledger = Self {
            path: path.to_owned(),
            boot_id: boot_id.to_owned(),
            ipam: restored.ipam,
            entries,
        };
        (ledger, problems)
    }

    /// Where addresses come from; `None`: nobody has said yet.
    pub fn range(&self) -> Option<Ipv4Net> {
        Some(self.ipam.range()).filter(|range| *range != NO_RANGE)
    }

    /// Addresses come from `range` from now on. Interfaces keep those of another range until they
    /// go. Returns what is odd about it.
    pub fn set_range(&mut self, range: Ipv4Net, now: Time) -> Vec<String> {
        if self.range() == Some(range.trunc()) {
            return Vec::new();
        }
        let live = self.entries.values().map(|entry| (&entry.uid, &entry.attachment));
        let restored = Ipam::restore(range, None, live, now);
        self.ipam = restored.ipam;
        let mut problems = restored.problems;
        problems.extend(self.save().err().map(|error| error.to_string()));
        problems
    }

    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The sandbox's address; the same one however often it asks.
    ///
    /// # Errors
    /// No address is free, or the file cannot be written.
    pub fn allocate(
        &mut self,
        sandbox: &str,
        uid: &PodUid,
        now: Time,
    ) -> Result<Ipv4Addr, LedgerError> {
        if self.range().is_none() {
            return Err(LedgerError::NoRange);
        }
        let address = self
            .ipam
            .allocate(sandbox, uid, now)
            .map_err(|full| LedgerError::Full(full.to_string()))?;
        self.save()?;
        Ok(address)
    }

    /// # Errors
    /// The file cannot be written.
    pub fn record(&mut self, sandbox: &str, entry: Entry) -> Result<(), LedgerError> {
        self.entries.insert(sandbox.to_owned(), entry);
        self.save()
    }

    /// Takes in an interface that exists although the file did not say so.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn readopt(&mut self, sandbox: &str, entry: Entry, now: Time) -> Result<(), LedgerError> {
        let state = self.ipam.to_state();
        self.entries.insert(sandbox.to_owned(), entry);
        let live = self.entries.values().map(|entry| (&entry.uid, &entry.attachment));
        self.ipam = Ipam::restore(self.ipam.range(), Some(&state), live, now).ipam;
        self.save()
    }

    /// Forgets the sandbox; its address cools down. The entry is `None` where it was not known; the
    /// second value says whether the file could be written: in memory the address is free all the
    /// same, so whoever knows of the entry must hear of its end (F34).
    pub fn release(
        &mut self,
        sandbox: &str,
        now: Time,
    ) -> (Option<Entry>, Result<(), LedgerError>) {
        let released = self.ipam.release(sandbox, now);
        let entry = self.entries.remove(sandbox);
        let saved = match (&released, &entry) {
            (None, None) => Ok(()),
            _ => self.save(),
        };
        (entry, saved)
    }

    /// Since when the sandbox owns something.
    pub fn since(&self, sandbox: &str) -> Option<Time> {
        let lease = self.ipam.leases().get(sandbox).map(|lease| lease.since);
        let entry = self.entries.get(sandbox).map(|entry| entry.since);
        lease.max(entry)
    }

    /// Writes the file as it is in memory, so that it exists and can be written before it matters.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn check(&self) -> Result<(), LedgerError> {
        self.save()
    }

    /// Every sandbox that owns an address, with or without a finished interface.
    pub fn owners(&self) -> BTreeSet<String> {
        let mut owners: BTreeSet<String> = self.entries.keys().cloned().collect();
        owners.extend(self.ipam.leases().keys().cloned());
        owners
    }

    fn save(&self) -> Result<(), LedgerError> {
        let stored = Stored {
            boot_id: self.boot_id.clone(),
            ipam: self.ipam.to_state(),
            entries: self.entries.clone(),
        };
        let write = || -> io::Result<()> {
            let fresh = self.path.with_extension("new");
            fs::write(&fresh, serde_json::to_vec(&stored)?)?;
            fs::rename(&fresh, &self.path)
        };
        write().map_err(|source| LedgerError::Write { path: self.path.clone(), source })
    }
}

fn read(path: &Path) -> Result<Option<Stored>, String> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Keeps a bad file for whoever wants to know, and says where.
fn set_aside(path: &Path, problem: &str) -> String {
    let aside = path.with_extension("bad");
    let kept = match fs::rename(path, &aside) {
        Ok(()) => format!("it is kept as {}", aside.display()),
        Err(error) => format!("it could not be kept: {error}"),
    };
    format!("{} is unusable ({problem}) and starts empty; {kept}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f34_a_release_that_cannot_be_written_still_names_what_ends() {
        let dir = std::env::temp_dir().join(format!("longshore-ledger-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let range = "10.0.0.0/24".parse().unwrap();
        let (mut ledger, _) = Ledger::load(&dir.join("network.json"), Some(range), "boot", Time(0));
        let uid = PodUid::new("u1");
        let ip = ledger.allocate("s1", &uid, Time(5)).unwrap();
        let entry = Entry {
            key: ObjectKey::new("ns", "web"),
            uid: uid.clone(),
            attachment: Attachment {
                ip: ip.into(),
                ifindex: 7,
                ifname: "ls0".into(),
                mac: [2; 6],
                sandbox_id: "s1".into(),
            },
            netns: "/run/netns/x".into(),
            since: Time(9),
        };
        ledger.record("s1", entry.clone()).unwrap();
        assert_eq!((ledger.since("s1"), ledger.since("s2")), (Some(Time(9)), None));
        fs::remove_dir_all(&dir).unwrap();
        let (released, saved) = ledger.release("s1", Time(10));
        assert_eq!(released, Some(entry));
        assert!(matches!(saved, Err(LedgerError::Write { .. })), "{saved:?}");
        assert!(ledger.owners().is_empty());
        assert!(matches!(ledger.release("s1", Time(11)), (None, Ok(()))));
    }
}
