//! `/containerLogs/{namespace}/{pod}/{container}` (A183).

mod format;
mod options;
mod reader;
mod select;

use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::unfold;
use hyper::StatusCode;

use super::body::{Answer, stream, text};
use super::pods::{self, Found};
use super::query::Query;
use super::route::PodPath;
use super::server::Shared;
use crate::observe::SeenPod;
use format::Renderer;
use longshore_core::model::ObjectKey;
use longshore_core::pod::paths;
use options::Options;
use reader::{Place, Reader, Writes};

const BAD: StatusCode = StatusCode::BAD_REQUEST;

pub async fn answer(
    shared: &Arc<Shared>,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Answer {
    if pod.is_empty() {
        return text(BAD, r#"{"message": "Missing podID."}"#);
    }
    if container.is_empty() {
        return text(BAD, r#"{"message": "Missing container name."}"#);
    }
    if namespace.is_empty() {
        return text(BAD, r#"{"message": "Missing podNamespace."}"#);
    }
    let options = match options::parse(query, (shared.wall)()) {
        Ok(options) => options,
        Err((status, message)) => return text(status, message),
    };
    let path = PodPath { key: ObjectKey::new(namespace, pod), uid: None };
    let Some(found) = pods::find(shared, &path) else {
        return text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n"));
    };
    if !pods::has_container(&found.pod, container) {
        let message = format!("container {container:?} not found in pod {pod:?}\n");
        return text(StatusCode::NOT_FOUND, message);
    }
    let held = match shared.logs.take(&found.uid) {
        Ok(held) => held,
        Err(message) => return text(StatusCode::TOO_MANY_REQUESTS, message),
    };
    match open(shared, &found, container, &options).await {
        Ok(reader) => stream(unfold(Some((reader, held)), |reading| async {
            let (mut reader, held) = reading?;
            match reader.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some((reader, held)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })),
        Err(message) => text(BAD, message),
    }
}

async fn open(
    shared: &Arc<Shared>,
    found: &Found,
    container: &str,
    options: &Options,
) -> Result<Reader, String> {
    let id = select::container_id(&found.key.name, &found.status, container, options.previous)?;
    let seen = shared.views.pod(found.uid.clone()).await.map_err(|error| error.to_string())?;
    let path = log_path(found, &seen, &id)
        .ok_or_else(|| format!("container {id:?} of pod {} is removed", found.key))?;
    let place = Place { root: shared.settings.pod_logs_dir.clone(), path };
    let renderer =
        Renderer::new(options.timestamps, options.since, options.stream, options.limit_bytes);
    let follow = options.follow.then(|| writes(shared, found, id.clone()));
    Reader::open(shared.pool.scope(), &shared.tails, place, options.tail_lines, renderer, follow)
        .await
        .map_err(|error| format!("cannot read the log of container {container:?}: {error}"))
}

/// `<namespace>_<name>_<uid>/<container>/<attempt>.log` (A206).
fn log_path(found: &Found, seen: &SeenPod, id: &str) -> Option<PathBuf> {
    paths::check(&found.key, &found.uid).ok()?;
    let container = seen.containers.iter().find(|one| one.id == id)?;
    paths::is_path_name(&container.name).then(|| {
        PathBuf::from(format!("{}_{}_{}", found.key.namespace, found.key.name, found.uid))
            .join(paths::log_path(&container.name, container.attempt))
    })
}

/// By the status that the container was chosen by: just after a restart of the daemon the API
/// server's is all there is. A pod that nobody names any more has only its own.
fn writes(shared: &Arc<Shared>, found: &Found, id: String) -> Writes {
    let shared = shared.clone();
    let path = PodPath { key: found.key.clone(), uid: Some(found.uid.clone()) };
    Box::new(move || match pods::find(&shared, &path) {
        Some(found) => select::is_running(&found.status, &id),
        None => {
            let world = shared.views.world();
            let local = path.uid.as_ref().and_then(|uid| world.local.get(uid));
            local.is_some_and(|local| select::is_running(&local.status, &id))
        }
    })
}
