//! Programs about being a process: `pause`, `sleep`, `exit`, `write-marker`, and signals for all.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::Outcome;
use crate::args::Args;

/// Becomes true at SIGTERM or SIGINT. Call before the first thread, so that all inherit the mask.
pub fn on_term(then: impl FnOnce() + Send + 'static) -> Result<Arc<AtomicBool>, nix::Error> {
    let stopped = Arc::new(AtomicBool::new(false));
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let flag = Arc::clone(&stopped);
    std::thread::spawn(move || {
        let _ = signals.wait();
        flag.store(true, Ordering::SeqCst);
        then();
    });
    Ok(stopped)
}

/// The sandbox's first process: reaps what is left to it.
pub fn pause() -> Outcome {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD] {
        signals.add(signal);
    }
    signals.thread_block()?;
    loop {
        if signals.wait()? != Signal::SIGCHLD {
            return Ok(ExitCode::SUCCESS);
        }
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
    }
}

/// Sleeps (forever without a number) and ends at SIGTERM with 0.
pub fn sleep(mut args: Args) -> Outcome {
    on_term(|| std::process::exit(0))?;
    match args.next() {
        Some(seconds) => std::thread::sleep(Duration::try_from_secs_f64(seconds.parse()?)?),
        None => forever(),
    }
    Ok(ExitCode::SUCCESS)
}

pub fn exit(mut args: Args) -> Outcome {
    let code: u8 = args.required("CODE")?.parse()?;
    std::thread::sleep(args.seconds("after", 0.0)?);
    Ok(ExitCode::from(code))
}

/// Leaves a line that says "I ran": a container that was started twice leaves two.
pub fn write_marker(mut args: Args) -> Outcome {
    on_term(|| std::process::exit(0))?;
    let path = args.required("PATH")?;
    let text = args.next().unwrap_or_else(|| "started".to_owned());
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    writeln!(file, "{text}")?;
    println!("wrote {path}");
    forever();
    Ok(ExitCode::SUCCESS)
}

pub fn forever() {
    loop {
        std::thread::park();
    }
}
