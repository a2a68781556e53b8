//! The node port over the loopback: certificates, tokens, refusals, logs and streams.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, ready};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::authorization::v1::SubjectAccessReviewSpec;
use k8s_openapi::api::core::v1::Pod;
use longshore_core::model::{
    ContainerState, LocalPod, ObjectKey, ObservedContainer, ObservedSandbox, PodUid, SandboxState,
    Time, World,
};
use longshore_proto::cri;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::supervise::{Policy, Supervisor};
use crate::tls;

/// Whose certificate or token a caller shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    Nobody,
    /// A certificate of the client CA: CN `alice`, O `dev`.
    Alice,
    /// The same names from a CA that nobody asked.
    Stranger,
    Token(&'static str),
}

/// Says yes to a short list, and counts what it is asked.
#[derive(Default)]
struct FakeReviews {
    asked: AtomicUsize,
    /// (user, verb, subresource) that may.
    may: Mutex<Vec<(&'static str, &'static str, &'static str)>>,
    away: AtomicBool,
    /// Questions about tokens are never answered.
    tokens_hang: AtomicBool,
    last: Mutex<Option<SubjectAccessReviewSpec>>,
}

impl Reviews for FakeReviews {
    fn token(&self, token: String) -> BoxFuture<'_, Result<Option<UserInfo>, String>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.tokens_hang.load(Ordering::SeqCst) {
            return std::future::pending().boxed();
        }
        let user = (token == "good").then(|| UserInfo {
            username: Some("bob".to_owned()),
            groups: Some(vec!["system:serviceaccounts".to_owned()]),
            uid: Some("u-7".to_owned()),
            extra: None,
        });
        let away = self.away.load(Ordering::SeqCst);
        ready(if away { Err("no API server".to_owned()) } else { Ok(user) }).boxed()
    }

    fn access(&self, spec: SubjectAccessReviewSpec) -> BoxFuture<'_, Result<bool, String>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let about = spec.resource_attributes.clone().unwrap();
        assert_eq!(about.resource.as_deref(), Some("nodes"));
        assert_eq!(about.name.as_deref(), Some("node-a"));
        let (user, verb, sub) =
            (spec.user.clone().unwrap(), about.verb.unwrap(), about.subresource.unwrap());
        *self.last.lock().unwrap() = Some(spec);
        let may = self.may.lock().unwrap().iter().any(|one| *one == (&*user, &*verb, &*sub));
        let away = self.away.load(Ordering::SeqCst);
        ready(if away { Err("no API server".to_owned()) } else { Ok(may) }).boxed()
    }
}

/// One pod with one container, and a runtime whose streams are at `stream`.
struct FakeViews {
    stream: Mutex<Result<String, RuntimeError>>,
    asked: Mutex<Vec<String>>,
    /// No worker has published yet: the status is the API server's.
    restarted: AtomicBool,
    ill: AtomicBool,
}

impl FakeViews {
    fn url(&self, asked: String) -> BoxFuture<'_, Result<String, RuntimeError>> {
        self.asked.lock().unwrap().push(asked);
        ready(self.stream.lock().unwrap().clone()).boxed()
    }
}

