//! What the daemon was asked to do: the command line, kept for `cleanup`, and the configuration.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use longshore_core::config::{self, KubeletConfig};
use longshore_core::model::Severity;
use serde::{Deserialize, Serialize};

use crate::cli::{CommonArgs, NodeArgs, StandaloneArgs};

/// Kept in the state directory, for `cleanup`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Options {
    pub source: Source,
    pub state_dir: PathBuf,
    /// `None`: the configuration decides.
    pub container_runtime_endpoint: Option<String>,
    pub config: Option<PathBuf>,
    /// `None`: the configuration decides.
    pub cgroup_root: Option<String>,
    /// `None`: the configuration decides. Files of earlier versions do not have it.
    #[serde(default)]
    pub pod_logs_dir: Option<String>,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    pub service_cidr: IpNet,
    pub node_ip: Option<IpAddr>,
    pub node_name: Option<String>,
    pub bpf_log: bool,
}

/// Where the World comes from: the role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Source {
    Standalone {
        manifests: PathBuf,
        pod_cidr: IpNet,
    },
    Node {
        kubeconfig: PathBuf,
        dataplane_kubeconfig: PathBuf,
        /// Of volumes and certificates: `--root-dir`.
        root_dir: PathBuf,
        labels: Vec<String>,
    },
}

impl Options {
    pub fn standalone(args: StandaloneArgs) -> Self {
        let source = Source::Standalone { manifests: args.directory, pod_cidr: args.pod_cidr };
        Self::of(source, args.place.state_dir, args.common)
    }

    /// # Errors
    /// The second identity is missing.
    pub fn node(args: NodeArgs) -> Result<Self> {
        let dataplane_kubeconfig = args.dataplane_kubeconfig.context(
            "--dataplane-kubeconfig is missing: since Kubernetes 1.34 a node's own credential \
             cannot read what Services and policies need. Apply deploy/rbac.yaml, make a \
             kubeconfig for its ServiceAccount (kubectl -n kube-system create token \
             longshore-dataplane), and name it here",
        )?;
        let source = Source::Node {
            kubeconfig: args.kubeconfig,
            dataplane_kubeconfig,
            root_dir: args.root_dir,
            labels: args.node_labels,
        };
        Ok(Self::of(source, args.place.state_dir, args.common))
    }

    fn of(source: Source, state_dir: PathBuf, common: CommonArgs) -> Self {
        Self {
            source,
            state_dir,
            container_runtime_endpoint: common.container_runtime_endpoint,
            config: common.config,
            cgroup_root: common.cgroup_root,
            pod_logs_dir: None,
            cni_conf_dir: common.cni_conf_dir,
            cni_bin_dir: common.cni_bin_dir,
            service_cidr: common.service_cidr,
            node_ip: common.node_ip,
            // As the kubelet does: names of nodes are lower case.
            node_name: common.node_name.map(|name| name.trim().to_lowercase()),
            bpf_log: common.bpf_log,
        }
    }

    /// With what the configuration decided, so that the file is not needed again.
    pub fn resolved(&self, config: &KubeletConfig) -> Self {
        Self {
            container_runtime_endpoint: Some(config.container_runtime_endpoint.clone()),
            cgroup_root: Some(config.cgroup_root.clone()),
            pod_logs_dir: Some(config.pod_logs_dir.clone()),
            config: None,
            ..self.clone()
        }
    }

    /// Where pods' directories are.
    pub fn pods_dir(&self, state_root: &Path) -> PathBuf {
        match &self.source {
            Source::Standalone { .. } => state_root.join("pods"),
            Source::Node { root_dir, .. } => root_dir.join("pods"),
        }
    }

    /// `None`: the control plane says it.
    pub fn pod_cidr(&self) -> Option<IpNet> {
        match &self.source {
            Source::Standalone { pod_cidr, .. } => Some(*pod_cidr),
            Source::Node { .. } => None,
        }
    }
}

/// The configuration file, with what the command line says over it.
pub fn configuration(options: &Options) -> Result<KubeletConfig> {
    let mut config = match &options.config {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("read --config {}", path.display()))?;
            let (config, problems) = config::parse(&text);
            for problem in &problems {
                tracing::warn!(file = %path.display(), %problem, "Configuration");
            }
            if let Some(error) = problems.iter().find(|p| p.severity == Severity::Error) {
                bail!("{}: {error}", path.display());
            }
            config
        }
        // Without a file nobody asked for the kubelet's refusals of cgroup v1 and swap.
        None => {
            KubeletConfig { fail_cgroup_v1: false, fail_swap_on: false, ..KubeletConfig::default() }
        }
    };
    if let Some(endpoint) = &options.container_runtime_endpoint {
        config.container_runtime_endpoint.clone_from(endpoint);
    }
    if let Some(root) = &options.cgroup_root {
        config.cgroup_root.clone_from(root);
    }
    if let Some(dir) = &options.pod_logs_dir {
        config.pod_logs_dir.clone_from(dir);
    }
    // `cgroupRoot: ""` and `pods` are `/` and `/pods`.
    config.cgroup_root = format!("/{}", config.cgroup_root.trim_matches('/'));
    Ok(config)
}
