//! Addresses of this node's pods: host-local out of the podCIDR.
//!
//! First in, first out: addresses that were never used come first, then those that have been free
//! the longest, and none before [`COOL_DOWN_MS`]: until then a peer
//! may still know the old pod by it. The owner is the sandbox, because a pod whose sandbox is made
//! anew gets another address. The network, the broadcast and the first host address are nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::observed::Attachment;
use crate::model::{PodUid, Time};

/// How long a released address belongs to nobody.
pub const COOL_DOWN_MS: i64 = 60_000;

/// Of the stored state; another version is reported and not read.
const VERSION: u32 = 1;

/// No address can be given now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "pod CIDR {range} has no free address: {in_use} are in use and {cooling} were released less \
     than 60 s ago{}; delete pods or choose a larger pod CIDR",
    next_free_at.map(|at| format!(" (the first is free at {at})")).unwrap_or_default()
)]
pub struct Full {
    pub range: Ipv4Net,
    pub in_use: usize,
    pub cooling: usize,
    /// When the first released address has cooled down; `None`: not without a release.
    pub next_free_at: Option<Time>,
}

/// One address and who has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lease {
    pub ip: Ipv4Addr,
    /// Empty when the lease was rebuilt from an interface alone.
    pub uid: PodUid,
    pub since: Time,
}

/// The leases, and the order in which free addresses are given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ipam {
    range: Ipv4Net,
    /// By owner: the sandbox's id.
    leases: BTreeMap<String, Lease>,
    /// Addresses of `leases`.
    taken: BTreeSet<Ipv4Addr>,
    /// From here on no address was given in turn; as a number, because it may be past the last one.
    next: u64,
    /// When each free address that was somebody's was released.
    released: BTreeSet<(Time, Ipv4Addr)>,
    /// Addresses of `released`.
    cooling: BTreeSet<Ipv4Addr>,
}

/// What is stored after every change.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    range: Ipv4Net,
    next: u64,
    leases: BTreeMap<String, Lease>,
    released: BTreeSet<(Time, Ipv4Addr)>,
}

/// An [`Ipam`] after a restart, and what was wrong with what it was made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    pub ipam: Ipam,
    /// One line each, for the log.
    pub problems: Vec<String>,
}

impl Ipam {
    /// All of `range` is free.
    pub fn new(range: Ipv4Net) -> Self {
        let range = range.trunc();
        Self {
            range,
            leases: BTreeMap::new(),
            taken: BTreeSet::new(),
            next: first_of(range),
            released: BTreeSet::new(),
            cooling: BTreeSet::new(),
        }
    }

    pub fn range(&self) -> Ipv4Net {
        self.range
    }

    /// By owner.
    pub fn leases(&self) -> &BTreeMap<String, Lease> {
        &self.leases
    }

    /// The owner's address: the one that it has, else the next free one.
    pub fn allocate(&mut self, owner: &str, uid: &PodUid, now: Time) -> Result<Ipv4Addr, Full> {
        if let Some(lease) = self.leases.get(owner) {
            return Ok(lease.ip);
        }
        let ip = self.take_fresh().or_else(|| self.take_cooled(now)).ok_or_else(|| Full {
            range: self.range,
            in_use: self.leases.len(),
            cooling: self.released.len(),
            next_free_at: self.released.first().map(|(at, _)| at.plus_ms(COOL_DOWN_MS)),
        })?;
        self.lease(owner, ip, uid, now);
        Ok(ip)
    }

    fn lease(&mut self, owner: &str, ip: Ipv4Addr, uid: &PodUid, now: Time) {
        self.taken.insert(ip);
        self.leases.insert(owner.to_owned(), Lease { ip, uid: uid.clone(), since: now });
    }

    /// Addresses past `next` may have been given all the same: to interfaces found at start.
    fn take_fresh(&mut self) -> Option<Ipv4Addr> {
        while self.next <= last_of(self.range) {
            let ip = address(self.next)?;
            self.next += 1;
            if !self.taken.contains(&ip) && !self.cooling.contains(&ip) {
                return Some(ip);
            }
        }
        None
    }

    fn take_cooled(&mut self, now: Time) -> Option<Ipv4Addr> {
        let (at, ip) = *self.released.first()?;
        if now.since_ms(at) < COOL_DOWN_MS {
            return None;
        }
        self.uncool(at, ip);
        Some(ip)
    }

    /// The owner's address if it had one; it cools down from now.
    pub fn release(&mut self, owner: &str, now: Time) -> Option<Ipv4Addr> {
        let lease = self.leases.remove(owner)?;
        self.taken.remove(&lease.ip);
        self.cool(lease.ip, now);
        Some(lease.ip)
    }

    fn cool(&mut self, ip: Ipv4Addr, at: Time) {
        self.cooling.insert(ip);
        self.released.insert((at, ip));
    }

    fn uncool(&mut self, at: Time, ip: Ipv4Addr) {
        self.cooling.remove(&ip);
        self.released.remove(&(at, ip));
    }

    /// Releases every lease whose owner is not in `owners`, as CNI GC asks (F19).
    pub fn keep_only(&mut self, owners: &BTreeSet<String>, now: Time) -> Vec<(String, Ipv4Addr)> {
        let gone: Vec<String> =
            self.leases.keys().filter(|owner| !owners.contains(*owner)).cloned().collect();
        gone.into_iter()
            .filter_map(|owner| self.release(&owner, now).map(|ip| (owner, ip)))
            .collect()
    }

