//! `node.json`: this node's desired pods and its Node, so that a daemon that starts while the API
//! server is away goes on from there (I10).
//!
//! Deliberately absent: Secrets, ConfigMaps, tokens, and statuses, which each pod keeps itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use longshore_core::model::{Change, ObjectKey, World};
use serde::{Deserialize, Serialize};

use super::pods::Pods;
use super::slim;
use crate::supervise::Scope;
use crate::world::checkpoint::{read, replace};
use crate::world::store::Store;

const VERSION: u32 = 1;
/// Changes come in bursts; so long to see all of one.
const SETTLE: Duration = Duration::from_millis(200);
/// After a write that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// What was known when the daemon last ran.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Known {
    version: u32,
    pub node: Option<Node>,
    pub pods: Vec<Pod>,
}

impl Known {
    /// `spec.podCIDRs` of this node, in the API's order.
    pub fn pod_cidrs(&self) -> Vec<IpNet> {
        self.node.as_ref().map(pod_cidrs).unwrap_or_default()
    }
}

/// `spec.podCIDRs`, or the one of `spec.podCIDR`.
pub fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten();
    let parsed: Vec<IpNet> = all.filter_map(|range| range.parse().ok()).collect();
    match (parsed.is_empty(), &spec.pod_cidr) {
        (true, Some(one)) => one.parse().into_iter().collect(),
        _ => parsed,
    }
}

fn path_of(state_dir: &Path) -> PathBuf {
    state_dir.join("node.json")
}

/// `None`: there is none, or one that cannot be used; that one is set aside (F39).
pub fn load(state_dir: &Path) -> Option<Known> {
    let path = path_of(state_dir);
    let known = match read(&path) {
        Ok(None) => return None,
        Ok(Some(text)) => serde_json::from_str::<Known>(&text).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let why = match known {
        Ok(known) if known.version == VERSION => return Some(known),
        Ok(known) => format!("it has version {}, not {VERSION}", known.version),
        Err(why) => why,
    };
    let aside = path.with_extension("json.bad");
    tracing::error!(path = %path.display(), aside = %aside.display(), why,
        "Set aside an unusable checkpoint; pods are known when the API server answers");
    if let Err(error) = std::fs::rename(&path, &aside) {
        tracing::warn!(path = %path.display(), %error, "It cannot be set aside either");
    }
    None
}

/// The text that [`load`] reads.
pub fn text(world: &World, node_name: &str, pods: &Pods) -> String {
    let plain = |pod: &Pod| {
        let mut pod = Pod { status: None, ..pod.clone() };
        // It grows with every status: the rest of the text does not change then.
        slim::plain_metadata(&mut pod.metadata);
        pod
    };
    let node = world.nodes.get(&ObjectKey::new("", node_name));
    let known = Known {
        version: VERSION,
        node: node.map(|node| slim::other_node(Node::clone(node))),
        pods: pods.own().iter().map(|pod| plain(pod)).collect(),
    };
    // Plain data with text keys: serialising cannot fail.
    serde_json::to_string(&known).unwrap_or_default()
}

/// Keeps the file what is known, for ever. Nothing is written before the API server has spoken.
pub async fn keep(state_dir: PathBuf, node_name: String, store: Store, pods: Pods, scope: Scope) {
    let mut changes = store.subscribe();
    let mut written = None;
    let own_node = Change::Node(ObjectKey::new("", node_name.as_str()));
    let mut failing = false;
    let mut seen = 0;
    loop {
        if pods.listed() {
            seen = pods.own_changes();
            let text = text(&store.snapshot(), &node_name, &pods);
            if written.as_ref() != Some(&text) {
                let (path, writing) = (path_of(&state_dir), text.clone());
                let stored = scope.blocking(move || replace(&path, &writing)).await;
                let stored = stored.map_err(std::io::Error::other).and_then(|result| result);
                if let Err(error) = &stored {
                    if !failing {
                        tracing::error!(directory = %state_dir.display(), %error,
                            "Cannot write the checkpoint; pods go on, but a restart without the API server would not know the newest: make room");
                    }
                    failing = true;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                failing = false;
                written = Some(text);
            }
        }
        loop {
            let changed = changes.next().await;
            // Pods of other nodes change all the time.
            let relevant = |change: &Change| match change {
                Change::Pod(_) => pods.own_changes() != seen,
                other => *other == Change::Synced || *other == own_node,
            };
            if changed.iter().any(relevant) {
                break;
            }
        }
        tokio::time::sleep(SETTLE).await;
    }
}
