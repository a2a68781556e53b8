//! `cargo xtask`: everything that is done to this repository, and the Makefile's other half.
//!
//! It depends on nothing of the product, so that it builds in seconds on a fresh machine.

mod bench;
mod build;
mod demo;
mod images;
mod lab;
mod lanes;
mod lint;
mod paths;
mod record;
mod setup;
mod sh;
mod test_all;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lanes::Choice;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests, demos and benches Longshore")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Bring what the other commands need: bpf-linker, tools, a containerd in the cache.
    Setup {
        /// Also the other containerds that `test-all` tests with.
        #[arg(long)]
        matrix: bool,
    },
    /// Build target/release/longshore.
    Build,
    /// rustfmt and clippy; warnings are errors.
    Lint,
    /// Run the lanes that a change must pass: all, or the ones named.
    Test {
        /// tidy, lint, unit, bpf, netns, e2e, demo
        lanes: Vec<String>,
        /// Only tests whose name contains this (bpf, netns and e2e lanes).
        #[arg(long)]
        filter: Option<String>,
        /// e2e lane: with the containerd of that release of Debian (sid, or 2.1.9), not the machine's.
        #[arg(long)]
        containerd: Option<String>,
    },
    /// `test`, and what takes too long for every change; records the result in CONTRIBUTING.md.
    TestAll {
        /// Only these parts: test, deny, debian-12, debian-13, containerd
        parts: Vec<String>,
    },
    /// Pods, a Service and a NetworkPolicy in namespaces of their own, checked step by step.
    Demo {
        /// Leave everything running afterwards and say how to reach it.
        #[arg(long)]
        keep: bool,
    },
    /// Measure against the CRI floor, a bare veth pair and a kubelet with kube-proxy; prints ratios.
    Bench {
        /// Use the demo's build, fewer rounds and shorter windows: sooner, and not what users run
        #[arg(long)]
        quick: bool,
    },
    /// Check the rules of the house: imports, unsafe, spawns, clocks, sizes, the specification.
    Tidy,
    /// Build the workload and the image tars; prints their paths.
    Images,
    /// A real control plane and nodes on this machine, in namespaces of their own.
    #[command(subcommand)]
    Lab(lab::Command),
}

fn main() -> ExitCode {
    let result = run(Cli::parse().command);
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// False: it ran and something failed, and the output says what.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Setup { matrix } => setup::everything(matrix).map(|()| true),
        Command::Build => build::release().map(|_| true),
        Command::Lint => lint::all().map(|()| true),
        Command::Test { lanes, filter, containerd } => {
            let choice = Choice { filter: filter.as_deref(), containerd: containerd.as_deref() };
            lanes::run(&lanes, choice)
        }
        Command::TestAll { parts } => test_all::run(&parts),
        Command::Demo { keep } => demo::run(keep),
        Command::Bench { quick } => bench::run(quick),
        Command::Tidy => tidy::print(),
        Command::Lab(command) => lab::run(command),
        Command::Images => {
            for tar in images::build()? {
                println!("{}", tar.display());
            }
            Ok(true)
        }
    }
}
