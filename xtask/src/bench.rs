//! `make bench`: builds the release, makes a lab and runs `longshore-bench` in it.

use anyhow::Result;

use crate::{build, images, setup, sh};

pub fn run() -> Result<bool> {
    let runtime = setup::for_nodes()?;
    let plugins = setup::runtime::ensure_cni_plugins()?;
    let lab = images::lab(&build::release()?, runtime, "lsb")?;
    let mut command = sh::cargo(
        "run --quiet --release --locked --package longshore-tests --features cri --bin longshore-bench",
    )?;
    command.envs(lab.to_env()).env("LONGSHORE_LAB_CNI_PLUGINS", plugins);
    sh::run(command)?;
    Ok(true)
}
