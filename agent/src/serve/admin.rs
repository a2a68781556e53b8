//! The admin socket `<state-dir>/longshore.sock`: root and the daemon's own user may ask.
//!
//! Deliberately absent: anything that changes something. Connections are served by one task, a few
//! at a time and each for a few seconds: a client that hangs holds nobody.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use longshore_core::model::{ObjectKey, World};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::Views;
use super::protocol::{REQUEST_BYTES_MAX, Request, Response, SOCKET};
use super::status::Status;

const CLIENTS_MAX: usize = 16;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the socket cannot be had.
#[derive(thiserror::Error, Debug)]
pub enum AdminError {
    #[error(
        "another daemon answers at {0}; stop it first, or give this one a --state-dir of its own"
    )]
    Taken(PathBuf),
    #[error(
        "cannot listen at {path}: {error} (a socket's path has at most 107 bytes: a shorter --state-dir helps if it is longer)"
    )]
    Listen { path: PathBuf, error: std::io::Error },
}

/// The listening socket.
pub struct Admin {
    listener: UnixListener,
}

impl Admin {
    /// Takes the place of a socket that nobody answers at any more. Mode 0600.
    ///
    /// # Errors
    /// Another daemon uses this state directory, or the path cannot be bound.
    pub fn bind(state_dir: &Path) -> Result<Self, AdminError> {
        let path = state_dir.join(SOCKET);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            return Err(AdminError::Taken(path));
        }
        let listen = || {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        let listener =
            listen().map_err(|error| AdminError::Listen { path: path.clone(), error })?;
        Ok(Self { listener })
    }

