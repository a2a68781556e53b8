//! Processes told apart: a number alone may belong to somebody else tomorrow.

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
    fn a_process_that_nobody_reaped_is_not_alive() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = Identity::of(child.id().cast_signed()).unwrap();
        crate::process::wait_for("its end", 10, || Ok(!identity.alive())).unwrap();
        child.wait().unwrap();
        assert!(!identity.alive());
    }
}
