//! Certificates and tokens of a cluster, made by `openssl`.
//!
//! The command, not a crate: xtask builds this library, and must build in seconds.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::render::{API_SERVER_IP, API_SERVER_SERVICE_IP, node_ip};
use crate::process::Run;

/// The directory with all of it.
#[derive(Clone, Debug)]
pub(super) struct Pki {
    dir: PathBuf,
}

/// A certificate to make: file name, subject, what it is for, its subject alternative names.
struct Leaf {
    name: String,
    subject: String,
    usage: &'static str,
    alternatives: String,
}

impl Pki {
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// One authority for everything, the API server's and the nodes' serving certificates, the API
    /// server's client certificate for nodes and the nodes' for it, and the key that signs
    /// ServiceAccount tokens.
    ///
    /// # Errors
    /// openssl 3 is missing.
    pub fn make(&self, nodes: usize) -> Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        std::fs::set_permissions(&self.dir, Permissions::from_mode(0o700))?;
        let leaves = leaves(nodes);
        std::fs::write(self.path("openssl.cnf"), config(&leaves))?;
        self.request("ca", "/CN=lab-ca", &[])?;
        let (crt, key) = (self.text("ca.crt"), self.text("ca.key"));
        for leaf in &leaves {
            self.request(&leaf.name, &leaf.subject, &["-CA", &crt, "-CAkey", &key])?;
        }
        let (key, public) = (self.text("sa.key"), self.text("sa.pub"));
        openssl()
            .words("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out")
            .arg(&key)
            .check()?;
        openssl().words("pkey -pubout -in").arg(&key).arg("-out").arg(&public).check()?;
        Ok(())
    }

    fn request(&self, name: &str, subject: &str, signer: &[&str]) -> Result<()> {
        openssl()
            .words("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365")
            .args(["-config", &self.text("openssl.cnf"), "-extensions", name, "-subj", subject])
            .args(signer)
            .args(["-keyout", &self.text(&format!("{name}.key"))])
            .args(["-out", &self.text(&format!("{name}.crt"))])
            .check()
            .map(drop)
            .context("certificates need openssl 3")
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub fn text(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }
}

fn openssl() -> Run {
    Run::new("openssl")
}

fn leaves(nodes: usize) -> Vec<Leaf> {
    let mut leaves = vec![
        Leaf {
            name: "apiserver".to_owned(),
            subject: "/CN=kube-apiserver".to_owned(),
            usage: "serverAuth",
            alternatives: format!(
                "IP:{API_SERVER_IP},IP:{API_SERVER_SERVICE_IP},IP:127.0.0.1,DNS:kubernetes,\
                 DNS:kubernetes.default,DNS:kubernetes.default.svc,\
                 DNS:kubernetes.default.svc.cluster.local"
            ),
        },
        Leaf {
            // What lets `kubectl logs` and `exec` reach a node: nodes trust the same authority.
            name: "kubelet-client".to_owned(),
            subject: "/O=system:masters/CN=kube-apiserver-kubelet-client".to_owned(),
            usage: "clientAuth",
            alternatives: "DNS:kube-apiserver-kubelet-client".to_owned(),
        },
    ];
    leaves.extend((1..=nodes).map(|number| Leaf {
        name: format!("n{number}"),
        subject: "/O=system:nodes/CN=node".to_owned(),
        usage: "serverAuth",
        alternatives: format!("IP:{},DNS:n{number}", node_ip(number)),
    }));
    // What kubeadm writes into kubelet.conf: the name and group that the node authorizer wants.
    leaves.extend((1..=nodes).map(|number| Leaf {
        name: format!("node-n{number}"),
        subject: format!("/O=system:nodes/CN=system:node:n{number}"),
        usage: "clientAuth",
        alternatives: format!("DNS:n{number}"),
    }));
    leaves
}

fn config(leaves: &[Leaf]) -> String {
    let mut text = "[req]\ndistinguished_name = dn\n[dn]\n[ca]\n\
        basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign,cRLSign\n\
        subjectKeyIdentifier = hash\n"
        .to_owned();
    for Leaf { name, usage, alternatives, .. } in leaves {
        text.push_str(&format!(
            "[{name}]\nbasicConstraints = critical,CA:FALSE\nkeyUsage = critical,digitalSignature\n\
             extendedKeyUsage = {usage}\nsubjectAltName = {alternatives}\n\
             authorityKeyIdentifier = keyid\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_serves_under_its_own_address() {
        let text = config(&leaves(2));
        assert!(text.contains("[n1]\n") && text.contains("[n2]\n") && !text.contains("[n3]"));
        assert!(text.contains("IP:10.220.0.12,DNS:n2"), "{text}");
    }

    #[test]
    fn each_node_is_a_client_under_its_own_name_in_the_group_of_nodes() {
        let leaves = leaves(2);
        let clients = leaves.iter().filter(|leaf| leaf.name.starts_with("node-"));
        let clients: Vec<_> = clients.map(|leaf| (leaf.subject.as_str(), leaf.usage)).collect();
        assert_eq!(
            clients,
            [
                ("/O=system:nodes/CN=system:node:n1", "clientAuth"),
                ("/O=system:nodes/CN=system:node:n2", "clientAuth")
            ]
        );
    }
}
