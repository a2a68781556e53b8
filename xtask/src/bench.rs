//! `make bench`: builds the release, makes a lab and runs `longshore-bench` in it.

use anyhow::Result;

use crate::{build, images, setup, sh};

/// `quick`: of the demo's build, whose programs are the same and whose daemon is not optimised.
pub fn run(quick: bool) -> Result<bool> {
    let runtime = setup::for_nodes()?;
    let plugins = setup::runtime::ensure_cni_plugins()?;
    let (longshore, profile) =
        if quick { (build::quick()?, "demo") } else { (build::release()?, "release") };
    let lab = images::lab(&longshore, runtime, "lsb")?;
    let mut command = sh::cargo(&format!(
        "run --quiet --profile {profile} --locked --package longshore-tests --features cri --bin longshore-bench"
    ))?;
    command.envs(lab.to_env()).env("LONGSHORE_LAB_CNI_PLUGINS", plugins);
    sh::run(command)?;
    Ok(true)
}
