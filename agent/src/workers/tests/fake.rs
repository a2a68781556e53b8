//! A container runtime in memory, served over a real socket, that can fail in the middle.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use longshore_proto::cri;
use longshore_proto::cri::image_service_server::{ImageService, ImageServiceServer};
use longshore_proto::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use tokio::sync::broadcast;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use crate::supervise::{Policy, Scope};

/// How one call goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing is done.
    Refuse(Code, String),
    /// It is done, and the caller is told that it failed (F15).
    LoseReply,
}

#[derive(Default)]
pub struct Runtime {
    pub sandboxes: BTreeMap<String, cri::PodSandbox>,
    pub containers: BTreeMap<String, cri::ContainerStatus>,
    pub container_sandbox: BTreeMap<String, String>,
    pub cgroup_parents: BTreeMap<String, String>,
    pub namespaces: BTreeMap<String, cri::NamespaceOption>,
    pub images: BTreeMap<String, cri::Image>,
    /// Images that a pull finds.
    pub registry: Vec<String>,
    /// What a pull of an image must show.
    pub passwords: BTreeMap<String, String>,
    /// In order, by method.
    pub faults: BTreeMap<&'static str, Vec<Fault>>,
    /// Calls, by method.
    pub calls: BTreeMap<&'static str, u32>,
    pub next_id: u32,
    pub network_not_ready: bool,
    /// Like containerd 1.6: no GetContainerEvents.
    pub without_events: bool,
    /// Like containerd 1.7 and newer: not even headers before the first event.
    pub events_open_late: bool,
    /// Containers do not end at SIGTERM; StopContainer kills after this many ms.
    pub stop_takes_ms: u64,
    /// PodSandboxStatus of this sandbox is never answered.
    pub hangs: Option<String>,
    /// RunPodSandbox is never answered and makes nothing.
    pub run_sandbox_hangs: bool,
    /// Sandboxes whose interface somebody deleted.
    pub lost_interfaces: std::collections::BTreeSet<String>,
    /// Exit code and output of ExecSync.
    pub exec: (i32, String),
    pub log: Vec<String>,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<Runtime>>,
    events: broadcast::Sender<cri::ContainerEventResponse>,
    pub socket: PathBuf,
}

impl Fake {
    /// Serves on a socket in `dir` until the scope stops.
    pub fn start(scope: &Scope, dir: &std::path::Path) -> Self {
        let socket = dir.join("cri.sock");
        let fake = Self {
            state: Arc::default(),
            events: broadcast::channel(100).0,
            socket: socket.clone(),
        };
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(RuntimeServiceServer::new(fake.clone()))
            .add_service(ImageServiceServer::new(fake.clone()))
            .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener));
        scope.detach("fake cri", Policy::Finite, async move { server.await.unwrap() });
        fake
    }

    pub fn with<T>(&self, edit: impl FnOnce(&mut Runtime) -> T) -> T {
        edit(&mut self.state.lock().unwrap())
    }

    pub fn fail(&self, method: &'static str, fault: Fault) {
        self.with(|r| r.faults.entry(method).or_default().push(fault));
    }

    pub fn calls(&self, method: &str) -> u32 {
        self.with(|r| r.calls.get(method).copied().unwrap_or(0))
    }

    /// A container's process ends by itself.
    pub fn exit(&self, id: &str, code: i32) {
        self.with(|r| end(r.containers.get_mut(id).unwrap(), code));
        self.tell(id);
    }

    fn tell(&self, id: &str) {
        let event = cri::ContainerEventResponse { container_id: id.into(), ..Default::default() };
        drop(self.events.send(event));
    }

    /// Counts, then applies the fault that waits for this call; `Ok(true)`: lose the reply.
    fn enter(&self, method: &'static str) -> Result<bool, Status> {
        self.with(|r| {
            *r.calls.entry(method).or_default() += 1;
            r.log.push(method.to_owned());
            let faults = r.faults.entry(method).or_default();
            if faults.is_empty() {
                return Ok(false);
            }
            match faults.remove(0) {
                Fault::Refuse(code, text) => Err(Status::new(code, text)),
                Fault::LoseReply => Ok(true),
            }
        })
    }
}

fn lost<T>(lose: bool, answer: T) -> Result<Response<T>, Status> {
    if lose { Err(Status::unavailable("the reply was lost")) } else { Ok(Response::new(answer)) }
}

fn now_ns() -> i64 {
    crate::clock::now().unix_ms() * 1_000_000
}

