//! The API server as programs with open connections see it: none starts while time is taken.
//!
//! Requests go through one `kubectl proxy`, events come from one `kubectl get --watch`. Both cost each
//! agent the same.

use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use longshore_tests::cluster::Cluster;
use longshore_tests::process::{Child, wait_for};

pub const NAMESPACE: &str = "bench";
const PODS: &str = "/api/v1/namespaces/bench/pods";
/// A line for each event. A pod without conditions has two words.
const LINE: &str = "jsonpath={.type} {.object.metadata.name} \
    {.object.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";

pub struct Api {
    socket: PathBuf,
    events: mpsc::Receiver<Event>,
    // Both end with this value.
    _proxy: Child,
    _watch: Child,
}

/// What the watch showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub at: Instant,
    /// `ADDED`, `MODIFIED`, `DELETED`
    pub kind: String,
    pub pod: String,
    pub ready: bool,
}

impl Api {
    /// Makes the namespace, too.
    pub fn open(cluster: &Cluster) -> Result<Self> {
        cluster.kubectl(["create", "namespace", NAMESPACE]).check()?;
        wait_for("the namespace's ServiceAccount, without which no pod is admitted", 60, || {
            let words = ["-n", NAMESPACE, "get", "serviceaccount", "default"];
            Ok(cluster.kubectl(words).output()?.ok())
        })?;
        let log = |name: &str| cluster.dir().join("log").join(name);
        let socket = cluster.dir().join("api.sock");
        let proxy = cluster
            .kubectl(["proxy", "--unix-socket"])
            .arg(&socket)
            .start(&log("bench-proxy.log"))?;
        wait_for("kubectl proxy to answer", 60, || {
            Ok(request(&socket, "GET", "/readyz", "").is_ok())
        })?;
        let words =
            ["-n", NAMESPACE, "get", "pods", "--watch", "--output-watch-events", "-o", LINE];
        let (watch, lines) = cluster.kubectl(words).start_piped(&log("bench-watch.log"))?;
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || read(lines, &sender));
        Ok(Self { socket, events, _proxy: proxy, _watch: watch })
    }

    pub fn create(&self, yaml: &str) -> Result<()> {
        request(&self.socket, "POST", PODS, yaml)
    }

    /// Returns at once.
    pub fn delete(&self, pod: &str) -> Result<()> {
        request(&self.socket, "DELETE", &format!("{PODS}/{pod}"), "")
    }

    /// The next event that `wanted` accepts; those before it are forgotten.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if wanted(&event) => return Ok(event),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => bail!("waited 120 s for {what}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the watch ended"),
            }
        }
    }
}

fn read(lines: PipeReader, events: &mpsc::Sender<Event>) {
    for line in BufReader::new(lines).lines().map_while(Result::ok) {
        let at = Instant::now();
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(kind), Some(pod)) = (words.next(), words.next()) else { continue };
        let ready = words.next().is_some_and(|status| status == "True");
        if events.send(Event { at, kind, pod, ready }).is_err() {
            return;
        }
    }
}

/// HTTP/1.0: the answer ends where the connection does.
fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/yaml\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{method} {path}"))?;
    // HTTP/1.0 201 Created
    match answer.split(' ').nth(1) {
        Some(code) if code.starts_with('2') => Ok(()),
        _ => bail!("{method} {path}: {answer}"),
    }
}
