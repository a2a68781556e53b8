use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Taint};
use serde_json::json;

use super::*;
use crate::config::{Signal, Threshold};
use crate::model::{Filesystem, ImageFacts, RuntimeHandler};

const GIB: i64 = 1 << 30;
const NOW: Time = Time(1_000_000_000);

/// A healthy machine with everything in it.
struct Lab {
    identity: Identity,
    config: KubeletConfig,
    machine: MachineFacts,
    runtime: RuntimeFacts,
    pressures: Pressures,
    health: Health,
}

impl Lab {
    fn new() -> Self {
        let fs = Filesystem {
            capacity_bytes: 100 * GIB,
            available_bytes: 50 * GIB,
            inodes: 1000,
            inodes_free: 500,
        };
        Self {
            identity: Identity {
                name: "n1".into(),
                hostname: "host1".into(),
                ips: vec!["10.0.0.1".parse().unwrap()],
                architecture: "amd64".into(),
                ..Identity::default()
            },
            config: KubeletConfig::default(),
            machine: MachineFacts {
                cpus: Some(4),
                memory_bytes: Some(8 * GIB),
                memory_available_bytes: Some(4 * GIB),
                huge_pages: BTreeMap::from([(2 << 20, 0)]),
                nodefs: Some(fs),
                imagefs: Some(fs),
                pids_max: Some(1000),
                pids: Some(100),
                boot_id: "boot-1".into(),
                ..MachineFacts::default()
            },
            runtime: RuntimeFacts {
                version: Some("containerd://2.4.2".into()),
                ..Default::default()
            },
            pressures: Pressures::default(),
            health: Health {
                runtime_seen: Some(NOW),
                runtime: Ok(()),
                network: Ok(()),
                pods_listed: Some(NOW),
                dataplane: Ok(()),
                problems: Vec::new(),
            },
        }
    }

    fn inputs(&self) -> NodeInputs<'_> {
        NodeInputs {
            identity: &self.identity,
            config: &self.config,
            machine: &self.machine,
            runtime: &self.runtime,
            pressures: &self.pressures,
            health: &self.health,
        }
    }

    fn status(&self, previous: &NodeStatus, now: Time) -> NodeStatus {
        status(&self.inputs(), previous, now)
    }

    fn first(&self) -> NodeStatus {
        self.status(&NodeStatus::default(), NOW)
    }

    /// Measures, then says what the conditions are.
    fn measured(&mut self, now: Time) -> super::Signals {
        self.pressures = self.pressures.observe(&self.machine, &self.config.node, now);
        self.pressures.signals()
    }
}

fn texts(
    resources: Option<&BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> Vec<String> {
    resources.into_iter().flatten().map(|(name, amount)| format!("{name}={}", amount.0)).collect()
}

fn condition<'a>(status: &'a NodeStatus, kind: &str) -> &'a NodeCondition {
    status.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap()
}

#[test]
fn a2_a4_a5_a15_a_new_node_has_labels_taints_provider_and_annotation() {
    let mut lab = Lab::new();
    lab.identity.labels = BTreeMap::from([("role".into(), "edge".into())]);
    lab.identity.external_cloud = true;
    lab.config.node.provider_id = "cloud://1".into();
    lab.config.node.taints =
        vec![Taint { key: "a".into(), effect: "NoSchedule".into(), ..Taint::default() }];
    let node = initial(&lab.inputs(), NOW);
    let labels: Vec<String> =
        node.metadata.labels.iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        labels,
        [
            "beta.kubernetes.io/arch=amd64",
            "beta.kubernetes.io/os=linux",
            "kubernetes.io/arch=amd64",
            "kubernetes.io/hostname=host1",
            "kubernetes.io/os=linux",
            "role=edge",
        ]
    );
    let annotations = node.metadata.annotations.unwrap();
    assert_eq!(annotations[ATTACH_DETACH], "true");
    assert_eq!(annotations["alpha.kubernetes.io/provided-node-ip"], "10.0.0.1");
    let spec = node.spec.unwrap();
    assert_eq!(spec.provider_id.as_deref(), Some("cloud://1"));
    let keys: Vec<String> = spec.taints.unwrap().into_iter().map(|t| t.key).collect();
    assert_eq!(keys, ["a", "node.cloudprovider.kubernetes.io/uninitialized"]);
    // The cloud provider knows the addresses.
    assert_eq!(node.status.unwrap().addresses, None);
}

