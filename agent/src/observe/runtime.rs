//! Calls to the runtime that only read, each with a deadline (A209, F12).
//!
//! Deliberately absent: what the answers mean for a pod (`pods`).

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use longshore_proto::cri;
use longshore_proto::cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

/// A node with a thousand containers lists more than tonic's default of 4 MiB.
pub(super) const MESSAGE_MAX: usize = 32 << 20;
const CALL_TIMEOUT: Duration = Duration::from_secs(120);

/// A question that the runtime did not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{method}: {message} ({code:?}); is the container runtime running?")]
pub struct ReadError {
    pub method: &'static str,
    pub code: Code,
    pub message: String,
}

/// What the runtime says of itself (A41).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuntimeStatus {
    /// RuntimeReady.
    pub ready: bool,
    /// NetworkReady.
    pub network_ready: bool,
    /// Why not.
    pub message: String,
}

/// Read-only client; clones share the connection.
#[derive(Clone)]
pub struct Reader {
    client: RuntimeServiceClient<Channel>,
}

impl Reader {
    pub fn new(channel: Channel) -> Self {
        let client = RuntimeServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        Self { client }
    }

    /// Sandboxes with these labels; empty: all.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn sandboxes(
        &self,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<cri::PodSandbox>, ReadError> {
        let filter = cri::PodSandboxFilter { label_selector: labels, ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let mut client = self.client.clone();
        Ok(call("ListPodSandbox", client.list_pod_sandbox(request)).await?.items)
    }

    /// Containers with these labels, ended ones too; empty: all.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn containers(
        &self,
        labels: BTreeMap<String, String>,
    ) -> Result<Vec<cri::Container>, ReadError> {
        let filter = cri::ContainerFilter { label_selector: labels, ..Default::default() };
        let request = cri::ListContainersRequest { filter: Some(filter) };
        let mut client = self.client.clone();
        Ok(call("ListContainers", client.list_containers(request)).await?.containers)
    }

    /// `None`: removed meanwhile. `verbose` fills `info` with the runtime's own JSON.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<Option<cri::PodSandboxStatusResponse>, ReadError> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose };
        let mut client = self.client.clone();
        found(call("PodSandboxStatus", client.pod_sandbox_status(request)).await)
    }

    /// `None`: removed meanwhile.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn container_status(
        &self,
        id: &str,
    ) -> Result<Option<cri::ContainerStatus>, ReadError> {
        let request = cri::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let mut client = self.client.clone();
        let answer = found(call("ContainerStatus", client.container_status(request)).await)?;
        Ok(answer.and_then(|answer| answer.status))
    }

    /// # Errors
    /// See [`ReadError`].
    pub async fn status(&self) -> Result<RuntimeStatus, ReadError> {
        let mut client = self.client.clone();
        let request = cri::StatusRequest { verbose: false };
        let status = call("Status", client.status(request)).await?.status.unwrap_or_default();
        let mut seen = RuntimeStatus::default();
        for condition in status.conditions {
            match condition.r#type.as_str() {
                "RuntimeReady" => seen.ready = condition.status,
                "NetworkReady" => seen.network_ready = condition.status,
                _ => continue,
            }
            if !condition.status {
                seen.message = format!("{}: {}", condition.reason, condition.message);
            }
        }
        Ok(seen)
    }

    /// The event stream; [`Code::Unimplemented`] from runtimes older than containerd 1.7. No
    /// deadline: it may open with the first event only.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn events(&self) -> Result<Streaming<cri::ContainerEventResponse>, ReadError> {
        let mut client = self.client.clone();
        match client.get_container_events(cri::GetEventsRequest {}).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(status) => Err(refused("GetContainerEvents", &status)),
        }
    }
}

fn found<T>(result: Result<T, ReadError>) -> Result<Option<T>, ReadError> {
    match result {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn refused(method: &'static str, status: &Status) -> ReadError {
    ReadError { method, code: status.code(), message: status.message().to_owned() }
}

pub(super) async fn call<T>(
    method: &'static str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, ReadError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused(method, &status)),
        Err(_) => Err(ReadError {
            method,
            code: Code::DeadlineExceeded,
            message: format!("no answer within {} s", CALL_TIMEOUT.as_secs()),
        }),
    }
}
