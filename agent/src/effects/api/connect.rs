//! The client of one identity, put together from the library's parts.
//!
//! The library's own has Nagle's algorithm on: the first request of each connection then waits 40 ms
//! for the acknowledgement of the TLS handshake's end, and a pod that needs the watch of a ConfigMap
//! starts as much later. Otherwise it is the same, without its log of calls. HTTP/1.1: over HTTP/2 all
//! watches would share one connection with the calls, and API servers bound the streams of one.

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client as HttpClient};
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use super::pace::Pace;

/// # Errors
/// The configuration names what cannot be read or used.
pub fn client(config: Config) -> Result<Client, kube::Error> {
    if config.proxy_url.is_some() {
        // Of the kubeconfig, or of HTTPS_PROXY and NO_PROXY: the library knows the way.
        return Ok(ClientBuilder::try_from(config)?.with_layer(&Pace::default()).build());
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut connector =
        hyper_timeout::TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let http: HttpClient<_, Body> = Builder::new(TokioExecutor::new()).build(connector);
    let retry = config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(retry)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    let builder = ClientBuilder::new(service, config.default_namespace);
    Ok(builder.with_layer(&Pace::default()).build())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a23_a_proxy_is_asked_for_the_way_to_the_api_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new("https://192.0.2.1:6443".parse().unwrap());
        config.proxy_url =
            Some(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let client = client(config).unwrap();
        let proxy = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 64];
            let read = socket.read(&mut asked).await.unwrap();
            String::from_utf8_lossy(&asked[..read]).into_owned()
        };
        let (asked, answer) = tokio::join!(proxy, client.apiserver_version());
        assert!(asked.starts_with("CONNECT 192.0.2.1:6443 "), "{asked}");
        assert!(answer.is_err(), "the proxy hangs up");
    }
}