fn end(container: &mut cri::ContainerStatus, code: i32) {
    if container.state() == cri::ContainerState::ContainerRunning {
        container.set_state(cri::ContainerState::ContainerExited);
        container.exit_code = code;
        container.finished_at = now_ns();
        container.reason = if code == 0 { "Completed".into() } else { "Error".into() };
    }
}

fn has(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What `async_trait` makes of an `async fn`; it does not look into macros.
type Later<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

/// Calls that Longshore does not make.
macro_rules! never_called {
    ($($name:ident($request:ident) -> $answer:ident;)*) => {
        $(fn $name<'a, 'async_trait>(
            &'a self,
            _: Request<cri::$request>,
        ) -> Later<'async_trait, cri::$answer>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        })*
    };
}
macro_rules! never_streamed {
    ($($name:ident($request:ident) -> $kind:ident $answer:ident;)*) => {
        $(type $kind = Events<cri::$answer>;
        fn $name<'a, 'async_trait>(
            &'a self,
            _: Request<cri::$request>,
        ) -> Later<'async_trait, Self::$kind>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        })*
    };
}

#[tonic::async_trait]
impl RuntimeService for Fake {
    async fn version(
        &self,
        _: Request<cri::VersionRequest>,
    ) -> Result<Response<cri::VersionResponse>, Status> {
        let lose = self.enter("Version")?;
        lost(lose, cri::VersionResponse { runtime_name: "fake".into(), ..Default::default() })
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Result<Response<cri::RunPodSandboxResponse>, Status> {
        let lose = self.enter("RunPodSandbox")?;
        let config = request.into_inner().config.unwrap();
        if self.with(|r| r.run_sandbox_hangs) {
            return std::future::pending().await;
        }
        let id = self.with(|r| {
            // Names are reserved, as containerd does it.
            let taken = r.sandboxes.values().any(|s| s.metadata == config.metadata);
            if taken {
                return Err(Status::already_exists("sandbox name is reserved"));
            }
            r.next_id += 1;
            let id = format!("sandbox-{}", r.next_id);
            let mut sandbox = cri::PodSandbox {
                id: id.clone(),
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
                created_at: now_ns(),
                ..Default::default()
            };
            sandbox.set_state(cri::PodSandboxState::SandboxReady);
            r.sandboxes.insert(id.clone(), sandbox);
            let linux = config.linux.unwrap_or_default();
            let options = linux.security_context.and_then(|security| security.namespace_options);
            r.namespaces.insert(id.clone(), options.unwrap_or_default());
            r.cgroup_parents.insert(id.clone(), linux.cgroup_parent);
            Ok(id)
        })?;
        lost(lose, cri::RunPodSandboxResponse { pod_sandbox_id: id })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Result<Response<cri::StopPodSandboxResponse>, Status> {
        let lose = self.enter("StopPodSandbox")?;
        let id = request.into_inner().pod_sandbox_id;
        self.with(|r| {
            for (container, sandbox) in r.container_sandbox.clone() {
                if sandbox == id {
                    end(r.containers.get_mut(&container).unwrap(), 137);
                }
            }
            if let Some(sandbox) = r.sandboxes.get_mut(&id) {
                sandbox.set_state(cri::PodSandboxState::SandboxNotready);
            }
        });
        lost(lose, cri::StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Result<Response<cri::RemovePodSandboxResponse>, Status> {
        let lose = self.enter("RemovePodSandbox")?;
        let id = request.into_inner().pod_sandbox_id;
        self.with(|r| {
            r.sandboxes.remove(&id);
            let inside = r.container_sandbox.iter().filter(|(_, s)| **s == id);
            for container in inside.map(|(c, _)| c.clone()).collect::<Vec<_>>() {
                r.containers.remove(&container);
                r.container_sandbox.remove(&container);
            }
        });
        lost(lose, cri::RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Result<Response<cri::PodSandboxStatusResponse>, Status> {
        let lose = self.enter("PodSandboxStatus")?;
        let id = request.into_inner().pod_sandbox_id;
        if self.with(|r| r.hangs.as_ref() == Some(&id)) {
            std::future::pending::<()>().await;
        }
        let (sandbox, parent, options) = self.with(|r| {
            let parent = r.cgroup_parents.get(&id).cloned().unwrap_or_default();
            (r.sandboxes.get(&id).cloned(), parent, r.namespaces.get(&id).cloned())
        });
        let sandbox = sandbox.ok_or_else(|| Status::not_found("no such sandbox"))?;
        let info = serde_json::json!({"config": {"linux": {"cgroup_parent": parent}}});
        // Its address goes with its network namespace.
        let ready = sandbox.state() == cri::PodSandboxState::SandboxReady;
        let ip = if ready { "10.0.0.7".into() } else { String::new() };
        let network = cri::PodSandboxNetworkStatus { ip, ..Default::default() };
        let status = cri::PodSandboxStatus {
            id,
            metadata: sandbox.metadata,
            state: sandbox.state,
            created_at: sandbox.created_at,
            labels: sandbox.labels,
            network: Some(network),
            linux: Some(cri::LinuxPodSandboxStatus {
                namespaces: Some(cri::Namespace { options }),
            }),
            ..Default::default()
        };
        let info = [("info".to_owned(), info.to_string())].into();
        lost(
            lose,
            cri::PodSandboxStatusResponse { status: Some(status), info, ..Default::default() },
        )
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Result<Response<cri::ListPodSandboxResponse>, Status> {
        let lose = self.enter("ListPodSandbox")?;
        let wanted = request.into_inner().filter.unwrap_or_default().label_selector;
        let items = self
            .with(|r| r.sandboxes.values().filter(|s| has(&s.labels, &wanted)).cloned().collect());
        lost(lose, cri::ListPodSandboxResponse { items })
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Result<Response<cri::CreateContainerResponse>, Status> {
        let lose = self.enter("CreateContainer")?;
        let request = request.into_inner();
        let config = request.config.unwrap();
        let id = self.with(|r| {
            let taken = r.containers.iter().any(|(id, c)| {
                c.metadata == config.metadata
                    && r.container_sandbox.get(id) == Some(&request.pod_sandbox_id)
            });
            if taken {
                return Err(Status::already_exists("container name is reserved"));
            }
            r.next_id += 1;
            let id = format!("container-{}", r.next_id);
            let mut status = cri::ContainerStatus {
                id: id.clone(),
                metadata: config.metadata,
                image: config.image,
                labels: config.labels,
                annotations: config.annotations,
                created_at: now_ns(),
                mounts: config.mounts,
                ..Default::default()
            };
            status.set_state(cri::ContainerState::ContainerCreated);
            r.containers.insert(id.clone(), status);
            r.container_sandbox.insert(id.clone(), request.pod_sandbox_id);
            Ok(id)
        })?;
        self.tell(&id);
        lost(lose, cri::CreateContainerResponse { container_id: id })
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Result<Response<cri::StartContainerResponse>, Status> {
        let entered = self.enter("StartContainer");
        let id = request.into_inner().container_id;
        if let Err(refused) = &entered
            && refused.code() == Code::Unknown
        {
            // What containerd makes of a command that is not there.
            self.with(|r| {
                let container = r.containers.get_mut(&id).unwrap();
                container.set_state(cri::ContainerState::ContainerExited);
                container.finished_at = now_ns();
                (container.exit_code, container.reason) = (128, "StartError".into());
                container.message = refused.message().to_owned();
            });
            self.tell(&id);
        }
        let lose = entered?;
        self.with(|r| {
            let container = r.containers.get_mut(&id).unwrap();
            assert_eq!(container.state(), cri::ContainerState::ContainerCreated, "started twice");
            container.set_state(cri::ContainerState::ContainerRunning);
            container.started_at = now_ns();
        });
        self.tell(&id);
        lost(lose, cri::StartContainerResponse {})
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Result<Response<cri::StopContainerResponse>, Status> {
        let lose = self.enter("StopContainer")?;
        let request = request.into_inner();
        let takes = self.with(|r| r.stop_takes_ms);
        let grace = u64::try_from(request.timeout).unwrap_or(0) * 1000;
        tokio::time::sleep(std::time::Duration::from_millis(takes.min(grace))).await;
        let code = if takes > grace { 137 } else { 0 };
        self.with(|r| end(r.containers.get_mut(&request.container_id).unwrap(), code));
        self.tell(&request.container_id);
        lost(lose, cri::StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Result<Response<cri::RemoveContainerResponse>, Status> {
        let lose = self.enter("RemoveContainer")?;
        let id = request.into_inner().container_id;
        self.with(|r| {
            r.containers.remove(&id);
            r.container_sandbox.remove(&id);
        });
        lost(lose, cri::RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Result<Response<cri::ListContainersResponse>, Status> {
        let lose = self.enter("ListContainers")?;
        let wanted = request.into_inner().filter.unwrap_or_default().label_selector;
        let containers = self.with(|r| {
            let matching = r.containers.values().filter(|c| has(&c.labels, &wanted));
            let listed = matching.map(|c| cri::Container {
                id: c.id.clone(),
                pod_sandbox_id: r.container_sandbox[&c.id].clone(),
                metadata: c.metadata.clone(),
                image: c.image.clone(),
                state: c.state,
                created_at: c.created_at,
                labels: c.labels.clone(),
                annotations: c.annotations.clone(),
                ..Default::default()
            });
            listed.collect()
        });
        lost(lose, cri::ListContainersResponse { containers })
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Result<Response<cri::ContainerStatusResponse>, Status> {
        let lose = self.enter("ContainerStatus")?;
        let id = request.into_inner().container_id;
        let status = self.with(|r| r.containers.get(&id).cloned());
        let status = status.ok_or_else(|| Status::not_found("no such container"))?;
        lost(lose, cri::ContainerStatusResponse { status: Some(status), ..Default::default() })
    }

    async fn exec_sync(
        &self,
        _: Request<cri::ExecSyncRequest>,
    ) -> Result<Response<cri::ExecSyncResponse>, Status> {
        let lose = self.enter("ExecSync")?;
        let (exit_code, stdout) = self.with(|r| r.exec.clone());
        let stdout = stdout.into_bytes();
        lost(lose, cri::ExecSyncResponse { exit_code, stdout, ..Default::default() })
    }

    async fn status(
        &self,
        _: Request<cri::StatusRequest>,
    ) -> Result<Response<cri::StatusResponse>, Status> {
        let lose = self.enter("Status")?;
        let network = !self.with(|r| r.network_not_ready);
        let condition = |name: &str, status| cri::RuntimeCondition {
            r#type: name.into(),
            status,
            ..Default::default()
        };
        let conditions = vec![condition("RuntimeReady", true), condition("NetworkReady", network)];
        let status = Some(cri::RuntimeStatus { conditions });
        lost(lose, cri::StatusResponse { status, ..Default::default() })
    }

    type GetContainerEventsStream = Events<cri::ContainerEventResponse>;
    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        self.enter("GetContainerEvents")?;
        if self.with(|r| r.without_events) {
            return Err(Status::unimplemented("unknown method GetContainerEvents"));
        }
        let mut events = self.events.subscribe();
        if self.with(|r| r.events_open_late) {
            drop(events.recv().await);
        }
        let stream = futures::stream::unfold(events, |mut events| async {
            events.recv().await.ok().map(|event| (Ok(event), events))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    never_called! {
        update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
        reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
        exec(ExecRequest) -> ExecResponse;
        attach(AttachRequest) -> AttachResponse;
        port_forward(PortForwardRequest) -> PortForwardResponse;
        container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
        list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
        pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
        list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
        update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
        checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        restore_pod(RestorePodRequest) -> RestorePodResponse;
        list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
        runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
        update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    }
    never_streamed! {
        stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesStream StreamPodSandboxesResponse;
        stream_containers(StreamContainersRequest) -> StreamContainersStream StreamContainersResponse;
        stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsStream StreamContainerStatsResponse;
        stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsStream StreamPodSandboxStatsResponse;
        stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsStream StreamPodSandboxMetricsResponse;
    }
}

#[tonic::async_trait]
impl ImageService for Fake {
    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let lose = self.enter("ImageStatus")?;
        let name = request.into_inner().image.unwrap().image;
        let image = self.with(|r| r.images.get(&name).cloned());
        lost(lose, cri::ImageStatusResponse { image, ..Default::default() })
    }

    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let lose = self.enter("PullImage")?;
        let request = request.into_inner();
        let name = request.image.unwrap().image;
        let shown = request.auth.map(|auth| auth.password);
        // A pull takes a while: what comes at once must find it under way.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let found = self.with(|r| {
            let allowed =
                r.passwords.get(&name).is_none_or(|needed| Some(needed) == shown.as_ref());
            let found = r.registry.contains(&name) && allowed;
            if found {
                let id = format!("sha256:{name}");
                let image = cri::Image { id, size: 1000, ..Default::default() };
                r.images.insert(name.clone(), image);
            }
            found
        });
        if !found {
            return Err(Status::not_found(format!("{name}: not found")));
        }
        lost(lose, cri::PullImageResponse { image_ref: format!("sha256:{name}") })
    }

    never_called! {
        list_images(ListImagesRequest) -> ListImagesResponse;
        remove_image(RemoveImageRequest) -> RemoveImageResponse;
        image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
    }
    never_streamed! {
        stream_images(StreamImagesRequest) -> StreamImagesStream StreamImagesResponse;
    }
}
