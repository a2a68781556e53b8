//! The Lease that says "this node is alive" (A13).

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};

use crate::model::Time;

/// Where Leases of nodes are.
const NAMESPACE: &str = "kube-node-lease";

/// The Lease to write over `existing` (its resource version is kept, so that a newer one is not
/// overwritten), or to create. It is owned by the Node when the Node's UID is known, so that it goes
/// with the Node.
pub fn lease(
    existing: Option<&Lease>,
    node_name: &str,
    node_uid: Option<&str>,
    duration_s: i32,
    now: Time,
) -> Lease {
    let mut lease = existing.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(node_name.into()),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    if let Some(uid) = node_uid {
        // A Lease of a Node that was deleted and made again belongs to the new one.
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node_name.into(),
            uid: uid.into(),
            ..OwnerReference::default()
        };
        let owners = lease.metadata.owner_references.get_or_insert_default();
        owners.retain(|old| !(old.kind == "Node" && old.name == node_name));
        owners.push(owner);
    }
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    spec.holder_identity = Some(node_name.into());
    spec.lease_duration_seconds = Some(duration_s);
    let stamp = Timestamp::from_millisecond(now.unix_ms()).unwrap_or_default();
    spec.renew_time = Some(MicroTime(stamp));
    lease
}
