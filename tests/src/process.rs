//! Runs programs: one that ends ([`Run`]) and one that stays ([`Child`]).

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeReader, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pid::Identity;

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// `None`: ended by a signal.
    pub code: Option<i32>,
    /// Standard output and then standard error.
    pub text: String,
    pub stdout: String,
}

impl Output {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// A command line that is run to its end, with a limit.
pub struct Run {
    command: Command,
    line: String,
    limit: Duration,
    record: Option<PathBuf>,
}

impl Run {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let line = program.as_ref().to_string_lossy().into_owned();
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self { command, line, limit: Duration::from_secs(60), record: None }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.line.push(' ');
        self.line.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Splits at spaces: for fixed command lines.
    pub fn words(self, words: &str) -> Self {
        self.args(words.split_whitespace())
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub fn limit_s(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Text on its standard input.
    ///
    /// # Errors
    /// No temporary file can be made.
    pub fn input(mut self, text: &str) -> Result<Self> {
        let mut file = tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        self.command.stdin(file);
        Ok(self)
    }

    /// Our own terminal, and its exit code: for a person's command.
    pub fn interactive(mut self) -> Result<Option<i32>> {
        self.command.stdin(Stdio::inherit());
        let status =
            self.command.status().with_context(|| format!("cannot start `{}`", self.line))?;
        Ok(status.code())
    }

    /// A process group of its own: ^C in the terminal is not for it.
    pub fn own_group(mut self) -> Self {
        self.command.process_group(0);
        self
    }

    /// What [`Run::start`] starts is written down in that file, for whoever cleans up after this
    /// program was killed: [`Identity::recorded`] reads it.
    pub fn recorded(mut self, file: PathBuf) -> Self {
        self.record = Some(file);
        self
    }

    /// The command line as a person would type it.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Runs it; any exit code is an answer.
    ///
    /// # Errors
    /// The program is missing, or it ran longer than the limit (it is killed then).
    pub fn output(mut self) -> Result<Output> {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            self.command.spawn().with_context(|| format!("cannot start `{}`", self.line))?;
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let deadline = Instant::now() + self.limit;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("`{}` did not end in {} s", self.line, self.limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let (stdout, stderr) = (join(stdout), join(stderr));
        Ok(Output { code: status.code(), text: format!("{stdout}{stderr}"), stdout })
    }

    /// Runs it and wants exit code 0; gives its standard output.
    ///
    /// # Errors
    /// As [`Run::output`], or another exit code: the error holds what it printed.
    pub fn check(self) -> Result<String> {
        let line = self.line.clone();
        let output = self.output()?;
        if !output.ok() {
            bail!("`{line}` failed ({:?}):\n{}", output.code, output.text.trim_end());
        }
        Ok(output.stdout)
    }

    /// Starts it and leaves it running; both outputs are appended to `log`.
    ///
    /// # Errors
    /// The program is missing or the log cannot be written.
    pub fn start(mut self, log: &Path) -> Result<Child> {
        let file = File::options().create(true).append(true).open(log)?;
        self.command.stdout(file.try_clone()?);
        self.spawn(file, log)
    }

    /// As [`Run::start`], with its standard output to read: for who wants a line when it is written.
    pub fn start_piped(mut self, log: &Path) -> Result<(Child, PipeReader)> {
        let (reader, writer) = std::io::pipe()?;
        self.command.stdout(writer);
        let file = File::options().create(true).append(true).open(log)?;
        Ok((self.spawn(file, log)?, reader))
    }

    fn spawn(mut self, stderr: File, log: &Path) -> Result<Child> {
        let child = self
            .command
            .stderr(stderr)
            .spawn()
            .with_context(|| format!("cannot start `{}`", self.line))?;
        let pid = child.id().cast_signed();
        // Not reaped before the first look at it, so that it still has a number here.
        let identity = Identity::of(pid).with_context(|| format!("`{}` is gone", self.line))?;
        let child =
            Child { identity, own: Some(child), keep: false, log: log.to_owned(), line: self.line };
        if let Some(record) = &self.record {
            // Not written down, it must not stay: dropping the child ends it.
            identity
                .record(record)
                .with_context(|| format!("cannot write {}", record.display()))?;
        }
        Ok(child)
    }
}

/// A file without a name.
fn tempfile() -> Result<File> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("longshore-{}-{number}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

type Reader = Option<std::thread::JoinHandle<String>>;

fn drain(pipe: Option<impl Read + Send + 'static>) -> Reader {
    let mut pipe = pipe?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe is the program's end.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }))
}

fn join(reader: Reader) -> String {
    reader.and_then(|thread| thread.join().ok()).unwrap_or_default()
}

/// A running program. Dropping it kills it, unless kept: a test that fails leaves nothing behind.
pub struct Child {
    identity: Identity,
    /// `None`: another program started it, and only it learns the exit code.
    own: Option<std::process::Child>,
    keep: bool,
    log: PathBuf,
    line: String,
}

impl Child {
    /// One that an earlier program started and kept. It is never confused with another process
    /// that has got its number since.
    pub fn attach(identity: Identity, log: &Path, line: &str) -> Self {
        Self { identity, own: None, keep: false, log: log.to_owned(), line: line.to_owned() }
    }

    /// It goes on when this value is dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    pub fn kept(&self) -> bool {
        self.keep
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn pid(&self) -> i32 {
        self.identity.pid
    }

    pub fn line(&self) -> &str {
        &self.line
    }

    /// Everything printed so far (and by earlier programs with the same log).
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `None` while it runs. `Some(None)`: ended by a signal, or somebody else's to ask.
    pub fn exited(&mut self) -> Result<Option<Option<i32>>> {
        match &mut self.own {
            Some(child) => Ok(child.try_wait()?.map(|status| status.code())),
            None => Ok((!self.identity.alive()).then_some(None)),
        }
    }

    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.identity.signal(signal) {
            bail!("`{}` has ended", self.line);
        }
        Ok(())
    }

    /// Waits for the end; gives the exit code.
    ///
    /// # Errors
    /// It still runs after `limit_s`.
    pub fn wait(&mut self, limit_s: u64) -> Result<Option<i32>> {
        let line = self.line.clone();
        let mut code = None;
        wait_for(&format!("the end of `{line}`"), limit_s, || {
            code = self.exited()?;
            Ok(code.is_some())
        })?;
        Ok(code.flatten())
    }

    /// SIGTERM, and SIGKILL when that does not help within `grace_s`.
    pub fn stop(&mut self, grace_s: u64) -> Result<Option<i32>> {
        if let Some(code) = self.exited()? {
            return Ok(code);
        }
        // It may end between the question and the signal: then waiting is enough.
        self.identity.signal(Signal::SIGTERM);
        if let Ok(code) = self.wait(grace_s) {
            return Ok(code);
        }
        self.kill9()?;
        bail!("`{}` did not end {grace_s} s after SIGTERM: killed", self.line)
    }

    /// `kill -9` and the reaping of it.
    pub fn kill9(&mut self) -> Result<()> {
        match &mut self.own {
            Some(child) => {
                child.kill()?;
                child.wait()?;
                Ok(())
            }
            None => {
                self.identity.signal(Signal::SIGKILL);
                self.wait(10).map(drop)
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.kill9();
        }
    }
}

/// Asks every 20 ms until `ready` says so.
///
/// # Errors
/// It never did, or asking failed.
pub fn wait_for(what: &str, limit_s: u64, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(limit_s);
    while !ready()? {
        if Instant::now() > deadline {
            bail!("waited {limit_s} s for {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The processes whose command line `wanted` accepts: pid and arguments joined by spaces.
pub fn processes(wanted: impl Fn(&str) -> bool) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ended meanwhile, and kernel threads, have none.
        let Ok(bytes) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&bytes).replace('\0', " ").trim_end().to_owned();
        if !line.is_empty() && wanted(&line) {
            found.push((pid, line));
        }
    }
    found.sort_unstable();
    found
}

/// SIGKILL to each; one that is gone already is fine.
pub fn kill_all(pids: impl IntoIterator<Item = i32>) {
    for pid in pids {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::Run;

    #[test]
    fn a_program_that_hangs_is_an_error_with_its_line() {
        let error = Run::new("sleep").arg("30").limit_s(0).output().unwrap_err();
        assert!(error.to_string().contains("sleep 30"), "{error}");
    }

    #[test]
    fn a_failing_program_shows_what_it_printed() {
        let error = Run::new("sh").args(["-c", "echo why >&2; exit 3"]).check().unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }
}
