//! Named places where a test can make the daemon die, to prove that it may die anywhere (F01–F03).
//!
//! Off unless the environment says otherwise, and then one relaxed load per place. Deliberately
//! absent: returning errors; the fakes of the tests do that.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `name:N`: SIGKILL at the N-th hit of `name`.
pub const ENV_KILL: &str = "LONGSHORE_FAILPOINT";
/// File that gets each name once, at its first hit.
pub const ENV_LOG: &str = "LONGSHORE_FAILPOINT_LOG";

const UNKNOWN: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;
static STATE: AtomicU8 = AtomicU8::new(UNKNOWN);

struct Plan {
    kill: Option<(String, u64)>,
    log: Option<std::fs::File>,
    hits: BTreeMap<&'static str, u64>,
}

static PLAN: OnceLock<Mutex<Plan>> = OnceLock::new();

/// Passes through the place `name` (`pod.run_sandbox.before`).
#[inline]
pub fn hit(name: &'static str) {
    if STATE.load(Ordering::Relaxed) != OFF {
        hit_slow(name);
    }
}

/// Passes through a place before `call`, and through one after it.
pub async fn around<T>(
    (before, after): (&'static str, &'static str),
    call: impl Future<Output = T>,
) -> T {
    hit(before);
    let answer = call.await;
    hit(after);
    answer
}

#[cold]
fn hit_slow(name: &'static str) {
    let plan = PLAN.get_or_init(|| Mutex::new(from_env()));
    let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
    if plan.kill.is_none() && plan.log.is_none() {
        STATE.store(OFF, Ordering::Relaxed);
        return;
    }
    STATE.store(ON, Ordering::Relaxed);
    let count = plan.hits.entry(name).or_default();
    *count += 1;
    let count = *count;
    if count == 1
        && let Some(log) = &mut plan.log
    {
        // A test without its log says so itself; the daemon goes on.
        drop(writeln!(log, "{name}"));
    }
    if plan.kill.as_ref().is_some_and(|(wanted, at)| wanted == name && *at == count) {
        // SIGKILL, not abort: nothing of ours may run after this point.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

fn from_env() -> Plan {
    let kill = std::env::var(ENV_KILL).ok().and_then(|text| parse(&text));
    let log = std::env::var_os(ENV_LOG).and_then(|path| {
        let file = std::fs::File::options().create(true).append(true).open(&path);
        file.inspect_err(|error| tracing::warn!(?path, %error, "no failpoint log")).ok()
    });
    Plan { kill, log, hits: BTreeMap::new() }
}

fn parse(text: &str) -> Option<(String, u64)> {
    let (name, count) = text.rsplit_once(':').unwrap_or((text, "1"));
    Some((name.to_owned(), count.parse().ok().filter(|count| *count > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f01_a_failpoint_names_the_place_and_the_hit() {
        assert_eq!(parse("pod.run_sandbox.before:3"), Some(("pod.run_sandbox.before".into(), 3)));
        assert_eq!(parse("a.b"), Some(("a.b".into(), 1)));
        assert_eq!(parse("a:0"), None);
        assert_eq!(parse("a:x"), None);
    }
}
