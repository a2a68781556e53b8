//! A proxy in front of the API server that can answer watches wrongly. One request a connection.

use std::fs::File;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use longshore_tests::cluster::{API_SERVER, Cluster};
use nix::sched::{CloneFlags, setns};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{Stream, crypto::ring};

/// What happens to watches, open and new ones. Everything else is passed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Pass,
    /// An event that says 410: what was seen last is too old.
    Gone,
    /// An answer that is no JSON.
    Garbage,
    /// The connection ends without a word.
    Cut,
}

const MODES: [Mode; 4] = [Mode::Pass, Mode::Gone, Mode::Garbage, Mode::Cut];
const PORT: u16 = 7443;

struct Shared {
    mode: AtomicU8,
    /// Watches that were answered wrongly.
    broken: AtomicUsize,
    upstream: String,
    server: Arc<ServerConfig>,
    /// Towards the API server: who shows a token is known by it alone, and who shows none by the
    /// certificate, which ends here with the client's TLS.
    client: Arc<ClientConfig>,
    node: Arc<ClientConfig>,
}

pub struct Proxy(Arc<Shared>);

impl Proxy {
    /// Listens beside the API server, with its certificate.
    pub fn start(cluster: &Cluster) -> Self {
        let pki = cluster.dir().join("pki");
        let upstream = API_SERVER.trim_start_matches("https://").to_owned();
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(0),
            broken: AtomicUsize::new(0),
            upstream,
            server: Arc::new(server_config(&pki)),
            client: Arc::new(client_config(&pki, None)),
            node: Arc::new(client_config(&pki, Some("node-n1"))),
        });
        let netns = cluster.control_plane().path();
        let (sender, ready) = std::sync::mpsc::channel();
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            // This thread, and those that it starts.
            setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            let host = own.upstream.split(':').next().unwrap();
            let listener = TcpListener::bind((host, PORT)).unwrap();
            sender.send(()).unwrap();
            for stream in listener.incoming().flatten() {
                let own = Arc::clone(&own);
                // A client that goes away is its own affair.
                std::thread::spawn(move || drop(own.serve(stream)));
            }
        });
        ready.recv().unwrap();
        Self(shared)
    }

    /// Makes a kubeconfig lead here.
    pub fn lead_here(&self, kubeconfig: &Path) {
        let text = std::fs::read_to_string(kubeconfig).unwrap();
        let host = self.0.upstream.split(':').next().unwrap();
        let changed = text.replace(API_SERVER, &format!("https://{host}:{PORT}"));
        assert_ne!(text, changed);
        std::fs::write(kubeconfig, changed).unwrap();
    }

    pub fn set(&self, mode: Mode) {
        let index = MODES.iter().position(|one| *one == mode).unwrap_or_default();
        self.0.mode.store(u8::try_from(index).unwrap_or_default(), Ordering::SeqCst);
    }

    pub fn broken(&self) -> usize {
        self.0.broken.load(Ordering::SeqCst)
    }
}

fn server_config(pki: &Path) -> ServerConfig {
    let chain = CertificateDer::pem_file_iter(pki.join("apiserver.crt")).unwrap();
    let chain = chain.map(std::result::Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(pki.join("apiserver.key")).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

fn client_config(pki: &Path, own: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("ca.crt")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let Some(own) = own else { return config.with_no_client_auth() };
    let cert = CertificateDer::from_pem_file(pki.join(format!("{own}.crt"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(pki.join(format!("{own}.key"))).unwrap();
    config.with_client_auth_cert(vec![cert], key).unwrap()
}

impl Shared {
    fn mode(&self) -> Mode {
        MODES[usize::from(self.mode.load(Ordering::SeqCst))]
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut tls =
            ServerConnection::new(Arc::clone(&self.server)).map_err(std::io::Error::other)?;
        let mut client = Stream::new(&mut tls, &mut stream);
        let (head, body) = read_request(&mut client)?;
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let is_watch = path.contains("watch=true") || path.contains("watch=1");
        if is_watch && self.mode() != Mode::Pass {
            client.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            )?;
            return self.break_it(&mut client);
        }
        let mut socket = TcpStream::connect(&self.upstream)?;
        let host = self.upstream.split(':').next().unwrap_or_default().to_owned();
        let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
        let token =
            head.lines().any(|line| line.to_ascii_lowercase().starts_with("authorization:"));
        let config = if token { &self.client } else { &self.node };
        let mut tls =
            ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
        let mut server = Stream::new(&mut tls, &mut socket);
        server.write_all(head.as_bytes())?;
        server.write_all(&body)?;
        server.flush()?;
        // So that an idle watch sees the mode change.
        server.sock.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut part = [0u8; 16 * 1024];
        loop {
            match server.read(&mut part) {
                Ok(0) => break,
                Ok(length) => {
                    client.write_all(&part[..length])?;
                    client.flush()?;
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if is_watch && self.mode() != Mode::Pass {
                        return self.break_it(&mut client);
                    }
                }
                // A server that closes without a goodbye has still said all.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                Err(error) => return Err(error),
            }
        }
        client.conn.send_close_notify();
        client.flush()
    }

    /// Ends a watch in the middle of its chunks.
    fn break_it(&self, client: &mut impl Write) -> Result<()> {
        self.broken.fetch_add(1, Ordering::SeqCst);
        let text = match self.mode() {
            Mode::Gone => {
                r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 1 (2)","reason":"Expired","code":410}}"#
            }
            Mode::Garbage => "}{ this is <no> JSON \u{0}",
            Mode::Pass | Mode::Cut => return Ok(()),
        };
        write!(client, "{:x}\r\n{text}\n\r\n0\r\n\r\n", text.len() + 1)?;
        client.flush()
    }
}

/// The head, saying that the connection ends after it, and the body.
fn read_request(client: &mut impl Read) -> Result<(String, Vec<u8>)> {
    let (mut bytes, mut part) = (Vec::new(), [0u8; 4096]);
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        match client.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => bytes.extend_from_slice(&part[..length]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut body = bytes.split_off(end + 4);
    let header = |line: &&str, name: &str| {
        line.split_once(':').is_some_and(|(key, _)| key.eq_ignore_ascii_case(name))
    };
    let length = head.lines().find(|line| header(line, "content-length"));
    let length = length.and_then(|line| line.split_once(':')?.1.trim().parse().ok()).unwrap_or(0);
    while body.len() < length {
        match client.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => body.extend_from_slice(&part[..length]),
        }
    }
    let mut kept: Vec<&str> = head.lines().filter(|line| !header(line, "connection")).collect();
    kept.push("Connection: close\r\n\r\n");
    Ok((kept.join("\r\n"), body))
}
