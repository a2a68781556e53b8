//! Listens, shakes hands, asks the gate, and gives each request to its answer.
//!
//! Nobody who is not known gets further than a header of bounded size and a bounded time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use super::auth::{Gate, Refusal};
use super::body::{Answer, json, text};
use super::metrics::Requests;
use super::query::Query;
use super::route::{self, Route};
use super::{KubeletViews, Reviews, Settings, exec, health, logs, metrics, pods};
use crate::clock;
use crate::supervise::{Policy, Scope, Task};
use crate::tls::Serving;

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);
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

/// What every answer needs.
pub struct Shared {
    pub settings: Settings,
    pub views: Arc<dyn KubeletViews>,
    pub pool: Pool,
    pub requests: Requests,
    gate: Gate,
    tls: Arc<Serving>,
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
        let address = SocketAddr::new(settings.address, settings.port);
        let port = listen("the node port", address, "port").await?;
        let health = match settings.healthz {
            Some(address) => Some(listen("the health port", address, "healthzPort").await?),
            None => None,
        };
        let tls = Arc::new(tls);
        let gate = Gate::new(&settings, tls.clone(), reviews);
        let pool = Pool { scope, tasks: Mutex::default() };
        let requests = Requests::default();
        let shared = Arc::new(Shared { settings, views, pool, requests, gate, tls });
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
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let healthy = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let secure = accept(&port, &places, |socket, place| {
            let shared_too = shared.clone();
            shared.pool.spawn("node-port", async move {
                if let Err(error) = serve_secure(shared_too, socket).await {
                    tracing::debug!(error, "A connection to the node port ended");
                }
                drop(place);
            });
        });
        let plain = async {
            let Some(health) = &health else { return std::future::pending().await };
            accept(health, &healthy, |socket, place| {
                let shared_too = shared.clone();
                shared.pool.spawn("health-port", async move {
                    serve_health(shared_too, socket).await;
                    drop(place);
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

/// Takes connections for ever, as many at once as there are places.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    take: impl Fn(TcpStream, OwnedSemaphorePermit),
) {
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                // Callers that vanish without a word must not hold a stream for ever.
                let _ = setsockopt(&socket, sockopt::KeepAlive, &true);
                let _ = socket.set_nodelay(true);
                take(socket, place);
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
    let (tls, now_s) = (shared.tls.clone(), clock::now().unix_ms() / 1000);
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

fn protocol() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER).max_buf_size(HEADER_BYTES_MAX);
    builder
}

async fn serve_secure(shared: Arc<Shared>, socket: TcpStream) -> Result<(), String> {
    let acceptor = TlsAcceptor::from(shared.tls.config());
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket))
        .await
        .map_err(|_| "no TLS handshake in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let chain: Arc<[CertificateDer<'static>]> =
        stream.get_ref().1.peer_certificates().unwrap_or_default().into();
    let service = service_fn(move |request: Request<Incoming>| {
        let (shared, chain) = (shared.clone(), chain.clone());
        async move { Ok::<_, Infallible>(Box::pin(respond(&shared, &chain, request)).await) }
    });
    let connection = protocol().serve_connection(TokioIo::new(stream), service);
    connection.with_upgrades().await.map_err(|error| error.to_string())
}

async fn serve_health(shared: Arc<Shared>, socket: TcpStream) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move {
            Ok::<_, Infallible>(match (request.method(), request.uri().path()) {
                (&Method::GET | &Method::HEAD, "/healthz") => {
                    health::answer(&shared.views.health())
                }
                _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
            })
        }
    });
    if let Err(error) = protocol().serve_connection(TokioIo::new(socket), service).await {
        tracing::debug!(%error, "A connection to the health port ended");
    }
}

/// Known, allowed, answered: in this order, for every request.
async fn respond(
    shared: &Arc<Shared>,
    chain: &[CertificateDer<'static>],
    request: Request<Incoming>,
) -> Answer {
    let path = request.uri().path().to_owned();
    shared.requests.count(request.method(), &path);
    let admitted = async {
        let who = shared.gate.authenticate(chain, request.headers()).await?;
        shared.gate.authorize(&who, &route::needs(request.method(), &path)).await
    };
    if let Err(Refusal { status, text: message }) = admitted.await {
        return text(status, message);
    }
    dispatch(shared, route::parse(&path), request).await
}

async fn dispatch(shared: &Arc<Shared>, route: Route, request: Request<Incoming>) -> Answer {
    use Route::{
        Attach, Configz, ContainerLogs, Exec, Healthz, Metrics, NotYet, Pods, PortForward, Run,
        RunningPods, Unknown,
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
