//! The files that the parts of a cluster read, as text.
//!
//! Addresses are the same in every lab: nothing leaves its network namespaces.

use std::path::Path;

use super::options::Proxy;

pub const API_SERVER_IP: &str = "10.220.0.1";
pub const API_SERVER: &str = "https://10.220.0.1:6443";
/// Of the Service `kubernetes`.
pub const API_SERVER_SERVICE_IP: &str = "10.96.0.1";
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
pub const CLUSTER_DNS_IP: &str = "10.96.0.10";
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// The controller manager gives each node a /24 of it, in the order of their registration.
pub const CLUSTER_CIDR: &str = "10.244.0.0/16";

/// `n1` has 10.220.0.11.
pub fn node_ip(number: usize) -> String {
    format!("10.220.0.{}", 10 + number)
}

/// Who may speak to the API server: token, user, uid, groups. The tokens are no secrets: the server
/// listens in the lab's own network namespace only. Nodes have certificates in their kubeconfigs, and
/// these tokens for the tests of tokens.
pub(super) fn tokens(nodes: usize) -> String {
    let mut text = String::new();
    for (user, groups) in [
        ("admin", "system:masters"),
        ("system:kube-controller-manager", ""),
        ("system:kube-scheduler", ""),
        ("system:kube-proxy", ""),
    ] {
        text.push_str(&format!("{},{user},{user},\"{groups}\"\n", token(user)));
    }
    for number in 1..=nodes {
        let user = format!("system:node:n{number}");
        text.push_str(&format!("{},{user},{user},\"system:nodes\"\n", token(&user)));
    }
    text
}

/// The token of a user of [`tokens`].
pub(super) fn token(user: &str) -> String {
    format!("{}-token", user.replace(':', "-"))
}

/// What a user of a kubeconfig shows.
pub(super) enum Credential<'a> {
    Token(&'a str),
    /// Files.
    Certificate {
        cert: &'a str,
        key: &'a str,
    },
}

pub(super) fn kubeconfig(ca: &str, user: &str, credential: &Credential<'_>) -> String {
    let credential = match credential {
        Credential::Token(token) => format!("token: \"{token}\""),
        Credential::Certificate { cert, key } => {
            format!("client-certificate: \"{cert}\"\n    client-key: \"{key}\"")
        }
    };
    format!(
        r#"apiVersion: v1
kind: Config
clusters:
- name: lab
  cluster:
    server: {API_SERVER}
    certificate-authority: "{ca}"
users:
- name: "{user}"
  user:
    {credential}
contexts:
- name: lab
  context:
    cluster: lab
    user: "{user}"
current-context: lab
"#
    )
}

/// What differs between nodes' KubeletConfigurations.
pub(super) struct NodeFiles<'a> {
    pub number: usize,
    /// The node's directory.
    pub dir: &'a Path,
    /// `unix://…`
    pub endpoint: &'a str,
    pub cgroup_root: &'a str,
    /// The authority's certificate, and the node's own with its key.
    pub ca: &'a str,
    pub cert: &'a str,
    pub key: &'a str,
}

/// The KubeletConfiguration that Longshore and the kubelet read alike. No node is under pressure
/// because of somebody else's full disk.
pub(super) fn kubelet_configuration(files: &NodeFiles<'_>) -> String {
    let NodeFiles { endpoint, cgroup_root, ca, cert, key, .. } = files;
    let (dir, ip) = (files.dir.display(), node_ip(files.number));
    format!(
        r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {ip}
port: 10250
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: "{ca}"
authorization:
  mode: Webhook
cgroupDriver: cgroupfs
cgroupRoot: {cgroup_root}
cgroupsPerQOS: true
clusterDNS: [{CLUSTER_DNS_IP}]
clusterDomain: {CLUSTER_DOMAIN}
containerRuntimeEndpoint: "{endpoint}"
evictionHard:
  memory.available: 100Mi
  nodefs.available: 1%
  nodefs.inodesFree: 0%
  imagefs.available: 1%
  imagefs.inodesFree: 0%
failCgroupV1: false
failSwapOn: false
maxPods: 110
podLogsDir: "{dir}/pods-log"
resolvConf: "{dir}/resolv.conf"
staticPodPath: "{dir}/manifests"
tlsCertFile: "{cert}"
tlsPrivateKeyFile: "{key}"
"#
    )
}

