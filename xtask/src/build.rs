//! Builds the daemon: for users, and in the demo's quick profile.

use std::path::PathBuf;

use anyhow::Result;

use crate::{paths, setup, sh};

/// `target/release/longshore`
pub fn release() -> Result<PathBuf> {
    setup::linker::ensure()?;
    sh::run(sh::cargo("build --release --package longshore --locked")?)?;
    let path = paths::target().join("release/longshore");
    println!("built {}", path.display());
    Ok(path)
}

/// The same code without LTO: minutes less for a newcomer.
pub fn quick() -> Result<PathBuf> {
    setup::linker::ensure()?;
    sh::run(sh::cargo("build --profile demo --package longshore --locked")?)?;
    Ok(paths::target().join("demo/longshore"))
}
