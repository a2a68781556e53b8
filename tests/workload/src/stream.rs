//! One long TCP connection with numbered messages, to see whether anything interrupts it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::args::Args;
use crate::get::name_error;
use crate::hosts::resolve;
use crate::process::on_term;

/// Echoes bytes on every connection.
pub fn serve(args: Args) -> Outcome {
    on_term(|| std::process::exit(0))?;
    let port: u16 = args.option("port", 7000)?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("echoes streams on port {port}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let mut buffer = [0u8; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Sends 8-byte numbers and waits for each echo. Ends at `--count`, at SIGTERM, at an error or at a
/// stall of `--stall` seconds. Last line: `N echoed, N gaps, N resets, longest stall N ms`.
pub fn client(mut args: Args) -> Outcome {
    let target = args.required("HOST:PORT")?;
    let interval = args.millis("interval", 5)?;
    let count: u64 = args.option("count", 0)?;
    let stall = args.seconds("stall", 10.0)?;
    let stopped = on_term(|| {})?;
    let mut stream = TcpStream::connect_timeout(&resolve(&target)?, stall)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(stall))?;
    println!("connected {}", stream.local_addr()?);
    let (mut echoed, mut gaps, mut resets, mut longest) = (0u64, 0, 0, Duration::ZERO);
    while (count == 0 || echoed < count) && !stopped.load(Ordering::SeqCst) {
        let start = Instant::now();
        match exchange(&mut stream, echoed) {
            Ok(true) => echoed += 1,
            Ok(false) => {
                gaps += 1;
                break;
            }
            Err(error) => {
                resets += 1;
                eprintln!("{} at message {echoed}", name_error(error));
                break;
            }
        }
        longest = longest.max(start.elapsed());
        std::thread::sleep(interval);
    }
    println!(
        "{echoed} echoed, {gaps} gaps, {resets} resets, longest stall {} ms",
        longest.as_millis()
    );
    Ok(if gaps + resets == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn exchange(stream: &mut TcpStream, number: u64) -> std::io::Result<bool> {
    stream.write_all(&number.to_be_bytes())?;
    let mut answer = [0u8; 8];
    stream.read_exact(&mut answer)?;
    Ok(u64::from_be_bytes(answer) == number)
}
