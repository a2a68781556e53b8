//! The `longshore` binary: a command line, and nothing else.

use std::process::ExitCode;

use longshore::app;
use longshore::cli::{self, CleanupArgs, NodeArgs, Roles, StandaloneArgs};
use longshore::telemetry;

/// What the command line starts.
struct Daemon;

impl Roles for Daemon {
    fn standalone(&self, args: StandaloneArgs) -> anyhow::Result<()> {
        telemetry::init(args.common.verbosity).map_err(anyhow::Error::msg)?;
        app::standalone(app::Options::standalone(args))
    }

    fn node(&self, args: NodeArgs) -> anyhow::Result<()> {
        telemetry::init(args.common.verbosity).map_err(anyhow::Error::msg)?;
        app::node(app::Options::node(args)?)
    }

    fn cleanup(&self, args: CleanupArgs) -> anyhow::Result<()> {
        app::cleanup::cleanup(&args.place.state_dir)
    }
}

fn main() -> ExitCode {
    cli::run(std::env::args_os(), &Daemon)
}
