//! When and how a status is written (A12), and what a Node that exists already gets (A1).

use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use serde_json::{Map, Value, json};

use super::resources::{Resources, is_extended};
use super::{ATTACH_DETACH, Identity, labels};
use crate::model::{Quantity, Time};

/// How long a daemon that starts keeps the Ready of its predecessor before it says otherwise (I6).
pub const STARTING_MAX_MS: i64 = 30_000;

/// Fields of the status that a patch replaces as a whole.
const REPLACED: [&str; 6] =
    ["daemonEndpoints", "declaredFeatures", "features", "images", "nodeInfo", "runtimeHandlers"];

/// A status is due when it says something new, or when `report_at` has come (A12). A heartbeat
/// alone is nothing new, and neither is the same amount written in another way.
pub fn patch_due(old: &NodeStatus, new: &NodeStatus, report_at: Time, now: Time) -> bool {
    now >= report_at || plain(old) != plain(new)
}

/// When the next report is due. After a change it is up to half a period earlier or later, so that
/// nodes that changed together do not report together (A12). `share`: 0 to 999, at random.
pub fn next_report(changed: bool, frequency_ms: i64, share: i64, now: Time) -> Time {
    let offset = if changed { frequency_ms / 1000 * (share - 500) } else { 0 };
    now.plus_ms(frequency_ms.saturating_add(offset))
}

/// True while the API server answered a starting daemon just now (`since`) and the only news would be that the node is not ready
/// any more: what is not known yet is no reason (I6).
pub fn holds_back(old: &NodeStatus, new: &NodeStatus, since: Time, now: Time) -> bool {
    now.since_ms(since) < STARTING_MAX_MS && is_ready(old) && !is_ready(new)
}

/// How long to wait after `failures` calls in a row that failed: 100 ms, doubling to 7 s, for ever
/// (A1, A13).
pub fn retry_ms(failures: u32) -> i64 {
    (100i64 << failures.saturating_sub(1).min(10)).min(7_000)
}

/// Whether a status says that the node is ready.
pub fn is_ready(status: &NodeStatus) -> bool {
    ready(status) == Some("True")
}

fn ready(status: &NodeStatus) -> Option<&str> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == "Ready").map(|found| found.status.as_str())
}

/// A strategic merge patch of the Node's `status` that makes `old` into `new`. Conditions are merged
/// by type; addresses are replaced, because two of them may have one type; resources that are gone
/// are removed by name.
pub fn status_patch(old: &NodeStatus, new: &NodeStatus) -> Value {
    let (before, after) = (value(old), value(new));
    let mut patch = Map::new();
    for field in REPLACED {
        let (was, is) = (before.get(field), after.get(field));
        if was != is {
            let mut new = is.cloned().unwrap_or(Value::Null);
            // Objects would be merged field by field: what is gone must go.
            if let Some(object) = new.as_object_mut()
                && was.is_some()
            {
                object.insert("$patch".into(), "replace".into());
            }
            patch.insert(field.into(), new);
        }
    }
    for field in ["capacity", "allocatable"] {
        let empty = json!({});
        let was = before.get(field).unwrap_or(&empty);
        let is = after.get(field).unwrap_or(&empty);
        let changes = map_changes(was, is);
        if !changes.is_empty() {
            patch.insert(field.into(), Value::Object(changes));
        }
    }
    if before.get("addresses") != after.get("addresses") {
        let mut list = vec![json!({"$patch": "replace"})];
        list.extend(after.get("addresses").and_then(Value::as_array).cloned().unwrap_or_default());
        patch.insert("addresses".into(), Value::Array(list));
    }
    let conditions = after.get("conditions").and_then(Value::as_array);
    let own: Vec<Value> =
        conditions.into_iter().flatten().filter(|one| is_own(one)).cloned().collect();
    let order: Vec<Value> = own.iter().map(|one| json!({"type": one["type"]})).collect();
    patch.insert("$setElementOrder/conditions".into(), Value::Array(order));
    patch.insert("conditions".into(), Value::Array(own));
    json!({ "status": patch })
}

