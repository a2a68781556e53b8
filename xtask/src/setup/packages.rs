//! Tools of the distribution, installed only when the command is not there.

use std::process::Command;

use anyhow::{Context, Result, bail};
use longshore_tests::process::Run;

use crate::{paths, sh};

/// A command, the Debian package that has it, and what it is for.
pub type Tool = (&'static str, &'static str, &'static str);

/// For a lab with nodes.
pub const NODE_TOOLS: [Tool; 4] = [
    ("ip", "iproute2", "makes network namespaces and links"),
    ("nft", "nftables", "masquerades pods to the world"),
    ("nsenter", "util-linux", "starts programs in a network namespace"),
    ("mount", "mount", "mounts volumes and bpffs"),
];

/// For a control plane around the nodes.
pub const CLUSTER_TOOLS: [Tool; 2] = [
    ("openssl", "openssl", "makes the lab's certificates"),
    ("unshare", "util-linux", "keeps a kubelet from this machine's sysctls"),
];

/// For the test of deploy/systemd: the program, never a running systemd.
pub const UNIT_TOOLS: [Tool; 1] =
    [("systemd-analyze", "systemd", "checks deploy/systemd/longshore.service")];

/// For kube-proxy in iptables mode, and for the portmap plugin.
pub const IPTABLES_TOOLS: [Tool; 1] =
    [("iptables", "iptables", "is what kube-proxy programs in its iptables mode")];

/// For the newcomer proof of `test-all`.
pub const FRESH_TOOLS: [Tool; 1] = [("debootstrap", "debootstrap", "makes a fresh Debian")];

/// Installs the missing ones by apt.
///
/// # Errors
/// Something is missing and cannot be installed; says which package to install by hand.
pub fn ensure(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|(command, ..)| !has(command)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (command, package, purpose) in &missing {
        println!("{command} is missing: it {purpose}; installing the package {package}");
    }
    let names: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    install(&names)?;
    match missing.iter().find(|(command, ..)| !has(command)) {
        Some((command, package, _)) => {
            bail!("{command} is still missing after installing {package}")
        }
        None => Ok(()),
    }
}

/// Installs packages, with one refresh of the package lists if the first try fails.
pub fn install(names: &[&str]) -> Result<()> {
    if !has("apt-get") {
        bail!("install these with the package manager of this machine: {}", names.join(" "));
    }
    if apt_install(names).is_err() {
        update()?;
        apt_install(names).context("apt-get cannot install them")?;
    }
    Ok(())
}

fn apt_install(names: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command
        .args(["install", "-y", "--no-install-recommends"])
        .args(names)
        .env("DEBIAN_FRONTEND", "noninteractive");
    let log = paths::cache()?.join("apt-get.log");
    sh::run_quietly(&format!("apt-get install {}", names.join(" ")), command, &log)
}

/// `apt-get update`.
pub fn update() -> Result<()> {
    let mut command = Command::new("apt-get");
    command.arg("update");
    let log = paths::cache()?.join("apt-get.log");
    sh::run_quietly("refreshing the package lists (apt-get update)", command, &log)
}

/// Whether a command is in PATH, or in the directories of root that a plain PATH may lack.
pub fn has(command: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .any(|dir| std::path::Path::new(dir).join(command).exists())
}

/// `ID` and `VERSION_CODENAME` of this machine.
pub fn release() -> (String, String) {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_default()
            .trim_matches('"')
            .to_owned()
    };
    (value("ID"), value("VERSION_CODENAME"))
}

/// The `Package` archive this machine already uses, for other releases of Debian.
///
/// # Errors
/// Not a machine with apt, or it has no main archive.
pub fn archive() -> Result<String> {
    let text = Run::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ])
        .check()?;
    text.lines()
        .filter(|line| line.ends_with(" main") && !line.contains("security"))
        .find_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .context("apt knows no archive with a main component")
}
