//! `/exec`, `/attach`, `/portForward` and `/run` (A182): asks the runtime for a stream, and lets
//! the caller have it.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{HeaderMap, UPGRADE};
use hyper::{Request, StatusCode};
use longshore_core::model::{ContainerState, SandboxState};
use longshore_proto::cri;

use super::RuntimeError;
use super::body::{Answer, text};
use super::pods::{self, Found};
use super::proxy;
use super::query::Query;
use super::route::PodPath;
use super::server::Shared;
use crate::observe::SeenPod;

/// Which ends of the process the caller wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ends {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

/// # Errors
/// The kubelet's text.
fn ends(query: &Query) -> Result<Ends, String> {
    let tty = query.is_one("tty");
    let ends = Ends {
        stdin: query.is_one("input"),
        stdout: query.is_one("output"),
        // A terminal has one output.
        stderr: query.is_one("error") && !tty,
        tty,
    };
    if ends.stdin || ends.stdout || ends.stderr {
        Ok(ends)
    } else {
        Err("you must specify at least 1 of stdin, stdout, stderr".to_owned())
    }
}

/// Ports of the query, which only WebSocket has: SPDY names them in its streams.
fn ports(headers: &HeaderMap, query: &Query) -> Result<Vec<i32>, String> {
    let websocket = headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket {
        return Ok(Vec::new());
    }
    let texts = query.all("port");
    if texts.is_empty() {
        return Err(r#"query parameter "port" is required"#.to_owned());
    }
    let port = |text: &str| match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("invalid port {text:?}: must be 1 to 65535")),
        Ok(port) => Ok(i32::from(port)),
    };
    texts.iter().flat_map(|text| text.split(',')).map(port).collect()
}

fn refusal(error: &RuntimeError) -> Answer {
    let status = match error {
        RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
        RuntimeError::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
        RuntimeError::Other(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, error.to_string())
}

fn no_pod() -> Answer {
    text(StatusCode::NOT_FOUND, "pod does not exist")
}

/// The instance that runs, else the newest: then the runtime says why it cannot.
fn container<'a>(seen: &'a SeenPod, name: &str) -> Option<&'a str> {
    let mut all = seen.containers.iter().filter(|one| one.name == name);
    let running = all.clone().find(|one| matches!(one.state, ContainerState::Running { .. }));
    running.or_else(|| all.next()).map(|one| one.id.as_str())
}

async fn container_id(shared: &Shared, found: &Found, name: &str) -> Result<String, RuntimeError> {
    let seen = shared.views.pod(found.uid.clone()).await?;
    let id = container(&seen, name).map(str::to_owned);
    id.ok_or_else(|| RuntimeError::Other(format!("container not found ({name:?})")))
}

/// Which stream a path asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Exec,
    Attach,
}

pub async fn answer(
    shared: &Arc<Shared>,
    what: Stream,
    path: &PodPath,
    name: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let ends = match ends(query) {
        Ok(ends) => ends,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let Some(found) = pods::find(shared, path) else { return no_pod() };
    if !proxy::is_upgrade(request.headers()) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let held = match shared.streams.take(&found.uid) {
        Ok(held) => held,
        Err(message) => return text(StatusCode::TOO_MANY_REQUESTS, message),
    };
    let Ends { stdin, stdout, stderr, tty } = ends;
    let url = async {
        let container_id = container_id(shared, &found, name).await?;
        match what {
            Stream::Exec => {
                let cmd = query.all("command");
                let request = cri::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
                shared.views.exec(request).await
            }
            Stream::Attach => {
                let request = cri::AttachRequest { container_id, tty, stdin, stdout, stderr };
                shared.views.attach(request).await
            }
        }
    };
    match url.await {
        Ok(url) => proxy::stream(&shared.pool, held, &url, request).await,
        Err(error) => refusal(&error),
    }
}

pub async fn port_forward(
    shared: &Arc<Shared>,
    path: &PodPath,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let port = match ports(request.headers(), query) {
        Ok(ports) => ports,
        Err(message) => return text(StatusCode::BAD_REQUEST, message),
    };
    let Some(found) = pods::find(shared, path) else { return no_pod() };
    if !proxy::is_upgrade(request.headers()) {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    }
    let held = match shared.streams.take(&found.uid) {
        Ok(held) => held,
        Err(message) => return text(StatusCode::TOO_MANY_REQUESTS, message),
    };
    let url = async {
        let seen = shared.views.pod(found.uid.clone()).await?;
        let sandbox = seen.sandboxes.iter().find(|one| one.state == SandboxState::Ready);
        let Some(sandbox) = sandbox else {
            return Err(RuntimeError::Other(format!("pod not found ({:?})", &*found.key.name)));
        };
        let pod_sandbox_id = sandbox.id.clone();
        shared.views.port_forward(cri::PortForwardRequest { pod_sandbox_id, port }).await
    };
    match url.await {
        Ok(url) => proxy::stream(&shared.pool, held, &url, request).await,
        Err(error) => refusal(&error),
    }
}

/// The command is cut at spaces; both outputs come back, one after the other.
pub async fn run(shared: &Arc<Shared>, path: &PodPath, name: &str, query: &Query) -> Answer {
    let Some(found) = pods::find(shared, path) else { return no_pod() };
    let _held = match shared.streams.take(&found.uid) {
        Ok(held) => held,
        Err(message) => return text(StatusCode::TOO_MANY_REQUESTS, message),
    };
    let command = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let ran = async {
        let id = container_id(shared, &found, name).await?;
        shared.views.exec_sync(id, command).await
    };
    match ran.await {
        Ok(ran) => {
            let mut out = ran.stdout;
            out.extend_from_slice(&ran.stderr);
            let status = match ran.exit_code {
                0 => StatusCode::OK,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            let mut answer = text(status, String::new());
            if status != StatusCode::OK {
                out.extend_from_slice(
                    format!("command terminated with exit code {}", ran.exit_code).as_bytes(),
                );
            }
            *answer.body_mut() = super::body::full(out);
            answer
        }
        Err(error) => refusal(&error),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a182_a_stream_has_at_least_one_end_and_a_terminal_one_output() {
        let of = |text: &str| ends(&Query::parse(Some(text)));
        let want = Ends { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(of("input=1&output=1&error=1&tty=1"), Ok(want));
        let want = Ends { stdin: false, stdout: true, stderr: true, tty: false };
        assert_eq!(of("command=ls&output=1&error=1"), Ok(want));
        assert!(of("command=ls").is_err());
        assert!(of("tty=1&error=1").is_err());
    }

    #[test]
    fn a182_websocket_names_ports_in_the_query_and_spdy_does_not() {
        let of = |upgrade: &'static str, text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(UPGRADE, HeaderValue::from_static(upgrade));
            ports(&headers, &Query::parse(Some(text)))
        };
        assert_eq!(of("SPDY/3.1", ""), Ok(Vec::new()));
        assert_eq!(of("websocket", "port=80&port=443,8080"), Ok(vec![80, 443, 8080]));
        for bad in ["", "port=0", "port=65536", "port=x", "port=80,"] {
            assert!(of("WebSocket", bad).is_err(), "{bad}");
        }
    }
}
