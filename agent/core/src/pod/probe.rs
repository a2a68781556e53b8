//! Probes: when to run one, what its results mean, and what an HTTP probe asks for (A84–A94).
//!
//! Deliberately absent: sockets. The shell runs the request and brings back an [`Outcome`].

use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::action::ProbeTarget;
use crate::model::{ProbeKind, Time};

/// Numbers of a probe with the API's defaults (A90). Nothing below its minimum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spec {
    pub kind: ProbeKind,
    pub initial_delay_ms: i64,
    pub period_ms: i64,
    pub timeout_ms: i64,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl Spec {
    pub fn of(kind: ProbeKind, probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: i32, least: i32| {
            i64::from(value.filter(|v| *v >= least).unwrap_or(default)) * 1000
        };
        let count = |value: Option<i32>, default: u32| {
            value.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
        };
        Self {
            kind,
            initial_delay_ms: seconds(probe.initial_delay_seconds, 0, 0),
            period_ms: seconds(probe.period_seconds, 10, 1),
            timeout_ms: seconds(probe.timeout_seconds, 1, 1),
            // Must be 1 for liveness and startup (A90).
            success_threshold: match kind {
                ProbeKind::Readiness => count(probe.success_threshold, 1),
                _ => 1,
            },
            failure_threshold: count(probe.failure_threshold, 3),
        }
    }
}

/// What the results of one container instance add up to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// When the container started.
    pub started_at: Time,
    pub successes: u32,
    pub failures: u32,
    /// Last verdict that was given.
    pub verdict: Option<bool>,
    /// Of the last failure.
    pub message: String,
    /// Liveness or startup failed for good: nothing to run until a new instance (A94).
    pub on_hold: bool,
}

impl State {
    pub fn new(started_at: Time) -> Self {
        Self {
            started_at,
            successes: 0,
            failures: 0,
            verdict: None,
            message: String::new(),
            on_hold: false,
        }
    }
}

/// One run of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Success,
    /// Succeeded, and the user should know why that is doubtful: event ProbeWarning (A84).
    Warning(String),
    Failure(String),
}

/// Counts `result` (`None`: nothing ran yet) and says when to run next; `None` for the time: never
/// again for this instance. The verdict is `Some` only when it changes (A90, A92, A94).
pub fn step(
    spec: &Spec,
    state: &State,
    result: Option<&Outcome>,
    now: Time,
) -> (State, Option<bool>, Option<Time>) {
    let mut next = state.clone();
    let Some(result) = result else {
        let due = state.started_at.plus_ms(spec.initial_delay_ms).max(now);
        return (next, None, (!state.on_hold).then_some(due));
    };
    let reached = match result {
        Outcome::Success | Outcome::Warning(_) => {
            next.failures = 0;
            next.successes = state.successes.saturating_add(1);
            (next.successes >= spec.success_threshold).then_some(true)
        }
        Outcome::Failure(message) => {
            next.successes = 0;
            next.failures = state.failures.saturating_add(1);
            next.message.clone_from(message);
            (next.failures >= spec.failure_threshold).then_some(false)
        }
    };
    let verdict = reached.filter(|verdict| state.verdict != Some(*verdict));
    next.verdict = reached.or(state.verdict);
    // A failed liveness or startup probe kills; a passed startup probe is over (A92).
    next.on_hold = match spec.kind {
        ProbeKind::Readiness => false,
        ProbeKind::Liveness => reached == Some(false),
        ProbeKind::Startup => reached.is_some(),
    };
    let due = (!next.on_hold).then(|| now.plus_ms(spec.period_ms));
    (next, verdict, due)
}

/// What to connect to and ask for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpRequest {
    /// TLS without verification (A86).
    pub https: bool,
    /// Address or name to connect to.
    pub host: String,
    pub port: u16,
    /// Path with its query, starting with `/`.
    pub path: String,
    /// In order; `Host`, `User-Agent` and `Accept` are there.
    pub headers: Vec<(String, String)>,
}

/// A TCP address to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TcpTarget {
    pub host: String,
    pub port: u16,
}

/// Most redirects of one probe (A84).
pub const MOST_REDIRECTS: u32 = 10;
/// Bytes of a reply or of a command's output that are read (A84, A88).
pub const MOST_BYTES: usize = 10 * 1024;

