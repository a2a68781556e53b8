//! Runs other programs for a person who watches: says what, passes their output on, counts tests.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The cargo that runs us, in the repository. The build script finds bpf-linker in the cache by
/// itself, so that PATH, which is part of what it depends on, stays as it is.
pub fn cargo(words: &str) -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words.split_whitespace()).current_dir(crate::paths::root());
    // Set by the outer `cargo run` for this package; the inner cargo must not see them.
    for (name, _) in std::env::vars() {
        let own = name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        if own || name == "CARGO_BIN_NAME" || name == "CARGO_CRATE_NAME" {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs it with our own output; wants exit code 0.
pub fn run(mut command: Command) -> Result<()> {
    let line = line(&command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs something long whose output nobody wants to read unless it fails: prints `what` and, each
/// five seconds, the time and the last line. The whole output goes to `log`.
pub fn run_quietly(what: &str, mut command: Command, log: &Path) -> Result<()> {
    let line = line(&command);
    println!("{what} …");
    let start = Instant::now();
    let mut lines = spawn_lines(&mut command)?;
    let mut text = String::new();
    let mut last = Instant::now();
    let status = loop {
        match lines.next(Duration::from_secs(1)) {
            Next::Line(one) => {
                text.push_str(&one);
                text.push('\n');
            }
            Next::Silence => {}
            Next::End(status) => break status,
        }
        if last.elapsed() > Duration::from_secs(5) {
            last = Instant::now();
            let tail = text.lines().last().unwrap_or_default().trim();
            println!("  {:>3} s  {}", start.elapsed().as_secs(), short(tail));
        }
    };
    std::fs::write(log, &text)?;
    if !status?.success() {
        let tail = longshore_tests::containerd::tail(&text, 30);
        bail!("`{line}` failed; all of its output is in {}:\n{tail}", log.display());
    }
    println!("  done in {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a test program, passes each line on and gives all of them with whether it ended with 0.
pub fn run_counted(mut command: Command) -> Result<(bool, String)> {
    let mut lines = spawn_lines(&mut command)?;
    let mut text = String::new();
    loop {
        match lines.next(Duration::from_secs(1)) {
            Next::Line(one) => {
                println!("{one}");
                text.push_str(&one);
                text.push('\n');
            }
            Next::Silence => {}
            Next::End(status) => return Ok((status?.success(), text)),
        }
    }
}

/// The command as a person would type it, without the environment.
pub fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(name, |line, arg| format!("{line} {}", arg.to_string_lossy()))
}

fn short(text: &str) -> String {
    text.chars().take(90).collect()
}

enum Next {
    Line(String),
    Silence,
    End(std::io::Result<std::process::ExitStatus>),
}

struct Lines {
    lines: mpsc::Receiver<String>,
    child: std::process::Child,
}

impl Lines {
    fn next(&mut self, limit: Duration) -> Next {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Next::Line(line),
            Err(mpsc::RecvTimeoutError::Timeout) => Next::Silence,
            Err(mpsc::RecvTimeoutError::Disconnected) => Next::End(self.child.wait()),
        }
    }
}

/// Both outputs as one stream of lines, in the order in which they come.
fn spawn_lines(command: &mut Command) -> Result<Lines> {
    let shown = line(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let (sender, lines) = mpsc::channel();
    let pipes: [Option<Box<dyn std::io::Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as _),
        child.stderr.take().map(|pipe| Box::new(pipe) as _),
    ];
    for pipe in pipes.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(pipe);
            let mut bytes = Vec::new();
            while reader.read_until(b'\n', &mut bytes).is_ok_and(|length| length > 0) {
                let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                bytes.clear();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
    }
    Ok(Lines { lines, child })
}
