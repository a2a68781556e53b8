//! Forwards one CNI call to the daemon's socket and exits.
//!
//! Static and tiny, because containerd executes it once per sandbox. Deliberately absent: every
//! decision. A daemon that is being restarted is waited for, so that a sandbox does not fail.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use longshore_cni::{
    CNI_VERSIONS, CODE_INVALID, CODE_IO, CODE_TRY_AGAIN, Error, Request, Response,
};
use serde_json::{Value, json};

/// Tries to reach the daemon, 100 ms apart: 10 s, well inside a kubelet's sandbox deadline.
const TRIES: u32 = 100;
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// The daemon answers within this or the call fails; the runtime has its own, longer deadline.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let mut version = "1.0.0".to_owned();
    let (text, failed) = match run(&mut version) {
        Ok(Value::Null) => return ExitCode::SUCCESS,
        Ok(result) => (result, false),
        Err(error) => (
            json!({ "cniVersion": version, "code": error.code, "msg": error.msg,
                    "details": error.details }),
            true,
        ),
    };
    let printed = writeln!(std::io::stdout(), "{text}").is_ok();
    if failed || !printed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run(version: &mut String) -> Result<Value, Error> {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).map_err(|e| io_error("standard input", &e))?;
    let config: Value = serde_json::from_str(&input).unwrap_or(Value::Null);
    if let Some(asked) = config.get("cniVersion").and_then(Value::as_str) {
        asked.clone_into(version);
    }
    let command = variable("CNI_COMMAND");
    if command == "VERSION" {
        return Ok(json!({ "cniVersion": version, "supportedVersions": CNI_VERSIONS }));
    }
    let Some(socket) = config.get("socket").and_then(Value::as_str).map(str::to_owned) else {
        return Err(Error {
            code: CODE_INVALID,
            msg: "the network configuration has no \"socket\"".into(),
            details: "this conflist was not written by longshore; remove it or restart longshore"
                .into(),
        });
    };
    let request = Request {
        command,
        container_id: variable("CNI_CONTAINERID"),
        netns: variable("CNI_NETNS"),
        ifname: variable("CNI_IFNAME"),
        args: variable("CNI_ARGS"),
        config,
    };
    match ask(&socket, &request)? {
        Response::Result(result) => Ok(result),
        Response::Error(error) => Err(error),
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Every call is idempotent in the daemon, so one whose answer was lost is asked again.
fn ask(socket: &str, request: &Request) -> Result<Response, Error> {
    let mut last = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            std::thread::sleep(BETWEEN_TRIES);
        }
        match ask_once(socket, request) {
            Ok(response) => return Ok(response),
            Err(error) => last = error.to_string(),
        }
    }
    Err(Error {
        code: CODE_TRY_AGAIN,
        msg: format!("the longshore daemon does not answer at {socket}: {last}"),
        details: "is it running? `longshore status` tells".into(),
    })
}

fn ask_once(socket: &str, request: &Request) -> std::io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    if BufReader::new(stream).read_line(&mut answer)? == 0 {
        return Err(std::io::Error::other("the daemon went away before it answered"));
    }
    Ok(serde_json::from_str(&answer)?)
}

fn io_error(what: &str, error: &std::io::Error) -> Error {
    Error { code: CODE_IO, msg: format!("cannot read {what}: {error}"), details: String::new() }
}
