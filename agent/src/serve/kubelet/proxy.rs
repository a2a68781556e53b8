//! A stream between a caller and the runtime's streaming server, as bytes (A182).
//!
//! SPDY and WebSocket are the ends' own matter; nothing of them is read here. Deliberately absent:
//! an idle limit, which the runtime's streaming server has (4 h).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::body::{Answer, full, text};
use super::limits::Held;
use super::server::Pool;
use super::websocket;
use crate::supervise::Policy;

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);
/// For what is still on its way after one end has said that it will say no more: an end that
/// forgets a stream must not hold it until the other does too.
const DRAIN: Duration = Duration::from_secs(120);
/// Of an answer that is no stream.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// Why there is no stream.
#[derive(thiserror::Error, Debug)]
pub enum ProxyError {
    #[error("the runtime's stream is at {0:?}, which is not HTTP on this machine's loopback")]
    Elsewhere(String),
    #[error(
        "the runtime's streaming server at {0} cannot be reached: {1}; it must be in the network namespace of this daemon"
    )]
    Connect(SocketAddr, std::io::Error),
    #[error("the runtime's streaming server does not answer")]
    Silent,
    #[error("the runtime's streaming server: {0}")]
    Http(#[from] hyper::Error),
}

/// `Upgrade` is asked for, as it must be.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let upgrade = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        })
    };
    headers.contains_key(header::UPGRADE) && headers.get_all(header::CONNECTION).iter().any(upgrade)
}

/// Where to dial: only a port of the loopback (CVE-2020-8559: never where an answer points to).
fn address(url: &str) -> Result<(SocketAddr, Uri), ProxyError> {
    let elsewhere = || ProxyError::Elsewhere(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| elsewhere())?;
    let host = uri.host().ok_or_else(elsewhere)?.trim_start_matches('[').trim_end_matches(']');
    let ip = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| elsewhere())?,
    };
    match uri.port_u16() {
        Some(port) if uri.scheme_str() == Some("http") && ip.is_loopback() => {
            Ok((SocketAddr::new(ip, port), uri))
        }
        _ => Err(elsewhere()),
    }
}

/// The caller's request for the runtime: its own path, nothing of the caller's credential.
fn onward(request: &Request<Incoming>, uri: &Uri) -> Request<Empty<Bytes>> {
    let mut out = Request::new(Empty::new());
    *out.method_mut() = request.method().clone();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *out.uri_mut() = Uri::try_from(path).unwrap_or_default();
    let protocols = websocket::without_token(request.headers());
    if let Some(protocols) = protocols {
        out.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocols);
    }
    for (name, value) in request.headers() {
        let own = [
            // Without the token, above.
            header::SEC_WEBSOCKET_PROTOCOL,
            header::HOST,
            header::AUTHORIZATION,
            header::COOKIE,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
        ];
        if !own.contains(name) {
            out.headers_mut().append(name.clone(), value.clone());
        }
    }
    let host = uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    if let Some(Ok(host)) = host {
        out.headers_mut().insert(header::HOST, host);
    }
    out
}

/// Answers the caller with what the runtime's server answers, and ties both ends together when that
/// is 101.
pub async fn stream(pool: &Pool, held: Held, url: &str, request: Request<Incoming>) -> Answer {
    match open(pool, held, url, request).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, "No stream");
            text(StatusCode::BAD_GATEWAY, error.to_string())
        }
    }
}

async fn open(
    pool: &Pool,
    held: Held,
    url: &str,
    mut request: Request<Incoming>,
) -> Result<Answer, ProxyError> {
    let (address, uri) = address(url)?;
    let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
    let socket = connected
        .map_err(|_| ProxyError::Silent)?
        .map_err(|error| ProxyError::Connect(address, error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
    // Kept until the answer is there, or for ever once it was 101.
    let driver = pool.scope().spawn("stream-runtime", Policy::Finite, async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "The runtime's side of a stream ended");
        }
    });
    let asked = tokio::time::timeout(ANSWER, sender.send_request(onward(&request, &uri))).await;
    let mut answer = asked.map_err(|_| ProxyError::Silent)??;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(refused(answer).await);
    }
    let (here, there) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
    pool.spawn("stream", async move {
        let (_driver, _held) = (driver, held);
        match tokio::try_join!(here, there) {
            Ok((here, there)) => {
                if let Err(error) = carry(TokioIo::new(here), TokioIo::new(there), DRAIN).await {
                    tracing::debug!(%error, "A stream ended");
                }
            }
            Err(error) => tracing::debug!(%error, "A stream did not begin"),
        }
    });
    let (parts, _) = answer.into_parts();
    Ok(Response::from_parts(parts, full(Bytes::new())))
}

