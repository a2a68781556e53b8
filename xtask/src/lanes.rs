//! `make test`: the lanes one after the other, a table at the end, and one plain closing line.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use longshore_tests::cluster::{Cluster, ClusterOptions};
use longshore_tests::lab::Lab;

use crate::{build, demo, images, lab, lint, setup, sh};

/// Tests that a lane ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    pub passed: u32,
    pub failed: u32,
}

/// What of a lane runs.
#[derive(Clone, Copy, Default)]
pub struct Choice<'a> {
    /// Only tests whose name contains it.
    pub filter: Option<&'a str>,
    /// The containerd of that release of Debian instead of the machine's own.
    pub containerd: Option<&'a str>,
}

/// A lane: its name, and how it runs.
struct Lane {
    name: &'static str,
    run: fn(Choice<'_>) -> Result<Count>,
}

/// In the order in which a mistake is found soonest.
const LANES: [Lane; 8] = [
    Lane { name: "lint", run: |_| step(lint::all()) },
    Lane {
        name: "tidy",
        run: |_| {
            // The tests' library is built beside the daemon's.
            setup::linker::ensure()?;
            cargo_test(
                "test --quiet --locked --package xtask --package longshore-tests --lib --bins",
                None,
                &[],
            )
        },
    },
    Lane { name: "unit", run: |_| unit() },
    Lane { name: "bpf", run: |choice| rooted("bpf", choice.filter) },
    Lane { name: "netns", run: |choice| rooted("netns", choice.filter) },
    Lane {
        name: "e2e",
        run: |choice| {
            let runtime = match choice.containerd {
                Some(release) => setup::runtime::ensure_one(release)?,
                None => setup::runtime::ensure()?,
            };
            e2e(&runtime, choice.filter)
        },
    },
    Lane { name: "cluster", run: |choice| cluster(choice.filter) },
    Lane {
        name: "demo",
        run: |_| {
            step(
                demo::run(false)
                    .and_then(|passed| if passed { Ok(()) } else { bail!("the demo failed") }),
            )
        },
    },
];

/// A lane's line in the table.
pub struct Line {
    pub name: String,
    pub seconds: u64,
    pub count: Count,
}

/// Runs all lanes, or the named ones. True: nothing failed.
///
/// # Errors
/// A lane that does not exist.
pub fn run(names: &[String], choice: Choice<'_>) -> Result<bool> {
    if let Some(unknown) = names.iter().find(|name| !LANES.iter().any(|lane| lane.name == **name)) {
        let known: Vec<&str> = LANES.iter().map(|lane| lane.name).collect();
        bail!("there is no lane {unknown}; lanes are {}", known.join(", "));
    }
    let wanted = |lane: &&Lane| names.is_empty() || names.iter().any(|name| name == lane.name);
    let mut lines = Vec::new();
    for lane in LANES.iter().filter(wanted) {
        println!("\n=== {}", lane.name);
        lines.push(timed(lane.name, || (lane.run)(choice)));
    }
    print_table(&lines);
    Ok(close(&lines))
}

/// Runs one part; an error is a failure of it and is printed.
pub fn timed(name: &str, part: impl FnOnce() -> Result<Count>) -> Line {
    let start = Instant::now();
    let count = part().unwrap_or_else(|error| {
        println!("{name}: error: {error:#}");
        Count { passed: 0, failed: 1 }
    });
    Line { name: name.to_owned(), seconds: seconds(start.elapsed()), count }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs_f64().round() as u64
}

/// Lane, seconds, result.
pub fn print_table(lines: &[Line]) {
    println!("\n{:<14}{:>8}   result", "lane", "seconds");
    for line in lines {
        let Count { passed, failed } = line.count;
        let result = if failed == 0 { "ok" } else { "FAILED" };
        println!(
            "{:<14}{:>8}   {result} ({passed} of {})",
            line.name,
            line.seconds,
            passed + failed
        );
    }
    println!("{:<14}{:>8}\n", "all", lines.iter().map(|line| line.seconds).sum::<u64>());
}

/// The line that any reader of test output understands.
pub fn close(lines: &[Line]) -> bool {
    let passed: u32 = lines.iter().map(|line| line.count.passed).sum();
    let failed: u32 = lines.iter().map(|line| line.count.failed).sum();
    println!("{passed} passed, {failed} failed");
    failed == 0
}

/// Something that passes or fails as a whole.
pub fn step(result: Result<()>) -> Result<Count> {
    result.map(|()| Count { passed: 1, failed: 0 })
}

/// The packages' own tests: no node and no network. Those of cgroups and volumes work on the machine's
/// kernel, and that needs root.
fn unit() -> Result<Count> {
    setup::linker::ensure()?;
    let packages = [
        "longshore-core",
        "longshore-abi",
        "longshore-packet",
        "longshore-proto",
        "longshore-cni",
        "longshore-workload",
        "longshore",
    ];
    let line = packages.iter().fold("test --quiet --locked --tests".to_owned(), |line, package| {
        format!("{line} --package {package}")
    });
    cargo_test(&line, None, &[])
}

/// A test target of the `tests` package that needs root.
fn rooted(target: &str, filter: Option<&str>) -> Result<Count> {
    setup::for_nodes()?;
    setup::linker::ensure()?;
    cargo_test(
        &format!("test --quiet --locked --package longshore-tests --test {target}"),
        filter,
        &[],
    )
}

/// The suite against one containerd.
pub fn e2e(runtime: &longshore_tests::containerd::Runtime, filter: Option<&str>) -> Result<Count> {
    setup::for_nodes()?;
    println!("containerd {}", runtime.version);
    let lab: Lab = images::lab(&build::quick()?, runtime.clone(), "lse")?;
    cargo_test(
        "test --quiet --locked --package longshore-tests --features cri --test e2e",
        filter,
        &lab.to_env(),
    )
}

/// The node role with a real control plane. Tests that need nothing of their own share a cluster,
/// which stays for the next one; it is ended here, and whatever else is still up is a failure.
fn cluster(filter: Option<&str>) -> Result<Count> {
    let options = lab::for_tests(&build::quick()?)?;
    println!("containerd {}", options.lab.runtime.version);
    let mut env = options.lab.to_env();
    env.extend(options.parts.to_env());
    let count =
        cargo_test("test --quiet --locked --package longshore-tests --test cluster", filter, &env);
    let left = end_clusters(&options);
    let mut count = count?;
    if let Err(error) = left {
        println!("after the tests: {error:#}");
        count.failed += 1;
    }
    Ok(count)
}

/// Ends the clusters that the tests left; wants only the shared one, and nothing left of it.
fn end_clusters(options: &ClusterOptions) -> Result<()> {
    let shared = options.dir();
    let prefix = format!("{}-", options.lab.prefix);
    let mut unexpected = Vec::new();
    for entry in std::fs::read_dir(&options.lab.dir)?.flatten() {
        let dir = entry.path();
        let own = entry.file_name().to_string_lossy().starts_with(&prefix);
        // Without it, it is the logs of one that failed.
        if own && dir.join("state").exists() {
            Cluster::attach(&dir)?.down()?;
            if dir != shared {
                unexpected.push(dir.display().to_string());
            }
        }
    }
    if !unexpected.is_empty() {
        bail!("a test left its cluster up: {}", unexpected.join(", "));
    }
    Ok(())
}

fn cargo_test(words: &str, filter: Option<&str>, env: &[(&str, String)]) -> Result<Count> {
    let mut command = sh::cargo(words)?;
    command.envs(env.iter().map(|(name, value)| (name, value)));
    command.arg("--no-fail-fast").arg("--").args(filter);
    let (ok, text) = sh::run_counted(command)?;
    let mut count = count(&text);
    if !ok && count.failed == 0 {
        // It did not compile, or it died before it could count.
        count.failed = 1;
    }
    if ok && count.passed == 0 {
        bail!("no test ran");
    }
    Ok(count)
}

/// Sums `test result: ok. 4 passed; 0 failed; …` lines.
fn count(text: &str) -> Count {
    let mut sum = Count::default();
    for line in text.lines().filter(|line| line.contains("test result:")) {
        let number = |what: &str| {
            let words: Vec<&str> =
                line.split([' ', ';', '.']).filter(|word| !word.is_empty()).collect();
            let at = words.iter().position(|word| *word == what)?;
            words.get(at.checked_sub(1)?)?.parse::<u32>().ok()
        };
        sum.passed += number("passed").unwrap_or(0);
        sum.failed += number("failed").unwrap_or(0);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_programs() {
        let text = "running 4 tests\ntest result: ok. 4 passed; 0 failed; 0 ignored; finished in 0.01s\n\
            x\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(count(text), Count { passed: 6, failed: 1 });
        assert_eq!(count("nothing"), Count::default());
    }
}