#[test]
fn a3_a_node_may_not_label_itself_as_it_likes() {
    let refused = |key: &str, value: &str| {
        !check_labels(&BTreeMap::from([(key.into(), value.into())])).is_empty()
    };
    for key in [
        "role",
        "example.com/role",
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "node.kubernetes.io/instance-type",
        "node.kubernetes.io/anything",
        "a.kubelet.kubernetes.io/x",
    ] {
        assert!(!refused(key, "x"), "{key}");
    }
    for key in [
        "kubernetes.io/x",
        "node-role.kubernetes.io/worker",
        "node-restriction.kubernetes.io/x",
        "a.node-restriction.kubernetes.io/x",
        "x.k8s.io/y",
        "-x",
        "a/b/c",
        "",
        "UPPER.com/x",
    ] {
        assert!(refused(key, "x"), "{key}");
    }
    assert!(refused("role", "a b") && refused("role", &"x".repeat(64)));
}

#[test]
fn a6_capacity_is_the_machines() {
    let mut lab = Lab::new();
    lab.machine.huge_pages = BTreeMap::from([(2 << 20, 3), (GIB, 0)]);
    assert_eq!(
        texts(lab.first().capacity.as_ref()),
        [
            "cpu=4",
            "ephemeral-storage=100Gi",
            "hugepages-1Gi=0",
            "hugepages-2Mi=6Mi",
            "memory=8Gi",
            "pods=110",
        ]
    );
    lab.config.node.pods_per_core = 5;
    assert_eq!(lab.first().capacity.unwrap()["pods"].0, "20");
    lab.config.node.pods_per_core = 50;
    assert_eq!(lab.first().capacity.unwrap()["pods"].0, "110");
    // What others advertise stays.
    let mut previous = lab.first();
    previous
        .capacity
        .as_mut()
        .unwrap()
        .insert("example.com/gpu".into(), super::resources::binary(2));
    let next = lab.status(&previous, NOW);
    assert_eq!(next.capacity.unwrap()["example.com/gpu"].0, "2");
    assert_eq!(next.allocatable.unwrap()["example.com/gpu"].0, "2");
}

#[test]
fn a7_allocatable_is_capacity_without_reservations_and_never_negative() {
    let quantity = |text: &str| crate::model::Quantity::parse(text).unwrap();
    let mut lab = Lab::new();
    lab.machine.huge_pages = BTreeMap::from([(2 << 20, 512)]);
    lab.config.node.system_reserved =
        BTreeMap::from([("cpu".into(), quantity("500m")), ("memory".into(), quantity("1Gi"))]);
    lab.config.node.kube_reserved = BTreeMap::from([("cpu".into(), quantity("1"))]);
    // 8 Gi - 1 Gi reserved - 100 Mi threshold - 1 Gi of huge pages; 10 % of the disk.
    assert_eq!(
        texts(lab.first().allocatable.as_ref()),
        [
            "cpu=2500m",
            "ephemeral-storage=96636764160",
            "hugepages-2Mi=1Gi",
            "memory=6044Mi",
            "pods=110",
        ]
    );
    lab.config.node.system_reserved = BTreeMap::from([("cpu".into(), quantity("100"))]);
    assert_eq!(lab.first().allocatable.unwrap()["cpu"].0, "0");
}

#[test]
fn a8_a9_a18_who_and_where_the_node_is() {
    let mut lab = Lab::new();
    lab.identity.ips =
        ["10.0.0.1", "10.0.0.2", "fd00::1"].iter().map(|ip| ip.parse().unwrap()).collect();
    lab.machine.swap_bytes = GIB;
    let status = lab.first();
    let addresses: Vec<String> = status
        .addresses
        .iter()
        .flatten()
        .map(|address| format!("{} {}", address.type_, address.address))
        .collect();
    assert_eq!(addresses, ["InternalIP 10.0.0.1", "InternalIP fd00::1", "Hostname host1"]);
    let info = status.node_info.unwrap();
    assert_eq!(info.container_runtime_version, "containerd://2.4.2");
    assert!(info.kubelet_version.starts_with("v1.37.1+longshore."), "{}", info.kubelet_version);
    assert_eq!((info.kube_proxy_version.as_str(), info.operating_system.as_str()), ("", "linux"));
    assert_eq!(info.swap.unwrap().capacity, Some(GIB));
    assert_eq!(status.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port, 10250);
}

