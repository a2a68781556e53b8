//! What containerd has lost by the death of a caller: it cancels the call and can then say that a
//! container has ended, or a sandbox has gone, while its task goes on. No call of CRI ends such a task;
//! containerd's own API, at the same socket, does (F20).
//!
//! Deliberately absent: anything else of that API. Other runtimes do not have it and lose nothing so.

use std::time::Duration;

use longshore_proto::containers::DeleteContainerRequest;
use longshore_proto::containers::containers_client::ContainersClient;
use longshore_proto::tasks::tasks_client::TasksClient;
use longshore_proto::tasks::{DeleteTaskRequest, KillRequest};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// containerd's API asks for a namespace; that of CRI is always the same.
const NAMESPACE: (&str, &str) = ("containerd-namespace", "k8s.io");
/// No answer within this is an error: it is a question beside the real one.
const ANSWER: Duration = Duration::from_secs(10);
/// A process that was killed is seen to have ended within moments.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Kills the task of a container that has ended for the runtime, and deletes it. `false`: there is
/// none.
///
/// # Errors
/// The runtime's words.
pub async fn end_task(channel: Channel, id: &str) -> Result<bool, String> {
    let mut tasks = TasksClient::new(channel);
    let kill = KillRequest { container_id: id.to_owned(), signal: 9, all: true };
    match answer(tasks.kill(request(kill))).await {
        Ok(_) => {}
        // Its process has ended, or there is no task: its deletion tells.
        Err(status) if status.code() == Code::NotFound => {}
        Err(status) if status.code() == Code::Unimplemented => return Ok(false),
        Err(status) => return Err(text(&status)),
    }
    let mut last = String::new();
    for _ in 0..TRIES {
        let delete = DeleteTaskRequest { container_id: id.to_owned() };
        match answer(tasks.delete(request(delete))).await {
            Ok(_) => return Ok(true),
            Err(status) if status.code() == Code::NotFound => return Ok(false),
            Err(status) => last = text(&status),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(last)
}

/// Forgets the container of a sandbox that CRI has removed; nearly always there is none.
///
/// # Errors
/// The runtime's words.
pub async fn forget_container(channel: Channel, id: &str) -> Result<(), String> {
    let delete = DeleteContainerRequest { id: id.to_owned() };
    match answer(ContainersClient::new(channel).delete(request(delete))).await {
        Ok(_) => Ok(()),
        Err(status) if matches!(status.code(), Code::NotFound | Code::Unimplemented) => Ok(()),
        Err(status) => Err(text(&status)),
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(NAMESPACE.0, MetadataValue::from_static(NAMESPACE.1));
    request
}

async fn answer<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer in {} s", ANSWER.as_secs()))),
    }
}

fn text(status: &Status) -> String {
    format!("containerd: {} ({:?})", status.message(), status.code())
}
