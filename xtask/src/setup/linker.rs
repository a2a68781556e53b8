//! bpf-linker, built against the LLVM that rustc itself ships: the only one that reads its bitcode.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use longshore_tests::process::Run;

use crate::{paths, sh};

const VERSION: &str = "0.13.0";
/// The major version of rustc 1.99's LLVM.
const LLVM_FEATURE: &str = "llvm-23";

/// The directory that belongs to the pinned toolchain; the binary breaks without that toolchain.
pub fn dir() -> Result<PathBuf> {
    let file = std::fs::read_to_string(paths::root().join("rust-toolchain.toml"))?;
    let rust = channel(&file).context("rust-toolchain.toml names no channel")?;
    Ok(paths::cache()?.join(format!("bpf-linker-{VERSION}-rust-{rust}")))
}

fn channel(toml: &str) -> Option<&str> {
    let line = toml.lines().find(|line| line.trim_start().starts_with("channel"))?;
    line.split('"').nth(1)
}

/// Builds it unless the cache has one that starts.
pub fn ensure() -> Result<()> {
    let dir = dir()?;
    let program = dir.join("bin/bpf-linker");
    if program.exists() && Run::new(&program).arg("--version").output().is_ok_and(|o| o.ok()) {
        return Ok(());
    }
    println!(
        "bpf-linker {VERSION} is missing: it turns Rust into eBPF objects (1-3 minutes, once)"
    );
    let sysroot = Run::new("rustc").args(["--print", "sysroot"]).dir(&paths::root()).check()?;
    let lib = PathBuf::from(sysroot.trim()).join("lib");
    let llvm = std::fs::read_dir(&lib)?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM.so."))
        .with_context(|| format!("no libLLVM.so.* in {}", lib.display()))?;
    let prefix = dir.join("llvm");
    std::fs::create_dir_all(prefix.join("lib"))?;
    let link = |target: PathBuf, name: PathBuf| -> Result<()> {
        if name.symlink_metadata().is_ok() {
            std::fs::remove_file(&name)?;
        }
        Ok(std::os::unix::fs::symlink(target, name)?)
    };
    link(llvm.path(), prefix.join("lib").join(llvm.file_name()))?;
    link(PathBuf::from(llvm.file_name()), prefix.join("lib/libLLVM.so"))?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-default-features"])
        .args(["--features", LLVM_FEATURE, "--force", "--root"])
        .arg(&dir)
        .current_dir(paths::root())
        .env("LLVM_PREFIX", &prefix)
        // Its own target directory, or the build of the repository thrashes.
        .env_remove("CARGO_TARGET_DIR");
    sh::run_quietly("building bpf-linker", command, &dir.join("build.log"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_cache_is_keyed_by_the_pinned_toolchain() {
        assert_eq!(super::channel("# x\n[toolchain]\nchannel = \"1.99.1\"\n"), Some("1.99.1"));
        assert!(super::dir().unwrap().to_string_lossy().contains("-rust-1."));
    }
}
