//! Runs probes from the node's network namespace (A98): HTTP, HTTPS, TCP, exec.
//!
//! When to run and what results mean is core's ([`probe::step`], [`probe::redirect`]). A period
//! that was missed is skipped, not counted (F08). Deliberately absent: gRPC probes, which hold a
//! pod Pending.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use longshore_core::model::{ObjectKey, PodUid, ProbeKind, ProbeVerdict, hash};
use longshore_core::pod::action::ProbeTarget;
use longshore_core::pod::probe::{self, HttpRequest, MOST_BYTES, Outcome, Redirect, Spec, State};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::Code;

use super::Shared;
use super::pod::Message;
use crate::supervise::{Policy, Task};

/// Of `User-Agent: kube-probe/…` (A85).
pub const KUBERNETES_VERSION: &str = "1.37";
/// Tries when the prober itself fails (A93).
const TRIES: u32 = 3;

/// The probes of one pod.
pub struct Probers {
    shared: Arc<Shared>,
    key: ObjectKey,
    uid: PodUid,
    outbox: mpsc::UnboundedSender<Message>,
    /// By container instance and kind.
    running: BTreeMap<(String, ProbeKind), (ProbeTarget, Task)>,
}

impl Probers {
    pub fn new(
        shared: Arc<Shared>,
        key: ObjectKey,
        uid: PodUid,
        outbox: mpsc::UnboundedSender<Message>,
    ) -> Self {
        Self { shared, key, uid, outbox, running: BTreeMap::new() }
    }

    /// Makes exactly these probes run. One that runs already keeps its counts.
    pub fn set(&mut self, targets: &[ProbeTarget]) {
        self.running.retain(|_, (running, _)| targets.contains(running));
        for target in targets {
            let id = (target.container_id.clone(), target.kind);
            if self.running.contains_key(&id) {
                continue;
            }
            let prober = Prober {
                shared: self.shared.clone(),
                key: self.key.clone(),
                uid: self.uid.clone(),
                outbox: self.outbox.clone(),
                target: target.clone(),
            };
            let name = format!("probe {:?} {}/{}", target.kind, self.key, target.container);
            let task = self.shared.scope.spawn(name, Policy::Finite, prober.run());
            self.running.insert(id, (target.clone(), task));
        }
    }
}

struct Prober {
    shared: Arc<Shared>,
    key: ObjectKey,
    uid: PodUid,
    outbox: mpsc::UnboundedSender<Message>,
    target: ProbeTarget,
}

impl Prober {
    async fn run(self) {
        let spec = Spec::of(self.target.kind, &self.target.probe);
        let start = State::new(self.target.started_at);
        let (mut state, _, mut due) = probe::step(&spec, &start, None, crate::clock::now());
        due = due.map(|due| due.plus_ms(self.spread_ms(&spec)));
        while let Some(at) = due {
            tokio::time::sleep(crate::clock::until(at)).await;
            let Some(outcome) = self.probe(&spec).await else {
                // No result at all: a runtime that is away must not cost a container its life.
                due = Some(crate::clock::now().plus_ms(spec.period_ms));
                continue;
            };
            self.tell(&outcome);
            // From now, not from `at`: after a freeze one result counts, not the missed ones (F08).
            let (next, verdict, next_due) =
                probe::step(&spec, &state, Some(&outcome), crate::clock::now());
            (state, due) = (next, next_due);
            if let Some(success) = verdict {
                let verdict = ProbeVerdict {
                    container_id: self.target.container_id.clone(),
                    success,
                    message: state.message.clone(),
                };
                let container = self.target.container.clone();
                let message = Message::Verdict { container, kind: self.target.kind, verdict };
                if self.outbox.send(message).is_err() {
                    return;
                }
            }
        }
    }

