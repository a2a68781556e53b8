//! Finds out what this node is: the facts that decisions get as [`NodeView`].

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use longshore_core::config::{CgroupDriver, KubeletConfig};
use longshore_core::model::NodeView;
use longshore_core::model::node::ResolvConf;

use crate::effects::network::Network;
use crate::effects::network::facts::Uplink;

/// What the command line says about the node.
pub struct Given {
    pub name: Option<String>,
    pub ip: Option<IpAddr>,
    /// `None`: the control plane says it, later.
    pub pod_cidr: Option<Ipv4Net>,
    pub service_cidr: IpNet,
    pub cgroup_root: String,
    pub pods_dir: String,
}

/// The node's addresses, one of them made when there is none: pods must be able to answer a probe.
pub async fn addresses(network: &Network, given: &Given) -> Result<(Uplink, Ipv4Addr)> {
    let mut uplink = network.uplink().await?;
    if let Some(ip) = given.ip
        && !uplink.addresses.contains(&ip)
    {
        bail!("--node-ip {ip} is on no interface of this node (found: {:?})", uplink.addresses);
    }
    let own = given.ip.or_else(|| uplink.addresses.iter().copied().find(IpAddr::is_ipv4));
    let own = match own {
        Some(IpAddr::V4(own)) => own,
        Some(IpAddr::V6(own)) => {
            bail!("--node-ip {own}: IPv6 node addresses are not supported yet")
        }
        None => {
            let pods = given.pod_cidr.context("this node has no IPv4 address; see --node-ip")?;
            let gateway = gateway_of(pods)?;
            tracing::info!(address = %gateway, "The node has no address of its own; giving lo the first of the pod range");
            network.adopt_address(IpAddr::V4(gateway)).await?;
            gateway
        }
    };
    if !uplink.addresses.contains(&IpAddr::V4(own)) {
        uplink.addresses.push(IpAddr::V4(own));
    }
    Ok((uplink, own))
}

fn gateway_of(net: Ipv4Net) -> Result<Ipv4Addr> {
    net.hosts()
        .next()
        .with_context(|| format!("--pod-cidr {net} has no host address; take a /24 or larger"))
}

/// Everything that decisions need to know of the node.
pub fn view(
    given: &Given,
    config: &KubeletConfig,
    uplink: &Uplink,
    own: Ipv4Addr,
    cgroup_v2: bool,
) -> Result<NodeView> {
    let cgroup_root = given.cgroup_root.trim_end_matches('/');
    Ok(NodeView {
        name: match &given.name {
            Some(name) => name.clone(),
            None => hostname()?,
        },
        // One, as the kubelet's without two --node-ip (A9): pods have no IPv6 yet.
        ips: vec![IpAddr::V4(own)],
        addresses: uplink.addresses.clone(),
        service_cidr: given.service_cidr,
        cluster_dns: config.cluster_dns.clone(),
        cluster_domain: config.cluster_domain.clone(),
        resolv: resolv_conf(&config.resolv_conf),
        hosts_file: fs::read_to_string("/etc/hosts").unwrap_or_default(),
        cpu_milli: cpu_milli(),
        memory_bytes: memory_bytes()?,
        pids_max: pids_max(),
        kubepods_cgroup: format!("{cgroup_root}/kubepods"),
        systemd_cgroups: config.cgroup_driver == CgroupDriver::Systemd,
        cgroup_v2,
        pods_dir: given.pods_dir.clone(),
        pod_logs_dir: config.pod_logs_dir.clone(),
    })
}

/// The kernel's host name, lower case as node names are.
pub fn hostname() -> Result<String> {
    let name = nix::unistd::gethostname().context("read the host name; give --node-name")?;
    Ok(name.to_string_lossy().to_lowercase())
}

/// Identity of this boot: state of another one names namespaces and interfaces that are gone.
pub fn boot_id() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("read the boot id")?;
    Ok(id.trim().to_owned())
}

fn cpu_milli() -> i64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    i64::try_from(cores).unwrap_or(1) * 1000
}

fn memory_bytes() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kib: Option<i64> = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok());
    Ok(kib.context("find MemTotal in /proc/meminfo")? * 1024)
}

fn pids_max() -> Option<i64> {
    let limit = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    ["pid_max", "threads-max"].into_iter().filter_map(limit).min()
}

/// An unreadable file is an empty one: pods then get no name servers of the node, and say so.
fn resolv_conf(path: &str) -> ResolvConf {
    let text = fs::read_to_string(path).unwrap_or_else(|error| {
        tracing::warn!(path, %error, "Cannot read the node's resolv.conf; pods get no name server from it");
        String::new()
    });
    let mut found = ResolvConf::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let rest = match words.next() {
            Some("nameserver") => &mut found.nameservers,
            Some("search") => {
                found.searches.clear();
                &mut found.searches
            }
            Some("options") => &mut found.options,
            _ => continue,
        };
        rest.extend(words.map(str::to_owned));
    }
    found
}
