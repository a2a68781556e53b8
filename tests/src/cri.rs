//! A blocking CRI client: pods made without the daemon, for counting and for the bench's floor.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use longshore_proto::cri;
use longshore_proto::cri::image_service_client::ImageServiceClient;
use longshore_proto::cri::runtime_service_client::RuntimeServiceClient;
use tonic::transport::{Channel, Endpoint};

/// One connection to a runtime.
pub struct Cri {
    tokio: tokio::runtime::Runtime,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

impl Cri {
    /// # Errors
    /// Nobody listens on the socket.
    pub fn connect(socket: &Path) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = tokio
            .block_on(endpoint.connect())
            .with_context(|| format!("no runtime at {}", socket.display()))?;
        let runtime = RuntimeServiceClient::new(channel.clone());
        Ok(Self { tokio, runtime, image: ImageServiceClient::new(channel) })
    }

    /// `containerd 1.6.20…`
    pub fn version(&mut self) -> Result<String> {
        let request = cri::VersionRequest::default();
        let answer = self.tokio.block_on(self.runtime.version(request))?.into_inner();
        Ok(format!("{} {}", answer.runtime_name, answer.runtime_version))
    }

    pub fn images(&mut self) -> Result<Vec<String>> {
        let request = cri::ListImagesRequest::default();
        let answer = self.tokio.block_on(self.image.list_images(request))?.into_inner();
        Ok(answer.images.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    /// Sandboxes, ready or not: id and `namespace/name`.
    pub fn sandboxes(&mut self) -> Result<Vec<(String, String)>> {
        let request = cri::ListPodSandboxRequest::default();
        let answer = self.tokio.block_on(self.runtime.list_pod_sandbox(request))?.into_inner();
        let name = |one: &cri::PodSandbox| {
            let metadata = one.metadata.clone().unwrap_or_default();
            format!("{}/{}", metadata.namespace, metadata.name)
        };
        Ok(answer.items.into_iter().map(|one| (one.id.clone(), name(&one))).collect())
    }

    /// Containers in any state: id, name and state.
    pub fn containers(&mut self) -> Result<Vec<(String, String, i32)>> {
        let request = cri::ListContainersRequest::default();
        let answer = self.tokio.block_on(self.runtime.list_containers(request))?.into_inner();
        Ok(answer
            .containers
            .into_iter()
            .map(|one| (one.id, one.metadata.unwrap_or_default().name, one.state))
            .collect())
    }

    /// RunPodSandbox, CreateContainer and StartContainer: the floor that no agent can be below.
    /// Gives the sandbox's id.
    pub fn run_pod(&mut self, pod: &BarePod) -> Result<String> {
        let sandbox = pod.sandbox();
        let request = cri::RunPodSandboxRequest {
            config: Some(sandbox.clone()),
            ..cri::RunPodSandboxRequest::default()
        };
        let id = self
            .tokio
            .block_on(self.runtime.run_pod_sandbox(request))
            .context("RunPodSandbox")?
            .into_inner()
            .pod_sandbox_id;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(pod.container()),
            sandbox_config: Some(sandbox),
        };
        let container = self
            .tokio
            .block_on(self.runtime.create_container(request))
            .context("CreateContainer")?
            .into_inner()
            .container_id;
        let request = cri::StartContainerRequest { container_id: container };
        self.tokio.block_on(self.runtime.start_container(request)).context("StartContainer")?;
        Ok(id)
    }

    /// StopPodSandbox and RemovePodSandbox.
    pub fn remove_pod(&mut self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.tokio.block_on(self.runtime.stop_pod_sandbox(request)).context("StopPodSandbox")?;
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.tokio
            .block_on(self.runtime.remove_pod_sandbox(request))
            .context("RemovePodSandbox")?;
        Ok(())
    }
}

/// A pod of one container, as little as CRI allows.
#[derive(Clone, Debug)]
pub struct BarePod {
    pub name: String,
    pub image: String,
    pub args: Vec<String>,
    /// `/demo/kubepods/besteffort/pod<uid>`
    pub cgroup_parent: String,
    pub host_network: bool,
}

impl BarePod {
    fn namespaces(&self) -> cri::NamespaceOption {
        let network =
            if self.host_network { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod };
        cri::NamespaceOption {
            network: network.into(),
            pid: cri::NamespaceMode::Container.into(),
            ..cri::NamespaceOption::default()
        }
    }

    /// What an agent gives its pods, so that they are found in the same way (A204).
    fn labels(&self) -> BTreeMap<String, String> {
        let labels = [
            ("io.kubernetes.pod.namespace", "bare"),
            ("io.kubernetes.pod.name", &self.name),
            ("io.kubernetes.container.name", "main"),
        ];
        labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn sandbox(&self) -> cri::PodSandboxConfig {
        let security = cri::LinuxSandboxSecurityContext {
            namespace_options: Some(self.namespaces()),
            ..cri::LinuxSandboxSecurityContext::default()
        };
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: self.name.clone(),
                uid: self.name.clone(),
                namespace: "bare".to_owned(),
                attempt: 0,
            }),
            labels: self.labels(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup_parent.clone(),
                security_context: Some(security),
                ..cri::LinuxPodSandboxConfig::default()
            }),
            ..cri::PodSandboxConfig::default()
        }
    }

    fn container(&self) -> cri::ContainerConfig {
        let image = cri::ImageSpec { image: self.image.clone(), ..cri::ImageSpec::default() };
        let security = cri::LinuxContainerSecurityContext {
            namespace_options: Some(self.namespaces()),
            ..cri::LinuxContainerSecurityContext::default()
        };
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
            image: Some(image),
            args: self.args.clone(),
            labels: self.labels(),
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(security),
                ..cri::LinuxContainerConfig::default()
            }),
            ..cri::ContainerConfig::default()
        }
    }
}
