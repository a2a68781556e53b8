//! The `longshore` binary: a command line, and nothing else.

use std::process::ExitCode;

use longshore::cli::{self, CleanupArgs, Roles, StandaloneArgs};

/// Roles of a build without the daemon's wiring.
struct Client;

impl Roles for Client {
    fn standalone(&self, _: StandaloneArgs) -> anyhow::Result<()> {
        anyhow::bail!("this build only asks a running daemon; it cannot be one")
    }

    fn cleanup(&self, _: CleanupArgs) -> anyhow::Result<()> {
        anyhow::bail!("this build only asks a running daemon; it cannot clean up")
    }
}

fn main() -> ExitCode {
    cli::run(std::env::args_os(), &Client)
}
