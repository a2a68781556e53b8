//! This node as the decisions see it.

use std::net::IpAddr;

use ipnet::IpNet;

/// Facts about the node and the cluster that the shell found at start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeView {
    pub name: String,
    /// InternalIPs of the node, in family order; the first is `status.hostIP`.
    pub ips: Vec<IpAddr>,
    /// Every address on the node's interfaces but loopback: packets from and to these are the node's.
    pub addresses: Vec<IpAddr>,
    pub service_cidr: IpNet,
    /// `clusterDNS`; empty: ClusterFirst falls back to Default (A197).
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    /// Lines of the node's resolv.conf (`resolvConf`), parsed by the shell.
    pub resolv: ResolvConf,
    /// The node's /etc/hosts, for hostNetwork pods (A199).
    pub hosts_file: String,
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    /// PIDs that the kernel can give at once; `None`: not known.
    pub pids_max: Option<i64>,
    /// cgroup of all pods below `--cgroup-root`, e.g. `/longshore-demo/kubepods`.
    pub kubepods_cgroup: String,
    /// systemd slices (`kubepods.slice`) instead of plain directories (A146, A149).
    pub systemd_cgroups: bool,
    /// cgroup v2 carries the controllers (decides between cpu.max and cpu.cfs_quota_us).
    pub cgroup_v2: bool,
    /// `<state-dir>/pods/<uid>/…`: volumes and files that are handed to containers.
    pub pods_dir: String,
    /// `podLogsDir`, `/var/log/pods` by default (A206).
    pub pod_logs_dir: String,
}

/// What a resolv.conf says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ResolvConf {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}