#[test]
fn a10_conditions_have_the_kubelets_reasons_and_ready_is_last() {
    let status = Lab::new().first();
    let found: Vec<String> = status
        .conditions
        .iter()
        .flatten()
        .map(|c| format!("{} {} {}", c.type_, c.status, c.reason.as_deref().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            "MemoryPressure False KubeletHasSufficientMemory",
            "DiskPressure False KubeletHasNoDiskPressure",
            "PIDPressure False KubeletHasSufficientPID",
            "Ready True KubeletReady",
        ]
    );
}

#[test]
fn a10_i6_a_transition_time_moves_with_its_status_and_foreign_conditions_stay() {
    let mut lab = Lab::new();
    let mut first = lab.first();
    let foreign = NodeCondition {
        type_: "NetworkUnavailable".into(),
        status: "False".into(),
        ..NodeCondition::default()
    };
    first.conditions.as_mut().unwrap().push(foreign.clone());
    let second = lab.status(&first, NOW.plus_s(10));
    assert_eq!(second.conditions.as_ref().unwrap()[4], foreign);
    let ready = condition(&second, "Ready");
    assert_eq!(ready.last_transition_time, Some(NOW.to_api()));
    assert_eq!(ready.last_heartbeat_time, Some(NOW.plus_s(10).to_api()));
    lab.health.dataplane = Err("loading".into());
    let third = lab.status(&second, NOW.plus_s(20));
    let ready = condition(&third, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_deref()),
        ("False", Some("KubeletNotReady"))
    );
    assert_eq!(ready.last_transition_time, Some(NOW.plus_s(20).to_api()));
    assert_eq!(condition(&third, "PIDPressure").last_transition_time, Some(NOW.to_api()));
}

#[test]
fn a11_a_node_is_ready_only_with_runtime_network_lists_dataplane_and_capacity() {
    let check = |change: &dyn Fn(&mut Lab), expect: &str| {
        let mut lab = Lab::new();
        change(&mut lab);
        let status = lab.first();
        let ready = condition(&status, "Ready");
        let wanted = if expect.is_empty() { "True" } else { "False" };
        assert_eq!(ready.status, wanted, "{ready:?}");
        assert!(ready.message.as_ref().unwrap().contains(expect), "{ready:?}");
    };
    check(&|_| {}, "");
    check(&|lab| lab.health.runtime_seen = None, "status check may not have completed yet");
    check(&|lab| lab.health.runtime_seen = Some(NOW.plus_s(-30)), "");
    check(&|lab| lab.health.runtime_seen = Some(NOW.plus_s(-31)), "container runtime is down");
    check(&|lab| lab.health.runtime = Err("x".into()), "container runtime not ready: x");
    check(&|lab| lab.health.network = Err("no cni".into()), "runtime network not ready: no cni");
    check(&|lab| lab.health.pods_listed = Some(NOW.plus_s(-180)), "");
    check(&|lab| lab.health.pods_listed = Some(NOW.plus_s(-181)), "PLEG is not healthy");
    check(&|lab| lab.health.dataplane = Err("no maps".into()), "dataplane is not ready: no maps");
    check(
        &|lab| lab.machine.nodefs = None,
        "missing node capacity for resources: ephemeral-storage",
    );
    check(&|lab| lab.machine.memory_bytes = None, "missing node capacity for resources: memory");
    check(
        &|lab| {
            lab.health.dataplane = Err("a".into());
            lab.health.problems = vec!["b".into()];
        },
        "[dataplane is not ready: a, b]",
    );
}

