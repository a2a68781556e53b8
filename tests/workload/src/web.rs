//! An HTTP/1.1 server, one connection for one request.
//!
//! SIGTERM: goes on for `--delay-shutdown`, takes what already waits in the backlog, finishes the
//! open requests, exits 0. Absent: keep-alive, request bodies.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::args::Args;
use crate::process::on_term;

struct Server {
    name: String,
    healthy: AtomicBool,
    open: AtomicUsize,
}

pub fn serve(args: Args) -> Outcome {
    let port: u16 = args.option("port", 8080)?;
    let delay = args.seconds("delay-shutdown", 0.0)?;
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = args.option("name", hostname.trim().to_owned())?;
    let drain = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&drain);
    on_term(move || {
        std::thread::sleep(delay);
        flag.store(true, Ordering::SeqCst);
        // Wakes the accept below; it then takes the backlog and ends.
        let _ = TcpStream::connect(("127.0.0.1", port));
    })?;
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    println!("{name} serves on port {port}");
    let server = Arc::new(Server { name, healthy: true.into(), open: 0.into() });
    loop {
        match listener.accept() {
            Ok((stream, _)) => Server::start(&server, stream),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) => eprintln!("accept: {error}"),
        }
        if drain.load(Ordering::SeqCst) {
            listener.set_nonblocking(true)?;
        }
    }
    drop(listener);
    while server.open.load(Ordering::SeqCst) > 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{} finished", server.name);
    Ok(ExitCode::SUCCESS)
}

impl Server {
    fn start(server: &Arc<Self>, stream: TcpStream) {
        server.open.fetch_add(1, Ordering::SeqCst);
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            // A client that went away is its own affair.
            let _ = stream.set_nonblocking(false).and_then(|()| server.answer(stream));
            server.open.fetch_sub(1, Ordering::SeqCst);
        });
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        match path {
            "/healthz" if self.healthy.load(Ordering::SeqCst) => text(&mut stream, 200, "ok\n"),
            "/healthz" => text(&mut stream, 500, "failing\n"),
            "/fail" => {
                let healthy = !self.healthy.fetch_xor(true, Ordering::SeqCst);
                text(&mut stream, 200, &format!("healthy {healthy}\n"))
            }
            "/" => text(&mut stream, 200, &format!("{}\n", self.name)),
            path => match path.strip_prefix("/bytes/").and_then(bytes_request) {
                Some((count, rate)) => bytes(&mut stream, count, rate),
                None => text(&mut stream, 404, "not found\n"),
            },
        }
    }
}

fn text(stream: &mut TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// `N[?rate=BYTES_PER_S]`
fn bytes_request(rest: &str) -> Option<(u64, Option<u64>)> {
    let (count, query) = rest.split_once('?').unwrap_or((rest, ""));
    let rate = query.strip_prefix("rate=").and_then(|rate| rate.parse().ok());
    Some((count.parse().ok()?, rate.filter(|rate| *rate > 0)))
}

/// Streams `count` bytes; byte `i` is `i % 251`, so that a client can tell lost from doubled.
fn bytes(stream: &mut TcpStream, count: u64, rate: Option<u64>) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n")?;
    let start = Instant::now();
    let mut sent = 0u64;
    let chunk = rate.map_or(64 * 1024, |rate| (rate / 50).clamp(1, 64 * 1024));
    while sent < count {
        let length = chunk.min(count - sent);
        let part: Vec<u8> = (sent..sent + length).map(|at| (at % 251) as u8).collect();
        stream.write_all(&part)?;
        sent += length;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn bytes_paths() {
        assert_eq!(super::bytes_request("100"), Some((100, None)));
        assert_eq!(super::bytes_request("100?rate=7"), Some((100, Some(7))));
        assert_eq!(super::bytes_request("x"), None);
    }
}
