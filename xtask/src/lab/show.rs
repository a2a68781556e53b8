//! Questions to a running lab, and commands inside it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use longshore_tests::cluster::{Cluster, ClusterNode};
use longshore_tests::netns::Netns;
use longshore_tests::process::Run;

pub fn kubectl(cluster: &Cluster, args: &[String]) -> Result<bool> {
    Ok(cluster.kubectl(args).interactive()? == Some(0))
}

/// In the node's namespaces, with kubectl, crictl, ctr and the daemon in PATH.
pub fn exec(cluster: &Cluster, node: &str, command: &[String]) -> Result<bool> {
    let own = cluster.nodes().iter().find(|one| one.name() == node);
    let netns = match own {
        Some(node) => node.netns(),
        None if node == "cp" => cluster.control_plane(),
        None => bail!("there is no {node}; there are cp and n1 to n{}", cluster.nodes().len()),
    };
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let run = enter(netns, own, cluster);
    let run = match command.split_first() {
        Some((program, args)) => run.arg(program).args(args),
        None => run.arg(shell),
    };
    Ok(run.interactive()? == Some(0))
}

fn enter(netns: &Netns, node: Option<&ClusterNode>, cluster: &Cluster) -> Run {
    let options = cluster.options();
    let parent = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
    let dirs = [
        options.parts.kubernetes.clone(),
        options.parts.cri_tools.clone(),
        options.lab.runtime.bin_dir.clone(),
        parent(&options.lab.longshore),
        parent(&options.lab.workload),
    ];
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    let path = format!("{}:{}", dirs.join(":"), std::env::var("PATH").unwrap_or_default());
    let run = Run::new("nsenter")
        .args(netns.enter())
        .arg("--")
        .env("PATH", path)
        .env("KUBECONFIG", cluster.dir().join("kubeconfig/admin"));
    match node {
        Some(node) => run
            .env("CONTAINER_RUNTIME_ENDPOINT", node.containerd().endpoint())
            .env("IMAGE_SERVICE_ENDPOINT", node.containerd().endpoint())
            .env("CONTAINERD_ADDRESS", node.containerd().socket())
            .env("CONTAINERD_NAMESPACE", "k8s.io"),
        None => run,
    }
}

pub fn logs(cluster: &Cluster, log: Option<&str>, follow: bool, lines: u32) -> Result<bool> {
    let logs = cluster.logs();
    let Some(wanted) = log else {
        for (name, path) in logs {
            println!("{name:<26} {}", path.display());
        }
        return Ok(true);
    };
    // `n1/agent` is what `status` calls it.
    let wanted = wanted.replace('/', "-");
    let (_, path) = logs
        .iter()
        .find(|(name, _)| *name == wanted)
        .with_context(|| format!("no log {wanted}; `cargo xtask lab logs` names them"))?;
    let mut run = Run::new("tail").arg(format!("--lines={lines}"));
    if follow {
        run = run.arg("--follow");
    }
    Ok(run.arg(path).interactive()? == Some(0))
}

/// False: a process has ended.
pub fn status(cluster: &Cluster) -> Result<bool> {
    let options = cluster.options();
    println!(
        "{}: {} nodes, agent {}, kube-proxy {}, containerd {}\n{}\n",
        options.full_name(),
        options.nodes,
        options.agent,
        options.proxy,
        options.lab.runtime.version,
        cluster.dir().display()
    );
    let processes = cluster.processes();
    for (role, pid, alive) in &processes {
        println!("{role:<26} {:>8} {}", pid, if *alive { "runs" } else { "HAS ENDED" });
    }
    println!();
    let shown = cluster.kubectl(["get", "nodes", "-o", "wide"]).interactive()?;
    Ok(shown == Some(0) && processes.iter().all(|(.., alive)| *alive))
}

pub fn how_to_reach(cluster: &Cluster, name: &str) {
    let name = if name == "lab" { String::new() } else { format!(" --name {name}") };
    println!("\nIts files are in {}", cluster.dir().display());
    for (what, command) in [
        ("kubectl", format!("kubectl{name} get nodes")),
        ("a shell on a node", format!("exec{name} n1")),
        ("a command on a node", format!("exec{name} n1 crictl ps")),
        ("logs", format!("logs{name} n1/agent")),
        ("processes", format!("status{}", name)),
        ("the end of it", format!("down{name}")),
    ] {
        println!("  {what:<20} cargo xtask lab {command}");
    }
}
