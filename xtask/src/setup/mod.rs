//! Brings what is missing on a machine with git, make, cc, curl and rustup, and says what and why.

pub mod kernel;
pub mod linker;
pub mod packages;
pub mod runtime;

use anyhow::{Result, bail};

/// What `cargo xtask setup` brings: enough for every lane of `make test`.
pub fn everything(matrix: bool) -> Result<()> {
    linker::ensure()?;
    for_nodes()?;
    if matrix {
        for (release, version) in runtime::MATRIX {
            let runtime = runtime::ensure_release(release, version)?;
            println!("containerd {}: {}", runtime.version, runtime.bin_dir.display());
        }
    }
    println!("everything is there");
    Ok(())
}

/// What a lab with nodes needs beside the daemon.
///
/// # Errors
/// No root, a kernel without what the dataplane needs, or a package that cannot be had.
pub fn for_nodes() -> Result<longshore_tests::containerd::Runtime> {
    need_root()?;
    kernel::check()?;
    packages::ensure(&packages::NODE_TOOLS)?;
    runtime::ensure()
}

/// # Errors
/// Not root.
pub fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "this needs root: it makes network namespaces, cgroups and loads eBPF programs. \
             Run it again with sudo or as root"
        );
    }
    Ok(())
}
