//! Small measurements, interleaved in one run and given as ratios: absolute numbers of a shared
//! machine say nothing.
//!
//! The floor of a pod's start is the same CRI calls with the upstream bridge plugin and no agent.
//! The floor of a connection is a bare veth pair.

mod connections;
mod pods;

use anyhow::Result;
use longshore_tests::lab::Lab;
use longshore_tests::node::Node;

/// What a line of the result expects.
enum Expect {
    AtMost(f64),
    AtLeast(f64),
}

fn main() -> Result<()> {
    let lab = Lab::from_env()?;
    let floor = pods::floor_node(&lab)?;
    let node = Node::start(&lab, "bench", &[])?;
    let idle = rss_mib(&node)?;

    let starts = pods::starts(&floor, &node, 12)?;
    line("pod start, Longshore / CRI floor, p50", starts.ratio(), &Expect::AtMost(1.3));
    println!("    {starts}");
    let rates = connections::rates(&node, 4)?;
    let service = rates.service;
    line("new connections, Service / routed pod IP", service / rates.routed, &Expect::AtLeast(1.0));
    line("new connections, Service / bare veth", service / rates.veth, &Expect::AtLeast(0.0));
    line("new connections, Service / own pod IP", service / rates.pod, &Expect::AtLeast(0.0));
    println!("    {rates}");
    let edit_ms = connections::edits(&node, 10)?;
    line("policy edit to effect, p50, ms", edit_ms, &Expect::AtMost(200.0));
    line("RSS idle, MiB", idle, &Expect::AtMost(60.0));
    line("RSS after the bench, MiB", rss_mib(&node)?, &Expect::AtMost(60.0));
    Ok(())
}

fn line(what: &str, value: f64, expect: &Expect) {
    let (wanted, met) = match expect {
        Expect::AtMost(limit) => (format!("at most {limit}"), value <= *limit),
        Expect::AtLeast(limit) => (format!("at least {limit}"), value >= *limit),
    };
    println!("{what:<42}{value:>9.2}   {wanted}{}", if met { "" } else { "   NOT MET" });
}

/// Resident memory of the daemon.
fn rss_mib(node: &Node) -> Result<f64> {
    let pid = node.daemon_pid().unwrap_or_default();
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok()
    });
    Ok(kib.unwrap_or(f64::NAN) / 1024.0)
}

/// The middle of some measurements.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
