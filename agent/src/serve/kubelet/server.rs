//! Listens, shakes hands, asks the gate, and gives each request to its answer.
//!
//! Nobody who is not known gets further than a header of bounded size and a bounded time, nor takes
//! a place that a known caller could need (F64).

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use longshore_core::model::Time;
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::auth::{Gate, Refusal};
use super::body::{Answer, json, text};
use super::limits::{Bound, Guest, Strangers};
use super::metrics::Requests;
use super::query::Query;
use super::route::{self, Route};
use super::{KubeletViews, Reviews, Settings, exec, health, logs, metrics, peer, pods};
use crate::clock;
use crate::supervise::{Policy, Scope, Task};
use crate::tls::Serving;

/// Connections of known callers at once. More than all that stays open with a connection of its
/// own, so that short requests always find a place.
const CONNECTIONS_MAX: usize = 512;
/// Connections whose caller is not known yet.
const STRANGERS_MAX: usize = 64;
/// Connections to the health port, where nobody is known.
const HEALTH_MAX: usize = 64;
/// exec, attach, port-forward and run; each takes a connection to the runtime.
const STREAMS_MAX: usize = 256;
const POD_STREAMS_MAX: usize = 32;
/// Logs that are being read or followed.
const LOGS_MAX: usize = 256;
const POD_LOGS_MAX: usize = 32;
/// Logs that are searched from their end at once.
const TAILS_MAX: usize = 4;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the header of a stranger's request; then for the word of the API server on him (10 s for
/// who he is, 10 s for what he may) and for taking the answer.
const STRANGER_HEADER: Duration = Duration::from_secs(10);
const STRANGER_ANSWER: Duration = Duration::from_secs(30);
/// For a request's header, and between two requests of a connection.
const HEADER: Duration = Duration::from_secs(60);
const HEADER_BYTES_MAX: usize = 64 << 10;
/// How often certificate files are looked at.
const RELOAD: Duration = Duration::from_secs(60);

/// A port that cannot be had.
#[derive(thiserror::Error, Debug)]
pub enum BindError {
    #[error(
        "{what} {address} is taken: another kubelet or longshore may be running on this node; stop it, or set {field} in --config"
    )]
    Taken { what: &'static str, address: SocketAddr, field: &'static str },
    #[error("cannot listen at {what} {address}: {error}; set {field} in --config")]
    Listen { what: &'static str, address: SocketAddr, field: &'static str, error: std::io::Error },
}

async fn listen(
    what: &'static str,
    address: SocketAddr,
    field: &'static str,
) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => BindError::Taken { what, address, field },
        _ => BindError::Listen { what, address, field, error },
    })
}

/// Tasks of connections and streams: they end with the server.
pub struct Pool {
    scope: Scope,
    tasks: Mutex<Vec<Task>>,
}

impl Pool {
    pub fn scope(&self) -> Scope {
        self.scope.clone()
    }

    /// Runs `future` until it ends or the server does.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let task = self.scope.spawn(name, Policy::Finite, future);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

/// The wall clock; tests have one of their own.
pub type Wall = Arc<dyn Fn() -> Time + Send + Sync>;

/// What every answer needs.
pub struct Shared {
    pub settings: Settings,
    pub views: Arc<dyn KubeletViews>,
    pub pool: Pool,
    pub wall: Wall,
    pub requests: Requests,
    pub streams: Arc<Bound>,
    pub logs: Arc<Bound>,
    /// Searches for the beginning of a log's tail.
    pub tails: Semaphore,
    gate: Gate,
    tls: Arc<Serving>,
    strangers: Arc<Strangers>,
    places: Arc<Semaphore>,
}

/// The node port and the health port.
pub struct Server {
    shared: Arc<Shared>,
    port: TcpListener,
    health: Option<TcpListener>,
}

impl Server {
    /// Takes both ports; nobody is answered before [`Server::run`].
    ///
    /// # Errors
    /// A port is taken, or the address is none of this node.
    pub async fn bind(
        settings: Settings,
        tls: Serving,
        reviews: Arc<dyn Reviews>,
        views: Arc<dyn KubeletViews>,
        scope: Scope,
    ) -> Result<Self, BindError> {
        Self::bind_by(Arc::new(clock::wall), settings, tls, reviews, views, scope).await
    }

