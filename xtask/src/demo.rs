//! `make demo`: what a user would try, shown with each command and its real output, and checked.
//!
//! Everything lives in two network namespaces, one cgroup and one directory; all of it goes away at
//! the end.

use std::time::{Duration, Instant};

use anyhow::Result;
use longshore_tests::leak::Snapshot;
use longshore_tests::node::Node;
use longshore_tests::process::{Output, Run, wait_for};

use crate::{build, images, paths, setup};

/// Of deploy/demo: the Service's address stands in its manifest.
const SERVICE: &str = "web";
const DOWNLOAD_BYTES: u64 = 6_000_000;
const DOWNLOAD_RATE: u64 = 2_000_000;

/// Runs it; false: a step showed something else than promised.
pub fn run(keep: bool) -> Result<bool> {
    let start = Instant::now();
    let runtime = setup::for_nodes()?;
    println!("building longshore (minutes the first time) …");
    let longshore = build::quick()?;
    let lab = images::lab(&longshore, runtime, "ls")?;
    println!(
        "ready after {:.1} s: containerd {}\n",
        start.elapsed().as_secs_f64(),
        lab.runtime.version
    );
    let mut node = Node::new(&lab, "demo")?;
    println!("$NODE is {}", node.dir().display());
    println!(
        "longshore runs inside the network namespace {0}: nsenter --net=/run/netns/{0} longshore …",
        node.name()
    );
    let mut demo = Demo::default();
    if let Err(error) = demo.all(&mut node, keep) {
        println!("\nerror: {error:#}");
        demo.failed += 1;
    }
    if demo.failed > 0 {
        println!("\n{}", node.report());
    }
    if keep {
        node.keep();
        say_how_to_reach(&node);
    }
    drop(node);
    println!(
        "\n{} steps, {} failed, {:.1} s",
        demo.step,
        demo.failed,
        start.elapsed().as_secs_f64()
    );
    Ok(demo.failed == 0)
}

/// Counts what was shown and what was not as promised.
#[derive(Default)]
struct Demo {
    step: u32,
    failed: u32,
    /// With the daemon running and no manifest.
    before: Snapshot,
}

impl Demo {
    fn all(&mut self, node: &mut Node, keep: bool) -> Result<()> {
        self.start(node)?;
        self.service(node)?;
        self.policy(node)?;
        self.kill(node)?;
        if keep { Ok(()) } else { self.remove(node) }
    }

    fn title(&mut self, text: &str) {
        self.step += 1;
        println!("\n{}. {text}", self.step);
    }

    /// Prints the outcome of a promise.
    fn expect(&mut self, promise: &str, kept: bool) {
        if kept {
            println!("   ok: {promise}");
        } else {
            println!("   NOT AS PROMISED: {promise}");
            self.failed += 1;
        }
    }

    fn start(&mut self, node: &mut Node) -> Result<()> {
        self.title("The daemon, and a directory of manifests");
        println!("   $ {}", shorten(node, node.daemon_run().line()));
        node.start_daemon()?;
        self.before = Snapshot::take(node)?;
        for entry in sorted(&paths::root().join("deploy/demo"))? {
            println!(
                "   $ cp deploy/demo/{} {}",
                name(&entry),
                shorten(node, &node.manifests_dir().display().to_string())
            );
            node.write(&name(&entry), &std::fs::read_to_string(&entry)?)?;
        }
        let start = Instant::now();
        let ctr = node.ctr();
        let up = wait_for("four running containers", 30, || {
            Ok(ctr.containers()?.iter().filter(|one| one.pid.is_some()).count() == 4)
        });
        println!("   {:.1} s later:", start.elapsed().as_secs_f64());
        self.expect("four pods run", up.is_ok());
        let status = shown(node, node.longshore("status"))?;
        self.expect("status answers", status.code.is_some_and(|code| code < 2));
        up
    }

    fn service(&mut self, node: &Node) -> Result<()> {
        self.title("The Service answers from both pods");
        let url = format!("get http://{SERVICE}/ --timeout 2 --count 24 --interval 10");
        let ready = wait_for("both web pods to be ready", 20, || {
            Ok(node.status()?.stdout.lines().any(|l| l.contains(SERVICE) && l.ends_with("2/2")))
        });
        if let Err(error) = ready {
            println!("   {error:#}");
        }
        let output = shown(node, node.exec_run("demo", "client", &url)?)?;
        let pods: std::collections::BTreeSet<&str> =
            output.stdout.lines().filter(|line| line.starts_with("web-")).collect();
        self.expect("24 of 24 requests were answered", output.ok());
        self.expect("by two pods", pods.len() == 2);
        Ok(())
    }

