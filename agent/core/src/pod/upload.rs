//! The difference between the status that the API server has and the one that this node means, as
//! a strategic merge patch of `pods/status` (A65, I6, I14).
//!
//! Deliberately absent: fields and conditions of others; they are neither sent nor removed.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::conditions::OWNED;

/// Compared and sent as a whole.
const WHOLE: [&str; 9] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "podIP",
    "qosClass",
    "observedGeneration",
    "containerStatuses",
    "initContainerStatuses",
];
/// Lists that the API merges by `ip`: replaced on purpose, an address that is gone must go.
const ADDRESSES: [&str; 2] = ["hostIPs", "podIPs"];

/// `None`: nothing to send. `uid` makes the API server refuse it for another pod of that name.
///
/// A terminal phase that the API server has is never left (I5).
pub fn status_patch(uid: &str, have: Option<&PodStatus>, want: &PodStatus) -> Option<Value> {
    let is_over =
        |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if have.is_some_and(is_over) && !is_over(want) {
        return None;
    }
    let (old, new) = (have.map(plain).unwrap_or_default(), plain(want));
    let mut patch = Map::new();
    for field in WHOLE.iter().chain(&ADDRESSES) {
        let (old, new) = (old.get(*field), new.get(*field));
        // Not left for the other terminal phase either.
        if old == new || *field == "phase" && have.is_some_and(is_over) {
            continue;
        }
        let value = match new {
            None => Value::Null,
            Some(Value::Array(items)) if ADDRESSES.contains(field) => {
                let replace = std::iter::once(json!({"$patch": "replace"}));
                Value::Array(replace.chain(items.iter().cloned()).collect())
            }
            Some(value) => value.clone(),
        };
        patch.insert((*field).into(), value);
    }
    // When the pod began is said once.
    if let (None, Some(started)) = (old.get("startTime"), new.get("startTime")) {
        patch.insert("startTime".into(), started.clone());
    }
    patch_conditions(have, want, &mut patch);
    (!patch.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": patch}))
}

fn patch_conditions(have: Option<&PodStatus>, want: &PodStatus, patch: &mut Map<String, Value>) {
    let old = have.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let owned = want.conditions.iter().flatten();
    let owned: Vec<_> = owned.filter(|c| OWNED.contains(&c.type_.as_str())).collect();
    let changed: Vec<Value> = owned
        .iter()
        .filter_map(|new| condition(old.iter().find(|old| old.type_ == new.type_), new))
        .collect();
    if changed.is_empty() {
        return;
    }
    // The kubelet's order, and behind it what others wrote.
    let foreign = old.iter().filter(|c| !OWNED.contains(&c.type_.as_str()));
    let order: Vec<Value> =
        owned.iter().copied().chain(foreign).map(|c| json!({"type": c.type_})).collect();
    patch.insert("conditions".into(), Value::Array(changed));
    patch.insert("$setElementOrder/conditions".into(), Value::Array(order));
}

/// What to send of one condition. The time of a transition moves only with the status (I6).
fn condition(old: Option<&PodCondition>, new: &PodCondition) -> Option<Value> {
    let mut new = new.clone();
    if let Some(old) = old.filter(|old| old.status == new.status) {
        if old.last_transition_time.is_some() {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
        new.last_probe_time.clone_from(&old.last_probe_time);
    }
    let (before, mut after) = (old.map(plain).unwrap_or_default(), plain(&new));
    if before == after {
        return None;
    }
    for gone in before.keys().filter(|key| !after.contains_key(*key)).cloned().collect::<Vec<_>>() {
        after.insert(gone, Value::Null);
    }
    Some(Value::Object(after))
}

/// An object without what is empty: absent, null, `{}`, `[]` and `""` mean the same in a status.
fn plain(object: &impl serde::Serialize) -> Map<String, Value> {
    // Plain data with text keys: serialising cannot fail.
    match serde_json::to_value(object).ok().and_then(prune) {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn prune(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(Value::String(text)),
        Value::Array(items) => {
            let items: Vec<_> = items.into_iter().filter_map(prune).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        Value::Object(fields) => {
            let kept = |(key, value): (String, Value)| match key.as_str() {
                // Of a container that asks for nothing the kubelet says so.
                "resources" if value.is_object() => {
                    Some((key, prune(value).unwrap_or_else(|| json!({}))))
                }
                _ => Some((key, prune(value)?)),
            };
            let fields: Map<_, _> = fields.into_iter().filter_map(kept).collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        other => Some(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    fn check(have: Value, want: Value, expect: Value) {
        let patch = status_patch("u", Some(&status(have.clone())), &status(want.clone()));
        let found = patch.map_or(Value::Null, |patch| patch["status"].clone());
        assert_eq!(found, expect, "\nhave {have}\nwant {want}");
    }

    fn ready(status: &str, time: &str) -> Value {
        json!({"type": "Ready", "status": status, "lastTransitionTime": time})
    }

    const T1: &str = "2026-11-20T15:00:00Z";
    const T2: &str = "2026-11-20T16:00:00Z";

    #[test]
    fn i14_the_same_status_is_no_patch() {
        let have = json!({"phase": "Running", "startTime": T1, "conditions": [ready("True", T1)],
            "containerStatuses": [{"name": "a", "image": "x", "imageID": "", "ready": true,
                "restartCount": 0, "lastState": {}, "state": {"running": {"startedAt": T1}}}]});
        let want = json!({"phase": "Running", "startTime": T1, "conditions": [ready("True", T1)],
            "containerStatuses": [{"name": "a", "image": "x", "imageID": "", "ready": true,
                "restartCount": 0, "state": {"running": {"startedAt": T1}}}],
            "initContainerStatuses": []});
        check(have, want, Value::Null);
    }

    #[test]
    fn i6_a_transition_time_alone_is_no_patch() {
        check(
            json!({"startTime": T1, "conditions": [ready("True", T1)]}),
            json!({"startTime": T2, "conditions": [ready("True", T2)]}),
            Value::Null,
        );
        let mut changed = ready("True", T2);
        changed["reason"] = json!("New");
        let mut sent = ready("True", T1);
        sent["reason"] = json!("New");
        check(
            json!({"conditions": [ready("True", T1)]}),
            json!({"conditions": [changed]}),
            json!({"conditions": [sent], "$setElementOrder/conditions": [{"type": "Ready"}]}),
        );
    }

    #[test]
    fn a65_conditions_of_others_are_neither_sent_nor_removed() {
        let gate = json!({"type": "example.org/gate", "status": "True"});
        check(
            json!({"conditions": [gate, ready("False", T1)]}),
            json!({"conditions": [{"type": "example.org/gate", "status": "False"}, ready("True", T2)]}),
            json!({"conditions": [ready("True", T2)],
                "$setElementOrder/conditions": [{"type": "Ready"}, {"type": "example.org/gate"}]}),
        );
    }

    #[test]
    fn a65_addresses_are_replaced_and_what_is_gone_is_removed() {
        check(
            json!({"reason": "Evicted", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}),
            json!({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]}),
            json!({"reason": null, "podIP": "10.0.0.2",
                "podIPs": [{"$patch": "replace"}, {"ip": "10.0.0.2"}]}),
        );
    }

    #[test]
    fn i5_a_terminal_phase_is_never_left() {
        check(json!({"phase": "Failed"}), json!({"phase": "Running"}), Value::Null);
        check(json!({"phase": "Failed"}), json!({"phase": "Succeeded"}), Value::Null);
        check(json!({"phase": "Running"}), json!({"phase": "Failed"}), json!({"phase": "Failed"}));
    }

    #[test]
    fn a65_the_patch_names_the_uid() {
        let patch = status_patch("u", None, &status(json!({"phase": "Pending"})));
        assert_eq!(patch, Some(json!({"metadata": {"uid": "u"}, "status": {"phase": "Pending"}})));
    }
}
