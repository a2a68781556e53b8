//! Processes told apart: a number alone may belong to somebody else tomorrow.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process: its number, and when it started, which no later owner of the number shares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks since boot (proc(5), `starttime`).
    pub start: u64,
}

impl Identity {
    /// `None`: there is no such process any more.
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start) = read(pid)?;
        Some(Self { pid, start })
    }

    /// Adds it to the file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(self, file: &Path) -> std::io::Result<()> {
        let mut file = File::options().create(true).append(true).open(file)?;
        file.write_all(format!("{} {} {}\n", boot_id(), self.pid, self.start).as_bytes())
    }

    /// What [`Identity::record`] has written since this machine started; most have ended.
    pub fn recorded(file: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let boot = boot_id();
        let parse = |line: &str| {
            let (pid, start) = line.strip_prefix(&boot)?.trim().split_once(' ')?;
            Some(Self { pid: pid.parse().ok()?, start: start.parse().ok()? })
        };
        text.lines().filter_map(parse).collect()
    }

    /// False once it has ended, also while nobody has reaped it.
    pub fn alive(self) -> bool {
        read(self.pid).is_some_and(|(state, start)| start == self.start && state != 'Z')
    }

    /// Sends nothing to a process that only has the same number. True: it was sent.
    pub fn signal(self, signal: Signal) -> bool {
        self.alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// State letter and start time.
fn read(pid: i32) -> Option<(char, u64)> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in parentheses may itself hold spaces and parentheses.
fn parse(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    Some((state, words.nth(18)?.parse().ok()?))
}

/// Numbers and start times mean nothing after a reboot.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3";
        assert_eq!(parse(stat), Some(('S', 98765)));
        assert_eq!(parse("42 (x) S 1"), None);
    }

    #[test]
    fn the_same_number_with_another_start_is_another_process() {
        let own = Identity::of(std::process::id().cast_signed()).unwrap();
        assert!(own.alive());
        let other = Identity { start: own.start + 1, ..own };
        assert!(!other.alive());
        assert!(!other.signal(Signal::SIGKILL), "this test would have ended here");
    }

    #[test]
    fn what_is_written_down_is_read_back_and_nothing_of_another_boot() {
        let file = std::env::temp_dir().join(format!("longshore-record-{}", std::process::id()));
        let all = [Identity { pid: 7, start: 70 }, Identity { pid: 8, start: 80 }];
        all.iter().for_each(|one| one.record(&file).unwrap());
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str("another-boot 9 90\n");
        std::fs::write(&file, text).unwrap();
        assert_eq!(Identity::recorded(&file), all);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Identity::recorded(&file), []);
    }

    #[test]
    fn a_process_that_nobody_reaped_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = Identity::of(child.id().cast_signed()).unwrap();
        crate::process::wait_for("its end", 10, || Ok(!identity.alive())).unwrap();
        child.wait().unwrap();
        assert!(!identity.alive());
    }
}