impl KubeletViews for FakeViews {
    fn world(&self) -> Arc<World> {
        let mut world = World::default();
        let pod = |node: &str, uid: &str| {
            let pod = json!({"metadata": {"name": "web", "namespace": "demo", "uid": uid},
                "spec": {"nodeName": node, "containers": [{"name": "app"}, {"name": "new"}]}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        world.pods.insert(ObjectKey::new("demo", "web"), pod("node-a", "u-1"));
        world.pods.insert(ObjectKey::new("demo", "else"), pod("node-b", "u-2"));
        let status = json!({"phase": "Running", "containerStatuses": [
            {"name": "app", "image": "busybox", "imageID": "", "ready": true, "restartCount": 1,
             "containerID": "containerd://c-1", "state": {"running": {}}},
            {"name": "new", "image": "busybox", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"waiting": {"reason": "ContainerCreating"}}}]});
        let status = serde_json::from_value(status).unwrap();
        if self.restarted.load(Ordering::SeqCst) {
            let web = world.pods.get_mut(&ObjectKey::new("demo", "web")).unwrap();
            *web = Arc::new(Pod { status: Some(status), ..(**web).clone() });
            return Arc::new(world);
        }
        let local = LocalPod { status, ..LocalPod::default() };
        world.local.insert(PodUid::new("u-1"), Arc::new(local));
        Arc::new(world)
    }

    fn configz(&self) -> serde_json::Value {
        json!({"kind": "KubeletConfiguration", "clusterDomain": "cluster.local"})
    }

    fn health(&self) -> Vec<Health> {
        let state = match self.ill.load(Ordering::SeqCst) {
            true => Err("a secret reason".to_owned()),
            false => Ok(()),
        };
        vec![Health { name: "ping", state: Ok(()) }, Health { name: "syncloop", state }]
    }

    fn listed(&self) -> BTreeMap<PodUid, ListedPod> {
        let key = ObjectKey::new("demo", "web");
        [(PodUid::new("u-1"), ListedPod { key, sandboxes: vec!["s-1".to_owned()], seen: 1 })].into()
    }

    fn pod(&self, _: PodUid) -> BoxFuture<'_, Result<SeenPod, RuntimeError>> {
        let at = Time::from_unix_ms(0);
        let container = ObservedContainer {
            user: None,
            id: "c-1".to_owned(),
            name: "app".to_owned(),
            sandbox_id: "s-1".to_owned(),
            attempt: 1,
            state: ContainerState::Running { started_at: at },
            created_at: at,
            image: String::new(),
            image_ref: String::new(),
            hash: String::new(),
            termination_message: String::new(),
            grace_s: None,
        };
        let sandbox = ObservedSandbox {
            id: "s-1".to_owned(),
            attempt: 0,
            state: SandboxState::Ready,
            created_at: at,
            ips: Vec::new(),
            host_network: false,
        };
        ready(Ok(SeenPod { sandboxes: vec![sandbox], containers: vec![container] })).boxed()
    }

    fn exec(&self, request: cri::ExecRequest) -> BoxFuture<'_, Result<String, RuntimeError>> {
        self.url(format!("exec {} {:?} tty={}", request.container_id, request.cmd, request.tty))
    }

    fn attach(&self, request: cri::AttachRequest) -> BoxFuture<'_, Result<String, RuntimeError>> {
        self.url(format!("attach {} stdin={}", request.container_id, request.stdin))
    }

    fn port_forward(
        &self,
        request: cri::PortForwardRequest,
    ) -> BoxFuture<'_, Result<String, RuntimeError>> {
        self.url(format!("forward {} {:?}", request.pod_sandbox_id, request.port))
    }

    fn exec_sync(
        &self,
        container_id: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<cri::ExecSyncResponse, RuntimeError>> {
        let stdout = format!("{container_id} {command:?}").into_bytes();
        ready(Ok(cri::ExecSyncResponse { stdout, ..Default::default() })).boxed()
    }
}

