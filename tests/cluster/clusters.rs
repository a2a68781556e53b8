//! The cluster that tests share, and clusters for one test.

use std::ops::Deref;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Result;
use longshore_tests::cluster::{
    Agent, Cluster, ClusterNode, ClusterOptions, Parts, SHARED_CLUSTER,
};
use longshore_tests::lab::Lab;

use crate::script::{Space, poll};

/// The namespace of tests with a cluster of their own.
pub const E2E: &str = "e2e";

/// A cluster of `nodes` for one test, with the namespace [`E2E`]. It is removed when it is dropped.
pub fn cluster(name: &str, nodes: usize, change: impl FnOnce(&mut ClusterOptions)) -> Cluster {
    let mut options = options(name, nodes);
    // Only the shared one has a DNS server.
    options.lab.images.retain(|tar| !tar.ends_with("coredns.tar"));
    change(&mut options);
    let cluster = Cluster::up(&options).unwrap();
    make_namespace(&cluster, E2E).unwrap();
    cluster
}

fn options(name: &str, nodes: usize) -> ClusterOptions {
    let (lab, parts) = (Lab::from_env().unwrap(), Parts::from_env().unwrap());
    ClusterOptions { nodes, agent: Agent::Longshore, ..ClusterOptions::new(&lab, &parts, name) }
}

/// A namespace of the shared cluster. The test must leave the nodes and their daemons alone.
pub struct Shared {
    cluster: &'static Cluster,
    space: Space<'static>,
}

impl Shared {
    pub fn new(namespace: &'static str) -> Self {
        // Never dropped: the lane ends it, by what it has written down of itself.
        static CLUSTER: OnceLock<std::result::Result<Cluster, String>> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| {
            let cluster = Cluster::up(&options(SHARED_CLUSTER, 2)).map_err(|e| format!("{e:#}"))?;
            let dns = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/coredns.yaml");
            let text = std::fs::read_to_string(dns).map_err(|error| error.to_string())?;
            cluster.apply(&text).map_err(|error| format!("{error:#}"))?;
            Ok(cluster)
        });
        let cluster = match cluster {
            Ok(cluster) => cluster,
            Err(error) => panic!("the shared cluster: {error}"),
        };
        make_namespace(cluster, namespace).unwrap();
        Self { cluster, space: Space { cluster, name: namespace } }
    }
}

impl Deref for Shared {
    type Target = Space<'static>;
    fn deref(&self) -> &Self::Target {
        &self.space
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.cluster.report());
            return;
        }
        let words = ["delete", "namespace", self.space.name, "--wait=false"];
        let _ = self.cluster.kubectl(words).output();
    }
}

/// Waits for the ServiceAccount, too: without it no pod is admitted.
pub fn make_namespace(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.kubectl(["create", "namespace", name]).check()?;
    poll("the namespace's ServiceAccount", || {
        Ok(cluster.kubectl(["-n", name, "get", "serviceaccount", "default"]).output()?.ok())
    })
}

/// The namespace of a cluster's own test.
pub fn e2e(cluster: &Cluster) -> Space<'_> {
    Space { cluster, name: E2E }
}

pub fn node<'a>(cluster: &'a Cluster, name: &str) -> &'a ClusterNode {
    let found = cluster.nodes().iter().find(|node| node.name() == name);
    found.unwrap_or_else(|| panic!("no node {name}"))
}
