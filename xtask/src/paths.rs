//! Where things are: the repository, the cache and cargo's target directory.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// The root of the repository: the parent of this package.
pub fn root() -> PathBuf {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    package.parent().map(PathBuf::from).unwrap_or(package)
}

/// `${XDG_CACHE_HOME:-~/.cache}/longshore`: big things that outlive a clone, keyed by version.
///
/// # Errors
/// Neither variable is set.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(
            std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
        )
        .join(".cache"),
    };
    let dir = base.join("longshore");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// Where labs put their nodes. Short, because socket paths end at 107 bytes.
pub fn lab() -> Result<PathBuf> {
    let dir = cache()?.join("lab");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// cargo's target directory.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}
