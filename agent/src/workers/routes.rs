//! Routes to the other nodes, and what is not masqueraded.
//!
//! Nothing is changed before the first complete list of nodes: a restarted daemon must not cut what
//! the last one made (A38).

use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use longshore_core::model::Change;
use longshore_core::net::{NodeNetwork, masquerade as masquerade_plan, node_network};
use tokio::sync::watch;

use crate::effects::network::{Network, masquerade};
use crate::supervise::Scope;
use crate::world::Store;

/// Another program may have removed what is ours: looked after so often.
const RESYNC: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// What the worker needs of the node.
pub struct Place {
    pub node_name: String,
    /// Networks of the node's own interfaces.
    pub attached: Vec<Ipv4Net>,
    /// `podCIDR` of the configuration.
    pub configured: Option<Ipv4Net>,
    pub service_cidr: IpNet,
}

/// Follows the nodes for ever. `range` is told this node's podCIDR.
pub async fn run(
    store: Store,
    network: Network,
    scope: Scope,
    mut place: Place,
    range: Arc<watch::Sender<Option<Ipv4Net>>>,
) {
    let mut changes = store.subscribe();
    let mut last = NodeNetwork::default();
    let mut pause = Duration::ZERO;
    loop {
        if pause.is_zero() {
            // Addresses come and go with links and leases (F48).
            match network.attached().await {
                Ok(attached) => place.attached = attached,
                Err(error) => {
                    tracing::warn!(error = text(error), "Cannot read the node's own networks");
                }
            }
        }
        let world = store.snapshot();
        let nodes = world.nodes.values().map(|node| &**node);
        let plan = node_network(&place.node_name, nodes, &place.attached, place.configured);
        if plan.own.is_some() {
            range.send_if_modified(|now| std::mem::replace(now, plan.own) != plan.own);
        }
        if world.synced && (plan != last || pause.is_zero()) {
            for problem in plan.problems.iter().filter(|one| !last.problems.contains(one)) {
                tracing::warn!(%problem, "A node cannot be reached directly");
            }
            pause = match write(&network, &scope, &place, &plan).await {
                Ok(()) => RESYNC,
                Err(error) => {
                    tracing::error!(error, "Cannot write routes to other nodes; trying again");
                    RETRY
                }
            };
            last = plan;
        }
        // Nodes change all the time by their heartbeats: only what follows from them counts.
        let dirty = loop {
            tokio::select! {
                biased;
                dirty = changes.next() => {
                    let matters = |change: &Change| matches!(change, Change::Node(_) | Change::Synced);
                    if dirty.iter().any(matters) {
                        break true;
                    }
                }
                () = tokio::time::sleep(pause.max(RETRY)) => break false,
            }
        };
        if !dirty {
            pause = Duration::ZERO;
        }
    }
}

async fn write(
    network: &Network,
    scope: &Scope,
    place: &Place,
    plan: &NodeNetwork,
) -> Result<(), String> {
    network.set_routes(&plan.routes).await.map_err(text)?;
    let Some(range) = plan.range else { return Ok(()) };
    let cluster = plan.cluster.iter().copied().chain([place.service_cidr]);
    let table = masquerade_plan(IpNet::V4(range), cluster);
    let written = scope.blocking(move || masquerade::apply(&table)).await;
    written.map_err(|error| error.to_string())?.map_err(text)
}

fn text(error: crate::effects::network::NetworkError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