/// The request of an `httpGet` probe (A85). `version` is `<major>.<minor>` of Kubernetes. `Err` says
/// what is wrong with the probe; it counts as a failure.
pub fn http_request(target: &ProbeTarget, version: &str) -> Result<HttpRequest, String> {
    let get = target.probe.http_get.as_ref().ok_or("not an httpGet probe")?;
    let https = match get.scheme.as_deref().unwrap_or("HTTP") {
        "HTTP" | "http" => false,
        "HTTPS" | "https" => true,
        other => return Err(format!("httpGet.scheme {other:?} is not HTTP or HTTPS")),
    };
    let port = port(&get.port, target)?;
    let host = get.host.clone().filter(|host| !host.is_empty()).unwrap_or(target.host.clone());
    let path = get.path.as_deref().unwrap_or("/");
    if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Err("httpGet.path has a space or a control character".into());
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut headers = Vec::new();
    for header in get.http_headers.iter().flatten() {
        if header.name.is_empty()
            || !header
                .name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_!#$%&'*+.^`|~".contains(&b))
            || header.value.contains(['\r', '\n', '\0'])
        {
            return Err(format!("httpGet.httpHeaders: {:?} is not a header", header.name));
        }
        headers.push((header.name.clone(), header.value.clone()));
    }
    for (name, value) in [
        ("Host", host_header(&host, port)),
        ("User-Agent", format!("kube-probe/{version}")),
        ("Accept", "*/*".to_owned()),
    ] {
        if !headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name)) {
            headers.push((name.to_owned(), value));
        }
    }
    // An empty value takes the header away (A85).
    headers.retain(|(name, value)| {
        !value.is_empty()
            || !(name.eq_ignore_ascii_case("accept") || name.eq_ignore_ascii_case("user-agent"))
    });
    Ok(HttpRequest { https, host, port, path, headers })
}

fn host_header(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The address of a `tcpSocket` probe (A87).
pub fn tcp_target(target: &ProbeTarget) -> Result<TcpTarget, String> {
    let tcp = target.probe.tcp_socket.as_ref().ok_or("not a tcpSocket probe")?;
    let host = tcp.host.clone().filter(|host| !host.is_empty()).unwrap_or(target.host.clone());
    Ok(TcpTarget { host, port: port(&tcp.port, target)? })
}

fn port(port: &IntOrString, target: &ProbeTarget) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => target.ports.get(name).copied().or_else(|| name.parse().ok()),
    };
    number.filter(|port| *port > 0).ok_or_else(|| {
        format!(
            "port {port:?} is neither 1..65535 nor a named port of container {}",
            target.container
        )
    })
}

/// What an HTTP status means (A84). The failure's text carries only the code.
pub fn http_outcome(status: u16) -> Outcome {
    if (200..400).contains(&status) {
        Outcome::Success
    } else {
        Outcome::Failure(format!("HTTP probe failed with statuscode: {status}"))
    }
}

/// What to do with a 3xx reply that has a Location.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Redirect {
    /// Same host: ask again.
    Follow(HttpRequest),
    /// Another host is never asked (CVE row 19): success with a warning.
    Stop(Outcome),
}

/// The redirect rule (A84). `followed` counts the redirects before this one.
pub fn redirect(from: &HttpRequest, location: &str, followed: u32) -> Redirect {
    if followed >= MOST_REDIRECTS {
        return Redirect::Stop(Outcome::Failure(format!(
            "stopped after {MOST_REDIRECTS} redirects"
        )));
    }
    let (https, rest) = match location.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, Some(rest)),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, Some(rest)),
        Some((scheme, _)) if !scheme.contains(['/', '?', '#']) => {
            return Redirect::Stop(other_host(location));
        }
        _ => match location.strip_prefix("//") {
            Some(rest) => (from.https, Some(rest)),
            None => (from.https, None),
        },
    };
    let (host, port, path) = match rest {
        None => (from.host.clone(), from.port, relative(&from.path, location)),
        Some(rest) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let Some((host, port)) = authority_parts(authority, https) else {
                return Redirect::Stop(other_host(location));
            };
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            (host, port, path)
        }
    };
    if !host.eq_ignore_ascii_case(&from.host) {
        return Redirect::Stop(other_host(location));
    }
    let path = path.split('#').next().unwrap_or("/").to_owned();
    if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Redirect::Stop(other_host(location));
    }
    Redirect::Follow(HttpRequest { https, host, port, path, headers: from.headers.clone() })
}

fn other_host(location: &str) -> Outcome {
    let shown: String = location.chars().filter(|c| !c.is_control()).take(200).collect();
    Outcome::Warning(format!("Probe terminated redirects, Response location: {shown}"))
}

/// Host and port of `host[:port]` or `[v6][:port]`; user information is refused.
fn authority_parts(authority: &str, https: bool) -> Option<(String, u16)> {
    let default = if https { 443 } else { 80 };
    if authority.contains('@') {
        return None;
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        let port = match tail.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None => default,
        };
        return Some((host.to_owned(), port));
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((authority.to_owned(), default)),
    }
}

fn relative(base: &str, location: &str) -> String {
    if location.starts_with('/') {
        return location.to_owned();
    }
    let directory = base.split(['?', '#']).next().unwrap_or("/");
    if location.starts_with('?') {
        return format!("{directory}{location}");
    }
    let parent = directory.rsplit_once('/').map_or("", |(parent, _)| parent);
    format!("{parent}/{location}")
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
