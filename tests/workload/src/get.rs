//! Clients of TCP: `get` (HTTP) and `connect`. A connection for each request.
//!
//! The failure is named, because the tests tell a refusal from a silence: `refused`, `timed out`,
//! `reset`, `short` (fewer bytes than promised) and `corrupt` (not the bytes that were sent).

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::args::Args;
use crate::hosts::resolve;
use crate::process::on_term;

pub fn get(mut args: Args) -> Outcome {
    let url = args.required("URL")?;
    let rest =
        url.strip_prefix("http://").ok_or_else(|| format!("{url}: only http:// is known"))?;
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority.to_owned(), format!("/{path}")),
        None => (rest.to_owned(), "/".to_owned()),
    };
    let target = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
    {
        authority.clone()
    } else {
        format!("{authority}:80")
    };
    repeat(&args, |timeout| one_request(&target, &authority, &path, timeout))
}

pub fn connect(mut args: Args) -> Outcome {
    let target = args.required("HOST:PORT")?;
    repeat(&args, |timeout| {
        let address = resolve(&target)?;
        let stream = TcpStream::connect_timeout(&address, timeout).map_err(name_error)?;
        Ok(format!("connected from {}", stream.local_addr().map_err(name_error)?))
    })
}

/// Runs `call` `--count` times; prints each answer and, for more than one, a summary line
/// `N ok, N failed, longest N ms`. Exit code 0 only if nothing failed.
fn repeat(args: &Args, call: impl Fn(Duration) -> Result<String, String>) -> Outcome {
    let timeout = args.seconds("timeout", 5.0)?;
    let count: u64 = args.option("count", 1)?;
    let interval = args.millis("interval", 0)?;
    let quiet = args.has("quiet");
    let stopped = on_term(|| {})?;
    let (mut ok, mut failed, mut longest) = (0u64, 0u64, Duration::ZERO);
    while (count == 0 || ok + failed < count) && !stopped.load(Ordering::SeqCst) {
        if ok + failed > 0 {
            std::thread::sleep(interval);
        }
        let start = Instant::now();
        match call(timeout) {
            Ok(answer) => {
                ok += 1;
                if !quiet {
                    println!("{}", answer.trim_end());
                }
            }
            Err(error) => {
                failed += 1;
                eprintln!("{error} after {} ms", start.elapsed().as_millis());
            }
        }
        longest = longest.max(start.elapsed());
    }
    if count != 1 {
        println!("{ok} ok, {failed} failed, longest {} ms", longest.as_millis());
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one_request(target: &str, host: &str, path: &str, timeout: Duration) -> Result<String, String> {
    let address = resolve(target)?;
    let mut stream = TcpStream::connect_timeout(&address, timeout).map_err(name_error)?;
    stream.set_read_timeout(Some(timeout)).map_err(name_error)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        .map_err(name_error)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).map_err(name_error)?;
    let status: u16 = line
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or(if line.is_empty() { "closed without an answer" } else { "not HTTP" })?;
    let mut length = None;
    loop {
        line.clear();
        reader.read_line(&mut line).map_err(name_error)?;
        if line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let body = body(reader, length, path)?;
    if status == 200 { Ok(body) } else { Err(format!("status {status}")) }
}

/// The body as text; of a `/bytes/` path only its length, after checking every byte.
fn body(mut reader: impl Read, length: Option<u64>, path: &str) -> Result<String, String> {
    if !path.starts_with("/bytes/") {
        let mut text = String::new();
        reader.read_to_string(&mut text).map_err(name_error)?;
        return match length {
            Some(length) if length != text.len() as u64 => Err("short".to_owned()),
            _ => Ok(text),
        };
    }
    let (mut at, mut part) = (0u64, [0u8; 16 * 1024]);
    loop {
        let read = reader
            .read(&mut part)
            .map_err(|error| format!("{} at byte {at}", name_error(error)))?;
        if read == 0 {
            break;
        }
        for byte in &part[..read] {
            if u64::from(*byte) != at % 251 {
                return Err(format!("corrupt at byte {at}"));
            }
            at += 1;
        }
    }
    match length {
        Some(length) if length != at => Err(format!("short: {at} of {length} bytes")),
        _ => Ok(format!("{at} bytes, every one as sent")),
    }
}

pub fn name_error(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "refused".to_owned(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => "reset".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out".to_owned(),
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => "unreachable".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn a_download_is_checked_byte_by_byte() {
        let sent: Vec<u8> = (0..1000u64).map(|at| (at % 251) as u8).collect();
        assert!(body(&sent[..], Some(1000), "/bytes/1000").is_ok());
        assert!(body(&sent[..999], Some(1000), "/bytes/1000").unwrap_err().starts_with("short"));
        let doubled = [&sent[..500], &sent[400..]].concat();
        assert_eq!(body(&doubled[..], None, "/bytes/1"), Err("corrupt at byte 500".to_owned()));
    }
}
