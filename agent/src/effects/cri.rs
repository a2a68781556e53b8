//! Calls to the container runtime that change something, and the image calls (A209).
//!
//! Errors carry the method, the runtime's code and text, and what to do. Deliberately absent:
//! listing and events (`observe`), retries (the next decision is the retry), and any printing of a
//! request: it may hold credentials or environment values.

use std::future::Future;
use std::time::Duration;

use longshore_proto::cri;
use longshore_proto::cri::image_service_client::ImageServiceClient;
use longshore_proto::cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// A node with a thousand containers lists more than tonic's default of 4 MiB.
const MESSAGE_MAX: usize = 32 << 20;
/// `runtimeRequestTimeout` (A209).
pub const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long start-up waits for a runtime that is not there yet (A209).
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A call that the runtime refused or did not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{method}: {message} ({code:?}){}", hint(*code, message))]
pub struct CriError {
    pub method: &'static str,
    pub code: Code,
    pub message: String,
}

impl CriError {
    /// The runtime's own words, as the status and the events of a container have them.
    pub fn words(&self) -> String {
        format!("{}{}", self.message, hint(self.code, &self.message))
    }

    /// A container has ended for the runtime, and its task goes on: containerd cancels a start whose
    /// caller dies, and forgets what it has started by then.
    pub fn is_of_a_running_task(&self) -> bool {
        self.code == Code::FailedPrecondition && self.message.contains("cannot delete running task")
    }

    /// The thing that the call was about is not there: for a removal, success.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

/// What a user can do about it; empty where the runtime's own words say it.
fn hint(code: Code, message: &str) -> &'static str {
    if message.contains("no such file or directory") && message.contains("connect") {
        "; is containerd running, and --container-runtime-endpoint its socket?"
    } else if message.contains("can't get final child's PID from pipe") {
        "; without CAP_SYS_RESOURCE containerd needs restrict_oom_score_adj = true"
    } else if message.contains("seccomp: config provided but seccomp not supported") {
        "; this runc was built without seccomp"
    } else if message.contains("cni plugin not initialized") {
        "; containerd found no network configuration: its conf_dir must be --cni-conf-dir"
    } else {
        match code {
            Code::Unavailable => "; is containerd running and its socket readable for root?",
            Code::DeadlineExceeded => "; the runtime is slow or hangs: see its log",
            Code::Unimplemented => "; this runtime is too old for it",
            _ => "",
        }
    }
}

/// Client of one runtime; clones share the connection.
#[derive(Clone)]
pub struct Cri {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

/// What `Version` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuntimeVersion {
    pub name: String,
    pub version: String,
    pub api: String,
}