#[test]
fn a160_a163_pressure_is_measured_and_outlives_its_cause_by_five_minutes() {
    let check = |change: &dyn Fn(&mut MachineFacts), expect: (bool, bool, bool)| {
        let mut lab = Lab::new();
        lab.config.node.eviction_hard.insert(Signal::PidAvailable, Threshold::Units(10));
        change(&mut lab.machine);
        let found = lab.measured(NOW);
        assert_eq!((found.memory, found.disk, found.pid), expect, "{:?}", lab.machine);
    };
    let fs =
        Filesystem { capacity_bytes: 1000, available_bytes: 1000, inodes: 1000, inodes_free: 1000 };
    check(&|_| {}, (false, false, false));
    check(&|m| m.memory_available_bytes = Some(100 << 20), (false, false, false));
    check(&|m| m.memory_available_bytes = Some((100 << 20) - 1), (true, false, false));
    check(&|m| m.nodefs = Some(Filesystem { available_bytes: 100, ..fs }), (false, false, false));
    check(&|m| m.nodefs = Some(Filesystem { available_bytes: 99, ..fs }), (false, true, false));
    check(&|m| m.imagefs = Some(Filesystem { available_bytes: 149, ..fs }), (false, true, false));
    check(&|m| m.nodefs = Some(Filesystem { inodes_free: 49, ..fs }), (false, true, false));
    check(
        &|m| m.nodefs = Some(Filesystem { inodes: 0, inodes_free: 0, ..fs }),
        (false, false, false),
    );
    check(&|m| m.pids = Some(991), (false, false, true));

    let mut lab = Lab::new();
    lab.machine.memory_available_bytes = Some(0);
    assert!(lab.measured(NOW).memory);
    lab.machine.memory_available_bytes = Some(GIB);
    assert!(lab.measured(NOW.plus_s(299)).memory);
    // A daemon that starts knows it from its predecessor's status.
    let status = lab.status(&NodeStatus::default(), NOW.plus_s(299));
    assert_eq!(condition(&status, "MemoryPressure").status, "True");
    assert!(Pressures::resumed(&status).signals().memory);
    assert!(!lab.measured(NOW.plus_s(300)).memory);
}

#[test]
fn a12_a_status_is_written_on_change_or_when_it_is_due() {
    let lab = Lab::new();
    let old = lab.first();
    let later = NOW.plus_s(300);
    let check = |new: &NodeStatus, now: Time, expect: bool| {
        assert_eq!(patch_due(&old, new, later, now), expect);
    };
    // Heartbeats are no change, and neither is another form of the same amount.
    let mut same = lab.status(&old, NOW.plus_s(10));
    same.capacity.as_mut().unwrap().get_mut("memory").unwrap().0 = "8388608Ki".into();
    check(&same, NOW.plus_s(10), false);
    check(&same, later, true);
    let mut other = Lab::new();
    other.machine.kernel_version = "7.0".into();
    check(&other.status(&old, NOW.plus_s(10)), NOW.plus_s(10), true);

    assert_eq!(next_report(false, 300_000, 0, NOW), NOW.plus_s(300));
    assert_eq!(next_report(true, 300_000, 0, NOW), NOW.plus_s(150));
    assert_eq!(next_report(true, 300_000, 999, NOW), NOW.plus_ms(449_700));
}

#[test]
fn a12_a_patch_says_what_differs() {
    let lab = Lab::new();
    let mut old = lab.first();
    old.capacity.as_mut().unwrap().insert("hugepages-1Gi".into(), super::resources::binary(0));
    let mut next = Lab::new();
    next.identity.ips = vec!["10.0.0.9".parse().unwrap()];
    next.machine.kernel_version = "7.0".into();
    let new = next.status(&old, NOW.plus_s(10));
    let patch = status_patch(&old, &new);
    let status = &patch["status"];
    assert_eq!(
        status["addresses"],
        json!([
            {"$patch": "replace"},
            {"type": "InternalIP", "address": "10.0.0.9"},
            {"type": "Hostname", "address": "host1"},
        ])
    );
    assert_eq!(status["capacity"], json!({"hugepages-1Gi": null}));
    assert_eq!(status["nodeInfo"]["kernelVersion"], "7.0");
    assert_eq!(status["nodeInfo"]["$patch"], "replace");
    assert_eq!(status["conditions"].as_array().unwrap().len(), 4);
    assert_eq!(status["$setElementOrder/conditions"][3]["type"], "Ready");
    assert_eq!(status["images"], json!(null));
    // Nothing but the heartbeat.
    let quiet = status_patch(&new, &next.status(&new, NOW.plus_s(20)));
    let fields: Vec<&String> = quiet["status"].as_object().unwrap().keys().collect();
    assert_eq!(fields, ["$setElementOrder/conditions", "conditions"]);
}