/// What only the kubelet needs to leave this machine alone: no image removed because of somebody
/// else's full disk, no directory outside the node's own.
pub(super) fn kubelet_only(dir: &Path) -> String {
    format!(
        r#"imageGCHighThresholdPercent: 100
volumePluginDir: "{}/volume-plugins"
"#,
        dir.display()
    )
}

/// kube-proxy's configuration; conntrack's limits belong to the machine.
pub(super) fn proxy_configuration(mode: Proxy, kubeconfig: &Path, node: &str) -> String {
    format!(
        r#"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: {mode}
clusterCIDR: {CLUSTER_CIDR}
hostnameOverride: {node}
clientConnection:
  kubeconfig: "{}"
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
"#,
        kubeconfig.display()
    )
}

/// The pod network beside a kubelet.
pub(super) fn bridge_conflist(pod_cidr: &str, data_dir: &Path) -> String {
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [
    {{
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "hairpinMode": true,
      "ipam": {{
        "type": "host-local",
        "dataDir": "{}",
        "ranges": [[{{ "subnet": "{pod_cidr}" }}]],
        "routes": [{{ "dst": "0.0.0.0/0" }}]
      }}
    }},
    {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }}
  ]
}}
"#,
        data_dir.display()
    )
}

/// Pods reach what is outside the cluster under their node's address.
pub(super) fn masquerade() -> String {
    format!(
        "table ip lab {{\n\tchain postrouting {{\n\t\ttype nat hook postrouting priority srcnat;\n\
         \t\tip saddr {CLUSTER_CIDR} ip daddr != {CLUSTER_CIDR} masquerade\n\t}}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_in_the_group_of_nodes_and_of_no_other() {
        let text = tokens(2);
        let node: Vec<&str> = text.lines().filter(|line| line.contains("system:node:n2")).collect();
        assert_eq!(node, ["system-node-n2-token,system:node:n2,system:node:n2,\"system:nodes\""]);
        assert_eq!(text.lines().count(), 6);
        let admin = kubeconfig("/ca", "admin", &Credential::Token(&token("admin")));
        assert!(admin.contains("    token: \"admin-token\"\ncontexts:"), "{admin}");
        let credential = Credential::Certificate { cert: "/crt", key: "/key" };
        let node = kubeconfig("/ca", "system:node:n2", &credential);
        let wanted = "    client-certificate: \"/crt\"\n    client-key: \"/key\"\ncontexts:";
        assert!(node.contains(wanted) && !node.contains("token"), "{node}");
    }

    #[test]
    fn a_node_serves_on_its_own_address_below_its_own_directory() {
        let files = NodeFiles {
            number: 2,
            dir: Path::new("/lab/n2"),
            endpoint: "unix:///lab/n2/containerd/containerd.sock",
            cgroup_root: "/x-n2",
            ca: "/pki/ca.crt",
            cert: "/pki/n2.crt",
            key: "/pki/n2.key",
        };
        let text = kubelet_configuration(&files);
        for line in [
            "address: 10.220.0.12",
            "cgroupRoot: /x-n2",
            "podLogsDir: \"/lab/n2/pods-log\"",
            "tlsCertFile: \"/pki/n2.crt\"",
            "clusterDNS: [10.96.0.10]",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_kube_proxy_leaves_conntracks_limits_alone() {
        let text = proxy_configuration(Proxy::Nftables, Path::new("/k"), "n1");
        assert!(text.contains("mode: nftables") && text.contains("maxPerCore: 0"), "{text}");
    }
}
