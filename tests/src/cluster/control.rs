//! The control plane: etcd, API server, controller manager and scheduler in a namespace of their own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::LIMIT_S;
use super::options::ClusterOptions;
use super::pki::Pki;
use super::render::{self, API_SERVER_IP, CLUSTER_CIDR, Credential, SERVICE_CIDR};
use super::state::State;
use crate::containerd::tail;
use crate::netns::Netns;
use crate::process::{Child, Run, wait_for};

const ETCD: &str = "http://127.0.0.1:2379";
/// In the order of their start; they end in the reverse order. Without etcd an API server that got
/// SIGTERM hangs for minutes, with its port.
const ROLES: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Its processes; whatever is `None` does not run.
pub(super) struct Control {
    options: ClusterOptions,
    pub netns: Netns,
    processes: Vec<(&'static str, Child)>,
}

impl Control {
    /// The namespace with the bridge that nodes are connected to, and all files.
    pub fn prepare(options: &ClusterOptions) -> Result<Self> {
        let dir = options.dir();
        for name in ["log", "kubeconfig"] {
            std::fs::create_dir_all(dir.join(name))?;
        }
        let netns = Netns::new(&format!("{}-cp", options.full_name()))?;
        netns.ip("link add br0 type bridge")?;
        netns.ip(&format!("address add {API_SERVER_IP}/24 dev br0"))?;
        netns.ip("link set br0 up")?;
        let this = Self { options: options.clone(), netns, processes: Vec::new() };
        this.pki().make(options.nodes)?;
        std::fs::write(dir.join("tokens.csv"), render::tokens(options.nodes))?;
        for (file, user) in [
            ("admin", "admin"),
            ("kube-controller-manager", "system:kube-controller-manager"),
            ("kube-scheduler", "system:kube-scheduler"),
            ("kube-proxy", "system:kube-proxy"),
        ] {
            let token = render::token(user);
            this.write_kubeconfig(&kubeconfig(&dir, file), user, &Credential::Token(&token))?;
        }
        Ok(this)
    }

    /// What an earlier program started and kept.
    pub fn attach(options: &ClusterOptions, state: &State) -> Self {
        let netns = Netns::owned(&format!("{}-cp", options.full_name()));
        let dir = options.dir();
        let attach = |role: &'static str| {
            Some((role, Child::attach(state.process(role)?, &log(&dir, role), role)))
        };
        let processes = ROLES.into_iter().filter_map(attach).collect();
        Self { options: options.clone(), netns, processes }
    }

    pub fn pki(&self) -> Pki {
        Pki::at(&self.options.dir().join("pki"))
    }

    pub fn write_kubeconfig(
        &self,
        path: &Path,
        user: &str,
        credential: &Credential<'_>,
    ) -> Result<()> {
        let text = render::kubeconfig(&self.pki().text("ca.crt"), user, credential);
        Ok(std::fs::write(path, text)?)
    }

    /// Starts one of [`ROLES`]; the caller records it.
    pub fn start(&mut self, role: &'static str) -> Result<()> {
        if self.processes.iter().any(|(name, _)| *name == role) {
            bail!("{role} runs already");
        }
        let child = self.run(role).own_group().start(&log(&self.options.dir(), role))?;
        self.processes.push((role, child));
        Ok(())
    }

    /// SIGTERM, and SIGKILL if it hangs.
    pub fn stop(&mut self, role: &str) -> Result<()> {
        let at = self.processes.iter().position(|(name, _)| *name == role);
        let (_, mut child) = self.processes.remove(at.with_context(|| format!("no {role} runs"))?);
        match child.stop(10) {
            Ok(_) => Ok(()),
            Err(_) => child.wait(1).map(drop),
        }
    }

    pub fn processes(&self) -> impl Iterator<Item = (&'static str, &Child)> {
        self.processes.iter().map(|(role, child)| (*role, child))
    }