    pub(super) async fn bind_by(
        wall: Wall,
        settings: Settings,
        tls: Serving,
        reviews: Arc<dyn Reviews>,
        views: Arc<dyn KubeletViews>,
        scope: Scope,
    ) -> Result<Self, BindError> {
        let address = SocketAddr::new(settings.address, settings.port);
        let port = listen("the node port", address, "port").await?;
        let health = match settings.healthz {
            Some(address) => Some(listen("the health port", address, "healthzPort").await?),
            None => None,
        };
        let tls = Arc::new(tls);
        let gate = Gate::new(&settings, tls.clone(), wall.clone(), reviews);
        let pool = Pool { scope, tasks: Mutex::default() };
        let requests = Requests::default();
        let shared = Arc::new(Shared {
            settings,
            views,
            pool,
            wall,
            requests,
            streams: Bound::new("streams", STREAMS_MAX, POD_STREAMS_MAX),
            logs: Bound::new("log readers", LOGS_MAX, POD_LOGS_MAX),
            tails: Semaphore::new(TAILS_MAX),
            gate,
            tls,
            strangers: Strangers::new(STRANGERS_MAX),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        Ok(Self { shared, port, health })
    }

    /// Where the node port is.
    ///
    /// # Errors
    /// The socket does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.port.local_addr()
    }

    /// Where the health port is; `None`: it is off.
    pub fn health_addr(&self) -> Option<SocketAddr> {
        self.health.as_ref().and_then(|health| health.local_addr().ok())
    }

    /// Answers for ever.
    pub async fn run(self) {
        let Self { shared, port, health } = self;
        let secure = accept(&port, |socket| {
            let shared_too = shared.clone();
            shared.pool.spawn("node-port", async move {
                if let Err(error) = serve_secure(shared_too, socket).await {
                    tracing::debug!(error, "A connection to the node port ended");
                }
            });
        });
        let plain = async {
            let Some(health) = &health else { return std::future::pending().await };
            let strangers = Strangers::new(HEALTH_MAX);
            accept(health, |socket| {
                let (shared_too, strangers) = (shared.clone(), strangers.clone());
                shared.pool.spawn("health-port", async move {
                    let (_place, sent_away) = strangers.enter();
                    tokio::select! {
                        () = serve_health(shared_too, socket) => {}
                        _ = sent_away => {}
                    }
                });
            })
            .await;
        };
        let reload = async {
            loop {
                tokio::time::sleep(RELOAD).await;
                reload(&shared).await;
            }
        };
        tokio::join!(secure, plain, reload);
    }
}

/// Takes connections for ever; `take` bounds them.
async fn accept(listener: &TcpListener, take: impl Fn(TcpStream)) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let _ = socket.set_nodelay(true);
                if let Err(error) = peer::watch(&socket) {
                    tracing::debug!(%error, "A connection that was gone at once");
                }
                take(socket);
            }
            // Out of file descriptors: others must end first.
            Err(error) => {
                tracing::warn!(%error, "Could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn reload(shared: &Arc<Shared>) {
    let (tls, now_s) = (shared.tls.clone(), (shared.wall)().unix_ms() / 1000);
    match shared.pool.scope().blocking(move || tls.reload(now_s)).await {
        Ok(Ok(true)) => {
            tracing::info!("The node port's certificate files have changed: taken over")
        }
        Ok(Ok(false)) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "The node port keeps its old certificate files");
        }
        Err(error) => tracing::error!(%error, "Could not look at the certificate files"),
    }
}

fn protocol(header: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header).max_buf_size(HEADER_BYTES_MAX);
    builder
}

async fn serve_secure(shared: Arc<Shared>, socket: TcpStream) -> Result<(), String> {
    let (stranger, sent_away) = shared.strangers.enter();
    let guest = Guest::new(stranger);
    let hurried = async {
        tokio::select! {
            biased;
            // From here on the times of known callers hold.
            () = guest.known.notified() => std::future::pending().await,
            _ = sent_away => "other strangers came",
            text = too_slow(&guest) => text,
        }
    };
    tokio::select! {
        biased;
        text = hurried => Err(format!("the caller was not known and {text}")),
        result = converse(&shared, &guest, socket) => result,
    }
}