#[test]
fn i6_a_start_does_not_take_readiness_away() {
    let mut lab = Lab::new();
    let ready = lab.first();
    lab.health.runtime_seen = None;
    let unknown = lab.status(&ready, NOW.plus_s(1));
    let check = |old: &NodeStatus, new: &NodeStatus, after_s: i64, expect: bool| {
        assert_eq!(holds_back(old, new, NOW, NOW.plus_s(after_s)), expect);
    };
    check(&ready, &unknown, 1, true);
    check(&ready, &unknown, 30, false);
    check(&unknown, &unknown, 1, false);
    check(&unknown, &ready, 1, false);
}

#[test]
fn a13_a_lease_is_owned_held_and_renewed() {
    let first = lease(None, "n1", None, 40, NOW);
    assert_eq!(first.metadata.namespace.as_deref(), Some("kube-node-lease"));
    assert_eq!(first.metadata.owner_references, None);
    let spec = first.spec.as_ref().unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_duration_seconds),
        (Some("n1"), Some(40))
    );
    let mut stored = first.clone();
    stored.metadata.resource_version = Some("7".into());
    let second = lease(Some(&stored), "n1", Some("uid-1"), 40, NOW.plus_s(10));
    assert_eq!(second.metadata.resource_version.as_deref(), Some("7"));
    assert!(second.spec.unwrap().renew_time > first.spec.unwrap().renew_time);
    let third = lease(Some(&stored), "n1", Some("uid-2"), 40, NOW.plus_s(20));
    let owners: Vec<String> =
        third.metadata.owner_references.unwrap().into_iter().map(|o| o.uid).collect();
    assert_eq!(owners, ["uid-2"]);
}

#[test]
fn a14_the_50_largest_images_are_told_with_at_most_5_names() {
    let mut lab = Lab::new();
    let image = |n: i64| ImageFacts {
        id: format!("sha256:{n:03}"),
        digests: vec![format!("r/i@sha256:{n}")],
        tags: (0..6).map(|tag| format!("r/i:{tag}")).collect(),
        size_bytes: n % 100,
    };
    lab.runtime.images = Some((0..120).map(image).collect());
    let images = lab.first().images.unwrap();
    assert_eq!(images.len(), 50);
    assert_eq!((images[0].size_bytes, images[1].size_bytes), (Some(99), Some(98)));
    let names = images[0].names.as_ref().unwrap();
    assert_eq!((names.len(), names[0].as_str()), (5, "r/i@sha256:99"));
    lab.config.node.status_max_images = None;
    let all = lab.first();
    assert_eq!(all.images.as_ref().unwrap().len(), 120);
    // A runtime that does not answer has not lost its images.
    lab.runtime.images = None;
    assert_eq!(lab.status(&all, NOW).images, all.images);
}

#[test]
fn a16_a17_handlers_and_features_are_the_runtimes() {
    let mut lab = Lab::new();
    let handler = |name: &str, known: Option<bool>| RuntimeHandler {
        name: name.into(),
        recursive_read_only_mounts: known,
        user_namespaces: known,
    };
    lab.runtime.handlers = Some(vec![handler("runc", Some(true)), handler("", None)]);
    lab.runtime.supplemental_groups_policy = Some(true);
    let status = lab.first();
    let handlers = serde_json::to_value(&status.runtime_handlers).unwrap();
    assert_eq!(
        handlers,
        json!([
            {},
            {"name": "runc", "features": {"recursiveReadOnlyMounts": true, "userNamespaces": true}},
        ])
    );
    assert_eq!(status.features.unwrap().supplemental_groups_policy, Some(true));
    // None is claimed.
    assert_eq!(status.declared_features, None);
}