/// Bytes in both directions until both have ended, or one has and the other has had `drain`.
async fn carry(
    here: impl AsyncRead + AsyncWrite,
    there: impl AsyncRead + AsyncWrite,
    drain: Duration,
) -> io::Result<()> {
    let (here_read, here_write) = tokio::io::split(here);
    let (there_read, there_write) = tokio::io::split(there);
    let mut up = std::pin::pin!(pour(here_read, there_write));
    let mut down = std::pin::pin!(pour(there_read, here_write));
    let in_time = |rest: Result<io::Result<()>, _>| rest.unwrap_or(Ok(()));
    tokio::select! {
        ended = &mut up => {
            ended?;
            in_time(tokio::time::timeout(drain, down).await)
        }
        ended = &mut down => {
            ended?;
            in_time(tokio::time::timeout(drain, up).await)
        }
    }
}

async fn pour(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// An answer that is none of a stream is passed on as text and the connection ends: no bytes of the
/// caller ever reach a server that did not switch (CVE-2018-1002105). A redirect is not passed on.
async fn refused(answer: Response<Incoming>) -> Answer {
    let status = answer.status();
    let mut refusal = if status.is_client_error() || status.is_server_error() {
        let body = Limited::new(answer.into_body(), REFUSAL_BYTES_MAX).collect().await;
        let bytes = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        text(status, String::from_utf8_lossy(&bytes))
    } else {
        text(StatusCode::BAD_GATEWAY, format!("the runtime's streaming server answered {status}"))
    };
    refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn f64_one_end_that_is_silent_does_not_hold_a_stream_that_the_other_has_ended() {
        use tokio::io::AsyncReadExt as _;
        for caller_ends in [true, false] {
            for (drain, answers) in [(Duration::from_secs(3600), true), (Duration::ZERO, false)] {
                let ((caller, here), (runtime, there)) =
                    (tokio::io::duplex(64), tokio::io::duplex(64));
                let (mut first, mut other) =
                    if caller_ends { (caller, runtime) } else { (runtime, caller) };
                let ends = async {
                    first.write_all(b"last words").await.unwrap();
                    first.shutdown().await.unwrap();
                    let mut words = String::new();
                    other.read_to_string(&mut words).await.unwrap();
                    assert_eq!(words, "last words");
                    if answers {
                        other.write_all(b"answer").await.unwrap();
                        other.shutdown().await.unwrap();
                        let mut answer = String::new();
                        first.read_to_string(&mut answer).await.unwrap();
                        assert_eq!(answer, "answer");
                    }
                };
                // Where the other says nothing more, this ends all the same.
                let (carried, ()) = tokio::join!(carry(here, there, drain), ends);
                carried.unwrap();
                drop((first, other));
            }
        }
    }

    #[test]
    fn cve_2020_8559_only_the_loopback_is_dialled() {
        for url in ["http://127.0.0.1:4000/exec/x", "http://localhost:1/a?b", "http://[::1]:9/"] {
            assert!(address(url).is_ok(), "{url}");
        }
        for url in [
            "http://192.0.2.1:80/exec/x",
            "https://127.0.0.1:443/",
            "http://127.0.0.1/",
            "http://example.org:80/",
            "http://127.0.0.1.example.org:80/",
            "//127.0.0.1:80/",
            "/exec/x",
            "unix:///run/x.sock",
            "",
        ] {
            assert!(address(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a182_only_an_upgrade_can_become_a_stream() {
        let headers = |connection: &'static str, upgrade: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
            if let Some(upgrade) = upgrade {
                headers.insert(header::UPGRADE, HeaderValue::from_static(upgrade));
            }
            is_upgrade(&headers)
        };
        assert!(headers("Upgrade", Some("SPDY/3.1")));
        assert!(headers("keep-alive, upgrade", Some("websocket")));
        assert!(!headers("keep-alive", Some("websocket")));
        assert!(!headers("Upgrade", None));
    }
}
