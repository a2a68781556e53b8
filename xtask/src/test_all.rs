//! `make test-all`: what takes too long for every change.
//!
//! The newcomer's proof: a fresh Debian with nothing but git, make, cc, curl and rustup runs the
//! demo and the tests. And the end-to-end suite against each containerd that is supported.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use longshore_tests::containerd::unmount_below;
use longshore_tests::process::Run;

use crate::lanes::{self, Choice, Count, Line};
use crate::{paths, record, setup, sh};

const PARTS: [&str; 5] = ["test", "deny", "containerd", "debian-12", "debian-13"];
/// Debian's name and number of the releases that a newcomer may have.
const RELEASES: [(&str, &str); 2] = [("debian-12", "bookworm"), ("debian-13", "trixie")];

/// Runs all parts, or the named ones, and records them in CONTRIBUTING.md.
pub fn run(names: &[String]) -> Result<bool> {
    if let Some(unknown) = names.iter().find(|name| !PARTS.contains(&name.as_str())) {
        bail!("there is no part {unknown}; parts are {}", PARTS.join(", "));
    }
    setup::need_root()?;
    let commit = record::commit()?;
    let wanted = |name: &str| names.is_empty() || names.iter().any(|one| one == name);
    let mut lines: Vec<Line> = Vec::new();
    if wanted("test") {
        lines.push(lanes::timed("test", || {
            lanes::step(passed(lanes::run(&[], Choice::default())?))
        }));
    }
    if wanted("deny") {
        lines.push(lanes::timed("deny", || lanes::step(deny())));
    }
    if wanted("containerd") {
        for (release, version) in setup::runtime::MATRIX {
            println!("\n=== e2e with containerd {version}");
            lines.push(lanes::timed(&format!("containerd {version}"), || {
                lanes::e2e(&setup::runtime::ensure_release(release, version)?, None)
            }));
        }
    }
    for (name, codename) in RELEASES {
        if wanted(name) {
            println!("\n=== a fresh {name}");
            lines.push(lanes::timed(name, || newcomer(codename)));
        }
    }
    lanes::print_table(&lines);
    record::write(&lines, &commit)?;
    Ok(lanes::close(&lines))
}

fn passed(ok: bool) -> Result<()> {
    if ok { Ok(()) } else { bail!("a lane failed") }
}

/// Licences, advisories and duplicate crates.
fn deny() -> Result<()> {
    if !setup::packages::has("cargo-deny") {
        println!("cargo-deny is missing: it checks licences and advisories");
        let log = paths::cache()?.join("cargo-deny.log");
        let command = sh::cargo("install cargo-deny --version 0.20.2 --locked")?;
        sh::run_quietly("building cargo-deny", command, &log)?;
    }
    // Advisories need a database that is not in a package registry: `cargo deny check` by hand.
    sh::run(sh::cargo("deny --all-features check bans licenses sources")?)
}

/// What a newcomer does on a fresh machine of that release.
fn newcomer(codename: &str) -> Result<Count> {
    setup::packages::ensure(&setup::packages::FRESH_TOOLS)?;
    let dir = paths::cache()?.join(format!("newcomer-{codename}"));
    let fresh = Fresh::make(&dir, codename)?;
    fresh.bring_rustup()?;
    fresh.clone_repository()?;
    for target in ["demo", "test"] {
        println!("--- {codename}: make {target}");
        sh::run(fresh.make_target(target))?;
    }
    Ok(Count { passed: 2, failed: 0 })
}

/// Makes a directory `/`, with the kernel's file systems, and runs a program there. Not a chroot: `/`
/// of a machine is a mount point, and runc and iproute2 rely on it. The mounts belong to a mount
/// namespace of their own and end with it.
const ENTER: &str = r#"set -e
dir=$1; shift
mount --bind "$dir" "$dir"
mount --rbind /sys "$dir/sys"
mount --rbind /dev "$dir/dev"
mount -t proc proc "$dir/proc"
cd "$dir"
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old
exec "$@"
"#;

/// A fresh machine's root file system. Removed on drop.
struct Fresh {
    dir: std::path::PathBuf,
}