#[test]
fn a19_events_tell_starts_reboots_and_changes() {
    let reasons = |events: Vec<NodeEvent>| -> Vec<&'static str> {
        events.into_iter().map(|event| event.reason).collect()
    };
    assert_eq!(reasons(started(true)), ["Starting"]);
    assert_eq!(reasons(started(false)), ["Starting", "CgroupV1"]);
    assert_eq!(reasons(vec![enforced(&Ok(()))]), ["NodeAllocatableEnforced"]);
    let failed = enforced(&Err("busy".into()));
    assert!(failed.warning && failed.message.ends_with(": busy"), "{failed:?}");
    assert_eq!(failed.reason, "FailedNodeAllocatableEnforcement");
    let mut lab = Lab::new();
    assert_eq!(disk(&lab.machine), None);
    let mut empty = lab.machine.clone();
    empty.imagefs = Some(Filesystem::default());
    assert_eq!(disk(&empty).map(|event| event.reason), Some("InvalidDiskCapacity"));
    lab.health.dataplane = Err("loading".into());
    let mut node = Node::default();
    node.metadata.name = Some("n1".into());
    let first = lab.first();
    assert_eq!(
        reasons(status_events(&node, &first, None)),
        ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]
    );
    node.status = Some(first.clone());
    lab.health.dataplane = Ok(());
    lab.machine.boot_id = "boot-2".into();
    let second = lab.status(&first, NOW.plus_s(10));
    let events = status_events(&node, &second, Some(true));
    assert_eq!(events[0].message, "Node n1 has been rebooted, boot id: boot-2");
    assert_eq!(events[1].message, "Node n1 status is now: NodeReady");
    assert_eq!(reasons(events), ["Rebooted", "NodeReady"]);
    node.status = Some(second.clone());
    node.spec.get_or_insert_default().unschedulable = Some(true);
    assert_eq!(reasons(status_events(&node, &second, Some(true))), ["NodeNotSchedulable"]);
    assert_eq!(reasons(status_events(&node, &second, Some(false))), Vec::<&str>::new());
    assert_eq!(reasons(status_events(&node, &second, None)), Vec::<&str>::new());
}

#[test]
fn a1_a13_calls_are_repeated_for_ever_100_ms_to_7_s() {
    let waits: Vec<i64> = [1, 2, 3, 4, 5, 6, 7, 8, 9, u32::MAX].map(retry_ms).into();
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 7000, 7000, 7000]);
}

#[test]
fn a2_os_and_arch_are_repaired() {
    let lab = Lab::new();
    let mut node = initial(&lab.inputs(), NOW);
    assert_eq!(label_repair(&node, &lab.identity), None);
    let labels = node.metadata.labels.as_mut().unwrap();
    labels.remove("kubernetes.io/hostname");
    labels.insert("kubernetes.io/arch".into(), "z80".into());
    let patch = json!({"metadata": {"labels": {"kubernetes.io/arch": "amd64"}}});
    assert_eq!(label_repair(&node, &lab.identity), Some(patch));
}

#[test]
fn a1_an_existing_node_keeps_its_taints_and_labels_and_gets_defaults_back() {
    let mut lab = Lab::new();
    let mut existing = initial(&lab.inputs(), NOW);
    let wanted = |lab: &Lab| initial(&lab.inputs(), NOW);
    assert_eq!(register_difference(&existing, &wanted(&lab), &lab.identity), (None, None));
    // The user took a taint and a label away, and they stay away.
    lab.config.node.taints =
        vec![Taint { key: "a".into(), effect: "NoSchedule".into(), ..Taint::default() }];
    lab.identity.labels = BTreeMap::from([("role".into(), "edge".into())]);
    assert_eq!(register_difference(&existing, &wanted(&lab), &lab.identity), (None, None));
    existing.metadata.labels.as_mut().unwrap().remove("kubernetes.io/os");
    existing.metadata.annotations = None;
    let status = existing.status.as_mut().unwrap();
    for resources in [&mut status.capacity, &mut status.allocatable].into_iter().flatten() {
        resources.insert("example.com/gpu".into(), super::resources::binary(2));
        resources.insert("hugepages-1Gi".into(), super::resources::binary(GIB));
    }
    let (object, status) = register_difference(&existing, &wanted(&lab), &lab.identity);
    assert_eq!(
        object,
        Some(json!({"metadata": {
            "labels": {"kubernetes.io/os": "linux"},
            "annotations": {ATTACH_DETACH: "true"},
        }}))
    );
    let gone = json!({"example.com/gpu": "0", "hugepages-1Gi": null});
    assert_eq!(status, Some(json!({"status": {"capacity": gone, "allocatable": gone}})));
}