    /// The range of a stored state.
    pub fn range_of(state: &Value) -> Option<Ipv4Net> {
        serde_json::from_value(state.get("range")?.clone()).ok()
    }

    /// What [`restore`](Self::restore) reads.
    pub fn to_state(&self) -> Value {
        let stored = Stored {
            version: VERSION,
            range: self.range,
            next: self.next,
            leases: self.leases.clone(),
            released: self.released.clone(),
        };
        // Strings and numbers only: it cannot fail.
        serde_json::to_value(stored).unwrap_or(Value::Null)
    }

    /// After a restart: from the stored state (`None`: there is no file), and the interfaces that
    /// exist, which win where the two differ.
    pub fn restore<'a>(
        range: Ipv4Net,
        state: Option<&Value>,
        live: impl IntoIterator<Item = (&'a PodUid, &'a Attachment)>,
        now: Time,
    ) -> Restored {
        let mut problems = Vec::new();
        let read = state.map(|state| Self::read(range.trunc(), state, now));
        let lost = matches!(read, Some(Err(_)));
        let mut ipam = match read {
            None => Self::new(range),
            Some(Ok(ipam)) => ipam,
            Some(Err(problem)) => {
                problems.push(format!(
                    "the stored pod addresses cannot be used ({problem}); they are rebuilt from \
                     the interfaces that exist"
                ));
                Self::new(range)
            }
        };
        for (uid, attachment) in live {
            ipam.adopt(uid, attachment, now, &mut problems);
        }
        if lost {
            ipam.distrust(now);
        }
        Restored { ipam, problems }
    }

    fn read(range: Ipv4Net, state: &Value, now: Time) -> Result<Self, String> {
        let version = state.get("version").and_then(Value::as_u64);
        if version != Some(VERSION.into()) {
            return Err(format!("version {version:?} is not {VERSION}"));
        }
        let stored: Stored =
            serde_json::from_value(state.clone()).map_err(|error| error.to_string())?;
        if stored.range != range {
            return Err(format!("they are of pod CIDR {}, not of {range}", stored.range));
        }
        let next = stored.next.clamp(first_of(range), last_of(range) + 1);
        let mut ipam = Self { next, ..Self::new(range) };
        let mut seen = BTreeSet::new();
        for (at, ip) in stored.released {
            check(range, ip, &mut seen)?;
            // A clock that went back must not lengthen the cool-down (F32).
            ipam.cool(ip, at.min(now));
        }
        for (owner, lease) in stored.leases {
            check(range, lease.ip, &mut seen)?;
            ipam.taken.insert(lease.ip);
            ipam.leases.insert(owner, lease);
        }
        Ok(ipam)
    }

    /// An interface that exists has its address, whatever was stored.
    fn adopt(&mut self, uid: &PodUid, live: &Attachment, now: Time, problems: &mut Vec<String>) {
        let owner = live.sandbox_id.as_str();
        let std::net::IpAddr::V4(ip) = live.ip else { return };
        if self.leases.get(owner).is_some_and(|lease| lease.ip == ip) {
            return;
        }
        if !is_usable(self.range, ip) {
            problems.push(format!(
                "interface {} has {ip}, which is not of pod CIDR {}; it is left as it is",
                live.ifname, self.range
            ));
            return;
        }
        if self.taken.contains(&ip) {
            let other = self.leases.iter().find(|(_, lease)| lease.ip == ip);
            let other = other.map(|(owner, _)| owner.clone()).unwrap_or_default();
            problems.push(format!(
                "{ip} was stored for sandbox {other}, but interface {} of sandbox {owner} has it",
                live.ifname
            ));
            self.leases.remove(&other);
            self.taken.remove(&ip);
        }
        self.release(owner, now);
        if let Some((at, _)) = self.released.iter().find(|(_, free)| *free == ip).copied() {
            self.uncool(at, ip);
        }
        self.lease(owner, ip, uid, now);
    }

    /// Nothing is known of addresses up to the highest one in use: they cool down from now.
    fn distrust(&mut self, now: Time) {
        let Some(highest) = self.taken.last().map(|ip| u64::from(u32::from(*ip))) else { return };
        for number in self.next..=highest {
            if let Some(ip) = address(number).filter(|ip| !self.taken.contains(ip)) {
                self.cool(ip, now);
            }
        }
        self.next = self.next.max(highest + 1);
    }
}

/// Of the range and nobody's yet.
fn check(range: Ipv4Net, ip: Ipv4Addr, seen: &mut BTreeSet<Ipv4Addr>) -> Result<(), String> {
    if !is_usable(range, ip) {
        return Err(format!("{ip} is not a pod address of {range}"));
    }
    if !seen.insert(ip) {
        return Err(format!("{ip} is in it twice"));
    }
    Ok(())
}

/// First pod address: after the network and the gateway.
fn first_of(range: Ipv4Net) -> u64 {
    u64::from(u32::from(range.network())) + 2
}

/// Last pod address, below the broadcast; less than the first when the range has no room.
fn last_of(range: Ipv4Net) -> u64 {
    u64::from(u32::from(range.broadcast())).saturating_sub(1)
}

fn is_usable(range: Ipv4Net, ip: Ipv4Addr) -> bool {
    (first_of(range)..=last_of(range)).contains(&u64::from(u32::from(ip)))
}

fn address(number: u64) -> Option<Ipv4Addr> {
    u32::try_from(number).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests;