impl Fresh {
    fn make(dir: &Path, codename: &str) -> Result<Self> {
        let this = Self { dir: dir.to_owned() };
        this.clear()?;
        let mut command = Command::new("debootstrap");
        command
            .args(["--variant=minbase", "--include=git,make,gcc,libc6-dev,curl,ca-certificates"])
            .arg(codename)
            .arg(dir)
            .arg(setup::packages::archive()?);
        let log = paths::cache()?.join("debootstrap.log");
        sh::run_quietly(&format!("making a fresh Debian {codename}"), command, &log)?;
        std::fs::copy("/etc/resolv.conf", dir.join("etc/resolv.conf"))?;
        std::fs::copy("/etc/hosts", dir.join("etc/hosts"))?;
        copy_package_configuration(dir)?;
        Ok(this)
    }

    /// rustup as its installer leaves it: the program and its links, no toolchain.
    fn bring_rustup(&self) -> Result<()> {
        let rustup = which("rustup")?;
        let bin = self.home().join(".cargo/bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::copy(rustup, bin.join("rustup"))?;
        for name in
            ["cargo", "rustc", "rustfmt", "cargo-clippy", "clippy-driver", "cargo-fmt", "rustdoc"]
        {
            let link = bin.join(name);
            if !link.exists() {
                std::fs::hard_link(bin.join("rustup"), link)?;
            }
        }
        Ok(())
    }

    fn home(&self) -> std::path::PathBuf {
        self.dir.join("home/newcomer")
    }

    /// The commit that is checked out, as a clone would have it.
    fn clone_repository(&self) -> Result<()> {
        let target = self.home().join("longshore");
        Run::new("git")
            .args(["clone", "--quiet", "--no-hardlinks"])
            .arg(paths::root())
            .arg(&target)
            .limit_s(120)
            .check()
            .map(drop)
    }

    /// A command that starts with `/` in this directory.
    fn enter(&self) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "enter"])
            .arg(&self.dir);
        command
    }

    fn make_target(&self, target: &str) -> Command {
        let path = "/home/newcomer/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let mut command = self.enter();
        command
            .args([
                "/usr/bin/env",
                "-i",
                "HOME=/home/newcomer",
                &format!("PATH={path}"),
                "LANG=C.UTF-8",
            ])
            .args(forwarded())
            .args(["make", "-C", "/home/newcomer/longshore", target]);
        command
    }

    fn clear(&self) -> Result<()> {
        unmount_below(&self.dir);
        if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir)
                .with_context(|| format!("cannot remove {}", self.dir.display()))?;
        }
        Ok(())
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("{error:#}");
        }
    }
}

/// Where this machine gets packages and crates from; a newcomer's machine has its own such settings.
fn forwarded() -> Vec<String> {
    let names = [
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "RUSTUP_DIST_SERVER",
        "RUSTUP_UPDATE_ROOT",
        "SSL_CERT_FILE",
        "CARGO_HTTP_CAINFO",
        "PIP_CERT",
        "PIP_INDEX_URL",
    ];
    let go = ["GOPROXY", "GOSUMDB"].into_iter().filter_map(|name| {
        let value = Run::new("go").args(["env", name]).check().ok()?;
        Some(format!("{name}={}", value.trim()))
    });
    let registries =
        std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("CARGO_REGISTR"));
    names
        .map(str::to_owned)
        .into_iter()
        .chain(registries)
        .filter_map(|name| Some(format!("{name}={}", std::env::var(&name).ok()?)))
        .chain(go)
        .collect()
}

/// apt's proxies and cargo's registries, not their caches.
fn copy_package_configuration(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir("/etc/apt/apt.conf.d")?.flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if text.contains("Acquire::") {
            std::fs::copy(entry.path(), dir.join("etc/apt/apt.conf.d").join(entry.file_name()))?;
        }
    }
    let home = std::env::var("HOME").unwrap_or_default();
    for file in ["config.toml", "config"] {
        let from = Path::new(&home).join(".cargo").join(file);
        if from.exists() {
            let to = dir.join("home/newcomer/.cargo");
            std::fs::create_dir_all(&to)?;
            std::fs::copy(from, to.join(file))?;
        }
    }
    // Certificates that this machine trusts beside the distribution's.
    let own = Path::new("/usr/local/share/ca-certificates");
    for entry in std::fs::read_dir(own).into_iter().flatten().flatten() {
        let to = dir.join("usr/local/share/ca-certificates");
        std::fs::create_dir_all(&to)?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Run::new("chroot").arg(dir).arg("update-ca-certificates").limit_s(120).output()?;
    Ok(())
}

fn which(program: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .map(|dir| Path::new(dir).join(program))
        .find(|file| file.exists())
        .with_context(|| format!("{program} is not in PATH"))
}