/// Ends when a stranger has had his time.
async fn too_slow(guest: &Guest) -> &'static str {
    if tokio::time::timeout(HANDSHAKE + STRANGER_HEADER, guest.heard.notified()).await.is_err() {
        return "said nothing in time";
    }
    tokio::time::sleep(STRANGER_ANSWER).await;
    "did not take the answer in time"
}

async fn converse(
    shared: &Arc<Shared>,
    guest: &Arc<Guest>,
    socket: TcpStream,
) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(shared.tls.config());
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket))
        .await
        .map_err(|_| "no TLS handshake in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let chain: Arc<[CertificateDer<'static>]> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().into();
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, guest, chain) = (shared.clone(), guest.clone(), chain.clone());
        async move { Ok::<_, Infallible>(Box::pin(respond(&shared, &guest, &chain, request)).await) }
    });
    let connection = protocol(HEADER).serve_connection(TokioIo::new(stream), service);
    connection.with_upgrades().await.map_err(|error| error.to_string())
}

async fn serve_health(shared: Arc<Shared>, socket: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            Ok::<_, Infallible>(match (request.method(), request.uri().path()) {
                (&Method::GET | &Method::HEAD, path) => match route::parse(path) {
                    Route::Healthz => health::answer(&shared.views.health()),
                    Route::HealthzOf(check) => health::answer_one(&shared.views.health(), &check),
                    _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
                },
                _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            })
        }
    });
    if let Err(error) =
        protocol(STRANGER_HEADER).serve_connection(TokioIo::new(socket), service).await
    {
        tracing::debug!(%error, "A connection to the health port ended");
    }
}

/// Known, allowed, answered: in this order, for every request.
async fn respond(
    shared: &Arc<Shared>,
    guest: &Guest,
    chain: &[CertificateDer<'static>],
    request: Request<Incoming>,
) -> Answer {
    guest.heard.notify_one();
    let path = request.uri().path().to_owned();
    shared.requests.count(request.method(), &path);
    let admitted = async {
        let who = shared.gate.authenticate(chain, request.headers()).await?;
        shared.gate.authorize(&who, &route::needs(request.method(), &path)).await
    };
    if let Err(Refusal { status, text: message }) = admitted.await {
        return last(status, message);
    }
    if !guest.admit(&shared.places) {
        let message = format!("the node port has {CONNECTIONS_MAX} connections; try again later");
        return last(StatusCode::SERVICE_UNAVAILABLE, message);
    }
    dispatch(shared, route::parse(&path), request).await
}

/// The connection ends with it: who was refused has nothing more to say on it.
fn last(status: StatusCode, message: String) -> Answer {
    let mut answer = text(status, message);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

async fn dispatch(shared: &Arc<Shared>, route: Route, request: Request<Incoming>) -> Answer {
    use Route::{
        Attach, Configz, ContainerLogs, Exec, Healthz, HealthzOf, Metrics, NotYet, Pods,
        PortForward, Run, RunningPods, Unknown,
    };
    let method = request.method();
    let allowed: &'static str = match &route {
        Exec(..) | Attach(..) | PortForward(_) => "GET, POST",
        Run(..) => "POST",
        _ => "GET, HEAD",
    };
    if !matches!(route, NotYet | Unknown) && !allowed.split(", ").any(|one| one == method.as_str())
    {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return answer;
    }
    let query = Query::parse(request.uri().query());
    match route {
        Healthz => health::answer(&shared.views.health()),
        HealthzOf(check) => health::answer_one(&shared.views.health(), &check),
        Pods => pods::answer(shared),
        RunningPods => pods::running(shared),
        Configz => {
            let config = serde_json::json!({"kubeletconfig": shared.views.configz()});
            json(StatusCode::OK, &config)
        }
        Metrics => metrics::answer(shared),
        ContainerLogs(namespace, pod, container) => {
            logs::answer(shared, (&namespace, &pod, &container), &query).await
        }
        Exec(pod, container) => {
            exec::answer(shared, exec::Stream::Exec, &pod, &container, &query, request).await
        }
        Attach(pod, container) => {
            exec::answer(shared, exec::Stream::Attach, &pod, &container, &query, request).await
        }
        Run(pod, container) => exec::run(shared, &pod, &container, &query).await,
        PortForward(pod) => exec::port_forward(shared, &pod, &query, request).await,
        NotYet => text(StatusCode::NOT_FOUND, "longshore does not serve this path yet\n"),
        Unknown => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}
