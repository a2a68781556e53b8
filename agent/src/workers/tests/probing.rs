//! Probes against real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Probe;
use longshore_core::model::{ObjectKey, PodUid, ProbeKind};
use longshore_core::pod::action::ProbeTarget;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::Node;
use super::fake::Fault;
use crate::supervise::Policy;
use crate::workers::pod::Message;
use crate::workers::probes::Probers;

fn target(kind: ProbeKind, probe: serde_json::Value) -> ProbeTarget {
    let probe: Probe = serde_json::from_value(probe).unwrap();
    ProbeTarget {
        container: "app".into(),
        container_id: "c1".into(),
        kind,
        started_at: crate::clock::now(),
        probe,
        host: "127.0.0.1".into(),
        ports: BTreeMap::new(),
    }
}

/// The first verdict, and what a peer that answers `replies` in order was asked.
async fn verdict(
    name: &str,
    kind: ProbeKind,
    probe: impl Fn(u16) -> serde_json::Value,
    replies: &[&str],
) -> (bool, String, Vec<String>) {
    let node = Node::new(name);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let (seen, replies) =
        (asked.clone(), replies.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>());
    let _server = node.supervisor.scope().spawn("server", Policy::Finite, async move {
        for n in 0..usize::MAX {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            seen.lock().unwrap().push(String::from_utf8_lossy(&buffer[..read]).into_owned());
            let reply = replies[n.min(replies.len() - 1)].replace("PORT", &port.to_string());
            drop(stream.write_all(reply.as_bytes()).await);
        }
    });
    let (outbox, mut inbox) = mpsc::unbounded_channel();
    let key = ObjectKey::new("ns", "p");
    let mut probers = Probers::new(node.shared.clone(), key, PodUid::new("u"), outbox);
    probers.set(&[target(kind, probe(port))]);
    let message = tokio::time::timeout(std::time::Duration::from_secs(10), inbox.recv()).await;
    let Ok(Some(Message::Verdict { verdict, .. })) = message else { panic!("no verdict") };
    let asked = asked.lock().unwrap().clone();
    (verdict.success, verdict.message, asked)
}

fn http(port: u16) -> serde_json::Value {
    serde_json::json!({
        "httpGet": {"port": port, "path": "/ready?x=1"},
        "failureThreshold": 1, "timeoutSeconds": 1,
    })
}

#[tokio::test]
async fn a84_a85_an_http_probe_asks_as_the_kubelet_does() {
    let ok = "HTTP/1.1 204 No Content\r\n\r\n";
    let (success, _, asked) = verdict("a84", ProbeKind::Readiness, http, &[ok]).await;
    assert!(success);
    let request = asked[0].to_ascii_lowercase();
    assert!(request.starts_with("get /ready?x=1 http/1.1\r\n"), "{request}");
    for header in
        ["user-agent: kube-probe/1.37", "accept: */*", "connection: close", "host: 127.0.0.1:"]
    {
        assert!(request.contains(header), "{header} in {request}");
    }
}

#[tokio::test]
async fn a84_a_bad_status_fails_with_the_code_alone() {
    let bad = "HTTP/1.1 503 Secret words\r\nContent-Length: 6\r\n\r\nsecret";
    let (success, message, _) = verdict("a84-bad", ProbeKind::Readiness, http, &[bad]).await;
    assert!(!success);
    assert_eq!(message, "HTTP probe failed with statuscode: 503");
}

#[tokio::test]
async fn a84_redirects_are_followed_on_the_same_host_only() {
    let same = "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (success, _, asked) = verdict("a84-same", ProbeKind::Readiness, http, &[same, ok]).await;
    assert!(success && asked.len() == 2 && asked[1].starts_with("GET /other "), "{asked:?}");
    let other =
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:PORT/\r\nContent-Length: 0\r\n\r\n";
    let (success, _, asked) = verdict("a84-other", ProbeKind::Readiness, http, &[other]).await;
    assert!(success && asked.len() == 1, "{asked:?}");
}

#[tokio::test]
async fn f62_an_endless_body_is_cut_and_a_silent_peer_times_out() {
    let body = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}", "x".repeat(20_000));
    let (success, ..) = verdict("f62", ProbeKind::Readiness, http, &[&body]).await;
    assert!(success);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (success, message, _) =
        verdict("f62-silent", ProbeKind::Liveness, |_| http(port), &["unused"]).await;
    assert!(!success && message.contains("no answer within 1 s"), "{message}");
}

#[tokio::test]
async fn a87_a_tcp_probe_connects() {
    let tcp = |port| serde_json::json!({"tcpSocket": {"port": port}, "failureThreshold": 1});
    let (success, ..) = verdict("a87", ProbeKind::Startup, tcp, &[""]).await;
    assert!(success);
    let closed = |_| serde_json::json!({"tcpSocket": {"port": 1}, "failureThreshold": 1});
    let (success, message, _) = verdict("a87-no", ProbeKind::Startup, closed, &[""]).await;
    assert!(!success && message.contains("refused"), "{message}");
}

#[tokio::test]
async fn a88_an_exec_probe_fails_with_the_commands_words() {
    let node = Node::new("a88");
    node.fake.with(|r| r.exec = (1, "not yet\n".into()));
    let (outbox, mut inbox) = mpsc::unbounded_channel();
    let key = ObjectKey::new("ns", "p");
    let mut probers = Probers::new(node.shared.clone(), key.clone(), PodUid::new("u"), outbox);
    let probe = serde_json::json!({"exec": {"command": ["ready"]}, "failureThreshold": 2, "periodSeconds": 1});
    let exec = target(ProbeKind::Readiness, probe);
    probers.set(std::slice::from_ref(&exec));
    let Some(Message::Verdict { verdict, kind, container }) = inbox.recv().await else { panic!() };
    assert_eq!((verdict.success, verdict.message.as_str()), (false, "not yet"));
    assert_eq!((kind, container.as_str()), (ProbeKind::Readiness, "app"));
    assert_eq!(node.fake.calls("ExecSync"), 2);
    let event = &node.shared.recorder.of(longshore_core::model::Kind::Pod, &key)[0];
    assert_eq!((event.reason.as_str(), event.count), ("Unhealthy", 2));
    assert_eq!(event.message, "Readiness probe failed: not yet");
    node.fake.with(|r| r.exec = (0, String::new()));
    // The same probe named again goes on counting; it is not a new one.
    probers.set(&[exec]);
    let Some(Message::Verdict { verdict, .. }) = inbox.recv().await else { panic!() };
    assert!(verdict.success);
}

#[tokio::test]
async fn a93_a_runtime_that_is_away_fails_no_probe() {
    let node = Node::new("a93");
    for _ in 0..6 {
        let away = Fault::Refuse(tonic::Code::Unavailable, "away".into());
        node.fake.fail("ExecSync", away);
    }
    let (outbox, mut inbox) = mpsc::unbounded_channel();
    let key = ObjectKey::new("ns", "p");
    let mut probers = Probers::new(node.shared.clone(), key, PodUid::new("u"), outbox);
    let probe = serde_json::json!({
        "exec": {"command": ["alive"]}, "failureThreshold": 1, "periodSeconds": 1,
    });
    probers.set(&[target(ProbeKind::Liveness, probe)]);
    let Some(Message::Verdict { verdict, .. }) = inbox.recv().await else { panic!() };
    assert!(verdict.success, "two periods without a result, then a good one");
    assert_eq!(node.fake.calls("ExecSync"), 7);
}