    /// After a restart of the daemon the first runs are spread over the period (A93); a new
    /// container's first run is at once.
    fn spread_ms(&self, spec: &Spec) -> i64 {
        let age = crate::clock::now().since_ms(self.target.started_at);
        if age < spec.initial_delay_ms + 10_000 || spec.period_ms <= 0 {
            return 0;
        }
        let text = format!("{}/{:?}", self.target.container_id, self.target.kind);
        (hash::hash64(&text) % spec.period_ms.unsigned_abs()) as i64
    }

    /// `None`: the prober failed, which says nothing about the container (A93).
    async fn probe(&self, spec: &Spec) -> Option<Outcome> {
        let timeout = Duration::from_millis(spec.timeout_ms.max(1).unsigned_abs());
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.try_once(timeout).await {
                Ok(outcome) => return Some(outcome),
                Err(error) => last = error,
            }
        }
        let message = format!("{:?} probe errored: {last}", self.target.kind);
        let container = Some(self.target.container.as_str());
        self.shared.event(&self.key, &self.uid, container, true, "Unhealthy", message);
        None
    }

    /// `Err`: the prober failed, not the container.
    async fn try_once(&self, timeout: Duration) -> Result<Outcome, String> {
        let probe = &self.target.probe;
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            return self.exec(command, timeout).await;
        }
        let network = async {
            if probe.http_get.is_some() {
                match probe::http_request(&self.target, KUBERNETES_VERSION) {
                    Ok(request) => self.http(request).await,
                    Err(message) => Outcome::Failure(message),
                }
            } else {
                match probe::tcp_target(&self.target) {
                    Ok(target) => match self.connect(&target.host, target.port).await {
                        Ok((stream, _closer)) => {
                            drop(stream);
                            Outcome::Success
                        }
                        Err(message) => Outcome::Failure(message),
                    },
                    Err(message) => Outcome::Failure(message),
                }
            }
        };
        let outcome = tokio::time::timeout(timeout, network).await;
        Ok(outcome.unwrap_or_else(|_| {
            Outcome::Failure(format!("no answer within {} s", timeout.as_secs()))
        }))
    }

    async fn exec(&self, command: Vec<String>, timeout: Duration) -> Result<Outcome, String> {
        let timed_out =
            || Outcome::Failure(format!("command timed out after {} s", timeout.as_secs()));
        match self.shared.cri.exec_sync(&self.target.container_id, command, timeout).await {
            Ok(answer) if answer.exit_code == 0 => Ok(Outcome::Success),
            Ok(answer) => {
                let output = [answer.stdout, answer.stderr].concat();
                let shown = &output[..output.len().min(MOST_BYTES)];
                Ok(Outcome::Failure(String::from_utf8_lossy(shown).trim_end().to_owned()))
            }
            Err(error) if error.code == Code::DeadlineExceeded => Ok(timed_out()),
            // containerd reports its own timeout as Unknown.
            Err(error)
                if error.message.contains("deadline exceeded")
                    || error.message.contains("timed out") =>
            {
                Ok(timed_out())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn http(&self, first: HttpRequest) -> Outcome {
        let mut request = first;
        for followed in 0..=probe::MOST_REDIRECTS + 1 {
            let (status, location) = match self.http_once(&request).await {
                Ok(reply) => reply,
                Err(message) => return Outcome::Failure(message),
            };
            let is_redirect = matches!(status, 301 | 302 | 303 | 307 | 308);
            match location.filter(|_| is_redirect) {
                None => return probe::http_outcome(status),
                Some(location) => match probe::redirect(&request, &location, followed) {
                    Redirect::Follow(next) => request = next,
                    Redirect::Stop(outcome) => return outcome,
                },
            }
        }
        Outcome::Failure("too many redirects".into())
    }

    /// One request on a connection of its own: no proxy, no reuse, no compression (A85). Answers
    /// the status and the Location header.
    async fn http_once(&self, request: &HttpRequest) -> Result<(u16, Option<String>), String> {
        let (stream, _closer) = self.connect(&request.host, request.port).await?;
        if request.https {
            let name = tls::server_name(&request.host)?;
            let stream = tls::connector()?.connect(name, stream).await;
            exchange(stream.map_err(|error| format!("TLS: {error}"))?, request).await
        } else {
            exchange(stream, request).await
        }
    }

    /// Connects with SO_LINGER of one second (A87). The closer ends the connection on a thread that
    /// may wait for it; it must outlive the stream.
    async fn connect(&self, host: &str, port: u16) -> Result<(TcpStream, Closer), String> {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| format!("{host}: {error}"))?
            .collect();
        let stream = TcpStream::connect(&addresses[..])
            .await
            .map_err(|error| format!("dial tcp {host}:{port}: {error}"))?;
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 1 };
        setsockopt(&stream, sockopt::Linger, &linger).map_err(|error| error.to_string())?;
        let copy = std::os::fd::AsFd::as_fd(&stream).try_clone_to_owned();
        let copy = copy.map_err(|error| error.to_string())?;
        Ok((stream, Closer { shared: self.shared.clone(), copy: Some(copy) }))
    }

    fn tell(&self, outcome: &Outcome) {
        let kind = format!("{:?}", self.target.kind);
        let (reason, message) = match outcome {
            Outcome::Success => return,
            Outcome::Warning(message) => {
                ("ProbeWarning", format!("{kind} probe warning: {message}"))
            }
            Outcome::Failure(message) => ("Unhealthy", format!("{kind} probe failed: {message}")),
        };
        let container = Some(self.target.container.as_str());
        self.shared.event(&self.key, &self.uid, container, true, reason, message);
    }
}

