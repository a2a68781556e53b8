//! The programs that run inside the pods of the demo and the tests.
//!
//! One static binary, so that an image is one file and needs no registry. Names are resolved from
//! /etc/hosts only: the resolver of a static glibc wants shared objects that the image does not have.

mod args;
mod crr;
mod get;
mod hosts;
mod process;
mod registry;
mod stream;
mod udp;
mod web;

use std::process::ExitCode;

use args::Args;

const USAGE: &str = "\
longshore-workload COMMAND
  pause                                      reaps orphans until SIGTERM
  web [--port 8080] [--name N] [--delay-shutdown S]
                                             / /healthz /fail /bytes/N[?rate=BYTES_PER_S]
  get URL [--timeout S] [--count N] [--interval MS] [--quiet]
                                             a connection for each request; --count 0: until SIGTERM
  connect HOST:PORT [--timeout S] [--count N] [--interval MS]
  udp-echo [--port 9000] [--name N]
  udp-get HOST:PORT [--timeout S] [--count N]
  stream-server [--port 7000]
  stream-client HOST:PORT [--interval MS] [--count N] [--stall S]
  crr-server [--port 7001]
  crr HOST:PORT [--seconds S]                connect, request, response, close: rate per second
  registry LAYOUT [--port 5000]              the one image of an OCI layout, on 127.0.0.1
  sleep [S]
  exit CODE [--after S]
  write-marker PATH [TEXT]                   appends a line, then sleeps
";

fn main() -> ExitCode {
    let mut args = Args::from_env();
    let command = args.next().unwrap_or_default();
    let result = match command.as_str() {
        "pause" => process::pause(),
        "web" => web::serve(args),
        "get" => get::get(args),
        "connect" => get::connect(args),
        "udp-echo" => udp::echo(args),
        "udp-get" => udp::get(args),
        "stream-server" => stream::serve(args),
        "stream-client" => stream::client(args),
        "crr-server" => crr::serve(args),
        "crr" => crr::run(args),
        "registry" => registry::serve(args),
        "sleep" => process::sleep(args),
        "exit" => process::exit(args),
        "write-marker" => process::write_marker(args),
        "" | "help" | "--help" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        other => Err(format!("unknown command {other}\n{USAGE}").into()),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{command}: {error}");
        ExitCode::from(2)
    })
}

/// The result of a command: its exit code, or what was wrong with its arguments or its machine.
type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;
