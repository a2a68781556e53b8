//! containerd and runc, unpacked into the cache. Never installed: a Docker or containerd that the
//! machine runs keeps its version and its files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use longshore_tests::containerd::Runtime;
use longshore_tests::process::Run;

use super::packages;
use crate::{paths, sh};

/// Debian's releases that the matrix takes a containerd from.
pub const MATRIX: [(&str, &str); 3] =
    [("bookworm", "1.6.20"), ("trixie", "1.7.24"), ("sid", "2.1.9")];

/// The containerd and runc of this machine's own distribution.
///
/// # Errors
/// No apt, or the packages cannot be downloaded; says what to do instead.
pub fn ensure() -> Result<Runtime> {
    if let Some(dir) = std::env::var_os("LONGSHORE_RUNTIME_DIR") {
        let dir = PathBuf::from(dir);
        let runc = dir.join("runc");
        return Runtime::new(dir, runc).context(
            "LONGSHORE_RUNTIME_DIR must hold containerd, containerd-shim-runc-v2, ctr and runc",
        );
    }
    let (id, codename) = packages::release();
    let dir = paths::cache()?.join(format!("runtime-{id}-{codename}"));
    if let Ok(runtime) = unpacked(&dir) {
        return Ok(runtime);
    }
    if !packages::has("apt-get") || !packages::has("dpkg") {
        bail!(
            "no containerd for this machine: it has no apt-get\n\
             unpack containerd and runc into a directory and set LONGSHORE_RUNTIME_DIR to it"
        );
    }
    println!(
        "containerd and runc are missing: unpacking the packages of {id} {codename} into the cache"
    );
    download(&["containerd", "runc"], &dir)?;
    unpacked(&dir)
}

/// Downloads packages of the machine's own release and unpacks them into `dir`.
pub fn download(names: &[&str], dir: &Path) -> Result<()> {
    let debs = dir.join("debs");
    std::fs::create_dir_all(&debs)?;
    let get = || Run::new("apt-get").arg("download").args(names).dir(&debs).limit_s(300).check();
    if get().is_err() {
        packages::update()?;
        get()?;
    }
    unpack(&debs, dir)
}

/// The containerd of one release of the matrix, by the release's name or by its version.
///
/// # Errors
/// The matrix does not have it.
pub fn ensure_one(wanted: &str) -> Result<Runtime> {
    let Some((release, version)) =
        MATRIX.iter().find(|(release, version)| *release == wanted || *version == wanted)
    else {
        let known: Vec<String> =
            MATRIX.iter().map(|(release, version)| format!("{release} ({version})")).collect();
        bail!("no containerd {wanted} in the matrix; it has {}", known.join(", "));
    };
    ensure_release(release, version)
}

/// The containerd of another release of Debian, with the runc of this machine's: newer ones need a
/// newer libc.
pub fn ensure_release(release: &str, version: &str) -> Result<Runtime> {
    let (_, codename) = packages::release();
    let own = ensure()?;
    if codename == release {
        return expect_version(own, version);
    }
    let dir = paths::cache()?.join(format!("runtime-{release}"));
    let bin_dir = dir.join("usr/bin");
    if let Ok(runtime) = Runtime::new(bin_dir.clone(), own.runc.clone()) {
        return expect_version(runtime, version);
    }
    println!(
        "containerd {version} is missing: unpacking the package of Debian {release} into the cache"
    );
    let apt = Apt::new(&dir.join("apt"), release)?;
    let debs = dir.join("debs");
    std::fs::create_dir_all(&debs)?;
    apt.update()?;
    apt.download("containerd", &debs)?;
    unpack(&debs, &dir)?;
    expect_version(Runtime::new(bin_dir, own.runc)?, version)
}

fn expect_version(runtime: Runtime, version: &str) -> Result<Runtime> {
    if runtime.version != version {
        println!("note: the archive has containerd {}, not {version}", runtime.version);
    }
    Ok(runtime)
}

fn unpacked(dir: &Path) -> Result<Runtime> {
    let runtime = Runtime::new(dir.join("usr/bin"), dir.join("usr/sbin/runc"));
    let missing = runtime.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    if missing.contains("libseccomp") {
        println!("libseccomp is missing: runc is linked with it");
        packages::install(&["libseccomp2"])?;
        return Runtime::new(dir.join("usr/bin"), dir.join("usr/sbin/runc"));
    }
    runtime
}

fn unpack(debs: &Path, dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(debs)?.flatten() {
        let deb = entry.path();
        if deb.extension().is_some_and(|extension| extension == "deb") {
            Run::new("dpkg").arg("-x").arg(&deb).arg(dir).limit_s(120).check()?;
            std::fs::remove_file(deb)?;
        }
    }
    Ok(())
}

/// A private apt: another release's packages, without touching the machine's lists.
struct Apt {
    options: Vec<String>,
    log: PathBuf,
}

impl Apt {
    fn new(dir: &Path, release: &str) -> Result<Self> {
        std::fs::create_dir_all(dir.join("lists/partial"))?;
        std::fs::create_dir_all(dir.join("cache/archives/partial"))?;
        let sources = dir.join("sources.list");
        let archive = packages::archive()?;
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        std::fs::write(&sources, format!("deb [signed-by={keyring}] {archive} {release} main\n"))?;
        let at = |name: &str| dir.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "APT::Get::List-Cleanup=0".to_owned(),
        ];
        Ok(Self { options: options.to_vec(), log: dir.join("apt.log") })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    fn update(&self) -> Result<()> {
        let mut command = self.command();
        command.arg("update");
        sh::run_quietly("reading that release's package list", command, &self.log)
    }

    fn download(&self, package: &str, into: &Path) -> Result<()> {
        let mut command = self.command();
        command.args(["download", package]).current_dir(into);
        sh::run_quietly(&format!("downloading {package}"), command, &self.log)
    }
}