    /// Answers for ever.
    pub async fn run(self, views: Arc<dyn Views>) {
        let mut clients = FuturesUnordered::new();
        loop {
            let room = clients.len() < CLIENTS_MAX;
            tokio::select! {
                biased;
                Some(()) = clients.next() => {}
                accepted = self.listener.accept(), if room => match accepted {
                    Ok((stream, _)) => clients.push(client(stream, views.clone())),
                    // Out of file descriptors: the others must end first.
                    Err(error) => {
                        tracing::warn!(%error, "Could not accept an admin client");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}

async fn client(stream: UnixStream, views: Arc<dyn Views>) {
    let answered = tokio::time::timeout(CLIENT_TIMEOUT, converse(stream, &*views)).await;
    match answered {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "An admin client went away"),
        Err(_) => tracing::debug!("An admin client took too long"),
    }
}

async fn converse(stream: UnixStream, views: &dyn Views) -> std::io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (read, mut write) = stream.into_split();
    let response = if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
        let mut line = String::new();
        let mut limited = BufReader::new(read.take(REQUEST_BYTES_MAX as u64));
        limited.read_line(&mut line).await?;
        match serde_json::from_str(&line) {
            Ok(request) => answer(&request, views),
            Err(error) => Response::Error(format!(
                "the daemon does not understand this request ({error}); are both of the same version?"
            )),
        }
    } else {
        Response::Error(format!("user {uid} may not ask; run as root"))
    };
    let mut text = serde_json::to_vec(&response)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

/// Answers one request.
pub fn answer(request: &Request, views: &dyn Views) -> Response {
    let lines = |lines: Vec<String>| Response::Text(lines.join("\n") + "\n");
    match request {
        Request::Status => Response::Status(Box::new(Status::of(views))),
        Request::Maps { kernel: false } => Response::Text(views.maps_wanted()),
        Request::Maps { kernel: true } => {
            views.maps_kernel().map_or_else(Response::Error, Response::Text)
        }
        Request::Events { count } => Response::Events(views.events(*count)),
        Request::ExplainFlow(query) => views.flow(query).map_or_else(Response::Error, lines),
        Request::ExplainPod { pod } => explain_pod(pod, views).map_or_else(Response::Error, lines),
        Request::ExplainService { service } => {
            explain_service(service, views).map_or_else(Response::Error, lines)
        }
    }
}

fn key_of(text: &str) -> ObjectKey {
    match text.split_once('/') {
        Some((namespace, name)) => ObjectKey::new(namespace, name),
        None => ObjectKey::new("default", text),
    }
}

fn explain_pod(name: &str, views: &dyn Views) -> Result<Vec<String>, String> {
    let world = views.world();
    let key = key_of(name);
    let Some(pod) = world.pods.get(&key) else {
        let names = world.pods.keys().map(ToString::to_string);
        return Err(missing("pod", &key, names));
    };
    let status = Status::of(views);
    let row =
        status.pods.iter().find(|row| *row.namespace == *key.namespace && *row.name == *key.name);
    let mut lines = vec![match row {
        Some(row) => format!(
            "pod {key}: {} ({}/{} containers ready)",
            row.status, row.containers_ready, row.containers
        ),
        None => format!("pod {key}"),
    }];
    let uid = longshore_core::model::PodUid::new(pod.metadata.uid.as_deref().unwrap_or_default());
    lines.extend(views.why_pod(&uid).into_iter().map(|line| format!("  {line}")));
    let about = format!("Pod {key}");
    let events = views.events(usize::MAX).into_iter().filter(|event| event.object == about);
    lines.extend(events.map(|event| format!("  event {}: {}", event.reason, event.message)));
    let files = status.problems.iter().filter(|problem| problem.contains(&*key.name));
    lines.extend(files.map(|problem| format!("  {problem}")));
    Ok(lines)
}

fn explain_service(name: &str, views: &dyn Views) -> Result<Vec<String>, String> {
    let world: Arc<World> = views.world();
    let key = key_of(name);
    if !world.services.contains_key(&key) {
        return Err(missing("Service", &key, world.services.keys().map(ToString::to_string)));
    }
    let mut lines = vec![format!("service {key}")];
    for (name, slice) in world.endpoint_slices.iter().filter(|(name, slice)| {
        let labels = longshore_core::model::labels::of(&slice.metadata);
        name.namespace == key.namespace
            && labels.get("kubernetes.io/service-name").is_some_and(|one| **one == *key.name)
    }) {
        for endpoint in slice.endpoints.iter().flatten() {
            let target = endpoint
                .target_ref
                .as_ref()
                .and_then(|target| target.name.clone())
                .unwrap_or_default();
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            lines.push(format!(
                "  {} {target}: ready {}, serving {}, terminating {} (slice {})",
                endpoint.addresses.join(","),
                conditions.ready.unwrap_or(true),
                conditions.serving.unwrap_or(true),
                conditions.terminating.unwrap_or(false),
                name.name
            ));
        }
    }
    if lines.len() == 1 {
        lines.push(
            "  no endpoints: no pod with an address matches its selector; connections are refused"
                .to_owned(),
        );
    }
    lines.extend(views.service_text(&key).into_iter().map(|line| format!("  {line}")));
    Ok(lines)
}

fn missing(kind: &str, key: &ObjectKey, names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.take(20).collect();
    let there = if names.is_empty() {
        "there are none".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    };
    format!("there is no {kind} {key} (namespace/name); {there}")
}

#[cfg(test)]
mod tests {
    use super::super::client;
    use super::super::status::tests::Fixed;
    use super::*;
    use crate::supervise::{Policy, Supervisor};
    use crate::world::files::tests::TempDir;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn admin_socket_answers_one_line_with_one_line() {
        let dir = TempDir::new("admin");
        let supervisor = Supervisor::default();
        let admin = Admin::bind(dir.path()).unwrap();
        let task = supervisor.scope().spawn("admin", Policy::Critical, admin.run(Arc::new(Fixed)));
        let path = dir.path().to_owned();
        let mode = std::fs::metadata(path.join(SOCKET)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(Admin::bind(dir.path()), Err(AdminError::Taken(_))));
        let ask = move |request: Request| {
            let path = path.clone();
            let (tx, rx) = tokio::sync::oneshot::channel();
            crate::supervise::thread("ask", || {
                let _ = tx.send(client::ask(&path, &request));
            })
            .unwrap();
            rx
        };
        let asked = tokio::task::block_in_place(|| ask(Request::Status)).await.unwrap().unwrap();
        assert!(matches!(asked, Response::Status(status) if status.pods.len() == 2));
        let pod = Request::ExplainPod { pod: "demo/web-2".to_owned() };
        let asked = tokio::task::block_in_place(|| ask(pod)).await.unwrap().unwrap();
        assert!(
            matches!(&asked, Response::Text(text) if text.contains("web-2: waits") && text.contains("BackOff")),
            "{asked:?}"
        );
        drop(task);
    }

    #[test]
    fn explain_of_what_is_not_there_names_what_is() {
        let asked = answer(&Request::ExplainPod { pod: "demo/wb-1".to_owned() }, &Fixed);
        assert_eq!(
            asked,
            Response::Error(
                "there is no pod demo/wb-1 (namespace/name); there are demo/web-1, demo/web-2"
                    .to_owned()
            )
        );
        let asked = answer(&Request::ExplainService { service: "demo/web".to_owned() }, &Fixed);
        assert!(
            matches!(&asked, Response::Text(text) if text.contains("10.85.0.6") && text.contains("frontend of demo/web"))
        );
    }

    #[tokio::test]
    async fn admin_takes_the_place_of_a_dead_socket() {
        let dir = TempDir::new("admin-dead");
        drop(Admin::bind(dir.path()).unwrap());
        assert!(dir.path().join(SOCKET).exists());
        assert!(Admin::bind(dir.path()).is_ok());
    }
}