    fn policy(&mut self, node: &Node) -> Result<()> {
        self.title("The NetworkPolicy lets the client in, and not the stranger");
        let command = format!("get http://{SERVICE}/ --timeout 2");
        let output = shown(node, node.exec_run("demo", "stranger", &command)?)?;
        self.expect("the stranger times out", !output.ok() && output.text.contains("timed out"));
        let explain = "explain flow --from demo/stranger --to demo/web:80";
        let output = shown(node, node.longshore(explain))?;
        self.expect(
            "`explain` names the policy that denied it",
            output.text.contains("web-only-from-clients"),
        );
        let explain = "explain flow --from demo/client --to demo/web:80";
        let output = shown(node, node.longshore(explain))?;
        self.expect(
            "and says that the client is allowed",
            output.ok() && output.text.to_lowercase().contains("allow"),
        );
        Ok(())
    }

    fn kill(&mut self, node: &mut Node) -> Result<()> {
        self.title("kill -9 of the daemon while a download through the Service runs");
        let before = running(node)?;
        let url =
            format!("get http://{SERVICE}/bytes/{DOWNLOAD_BYTES}?rate={DOWNLOAD_RATE} --timeout 5");
        let run = node.exec_run("demo", "client", &url)?;
        println!("   $ {} &", shorten(node, run.line()));
        let log = node.dir().join("download.log");
        let mut download = run.start(&log)?;
        std::thread::sleep(Duration::from_millis(700));
        println!("   $ kill -9 {}", node.daemon_pid().unwrap_or_default());
        node.kill9()?;
        let output = shown(
            node,
            node.exec_run("demo", "client", &format!("get http://{SERVICE}/ --timeout 2"))?,
        )?;
        self.expect("a new connection works while no daemon runs", output.ok());
        let output = shown(
            node,
            node.exec_run("demo", "stranger", &format!("get http://{SERVICE}/ --timeout 1"))?,
        )?;
        self.expect("and the stranger stays out", !output.ok());
        println!("   $ longshore standalone … (again)");
        node.start_daemon()?;
        let code = download.wait(20)?;
        print!("{}", indent(&download.log()));
        self.expect("the download lost no byte", code == Some(0));
        self.expect("the same containers run", running(node)? == before);
        let status = shown(node, node.longshore("status"))?;
        self.expect("status answers", status.code.is_some_and(|code| code < 2));
        Ok(())
    }

    fn remove(&mut self, node: &mut Node) -> Result<()> {
        self.title("Removing the manifests leaves nothing behind");
        println!("   $ rm {}/*", shorten(node, &node.manifests_dir().display().to_string()));
        node.remove_all()?;
        let start = Instant::now();
        let ctr = node.ctr();
        wait_for("the pods to be gone", 30, || {
            Ok(ctr.run().args(["containers", "ls", "-q"]).check()?.trim().is_empty())
        })?;
        let mut left = Vec::new();
        let clean = wait_for("nothing to be left", 10, || {
            left = self.before.differences(&Snapshot::take(node)?);
            Ok(left.is_empty())
        });
        println!("   {:.1} s later:", start.elapsed().as_secs_f64());
        for line in &left {
            println!("   {line}");
        }
        self.expect(
            "no interface, mount, cgroup, process, file or map entry is left",
            clean.is_ok(),
        );
        Ok(())
    }
}

/// Prints a command and its output; any exit code is shown.
fn shown(node: &Node, run: Run) -> Result<Output> {
    println!("   $ {}", shorten(node, run.line()));
    let output = run.output()?;
    print!("{}", indent(&output.text));
    if let Some(code @ 1..) = output.code {
        println!("   (exit code {code})");
    }
    Ok(output)
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}

/// Long paths that say nothing become `$NODE`; entering the namespace was said at the start.
fn shorten(node: &Node, line: &str) -> String {
    let line = line.replace(&node.dir().display().to_string(), "$NODE");
    let line = line.replace(&format!("nsenter --net=/run/netns/{} ", node.name()), "");
    let words: Vec<String> = line
        .split(' ')
        .map(|word| match word.rsplit_once('/') {
            Some((_, name)) if matches!(name, "longshore" | "ctr" | "longshore-workload") => {
                name.to_owned()
            }
            _ if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                word[..12].to_owned()
            }
            _ => word.to_owned(),
        })
        .collect();
    words.join(" ")
}

/// Running containers: id and pid. Equal before and after: nothing was restarted.
fn running(node: &Node) -> Result<std::collections::BTreeMap<String, i32>> {
    node.ctr().tasks()
}

fn sorted(dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found: Vec<_> = std::fs::read_dir(dir)?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    found.sort();
    Ok(found)
}

fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn say_how_to_reach(node: &Node) {
    println!("\nEverything is still running. In another terminal:");
    println!("  edit the manifests      {}", node.manifests_dir().display());
    println!("  the daemon's view       {}", node.longshore("status").line());
    println!("  the runtime's view      {}", node.ctr().run().arg("containers").arg("ls").line());
    println!("  a shell on the node     nsenter --net={}", node.netns().path().display());
    println!("The next `make demo` removes it first.");
}
