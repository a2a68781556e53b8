//! `make bench`: builds the release, makes labs and runs `longshore-bench` in them.

use anyhow::Result;

use crate::{build, lab, sh};

/// `quick`: of the demo's build, whose programs are the same and whose daemon is not optimised, with
/// fewer rounds and a shorter look at idle agents.
pub fn run(quick: bool) -> Result<bool> {
    let (longshore, profile) =
        if quick { (build::quick()?, "demo") } else { (build::release()?, "release") };
    let (lab, parts) = lab::for_bench(&longshore)?;
    let mut command = sh::cargo(&format!(
        "run --quiet --profile {profile} --locked --package longshore-tests --features cri --bin longshore-bench"
    ))?;
    command.envs(lab.to_env()).envs(parts.to_env());
    if quick {
        command.args(["--", "--quick"]);
    }
    sh::run(command)?;
    Ok(true)
}
