//! KubeletConfiguration v1beta1, the part that Longshore reads, from text to values.
//!
//! Deliberately absent: files and flags (the shell's), and silence: a field that is set and not
//! read is a [`Problem`], an error where ignoring it would weaken isolation.

mod node;
mod parse;

pub use node::{
    Authentication, Authorization, AuthorizationMode, NodeConfig, ServerConfig, Signal, Threshold,
    TlsVersion, default_eviction_hard,
};
pub use parse::parse;

use std::net::IpAddr;

/// Values with the kubelet's defaults.
#[derive(Clone, PartialEq, Debug)]
pub struct KubeletConfig {
    /// `unix:///run/containerd/containerd.sock`.
    pub container_runtime_endpoint: String,
    /// `/var/log/pods` (A206).
    pub pod_logs_dir: String,
    /// Empty: the root of the hierarchy (A146).
    pub cgroup_root: String,
    pub cgroup_driver: CgroupDriver,
    /// Empty: ClusterFirst falls back to Default (A197).
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// Path of the node's resolv.conf; empty: pods inherit nothing from the node.
    pub resolv_conf: String,
    /// `None` is `-1`: no limit (A151).
    pub pod_pids_limit: Option<i64>,
    /// `cpuCFSQuota` (A141).
    pub cpu_cfs_quota: bool,
    /// 1000..=1000000 (A141).
    pub cpu_cfs_quota_period_us: u64,
    /// `None`: no limit. 1 by default and with `serializeImagePulls` (A51).
    pub max_parallel_image_pulls: Option<u32>,
    /// Refuse a node whose controllers are on cgroup v1 (A149).
    pub fail_cgroup_v1: bool,
    pub fail_swap_on: bool,
    /// RuntimeDefault for containers that say nothing (A134).
    pub seccomp_default: bool,
    /// Names, or prefixes that end in `*` (A138).
    pub allowed_unsafe_sysctls: Vec<String>,
    /// `crashLoopBackOff.maxContainerRestartPeriod` (A49).
    pub max_container_restart_period_ms: i64,
    /// Do not set `memory.oom.group` (A148).
    pub single_process_oom_kill: bool,
    /// What only the node role reads.
    pub node: NodeConfig,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CgroupDriver {
    /// Used when the runtime does not say (A149).
    Cgroupfs,
    Systemd,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        Self {
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            pod_logs_dir: "/var/log/pods".into(),
            cgroup_root: String::new(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            pod_pids_limit: None,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period_us: 100_000,
            max_parallel_image_pulls: Some(1),
            fail_cgroup_v1: true,
            fail_swap_on: true,
            seccomp_default: false,
            allowed_unsafe_sysctls: Vec::new(),
            max_container_restart_period_ms: 300_000,
            single_process_oom_kill: false,
            node: NodeConfig::default(),
        }
    }
}
