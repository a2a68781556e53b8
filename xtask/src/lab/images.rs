//! The lab's own images beside the workload's: busybox, agnhost and CoreDNS, made here.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use longshore_tests::process::Run;

use super::go;
use crate::{images, paths, setup};

/// A shell and its tools.
pub const BUSYBOX_IMAGE: &str = "localhost/longshore/busybox:1";
/// The upstream test image's program, with busybox and the workload beside it.
pub const AGNHOST_IMAGE: &str = "localhost/longshore/agnhost:1";
pub const COREDNS_IMAGE: &str = "localhost/longshore/coredns:1";

/// An image to make from programs that the cache has.
struct Plan {
    name: &'static str,
    file: &'static str,
    /// Path in the image, and where it comes from.
    programs: Vec<(&'static str, PathBuf)>,
    entry_point: Vec<&'static str>,
    command: Vec<&'static str>,
}

/// busybox and agnhost.
///
/// # Errors
/// A program cannot be built or downloaded.
pub fn for_pods() -> Result<Vec<PathBuf>> {
    let busybox = busybox()?;
    let agnhost = go::KUBERNETES.ensure(&["agnhost"])?.join("agnhost");
    let workload = images::build_workload()?;
    let plans = [
        Plan {
            name: BUSYBOX_IMAGE,
            file: "busybox.tar",
            programs: vec![("bin/busybox", busybox.clone())],
            entry_point: vec![],
            command: vec!["/bin/sh"],
        },
        Plan {
            name: AGNHOST_IMAGE,
            file: "agnhost.tar",
            programs: vec![
                ("agnhost", agnhost),
                ("bin/busybox", busybox),
                (images::BINARY, workload),
            ],
            entry_point: vec!["/agnhost"],
            command: vec!["pause"],
        },
    ];
    plans.iter().map(make).collect()
}

/// The cluster's DNS server.
///
/// # Errors
/// It cannot be built.
pub fn coredns() -> Result<PathBuf> {
    let program = go::COREDNS.ensure(&["coredns"])?.join("coredns");
    make(&Plan {
        name: COREDNS_IMAGE,
        file: "coredns.tar",
        programs: vec![("coredns", program)],
        entry_point: vec!["/coredns"],
        command: vec![],
    })
}

/// The tar, unless the cache has it.
fn make(plan: &Plan) -> Result<PathBuf> {
    let dir = paths::cache()?.join(format!("lab-images-{}", &key(plan)?[..16]));
    let path = dir.join(plan.file);
    if path.exists() {
        return Ok(path);
    }
    println!("making the image {} …", plan.name);
    std::fs::create_dir_all(&dir)?;
    let mut programs = Vec::new();
    for (at, from) in &plan.programs {
        let bytes =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        programs.push((*at, bytes));
    }
    let programs: Vec<(&str, &[u8])> =
        programs.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
    let busybox = plan.programs.iter().find(|(at, _)| at.ends_with("busybox"));
    let links = match busybox {
        Some((_, program)) => applets(program)?,
        None => Vec::new(),
    };
    let layer = images::layer(&programs, &links)?;
    images::write(&path, &images::image(plan.name, &layer, &plan.entry_point, &plan.command)?)?;
    Ok(path)
}

/// Of what goes in. Programs are known by place, size and time: reading them takes longer than a lab
/// may take to start.
fn key(plan: &Plan) -> Result<String> {
    let mut text = format!("{} {:?} {:?}", plan.name, plan.entry_point, plan.command);
    for (at, from) in &plan.programs {
        let data = from.metadata().with_context(|| format!("{} is missing", from.display()))?;
        text.push_str(&format!(" {at} {} {} {:?}", from.display(), data.len(), data.modified()?));
    }
    text.push_str(include_str!("images.rs"));
    text.push_str(include_str!("../images.rs"));
    Ok(images::sha256(text.as_bytes()))
}

/// Debian's static busybox, unpacked.
fn busybox() -> Result<PathBuf> {
    let dir = paths::cache()?.join("busybox-static");
    let program = ["bin/busybox", "usr/bin/busybox"].map(|path| dir.join(path));
    let found = || program.iter().find(|path| path.exists()).cloned();
    if let Some(program) = found() {
        return Ok(program);
    }
    println!("busybox is missing: unpacking the package busybox-static into the cache");
    setup::runtime::download(&["busybox-static"], &dir)?;
    found().context("the package busybox-static has no bin/busybox")
}

/// `bin/sh` and the others, as links to it.
fn applets(busybox: &Path) -> Result<Vec<(String, &'static str)>> {
    let text = Run::new(busybox).arg("--list").check()?;
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty() && *name != "busybox");
    Ok(names.map(|name| (format!("bin/{name}"), "/bin/busybox")).collect())
}