/// A running node port and what it takes to call it.
struct Lab {
    supervisor: Supervisor,
    directory: PathBuf,
    address: SocketAddr,
    health: SocketAddr,
    reviews: Arc<FakeReviews>,
    views: Arc<FakeViews>,
    callers: [(CertificateDer<'static>, Vec<u8>); 2],
    /// How far the node's wall clock is off.
    off_ms: Arc<AtomicI64>,
}

fn settings(directory: PathBuf) -> Settings {
    Settings {
        node_name: "node-a".to_owned(),
        address: Ipv4Addr::LOCALHOST.into(),
        port: 0,
        healthz: Some((Ipv4Addr::LOCALHOST, 0).into()),
        authentication: Authentication {
            webhook: Some(Duration::from_secs(120)),
            anonymous: false,
        },
        authorization: Authorization::Webhook {
            allowed: Duration::from_secs(300),
            denied: Duration::from_secs(30),
        },
        pod_logs_dir: directory,
    }
}

fn caller() -> (String, (CertificateDer<'static>, Vec<u8>)) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "dev");
    params.distinguished_name.push(DnType::CommonName, "alice");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(2020, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (pem, (certificate.der().clone(), key.serialize_der()))
}

impl Lab {
    async fn new(name: &str, change: impl FnOnce(&mut Settings)) -> Self {
        let directory =
            std::env::temp_dir().join(format!("longshore-port-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("demo_web_u-1/app")).unwrap();
        let ((pem, alice), (_, stranger)) = (caller(), caller());
        std::fs::write(directory.join("ca.crt"), pem).unwrap();
        let tls = tls::Settings {
            client_ca_file: Some(directory.join("ca.crt")),
            pki_dir: directory.join("pki"),
            node_name: "node-a".to_owned(),
            ..tls::Settings::default()
        };
        let now_s = crate::clock::now().unix_ms() / 1000;
        let serving = tls::Serving::load_or_make(tls, now_s).unwrap();
        let reviews = Arc::new(FakeReviews::default());
        let views = Arc::new(FakeViews {
            stream: Mutex::new(Err(RuntimeError::NotFound("gone".to_owned()))),
            asked: Mutex::default(),
            restarted: AtomicBool::new(false),
            ill: AtomicBool::new(false),
        });
        let mut settings = settings(directory.clone());
        change(&mut settings);
        let supervisor = Supervisor::default();
        let off_ms = Arc::new(AtomicI64::new(0));
        let off = off_ms.clone();
        let wall = Arc::new(move || crate::clock::wall().plus_ms(off.load(Ordering::SeqCst)));
        let (asked, shown, scope) = (reviews.clone(), views.clone(), supervisor.scope());
        let server = Server::bind_by(wall, settings, serving, asked, shown, scope).await.unwrap();
        let (address, health) = (server.local_addr().unwrap(), server.health_addr().unwrap());
        supervisor.scope().detach("server", Policy::Finite, server.run());
        let callers = [alice, stranger];
        Self { supervisor, directory, address, health, reviews, views, callers, off_ms }
    }

    fn may(&self, rights: &[(&'static str, &'static str, &'static str)]) {
        self.reviews.may.lock().unwrap().extend_from_slice(rights);
    }

    async fn connect(&self, caller: Caller) -> TlsStream<TcpStream> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(self.directory.join("pki/longshore-serving.pem")).unwrap();
        use rustls::pki_types::pem::PemObject as _;
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let builder = builder.with_root_certificates(roots);
        let config = match caller {
            Caller::Alice | Caller::Stranger => {
                let (der, key) = self.callers[usize::from(caller == Caller::Stranger)].clone();
                let key = PrivatePkcs8KeyDer::from(key).into();
                builder.with_client_auth_cert(vec![der], key).unwrap()
            }
            Caller::Nobody | Caller::Token(_) => builder.with_no_client_auth(),
        };
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("node-a").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
    }

    /// Head and body of one answer; the connection ends with it.
    async fn ask(&self, caller: Caller, method: &str, path: &str) -> (u16, String) {
        let mut stream = self.connect(caller).await;
        let token = match caller {
            Caller::Token(token) => format!("Authorization: Bearer {token}\r\n"),
            _ => String::new(),
        };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n{token}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        split(&String::from_utf8(answer).unwrap())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.supervisor.stop();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn split(answer: &str) -> (u16, String) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    let (mut text, mut rest) = (String::new(), body);
    loop {
        let (size, after) = rest.split_once("\r\n").unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (status, text);
        }
        text += &after[..size];
        rest = &after[size + 2..];
    }
}

#[tokio::test]
async fn a179_a180_who_is_not_known_gets_401_and_who_may_not_gets_403() {
    let lab = Lab::new("matrix", |_| ()).await;
    lab.may(&[("alice", "get", "proxy"), ("bob", "get", "metrics")]);
    let paths = ["/healthz", "/pods", "/configz", "/metrics", "/stats/summary", "/nothing"];
    for path in paths {
        for caller in [Caller::Nobody, Caller::Stranger, Caller::Token("bad"), Caller::Token("")] {
            let (status, text) = lab.ask(caller, "GET", path).await;
            assert_eq!((status, text.as_str()), (401, "Unauthorized"), "{caller:?} {path}");
        }
    }
    for (caller, path, status) in [
        (Caller::Alice, "/healthz", 200),
        (Caller::Alice, "/pods", 200),
        (Caller::Alice, "/nothing", 404),
        (Caller::Alice, "/metrics", 403),
        (Caller::Token("good"), "/metrics", 200),
        (Caller::Token("good"), "/metrics/cadvisor", 404),
        (Caller::Token("good"), "/pods", 403),
    ] {
        assert_eq!(lab.ask(caller, "GET", path).await.0, status, "{caller:?} {path}");
    }
    let (_, text) = lab.ask(Caller::Token("good"), "GET", "/pods").await;
    let want = "Forbidden (user=bob, verb=get, resource=nodes, subresource(s)=[pods proxy])";
    assert_eq!(text, want);
    let groups = lab.reviews.last.lock().unwrap().clone().unwrap();
    assert_eq!(groups.uid.as_deref(), Some("u-7"));
    assert_eq!(groups.groups.unwrap(), ["system:serviceaccounts", "system:authenticated"]);
}

#[tokio::test]
async fn f32_certificates_and_since_go_by_the_wall_clock_of_now() {
    let lab =
        Lab::new("wall", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    let log = format!("{} stdout F now\n", crate::clock::wall());
    std::fs::write(lab.directory.join("demo_web_u-1/app/1.log"), log).unwrap();
    let path = "/containerLogs/demo/web/app?sinceSeconds=86000";
    assert_eq!(lab.ask(Caller::Alice, "GET", path).await, (200, "now\n".to_owned()));
    // The wall clock is set while the daemon runs: a day on, and to before the certificate.
    lab.off_ms.store(86_400_000, Ordering::SeqCst);
    assert_eq!(lab.ask(Caller::Alice, "GET", path).await, (200, String::new()));
    lab.off_ms.store(-20 * 366 * 86_400_000, Ordering::SeqCst);
    assert_eq!(lab.ask(Caller::Alice, "GET", path).await.0, 401);
    lab.off_ms.store(0, Ordering::SeqCst);
    assert_eq!(lab.ask(Caller::Alice, "GET", path).await.0, 200);
}

#[tokio::test]
async fn a180_reading_is_not_running_whatever_the_method() {
    let lab = Lab::new("create", |_| ()).await;
    lab.may(&[("alice", "get", "proxy")]);
    for method in ["GET", "POST", "HEAD"] {
        for path in [
            "/exec/demo/web/app?command=id&output=1",
            "/attach/demo/web/app?output=1",
            "/portForward/demo/web",
            "/run/demo/web/app?cmd=id",
        ] {
            assert_eq!(lab.ask(Caller::Alice, method, path).await.0, 403, "{method} {path}");
        }
    }
    assert!(lab.views.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a179_a180_verdicts_are_kept_and_an_absent_api_server_is_a_no() {
    let lab = Lab::new("cache", |_| ()).await;
    lab.may(&[("bob", "get", "pods")]);
    for _ in 0..3 {
        assert_eq!(lab.ask(Caller::Token("good"), "GET", "/pods").await.0, 200);
        assert_eq!(lab.ask(Caller::Token("bad"), "GET", "/pods").await.0, 401);
    }
    // One question about each token, one about the right.
    assert_eq!(lab.reviews.asked.load(Ordering::SeqCst), 3);
    lab.reviews.away.store(true, Ordering::SeqCst);
    assert_eq!(lab.ask(Caller::Token("good"), "GET", "/pods").await.0, 200, "kept");
    assert_eq!(lab.ask(Caller::Token("other"), "GET", "/pods").await.0, 401);
    let (status, text) = lab.ask(Caller::Alice, "GET", "/pods").await;
    assert_eq!(status, 500);
    assert!(text.starts_with("Authorization error (user=alice, verb=get"), "{text}");
}

#[tokio::test]
async fn a179_anonymous_callers_are_let_in_only_on_request_and_with_nothing_wrong() {
    let lab = Lab::new("anonymous", |settings| settings.authentication.anonymous = true).await;
    lab.may(&[("system:anonymous", "get", "healthz")]);
    assert_eq!(lab.ask(Caller::Nobody, "GET", "/healthz").await, (200, "ok".to_owned()));
    assert_eq!(lab.ask(Caller::Nobody, "GET", "/pods").await.0, 403);
    assert_eq!(lab.ask(Caller::Token("bad"), "GET", "/healthz").await.0, 401);
    assert_eq!(lab.ask(Caller::Stranger, "GET", "/healthz").await.0, 401);
}

#[tokio::test]
async fn a178_a_taken_port_is_named_with_what_to_do() {
    let lab =
        Lab::new("taken", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    let mut again = settings(lab.directory.clone());
    again.port = lab.address.port();
    let tls = tls::Settings {
        pki_dir: lab.directory.join("pki"),
        node_name: "node-a".to_owned(),
        ..tls::Settings::default()
    };
    let serving = tls::Serving::load_or_make(tls, crate::clock::now().unix_ms() / 1000).unwrap();
    let bound = Server::bind(
        again,
        serving,
        lab.reviews.clone(),
        lab.views.clone(),
        lab.supervisor.scope(),
    );
    let error = bound.await.err().unwrap().to_string();
    assert!(error.contains("is taken") && error.contains("set port in --config"), "{error}");
}

#[tokio::test]
async fn a178_a189_the_health_port_answers_anybody_and_nothing_else() {
    let lab = Lab::new("health", |_| ()).await;
    let none = (404, "404 page not found\n");
    let ill = "[+]ping ok\n[-]syncloop failed: reason withheld\nhealthz check failed\n";
    for (path, is_ill, want) in [
        ("/healthz", false, (200, "ok")),
        ("/healthz/ping", false, (200, "ok")),
        ("/healthz/syncloop", false, (200, "ok")),
        ("/healthz/other", false, none),
        ("/pods", false, none),
        ("/healthz", true, (500, ill)),
        ("/healthz/ping", true, (200, "ok")),
        ("/healthz/syncloop", true, (500, "internal server error: reason withheld\n")),
    ] {
        lab.views.ill.store(is_ill, Ordering::SeqCst);
        let mut socket = TcpStream::connect(lab.health).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (status, text) = split(&answer);
        assert_eq!((status, text.as_str()), want, "{path}");
    }
    lab.may(&[("alice", "get", "healthz")]);
    assert_eq!(lab.ask(Caller::Alice, "GET", "/healthz/ping").await, (200, "ok".to_owned()));
    assert_eq!(lab.ask(Caller::Alice, "GET", "/healthz/syncloop").await.0, 500);
}

#[tokio::test]
async fn a181_a185_pods_config_and_metrics_are_this_nodes() {
    let lab =
        Lab::new("views", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    let value = async |path: &str| {
        let (status, text) = lab.ask(Caller::Alice, "GET", path).await;
        assert_eq!(status, 200, "{path} {text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let pods = value("/pods").await;
    assert_eq!(pods["kind"], "PodList");
    assert_eq!(pods["items"].as_array().unwrap().len(), 1);
    assert_eq!(pods["items"][0]["metadata"]["uid"], "u-1");
    assert_eq!(pods["items"][0]["status"]["phase"], "Running");
    let running = value("/runningpods/").await;
    assert_eq!(running["items"][0]["spec"]["containers"][0]["name"], "app");
    assert_eq!(value("/configz").await["kubeletconfig"]["clusterDomain"], "cluster.local");
    let (_, metrics) = lab.ask(Caller::Alice, "GET", "/metrics").await;
    for line in [
        "kubelet_node_name{node=\"node-a\"} 1.0\n",
        "kubelet_running_pods 1.0\n",
        "kubelet_running_containers{container_state=\"running\"} 1.0\n",
        "kubelet_http_requests_total{method=\"GET\",path=\"pods\",server_type=\"readwrite\"} 1.0\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(lab.ask(Caller::Alice, "DELETE", "/pods").await.0, 405);
}

#[tokio::test]
async fn a183_logs_of_a_container_and_the_kubelets_words_where_there_are_none() {
    let lab =
        Lab::new("logs", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    let log = "2026-11-20T10:00:00Z stdout F one\n2026-11-20T10:00:01Z stderr F two\n";
    std::fs::write(lab.directory.join("demo_web_u-1/app/1.log"), log).unwrap();
    let words = |text: &str| text.to_owned();
    for (path, want) in [
        ("demo/web/app", (200, words("one\ntwo\n"))),
        ("demo/web/app?tailLines=1", (200, words("two\n"))),
        ("demo/web/app?tailLines=0", (200, words(""))),
        ("demo/web/app?limitBytes=2", (200, words("on"))),
        (
            "demo/web/app?timestamps=true&sinceTime=2026-11-20T10:00:01Z",
            (200, words("2026-11-20T10:00:01.000000000Z two\n")),
        ),
        (
            "demo/web/app?previous=true",
            (400, words("previous terminated container \"app\" in pod \"web\" not found")),
        ),
        (
            "demo/web/new",
            (400, words("container \"new\" in pod \"web\" is waiting to start: ContainerCreating")),
        ),
        ("demo/web/none", (404, words("container \"none\" not found in pod \"web\"\n"))),
        ("demo/none/app", (404, words("pod \"none\" does not exist\n"))),
        ("demo/else/app", (404, words("pod \"else\" does not exist\n"))),
        ("demo//app", (400, words("{\"message\": \"Missing podID.\"}"))),
        ("demo/web/app?tailLines=-1", (422, words("{\"message\": \"Invalid request.\"}"))),
        ("demo/web/app?tailLines=x", (400, words("{\"message\": \"Unable to decode query.\"}"))),
    ] {
        let path = format!("/containerLogs/{path}");
        assert_eq!(lab.ask(Caller::Alice, "GET", &path).await, want, "{path}");
    }
}

#[tokio::test]
async fn a183_following_goes_on_just_after_a_restart() {
    let lab =
        Lab::new("restart", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    lab.views.restarted.store(true, Ordering::SeqCst);
    let path = lab.directory.join("demo_web_u-1/app/1.log");
    std::fs::write(&path, "2026-11-20T10:00:00Z stdout F one\n").unwrap();
    let follow = "/containerLogs/demo/web/app?follow=true";
    let mut follower = begin(&lab, Caller::Alice, follow, "").await;
    head(&mut follower).await;
    let mut text = String::new();
    let mut bytes = [0; 100];
    while !text.contains("one\n") {
        let n = follower.read(&mut bytes).await.unwrap();
        text += std::str::from_utf8(&bytes[..n]).unwrap();
    }
    // More than a look at the file later it would have ended.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut open = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut open, b"2026-11-20T10:00:01Z stdout F two\n").unwrap();
    while !text.contains("two\n") {
        let n = follower.read(&mut bytes).await.unwrap();
        text += std::str::from_utf8(&bytes[..n]).unwrap();
        assert!(n > 0 && !text.ends_with("\n0\r\n\r\n"), "it ended: {text:?}");
    }
}

#[tokio::test]
async fn cve_21_a_log_that_became_a_link_is_not_followed() {
    let lab =
        Lab::new("link", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    std::os::unix::fs::symlink("/etc/hostname", lab.directory.join("demo_web_u-1/app/1.log"))
        .unwrap();
    let (status, text) = lab.ask(Caller::Alice, "GET", "/containerLogs/demo/web/app").await;
    assert_eq!(status, 400);
    assert!(text.starts_with("cannot read the log of container \"app\""), "{text}");
}

/// Sends a request and leaves the connection open; nothing of the answer is read.
async fn begin(lab: &Lab, caller: Caller, path: &str, token: &str) -> TlsStream<TcpStream> {
    let mut stream = lab.connect(caller).await;
    let request = format!("GET {path} HTTP/1.1\r\nHost: n\r\n{token}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap().to_ascii_lowercase()
}

#[tokio::test]
async fn a180_questions_about_tokens_do_not_keep_a_certificate_from_its_answer() {
    let lab = Lab::new("hang", |_| ()).await;
    lab.may(&[("alice", "get", "pods")]);
    lab.reviews.tokens_hang.store(true, Ordering::SeqCst);
    let mut hanging = Vec::new();
    for n in 0..20 {
        let token = format!("Authorization: Bearer t{n}\r\n");
        hanging.push(begin(&lab, Caller::Nobody, "/pods", &token).await);
    }
    while lab.reviews.asked.load(Ordering::SeqCst) < 16 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(lab.ask(Caller::Alice, "GET", "/pods").await.0, 200);
    // Not because the others have been given up: they still wait.
    let mut byte = [0];
    assert!(futures::poll!(Box::pin(hanging[0].read(&mut byte))).is_pending());
}

#[tokio::test]
async fn f64_strangers_get_one_answer_and_never_the_places_of_known_callers() {
    let lab = Lab::new("strangers", |_| ()).await;
    lab.may(&[("alice", "get", "pods")]);
    // Refused is over, whatever was sent behind it.
    for caller in [Caller::Nobody, Caller::Token("good")] {
        let token = if caller == Caller::Nobody { "" } else { "Authorization: Bearer good\r\n" };
        let request = format!("GET /pods HTTP/1.1\r\nHost: n\r\n{token}\r\n");
        let mut stream = lab.connect(caller).await;
        stream.write_all(request.repeat(20).as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.contains("connection: close"));
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        assert!(!String::from_utf8_lossy(&rest).contains("HTTP/1.1"), "one answer");
    }
    // A known caller keeps his connection; the silent ones make room for each other.
    let mut known = begin(&lab, Caller::Alice, "/pods", "").await;
    assert!(head(&mut known).await.starts_with("http/1.1 200"));
    let mut silent = TcpStream::connect(lab.address).await.unwrap();
    let mut more = Vec::new();
    for _ in 0..70 {
        more.push(TcpStream::connect(lab.address).await.unwrap());
    }
    assert!(matches!(silent.read(&mut [0]).await, Ok(0) | Err(_)), "sent away");
    assert_eq!(lab.ask(Caller::Alice, "GET", "/pods").await.0, 200);
    known.write_all(b"GET /pods HTTP/1.1\r\nHost: n\r\n\r\n").await.unwrap();
    let mut answer = vec![0; 4096];
    let n = known.read(&mut answer).await.unwrap();
    assert!(n > 0, "the known caller's connection stays");
}

#[tokio::test]
async fn f64_followers_and_streams_have_an_end_and_short_requests_go_on() {
    let lab =
        Lab::new("bounds", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    let log = "2026-11-20T10:00:00Z stdout F one\n";
    std::fs::write(lab.directory.join("demo_web_u-1/app/1.log"), log).unwrap();
    let follow = "/containerLogs/demo/web/app?follow=true";
    let mut open_ones = Vec::new();
    for _ in 0..32 {
        let mut follower = begin(&lab, Caller::Alice, follow, "").await;
        assert!(head(&mut follower).await.starts_with("http/1.1 200"));
        open_ones.push(follower);
    }
    let (status, text) = lab.ask(Caller::Alice, "GET", follow).await;
    assert_eq!(status, 429);
    assert!(text.starts_with("this pod has 32 log readers open"), "{text}");
    assert_eq!(lab.ask(Caller::Alice, "GET", "/pods").await.0, 200);
    // Who goes gives the place back.
    open_ones.clear();
    while lab.ask(Caller::Alice, "GET", "/containerLogs/demo/web/app?tailLines=0").await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..32 {
        let (url, server) = runtime(SWITCH).await;
        *lab.views.stream.lock().unwrap() = Ok(url);
        lab.supervisor.scope().detach("runtime", Policy::Finite, async move {
            server.await;
        });
        let (stream, head) = open(&lab, "POST", "/exec/demo/web/app?output=1").await;
        assert!(head.starts_with("http/1.1 101"), "{head}");
        open_ones.push(stream);
    }
    let (_, head) = open(&lab, "POST", "/portForward/demo/web").await;
    assert!(head.starts_with("http/1.1 429"), "{head}");
    assert_eq!(lab.ask(Caller::Alice, "GET", "/pods").await.0, 200);
}

/// A streaming server for one connection: answers `head`, then echoes, and gives back the request.
async fn runtime(head: &'static str) -> (String, BoxFuture<'static, String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/exec/token?x=1", listener.local_addr().unwrap());
    let serve = async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(socket.read_u8().await.unwrap());
        }
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = [0; 1024];
        while let Ok(n @ 1..) = socket.read(&mut bytes).await {
            socket.write_all(&bytes[..n]).await.unwrap();
        }
        String::from_utf8(request).unwrap()
    };
    (url, serve.boxed())
}

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

async fn open(lab: &Lab, method: &str, path: &str) -> (TlsStream<TcpStream>, String) {
    let mut stream = lab.connect(Caller::Token("good")).await;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer good\r\nConnection: Upgrade\r\n\
         Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap().to_ascii_lowercase())
}

#[tokio::test]
async fn a182_a_stream_is_carried_as_bytes_with_half_closes_and_without_the_callers_token() {
    let lab =
        Lab::new("exec", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    for (method, path, asked) in [
        (
            "POST",
            "/exec/demo/web/app?command=sh&command=-c&command=a%20b&input=1&output=1",
            "exec c-1 [\"sh\", \"-c\", \"a b\"] tty=false",
        ),
        ("GET", "/exec/demo/web/u-1/app?command=sh&output=1&tty=1", "exec c-1 [\"sh\"] tty=true"),
        ("POST", "/attach/demo/web/app?input=1&output=1", "attach c-1 stdin=true"),
        ("POST", "/portForward/demo/web", "forward s-1 []"),
        ("POST", "/portForward/demo/web/u-1", "forward s-1 []"),
    ] {
        let (url, server) = runtime(SWITCH).await;
        *lab.views.stream.lock().unwrap() = Ok(url);
        let client = async {
            let (mut stream, head) = open(&lab, method, path).await;
            assert!(
                head.starts_with("http/1.1 101 ") && head.contains("upgrade: spdy/3.1"),
                "{head}"
            );
            assert!(head.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{head}");
            let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
            let (mut read, mut write) = tokio::io::split(&mut stream);
            let send = async {
                write.write_all(&bytes).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut back = Vec::new();
            let (_, received) = tokio::join!(send, read.read_to_end(&mut back));
            received.unwrap();
            assert!(back == bytes);
        };
        let (request, ()) = tokio::join!(server, client);
        let low = request.to_ascii_lowercase();
        assert!(request.starts_with(&format!("{method} /exec/token?x=1 HTTP/1.1")), "{request}");
        assert!(low.contains("upgrade: spdy/3.1") && low.contains("host: 127.0.0.1:"), "{request}");
        assert!(!low.contains("authorization") && !low.contains("good"), "{request}");
        assert_eq!(lab.views.asked.lock().unwrap().last().map(String::as_str), Some(asked));
    }
}

#[tokio::test]
async fn a179_a182_a_browsers_token_is_taken_and_goes_no_further() {
    let lab = Lab::new("browser", |_| ()).await;
    lab.may(&[("bob", "create", "proxy")]);
    let (url, server) = runtime(SWITCH).await;
    *lab.views.stream.lock().unwrap() = Ok(url);
    let client = async {
        let mut stream = lab.connect(Caller::Nobody).await;
        let request = "GET /exec/demo/web/app?command=sh&output=1 HTTP/1.1\r\nHost: n\r\n\
            Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\n\
            Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io.Z29vZA\r\n\
            Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("http/1.1 101 "));
    };
    let (request, ()) = tokio::join!(server, client);
    let request = request.to_ascii_lowercase();
    assert!(request.contains("sec-websocket-protocol: v5.channel.k8s.io\r\n"), "{request}");
    assert!(request.contains("sec-websocket-key: a\r\n"), "{request}");
    assert!(!request.contains("bearer") && !request.contains("z29vza"), "{request}");
}

#[tokio::test]
async fn cve_2018_1002105_an_answer_that_is_no_stream_ends_the_connection() {
    let lab =
        Lab::new("refused", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    for (head, status, body) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "403", "no"),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "502",
            "the runtime's streaming server answered 302 Found",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes",
            "502",
            "the runtime's streaming server answered 200 OK",
        ),
    ] {
        let (url, server) = runtime(head).await;
        *lab.views.stream.lock().unwrap() = Ok(url);
        let client = async {
            let (mut stream, head) = open(&lab, "POST", "/exec/demo/web/app?output=1").await;
            assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
            assert!(!head.contains("location"), "{head}");
            // What the caller sends now reaches nobody, and the connection is over.
            let _ = stream.write_all(b"smuggled").await;
            let mut text = Vec::new();
            let _ = stream.read_to_end(&mut text).await;
            assert_eq!(String::from_utf8(text).unwrap(), body);
        };
        let (request, ()) = tokio::join!(server, client);
        assert!(!request.contains("smuggled"));
    }
}

#[tokio::test]
async fn a182_refusals_of_streams_have_the_kubelets_text() {
    let lab =
        Lab::new("words", |settings| settings.authorization = Authorization::AlwaysAllow).await;
    let upgrade = async |path: &str| {
        let (mut stream, head) = open(&lab, "POST", path).await;
        let size = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let mut text = vec![0; size.parse().unwrap()];
        stream.read_exact(&mut text).await.unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, String::from_utf8(text).unwrap())
    };
    for (path, status, text) in [
        ("/exec/demo/none/app?output=1", 404, "pod does not exist"),
        ("/exec/demo/web/u-9/app?output=1", 404, "pod does not exist"),
        ("/exec/demo/else/app?output=1", 404, "pod does not exist"),
        ("/exec/demo/web/new?output=1", 500, "container not found (\"new\")"),
        ("/exec/demo/web/app", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/demo/web/app?output=1", 404, "gone"),
    ] {
        assert_eq!(upgrade(path).await, (status, text.to_owned()), "{path}");
    }
    *lab.views.stream.lock().unwrap() = Err(RuntimeError::Busy("too many".to_owned()));
    assert_eq!(upgrade("/portForward/demo/web").await.0, 429);
    *lab.views.stream.lock().unwrap() = Ok("http://192.0.2.9:80/exec/x".to_owned());
    assert_eq!(upgrade("/exec/demo/web/app?output=1").await.0, 502);
    let (status, text) = lab.ask(Caller::Alice, "POST", "/exec/demo/web/app?output=1").await;
    assert_eq!((status, text.as_str()), (400, "Upgrade request required"));
    let (status, text) = lab.ask(Caller::Alice, "POST", "/run/demo/web/app?cmd=ls%20-l").await;
    assert_eq!((status, text.as_str()), (200, "c-1 [\"ls\", \"-l\"]"));
}
