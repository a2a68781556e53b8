//! UDP echo and its client. The server answers `NAME TEXT`, so that a client sees which backend it was.

use std::net::UdpSocket;
use std::process::ExitCode;

use crate::Outcome;
use crate::args::Args;
use crate::get::name_error;
use crate::hosts::resolve;
use crate::process::on_term;

pub fn echo(args: Args) -> Outcome {
    on_term(|| std::process::exit(0))?;
    let port: u16 = args.option("port", 9000)?;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = args.option("name", hostname.trim().to_owned())?;
    let socket = UdpSocket::bind(("0.0.0.0", port))?;
    println!("{name} echoes on port {port}");
    let mut buffer = [0u8; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
        // A client that went away is its own affair.
        let _ = socket.send_to(&answer, from);
    }
}

/// Unconnected on purpose: the answer must come from the address that was asked.
pub fn get(mut args: Args) -> Outcome {
    let target = args.required("HOST:PORT")?;
    let timeout = args.seconds("timeout", 2.0)?;
    let count: u32 = args.option("count", 1)?;
    let address = resolve(&target)?;
    let mut failed = 0;
    for number in 0..count {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(timeout))?;
        let answer = socket.send_to(format!("{number}").as_bytes(), address).and_then(|_| {
            let mut buffer = [0u8; 2048];
            let (length, from) = socket.recv_from(&mut buffer)?;
            Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
        });
        match answer {
            Ok((text, from)) if from == address => println!("{text}"),
            Ok((_, from)) => {
                failed += 1;
                eprintln!("the answer came from {from}, not from {address}");
            }
            Err(error) => {
                failed += 1;
                eprintln!("{}", name_error(error));
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
