//! Builds what the daemon embeds: the eBPF object (plain, and with messages for `--bpf-log`) and
//! the static CNI shim. Each is a cargo build of its own, in a target directory of its own.
//!
//! `LONGSHORE_SKIP_EMBED=1` writes empty files instead, for cargo check, clippy and editors; the
//! daemon then says at its start that nothing is embedded.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINKER_VERSION: &str = "0.13.0";
const EBPF_TARGET: &str = "bpfel-unknown-none";
const SKIP: &str = "LONGSHORE_SKIP_EMBED";
const EMBEDDED: [&str; 3] = ["longshore-ebpf", "longshore-ebpf-log", "longshore-cni"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    let out = PathBuf::from(var("OUT_DIR")?);
    for path in ["ebpf", "agent/cni-shim", "Cargo.toml", "rust-toolchain.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-env-changed={SKIP}");
    println!("cargo::rerun-if-env-changed=PATH");
    println!("cargo::rerun-if-env-changed=XDG_CACHE_HOME");
    if env::var_os(SKIP).is_some_and(|value| value == "1") {
        for name in EMBEDDED {
            fs::write(out.join(name), [])?;
        }
        return Ok(());
    }
    let linker_dir = linker_dir()?;
    ebpf(&root, &out, &linker_dir, "longshore-ebpf", &[])?;
    ebpf(&root, &out, &linker_dir, "longshore-ebpf-log", &["--features", "log"])?;
    shim(&root, &out)
}

fn var(name: &str) -> Result<String, Box<dyn Error>> {
    env::var(name).map_err(|error| format!("{name}: {error}").into())
}

/// A cargo that knows nothing of the build that runs it.
fn cargo(root: &Path) -> Result<Command, Box<dyn Error>> {
    let mut cargo = Command::new(var("CARGO")?);
    cargo.current_dir(root);
    for name in
        ["RUSTC", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"]
    {
        cargo.env_remove(name);
    }
    Ok(cargo)
}

fn run(mut command: Command, what: &str) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the build of {what} failed: {status}").into())
    }
}

/// The eBPF object, for CPU v3 (fetching atomics, 32-bit jumps), with BTF and line information.
fn ebpf(
    root: &Path,
    out: &Path,
    linker_dir: &Path,
    name: &str,
    features: &[&str],
) -> Result<(), Box<dyn Error>> {
    let target_dir = out.join("ebpf-target");
    let arch = format!("bpf_target_arch=\"{}\"", var("CARGO_CFG_TARGET_ARCH")?);
    // The last one: otherwise every zeroed array is a call of a byte loop, which costs the kernel
    // time and the verifier more.
    let flags = [
        "--cfg",
        &arch,
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
        "-Clink-arg=--disable-expand-memcpy-in-order",
    ]
    .join("\x1f");
    let mut path = linker_dir.as_os_str().to_owned();
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    let mut cargo = cargo(root)?;
    cargo
        .args(["build", "--package", "longshore-ebpf", "--bins", "--release", "--locked"])
        .args(["--target", EBPF_TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(&target_dir)
        .args(features)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("PATH", path);
    run(cargo, name)?;
    fs::copy(target_dir.join(EBPF_TARGET).join("release/longshore-ebpf"), out.join(name))?;
    Ok(())
}

/// The shim: static, so that it runs whatever libc the host or an init image has.
fn shim(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let target_dir = out.join("shim-target");
    let target = var("TARGET")?;
    let mut cargo = cargo(root)?;
    cargo
        .args(["build", "--package", "longshore-cni", "--bins", "--release", "--locked"])
        .args(["--target", &target, "--target-dir"])
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "s")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    run(cargo, "longshore-cni")?;
    fs::copy(target_dir.join(target).join("release/longshore-cni"), out.join("longshore-cni"))?;
    Ok(())
}

/// Where bpf-linker is: the cache that `cargo xtask setup` fills, else PATH. The cached one is
/// built against the LLVM of this very rustc, so it comes first.
fn linker_dir() -> Result<PathBuf, Box<dyn Error>> {
    let rustc = Command::new(var("RUSTC")?).arg("--version").output()?.stdout;
    let rustc = String::from_utf8(rustc)?;
    let version = rustc.split_whitespace().nth(1).ok_or("rustc tells no version")?;
    let cache = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
    };
    let cached = cache.join(format!("longshore/bpf-linker-{LINKER_VERSION}-rust-{version}/bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs = std::iter::once(cached.clone()).chain(env::split_paths(&path));
    dirs.find(|dir| dir.join("bpf-linker").is_file()).ok_or_else(|| {
        format!(
            "bpf-linker is neither in {} nor in PATH: run `cargo xtask setup` (or `make build`), \
             which brings it, or set {SKIP}=1 to check the code without it",
            cached.display()
        )
        .into()
    })
}
