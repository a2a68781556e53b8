//! Network namespaces with names, and links between them.
//!
//! `nsenter --net` is used instead of `ip netns exec`: that one hides the cgroup mounts.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process::Run;

/// A namespace of `ip netns`; removed on drop unless kept.
pub struct Netns {
    name: String,
    keep: bool,
    /// A process whose mount namespace programs enter as well.
    mounts_of: Option<i32>,
}

impl Netns {
    /// Makes it anew: a left-over of the same name from a killed run is removed first.
    ///
    /// # Errors
    /// No root, or iproute2 is missing.
    pub fn new(name: &str) -> Result<Self> {
        let netns = Self { name: name.to_owned(), keep: false, mounts_of: None };
        if netns.path().exists() {
            netns.delete()?;
        }
        Run::new("ip").args(["netns", "add", name]).check().context("needs root and iproute2")?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// One that another run made and kept; it is not removed on drop.
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned(), keep: true, mounts_of: None }
    }

    /// One that another run made and kept; from now on it is this value's to remove.
    pub fn owned(name: &str) -> Self {
        Self { name: name.to_owned(), keep: false, mounts_of: None }
    }

    /// The same namespace, not removed when the value is dropped.
    pub fn view(&self) -> Self {
        Self { name: self.name.clone(), keep: true, mounts_of: self.mounts_of }
    }

    /// From now on programs also enter the mount namespace of a process.
    pub fn with_mounts_of(&mut self, pid: i32) {
        self.mounts_of = Some(pid);
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Leaves it on the machine when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn delete(&self) -> Result<()> {
        Run::new("ip").args(["netns", "delete", &self.name]).check().map(drop)
    }

    /// `ip …` inside it. Not `ip -n`, which remounts /sys and wants `/` to be a mount point.
    pub fn ip(&self, words: &str) -> Result<String> {
        self.run("ip").words(words).check()
    }

    /// A program inside it, still in this machine's cgroup namespace, and in its mount namespace
    /// unless [`Netns::with_mounts_of`] was said.
    pub fn run(&self, program: &str) -> Run {
        let run = Run::new("nsenter").args(self.enter());
        run.arg(program)
    }

    /// The arguments of `nsenter`.
    pub fn enter(&self) -> Vec<String> {
        let mut args = vec![format!("--net={}", self.path().display())];
        args.extend(self.mounts_of.map(|pid| format!("--mount=/proc/{pid}/ns/mnt")));
        args
    }

    /// A veth pair from here to `peer`: device `device` with `address` here, `peer_device` with
    /// `peer_address` there (`192.0.2.10/24`). Both are up.
    pub fn link(
        &self,
        device: &str,
        address: &str,
        peer: &Self,
        peer_device: &str,
        peer_address: &str,
    ) -> Result<()> {
        self.ip(&format!(
            "link add {device} type veth peer name {peer_device} netns {}",
            peer.name
        ))?;
        for (netns, device, address) in [(self, device, address), (peer, peer_device, peer_address)]
        {
            netns.ip(&format!("address add {address} dev {device}"))?;
            netns.ip(&format!("link set {device} up"))?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.keep && self.path().exists() {
            let _ = self.delete();
        }
    }
}
