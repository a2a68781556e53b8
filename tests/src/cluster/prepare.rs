//! What a node is made of before its agent: links, files, mounts, containerd, pod network.

use anyhow::{Context, Result, bail};

use super::LIMIT_S;
use super::control::{Control, kubeconfig, log};
use super::node::ClusterNode;
use super::options::{Agent, ClusterOptions, Proxy};
use super::render::{self, API_SERVER_IP, Credential, NodeFiles, node_ip};
use crate::cgroup;
use crate::containerd::Containerd;
use crate::netns::Netns;
use crate::process::{Child, Run, wait_for};

impl ClusterNode {
    /// Everything except the agent: namespaces, containerd with the images, files.
    pub(super) fn prepare(
        options: &ClusterOptions,
        control: &Control,
        number: usize,
        record: &(dyn Fn(&str, &Child) -> Result<()> + Sync),
    ) -> Result<Self> {
        let name = format!("n{number}");
        let netns = Netns::new(&format!("{}-{name}", options.full_name()))?;
        let mut node = Self {
            number,
            options: options.of_node(number),
            agent: None,
            proxy: None,
            containerd: None,
            mounts: None,
            netns,
            extra: Vec::new(),
        };
        for dir in ["manifests", "pods-log", "root", "state", "cni/net.d", "cni/bin"] {
            std::fs::create_dir_all(node.dir().join(dir))?;
        }
        node.connect(&control.netns)?;
        node.write_files(control)?;
        if node.options.agent == Agent::Kubelet {
            cgroup::make(&node.cgroup_root())?;
            node.separate_mounts()?;
            if let Some(holder) = &node.mounts {
                record(&format!("{name}/mounts"), holder)?;
            }
        }
        let containerd = Containerd::start(&options.lab.runtime, &node.place(), &node.netns)?;
        let ctr = containerd.ctr();
        node.containerd = Some(containerd);
        for tar in &options.lab.images {
            ctr.import(tar)?;
        }
        Ok(node)
    }

    /// What the bridge plugin and the kernel need once the node has a pod range: `ranges` are those
    /// of all nodes, by number.
    pub(super) fn connect_pods(&self, ranges: &[(usize, String)]) -> Result<()> {
        for (number, range) in ranges {
            if *number == self.number {
                let text = render::bridge_conflist(range, &self.dir().join("cni/ipam"));
                // The runtime reads whatever appears in that directory: complete or not there. And
                // of a file that is moved into it from another one containerd takes no notice.
                let conf_dir = self.place().cni_conf_dir;
                let part = conf_dir.join("10-lab.part");
                std::fs::write(&part, text)?;
                std::fs::rename(part, conf_dir.join("10-lab.conflist"))?;
            } else {
                self.netns.ip(&format!("route replace {range} via {}", node_ip(*number)))?;
            }
        }
        Ok(())
    }

    /// An uplink to the control plane's bridge, which is also the way to the world outside.
    fn connect(&self, control: &Netns) -> Result<()> {
        let name = self.name();
        self.netns
            .ip(&format!("link add up0 type veth peer name {name} netns {}", control.name()))?;
        control.ip(&format!("link set {name} master br0 up"))?;
        self.netns.ip(&format!("address add {}/24 dev up0", self.ip()))?;
        self.netns.ip("link set up0 up")?;
        self.netns.ip(&format!("route add default via {API_SERVER_IP}"))?;
        if self.options.agent == Agent::Kubelet {
            // Longshore does both itself.
            self.netns.run("sh").args(["-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"]).check()?;
            self.netns.run("nft").args(["-f", "-"]).input(&render::masquerade())?.check()?;
        }
        Ok(())
    }

    fn write_files(&self, control: &Control) -> Result<()> {
        let (pki, name, dir) = (control.pki(), self.name(), self.dir());
        let mut text = render::kubelet_configuration(&NodeFiles {
            number: self.number,
            dir: &dir,
            endpoint: &format!("unix://{}", self.place().dir.join("containerd.sock").display()),
            cgroup_root: &self.cgroup_root(),
            ca: &pki.text("ca.crt"),
            cert: &pki.text(&format!("{name}.crt")),
            key: &pki.text(&format!("{name}.key")),
        });
        if self.options.agent == Agent::Kubelet {
            text.push_str(&render::kubelet_only(&dir));
        }
        if let Some(range) = &self.options.pod_cidr {
            text.push_str(&format!("podCIDR: {range}\n"));
        }
        std::fs::write(self.config(), text)?;
        // No name server of the machine: nothing of it is reachable from a lab.
        std::fs::write(dir.join("resolv.conf"), "search lab.example\n")?;
        let user = format!("system:node:{name}");
        let credential = Credential::Certificate {
            cert: &pki.text(&format!("node-{name}.crt")),
            key: &pki.text(&format!("node-{name}.key")),
        };
        control.write_kubeconfig(&self.kubeconfig(), &user, &credential)?;
        if self.options.proxy != Proxy::None {
            let proxy = kubeconfig(&self.options.dir(), "kube-proxy");
            let text = render::proxy_configuration(self.options.proxy, &proxy, &name);
            std::fs::write(dir.join("kube-proxy.yaml"), text)?;
        }
        Ok(())
    }

    /// A mount namespace in which a kubelet cannot touch this machine's sysctls and directories.
    /// containerd enters it too: otherwise volumes that the kubelet mounts are empty in pods.
    fn separate_mounts(&mut self) -> Result<()> {
        let dir = self.dir().join("mounts");
        std::fs::create_dir_all(&dir)?;
        let child = Run::new("unshare")
            .args(["--mount", "--propagation", "slave", "sh", "-c", SEPARATE, "mounts"])
            .arg(&dir)
            .own_group()
            .start(&log(&self.options.dir(), &format!("{}/mounts", self.name())))?;
        self.netns.with_mounts_of(child.pid());
        let mut child = self.mounts.insert(child);
        let child = &mut child;
        wait_for("a mount namespace", LIMIT_S, || {
            if child.exited()?.is_some() {
                bail!("it ended");
            }
            Ok(dir.join("ready").exists())
        })
        .with_context(|| child.log())
    }
}

/// Ordinary files in place of the sysctls that a kubelet writes, and its own /var/lib and /var/log.
const SEPARATE: &str = r#"set -e
cd "$1"
for sysctl in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    file=$(echo $sysctl | tr / .)
    cat /proc/sys/$sysctl >$file
    mount --bind $file /proc/sys/$sysctl
done
mkdir -p lib log
mount --bind lib /var/lib
mount --bind log /var/log
touch ready
exec sleep infinity
"#;
