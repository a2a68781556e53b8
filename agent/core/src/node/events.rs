//! Events about the node (A19).
//!
//! Deliberately absent: Shutdown, because a shutdown of the machine is not noticed yet.

use k8s_openapi::api::core::v1::{Node, NodeStatus};

use crate::model::MachineFacts;

/// An event about this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeEvent {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

impl NodeEvent {
    fn normal(reason: &'static str, message: String) -> Self {
        Self { warning: false, reason, message }
    }
}

/// Events of a daemon that starts.
pub fn started(cgroup_v2: bool) -> Vec<NodeEvent> {
    let mut events = vec![NodeEvent::normal("Starting", "Starting kubelet.".into())];
    if !cgroup_v2 {
        events.push(NodeEvent {
            warning: true,
            reason: "CgroupV1",
            message: "cgroup v1 support is in maintenance mode, please migrate to cgroup v2".into(),
        });
    }
    events
}

/// All pods together are limited (A150), or why not.
pub fn enforced(limited: &Result<(), String>) -> NodeEvent {
    match limited {
        Ok(()) => NodeEvent::normal(
            "NodeAllocatableEnforced",
            "Updated Node Allocatable limit across pods".into(),
        ),
        Err(why) => NodeEvent {
            warning: true,
            reason: "FailedNodeAllocatableEnforcement",
            message: format!("Failed to update Node Allocatable Limits: {why}"),
        },
    }
}

/// The runtime's images are on a file system without a size: nothing can be said of its pressure.
pub fn disk(machine: &MachineFacts) -> Option<NodeEvent> {
    let imagefs = machine.imagefs.filter(|imagefs| imagefs.capacity_bytes == 0)?;
    Some(NodeEvent {
        warning: true,
        reason: "InvalidDiskCapacity",
        message: format!("invalid capacity {} on image filesystem", imagefs.capacity_bytes),
    })
}

/// What the step from the Node that the API server has to `new` says. `scheduled_before`: whether
/// the node was open for new pods when this was last asked, `None` at the first time.
pub fn status_events(
    node: &Node,
    new: &NodeStatus,
    scheduled_before: Option<bool>,
) -> Vec<NodeEvent> {
    let none = NodeStatus::default();
    let old = node.status.as_ref().unwrap_or(&none);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let now_is = |reason: &'static str| {
        NodeEvent::normal(reason, format!("Node {name} status is now: {reason}"))
    };
    let mut events = Vec::new();
    if let (Some(before), Some(after)) = (&old.node_info, &new.node_info)
        && !before.boot_id.is_empty()
        && before.boot_id != after.boot_id
    {
        events.push(NodeEvent {
            warning: true,
            reason: "Rebooted",
            message: format!("Node {name} has been rebooted, boot id: {}", after.boot_id),
        });
    }
    for (kind, yes, no) in [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ] {
        let (before, after) = (value_of(old, kind), value_of(new, kind));
        if before == after {
            continue;
        }
        match after {
            // The first Ready of a new Node is no change.
            _ if kind == "Ready" && before.is_none() => {}
            Some("True") => events.push(now_is(yes)),
            Some(_) => events.push(now_is(no)),
            None => {}
        }
    }
    let open = !node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    if scheduled_before.is_some_and(|before| before != open) {
        events.push(now_is(if open { "NodeSchedulable" } else { "NodeNotSchedulable" }));
    }
    events
}

fn value_of<'a>(status: &'a NodeStatus, kind: &str) -> Option<&'a str> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind).map(|found| found.status.as_str())
}
