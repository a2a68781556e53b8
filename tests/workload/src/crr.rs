//! Connect, request, response, close: the new connections that one client makes in a second.
//!
//! Both ends run on one core (`--cpu`, 0 by default): waking another core costs more than the
//! connection, and would hide what is compared.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Instant;

use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use nix::unistd::Pid;

use crate::Outcome;
use crate::args::Args;
use crate::hosts::resolve;
use crate::process::on_term;

fn pin(args: &Args) -> Result<(), String> {
    let mut cores = CpuSet::new();
    cores.set(args.option("cpu", 0)?).map_err(|errno| format!("--cpu: {errno}"))?;
    sched_setaffinity(Pid::this(), &cores).map_err(|errno| format!("cannot pin: {errno}"))
}

/// Answers one byte with one byte, one connection after the other: no thread start is measured.
pub fn serve(args: Args) -> Outcome {
    on_term(|| std::process::exit(0))?;
    pin(&args)?;
    let port: u16 = args.option("port", 7001)?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("answers on port {port}");
    for stream in listener.incoming() {
        let mut byte = [0u8; 1];
        // A client that went away is its own affair.
        let _ = stream.and_then(|mut stream| {
            stream.read_exact(&mut byte)?;
            stream.write_all(&byte)?;
            // Waits for the client's reset: no end is left in TIME_WAIT.
            stream.read(&mut byte)
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints `N per second, p50 N us, p99 N us, N failed`.
pub fn run(mut args: Args) -> Outcome {
    pin(&args)?;
    let target = resolve(&args.required("HOST:PORT")?)?;
    let seconds = args.seconds("seconds", 3.0)?;
    let start = Instant::now();
    let (mut failed, mut times_us) = (0u64, Vec::new());
    while start.elapsed() < seconds {
        let one = Instant::now();
        let done = TcpStream::connect(target).and_then(|mut stream| {
            stream.set_nodelay(true)?;
            // A reset at the end: else the ports in TIME_WAIT soon make `connect` search for a free
            // one for longer than everything that is measured here.
            setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0u8; 1])
        });
        match done {
            Ok(()) => times_us.push(one.elapsed().as_micros() as u64),
            Err(error) => {
                failed += 1;
                if failed == 1 {
                    eprintln!("first failure: {error}");
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }
    times_us.sort_unstable();
    let at = |share: f64| {
        let index = (times_us.len() as f64 * share) as usize;
        times_us.get(index.min(times_us.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let rate = times_us.len() as f64 / start.elapsed().as_secs_f64();
    println!("{rate:.0} per second, p50 {} us, p99 {} us, {failed} failed", at(0.5), at(0.99));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