/// Conditions that this node writes (A10).
fn is_own(condition: &Value) -> bool {
    let own = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
    condition["type"].as_str().is_some_and(|kind| own.contains(&kind))
}

fn value(status: &NodeStatus) -> Value {
    // Plain data of the API: there is nothing in it that cannot be written as JSON.
    serde_json::to_value(status).unwrap_or_default()
}

/// What is new or different, and `null` for what is gone.
fn map_changes(was: &Value, is: &Value) -> Map<String, Value> {
    let mut changes = Map::new();
    for (name, new) in is.as_object().into_iter().flatten() {
        if was.get(name) != Some(new) {
            changes.insert(name.clone(), new.clone());
        }
    }
    for name in was.as_object().into_iter().flatten().map(|(name, _)| name) {
        if is.get(name).is_none() {
            changes.insert(name.clone(), Value::Null);
        }
    }
    changes
}

/// The status without what changes by itself, amounts in one form.
fn plain(status: &NodeStatus) -> NodeStatus {
    let mut plain = status.clone();
    for condition in plain.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    for resources in [&mut plain.capacity, &mut plain.allocatable].into_iter().flatten() {
        for quantity in resources.values_mut() {
            if let Ok(amount) = Quantity::from_api(quantity) {
                *quantity = ApiQuantity(amount.to_string());
            }
        }
    }
    plain
}

/// Patches that a Node which exists already gets from a daemon that starts: of the object (default
/// labels, annotation of A15) and of its status (huge pages, extended resources whose devices this
/// daemon does not know). Taints and the user's labels are not given again (A1).
pub fn register_difference(
    existing: &Node,
    wanted: &Node,
    identity: &Identity,
) -> (Option<Value>, Option<Value>) {
    (object_difference(existing, identity), resource_difference(existing, wanted))
}

fn object_difference(existing: &Node, identity: &Identity) -> Option<Value> {
    let mut wanted_labels = labels::defaults(identity);
    for (key, value) in &mut wanted_labels {
        // The command line's value of a default label goes before the default.
        if let Some(own) = identity.labels.get(key) {
            value.clone_from(own);
        }
    }
    let has = existing.metadata.labels.as_ref();
    wanted_labels.retain(|key, value| has.and_then(|labels| labels.get(key)) != Some(value));
    let annotation = existing.metadata.annotations.as_ref().and_then(|a| a.get(ATTACH_DETACH));
    let mut metadata = Map::new();
    if !wanted_labels.is_empty() {
        metadata.insert("labels".into(), json!(wanted_labels));
    }
    if annotation.map(String::as_str) != Some("true") {
        metadata.insert("annotations".into(), json!({ ATTACH_DETACH: "true" }));
    }
    (!metadata.is_empty()).then(|| json!({ "metadata": metadata }))
}

fn resource_difference(existing: &Node, wanted: &Node) -> Option<Value> {
    let none = Resources::new();
    let of = |node: &Node, capacity: bool| {
        let status = node.status.as_ref();
        let resources = status.and_then(|status| match capacity {
            true => status.capacity.clone(),
            false => status.allocatable.clone(),
        });
        resources.unwrap_or_else(|| none.clone())
    };
    let mut status = Map::new();
    for (field, is_capacity) in [("capacity", true), ("allocatable", false)] {
        let (was, is) = (of(existing, is_capacity), of(wanted, is_capacity));
        let mut changes = Map::new();
        for (name, old) in &was {
            let zero = Quantity::from_api(old).is_ok_and(|old| old.milli == 0);
            if is_extended(name) && !zero {
                changes.insert(name.clone(), json!("0"));
            } else if name.starts_with("hugepages-") && !is.contains_key(name) {
                changes.insert(name.clone(), Value::Null);
            }
        }
        for (name, new) in is.iter().filter(|(name, _)| name.starts_with("hugepages-")) {
            if was.get(name) != Some(new) {
                changes.insert(name.clone(), json!(new));
            }
        }
        if !changes.is_empty() {
            status.insert(field.into(), Value::Object(changes));
        }
    }
    (!status.is_empty()).then(|| json!({ "status": status }))
}