/// Keeps the socket open until a thread closes it: close waits up to SO_LINGER.
struct Closer {
    shared: Arc<Shared>,
    copy: Option<std::os::fd::OwnedFd>,
}

impl Drop for Closer {
    fn drop(&mut self) {
        if let Some(copy) = self.copy.take() {
            let scope = self.shared.scope.clone();
            let closing = scope.clone();
            scope.detach("close probe", Policy::Finite, async move {
                drop(closing.blocking(move || drop(copy)).await);
            });
        }
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    request: &HttpRequest,
) -> Result<(u16, Option<String>), String> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .title_case_headers(true)
        .max_buf_size(64 << 10)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut builder = hyper::Request::get(request.path.as_str());
    for (name, value) in &request.headers {
        builder = builder.header(name.as_str(), value.as_str());
    }
    // No keep-alive (A85); a header that the probe gives wins.
    if !request.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        builder = builder.header("connection", "close");
    }
    let message = builder.body(Empty::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let reply = sender.send_request(message).await.map_err(|error| cause_of(&error))?;
        let status = reply.status().as_u16();
        let location = reply.headers().get(hyper::header::LOCATION);
        let location = location.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut body = reply.into_body();
        let mut read = 0;
        // At most so much is read; an endless body does not make a probe fail (A84).
        while read < MOST_BYTES {
            match body.frame().await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(error)) => return Err(cause_of(&error)),
                None => break,
            }
        }
        Ok((status, location))
    };
    let connection = async {
        // Its errors reach the request too.
        drop(connection.await);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        () = connection => Err("the connection ended".into()),
    }
}

fn cause_of(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// TLS that asks for no proof (A86): it probes liveness, not identity.
mod tls {
    use std::sync::Arc;

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{CryptoProvider, ring};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
    use tokio_rustls::TlsConnector;

    #[derive(Debug)]
    struct AcceptAny(Arc<CryptoProvider>);

    impl ServerCertVerifier for AcceptAny {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }

    pub fn connector() -> Result<TlsConnector, String> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
            .with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    pub fn server_name(host: &str) -> Result<ServerName<'static>, String> {
        ServerName::try_from(host.to_owned()).map_err(|error| format!("{host}: {error}"))
    }
}