impl Cri {
    /// Makes a client for `unix:///run/containerd/containerd.sock` (the scheme may be missing).
    /// Connects at the first call, and again whenever the connection is lost (F11).
    ///
    /// # Errors
    /// The endpoint is not a unix socket path.
    pub fn new(endpoint: &str) -> Result<Self, CriError> {
        let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint);
        let bad =
            |message: String| CriError { method: "connect", code: Code::InvalidArgument, message };
        if !path.starts_with('/') {
            return Err(bad(format!(
                "{endpoint:?} is not a socket: give unix:///run/containerd/containerd.sock"
            )));
        }
        let endpoint = Endpoint::from_shared(format!("unix://{path}"))
            .map_err(|error| bad(format!("{endpoint:?}: {error}")))?
            .connect_timeout(Duration::from_secs(5));
        Ok(Self::over(endpoint.connect_lazy()))
    }

    /// Uses a connection that is there already.
    pub fn over(channel: Channel) -> Self {
        let runtime = RuntimeServiceClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let image = ImageServiceClient::new(channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        Self { channel, runtime, image }
    }

    /// The connection, for `observe`.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Waits until the runtime answers, at most [`START_TIMEOUT`] (A209).
    ///
    /// # Errors
    /// The last answer, or that there was none.
    pub async fn wait_ready(&self) -> Result<RuntimeVersion, CriError> {
        let give_up = crate::clock::now().plus_ms(START_TIMEOUT.as_millis() as i64);
        loop {
            match self.version().await {
                Ok(version) => return Ok(version),
                Err(error) if crate::clock::now() >= give_up => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// # Errors
    /// See [`CriError`].
    pub async fn version(&self) -> Result<RuntimeVersion, CriError> {
        let request = cri::VersionRequest { version: "v1".into() };
        let mut client = self.runtime.clone();
        let answer = call("Version", Duration::from_secs(10), client.version(request)).await?;
        Ok(RuntimeVersion {
            name: answer.runtime_name,
            version: answer.runtime_version,
            api: answer.runtime_api_version,
        })
    }

    /// The runtime's cgroup driver (A149); `None`: it is too old to say (containerd 1.6), and the
    /// configuration decides.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn systemd_cgroups(&self) -> Result<Option<bool>, CriError> {
        let mut client = self.runtime.clone();
        let request = cri::RuntimeConfigRequest {};
        match call("RuntimeConfig", CALL_TIMEOUT, client.runtime_config(request)).await {
            Ok(answer) => {
                Ok(answer.linux.map(|linux| linux.cgroup_driver() == cri::CgroupDriver::Systemd))
            }
            Err(error) if error.code == Code::Unimplemented => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Answers the sandbox id. Below it the runtime calls the CNI plugin; like the kubelet, this
    /// call gets twice the time.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn run_sandbox(
        &self,
        config: cri::PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<String, CriError> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
        let mut client = self.runtime.clone();
        let deadline = CALL_TIMEOUT * 2;
        let answer = Box::pin(call("RunPodSandbox", deadline, client.run_pod_sandbox(request)));
        Ok(answer.await?.pod_sandbox_id)
    }

    /// # Errors
    /// See [`CriError`].
    pub async fn stop_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut client = self.runtime.clone();
        done(call("StopPodSandbox", CALL_TIMEOUT, client.stop_pod_sandbox(request)).await)
    }

    /// # Errors
    /// See [`CriError`].
    pub async fn remove_sandbox(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        let mut client = self.runtime.clone();
        done(call("RemovePodSandbox", CALL_TIMEOUT, client.remove_pod_sandbox(request)).await)
    }

    /// Answers the container id.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String, CriError> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let mut client = self.runtime.clone();
        // The largest message of all: its future belongs on the heap.
        let answer =
            Box::pin(call("CreateContainer", CALL_TIMEOUT, client.create_container(request)));
        Ok(answer.await?.container_id)
    }

    /// # Errors
    /// See [`CriError`].
    pub async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::StartContainerRequest { container_id: id.to_owned() };
        let mut client = self.runtime.clone();
        call("StartContainer", CALL_TIMEOUT, client.start_container(request)).await.map(drop)
    }

    /// Returns when the container has ended: up to `grace_s` after the stop signal, then SIGKILL.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn stop_container(&self, id: &str, grace_s: i64) -> Result<(), CriError> {
        let timeout = grace_s.max(0);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        let deadline = CALL_TIMEOUT.saturating_add(Duration::from_secs(timeout.unsigned_abs()));
        let mut client = self.runtime.clone();
        done(call("StopContainer", deadline, client.stop_container(request)).await)
    }

    /// # Errors
    /// See [`CriError`].
    pub async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let request = cri::RemoveContainerRequest { container_id: id.to_owned() };
        let mut client = self.runtime.clone();
        done(call("RemoveContainer", CALL_TIMEOUT, client.remove_container(request)).await)
    }

    /// Runs a command in a container; the runtime kills it after `timeout` (A88). Some runtimes do
    /// not, so the call itself ends two seconds later.
    ///
    /// # Errors
    /// See [`CriError`]; a timeout is [`Code::DeadlineExceeded`].
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse, CriError> {
        let seconds = timeout.as_secs().max(1);
        let request = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command,
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let mut client = self.runtime.clone();
        let deadline = Duration::from_secs(seconds.saturating_add(2));
        call("ExecSync", deadline, client.exec_sync(request)).await
    }

    /// The URL of the runtime's streaming server for a command (A182); so for the two below.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn exec(&self, request: cri::ExecRequest) -> Result<String, CriError> {
        let mut client = self.runtime.clone();
        Ok(call("Exec", CALL_TIMEOUT, client.exec(request)).await?.url)
    }

    /// # Errors
    /// See [`CriError`].
    pub async fn attach(&self, request: cri::AttachRequest) -> Result<String, CriError> {
        let mut client = self.runtime.clone();
        Ok(call("Attach", CALL_TIMEOUT, client.attach(request)).await?.url)
    }

    /// # Errors
    /// See [`CriError`].
    pub async fn port_forward(&self, request: cri::PortForwardRequest) -> Result<String, CriError> {
        let mut client = self.runtime.clone();
        Ok(call("PortForward", CALL_TIMEOUT, client.port_forward(request)).await?.url)
    }

    /// The image's entry in the runtime; `None`: it is not there.
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn image_status(&self, image: &str) -> Result<Option<cri::Image>, CriError> {
        let request =
            cri::ImageStatusRequest { image: Some(image_spec(image)), ..Default::default() };
        let mut client = self.image.clone();
        let answer = call("ImageStatus", CALL_TIMEOUT, client.image_status(request)).await?;
        Ok(answer.image)
    }

    /// Pulls; no deadline, because the runtime itself gives up when nothing moves (F18).
    ///
    /// # Errors
    /// See [`CriError`].
    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<cri::AuthConfig>,
    ) -> Result<String, CriError> {
        let request =
            cri::PullImageRequest { image: Some(image_spec(image)), auth, sandbox_config: None };
        let mut client = self.image.clone();
        let answer = client.pull_image(request).await;
        answer.map(|answer| answer.into_inner().image_ref).map_err(|s| refused("PullImage", &s))
    }
}

fn image_spec(image: &str) -> cri::ImageSpec {
    cri::ImageSpec { image: image.to_owned(), ..Default::default() }
}

/// Removal of what is not there has happened.
fn done<T>(result: Result<T, CriError>) -> Result<(), CriError> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn refused(method: &'static str, status: &Status) -> CriError {
    // tonic hides the socket's own error in the source chain, and that is what a user must read.
    let mut message = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    CriError { method, code: status.code(), message }
}

async fn call<T>(
    method: &'static str,
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CriError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refused(method, &status)),
        Err(_) => Err(CriError {
            method,
            code: Code::DeadlineExceeded,
            message: format!("no answer within {} s", deadline.as_secs()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn f11_a_missing_runtime_is_named_with_what_to_do() {
        let cri = Cri::new("unix:///nonexistent/containerd.sock").unwrap();
        let error = cri.version().await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable);
        assert!(error.to_string().contains("is containerd running"), "{error}");
        assert!(Cri::new("tcp://1.2.3.4:5").is_err());
    }
}
