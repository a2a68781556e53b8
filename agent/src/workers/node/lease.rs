//! Renews the node's Lease (A13).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use longshore_core::node::{lease, retry_ms};
use tokio::sync::watch;

use super::jittered;
use crate::clock;
use crate::effects::api::{Api, ApiError};
use crate::failpoint;

/// Renews a quarter of the way through each Lease.
pub(super) struct LeaseKeeper {
    pub api: Api,
    pub name: String,
    pub duration_s: i32,
    /// Its UID owns the Lease, so there is no Lease before there is a Node.
    pub node: watch::Receiver<Option<Arc<Node>>>,
}

impl LeaseKeeper {
    /// Never returns.
    pub async fn run(mut self) {
        let mut held: Option<Lease> = None;
        let mut failures = 0u32;
        let mut said = String::new();
        loop {
            let Some(uid) = self.owner().await else { return std::future::pending().await };
            let wait_ms = match self.renew(held.take(), &uid).await {
                Ok(lease) => {
                    if failures > 1 {
                        tracing::info!(node = self.name, "The Lease is renewed again");
                    }
                    (failures, said) = (0, String::new());
                    held = Some(lease);
                    i64::from(self.duration_s) * 250
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let text = error.to_string();
                    // The first conflict is a Lease that another process wrote: read and go on.
                    if text != said && !(failures == 1 && is_stale(&error)) {
                        tracing::warn!(node = self.name, "Cannot renew the Lease: {text}");
                        said = text;
                    }
                    retry_ms(failures)
                }
            };
            tokio::time::sleep(Duration::from_millis(jittered(wait_ms))).await;
        }
    }

    /// The Node's UID, as soon as there is one; `None`: nobody keeps the Node any more.
    async fn owner(&mut self) -> Option<String> {
        let node = self.node.wait_for(Option::is_some).await.ok()?;
        node.as_ref().map(|node| node.metadata.uid.clone().unwrap_or_default())
    }

    /// Writes over `held`, else over what is there, else creates it.
    async fn renew(&self, held: Option<Lease>, uid: &str) -> Result<Lease, ApiError> {
        let existing = match held {
            Some(held) => Some(held),
            None => match self.api.node_lease(&self.name).await {
                Ok(lease) => Some(lease),
                Err(ApiError::NotFound(_)) => None,
                Err(error) => return Err(error),
            },
        };
        let owner = Some(uid).filter(|uid| !uid.is_empty());
        let wanted = lease(existing.as_ref(), &self.name, owner, self.duration_s, clock::now());
        let write = async {
            match existing {
                Some(_) => self.api.replace_node_lease(&wanted).await,
                None => self.api.create_node_lease(&wanted).await,
            }
        };
        failpoint::around(("api.lease.before", "api.lease.after"), write).await
    }
}

fn is_stale(error: &ApiError) -> bool {
    matches!(error, ApiError::Conflict(_) | ApiError::NotFound(_))
}