    /// Waits for `/readyz`.
    ///
    /// # Errors
    /// A process ended, or it takes too long; with the end of the logs.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ready = wait_for("the API server to be ready", LIMIT_S, || {
            for (role, child) in &mut self.processes {
                if child.exited()?.is_some() {
                    bail!("{role} ended");
                }
            }
            Ok(self.kubectl().words("get --raw /readyz").output()?.ok())
        });
        ready.with_context(|| self.tails())
    }

    fn tails(&self) -> String {
        let last =
            |(role, child): &(&str, Child)| format!("--- {role}\n{}\n", tail(&child.log(), 8));
        self.processes.iter().map(last).collect()
    }

    /// As the administrator, from inside the control plane's namespace.
    pub fn kubectl(&self) -> Run {
        let program = self.options.parts.kubernetes.join("kubectl");
        self.netns
            .run(&program.to_string_lossy())
            .arg("--kubeconfig")
            .arg(kubeconfig(&self.options.dir(), "admin"))
            // Its discovery cache would otherwise be shared by labs with the same addresses.
            .env("KUBECACHEDIR", self.options.dir().join("kubectl-cache"))
    }

    fn run(&self, role: &str) -> Run {
        let (dir, pki) = (self.options.dir(), self.pki());
        let at = |name: &str| dir.join(name).display().to_string();
        let own = kubeconfig(&dir, role).display().to_string();
        let parts = &self.options.parts;
        let program = |place: &Path| place.join(role).display().to_string();
        match role {
            "etcd" => self
                .netns
                .run(&program(&parts.etcd))
                .args(["--data-dir", &at("etcd"), "--listen-client-urls", ETCD])
                .args(["--advertise-client-urls", ETCD, "--unsafe-no-fsync"])
                .args(["--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn"]),
            "kube-apiserver" => self
                .netns
                .run(&program(&parts.kubernetes))
                .arg(format!("--etcd-servers={ETCD}"))
                .arg(format!("--service-cluster-ip-range={SERVICE_CIDR}"))
                .arg(format!("--bind-address={API_SERVER_IP}"))
                .arg(format!("--advertise-address={API_SERVER_IP}"))
                .args(["--secure-port=6443", "--allow-privileged=true"])
                .arg(format!("--tls-cert-file={}", pki.text("apiserver.crt")))
                .arg(format!("--tls-private-key-file={}", pki.text("apiserver.key")))
                .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
                .arg(format!("--service-account-key-file={}", pki.text("sa.pub")))
                .arg(format!("--service-account-signing-key-file={}", pki.text("sa.key")))
                .arg(format!("--client-ca-file={}", pki.text("ca.crt")))
                .arg(format!("--token-auth-file={}", at("tokens.csv")))
                .args(["--authorization-mode=Node,RBAC", "--enable-bootstrap-token-auth"])
                .arg("--enable-admission-plugins=NodeRestriction")
                .arg("--kubelet-preferred-address-types=InternalIP")
                .arg(format!("--kubelet-certificate-authority={}", pki.text("ca.crt")))
                .arg(format!("--kubelet-client-certificate={}", pki.text("kubelet-client.crt")))
                .arg(format!("--kubelet-client-key={}", pki.text("kubelet-client.key"))),
            "kube-controller-manager" => {
                let run = self
                    .netns
                    .run(&program(&parts.kubernetes))
                    .arg(format!("--kubeconfig={own}"))
                    .arg(format!("--service-account-private-key-file={}", pki.text("sa.key")))
                    .args(["--use-service-account-credentials", "--leader-elect=false"])
                    .arg(format!("--root-ca-file={}", pki.text("ca.crt")))
                    .arg(format!("--allocate-node-cidrs={}", self.options.pod_cidr.is_none()))
                    .arg(format!("--cluster-cidr={CLUSTER_CIDR}"))
                    .arg(format!("--service-cluster-ip-range={SERVICE_CIDR}"))
                    .arg(format!("--cluster-signing-cert-file={}", pki.text("ca.crt")))
                    .arg(format!("--cluster-signing-key-file={}", pki.text("ca.key")));
                match self.options.node_monitor_grace_period_s {
                    Some(seconds) => run.arg(format!("--node-monitor-grace-period={seconds}s")),
                    None => run,
                }
            }
            _ => self
                .netns
                .run(&program(&parts.kubernetes))
                .arg(format!("--kubeconfig={own}"))
                .arg("--leader-elect=false"),
        }
    }

    /// All of it goes on when this value is dropped.
    pub fn keep(&mut self) {
        self.netns.keep();
        self.processes.iter_mut().for_each(|(_, child)| child.keep());
    }

    /// Ends the processes, etcd last.
    pub fn end(&mut self) {
        for role in ROLES.iter().rev() {
            let Some(at) = self.processes.iter().position(|(name, _)| name == role) else {
                continue;
            };
            let (_, mut child) = self.processes.remove(at);
            // Nothing of it is kept, so only etcd's clients need an order.
            let _ = child.kill9();
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.processes.iter().all(|(_, child)| !child.kept()) {
            self.end();
        }
    }
}

pub(super) fn log(dir: &Path, role: &str) -> PathBuf {
    dir.join("log").join(format!("{}.log", role.replace('/', "-")))
}

pub(super) fn kubeconfig(dir: &Path, who: &str) -> PathBuf {
    dir.join("kubeconfig").join(who)
}
