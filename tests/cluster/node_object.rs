//! The Node object and its Lease, as `kubectl get node -o yaml` shows them.

use serde_json::{Value, json};

use crate::script::*;

/// A number with the suffix of a Kubernetes quantity, in whole units.
fn quantity(value: &Value) -> u64 {
    let text = value.as_str().unwrap_or_default();
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let factor = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        other => panic!("{text}: the suffix {other} is not expected"),
    };
    digits.parse::<u64>().unwrap_or_else(|_| panic!("{text} is no quantity")) * factor
}

#[test]
fn a1_a2_a6_a7_a8_a9_a10_a14_a18_the_node_says_what_it_is() {
    let space = Shared::new("node-object");
    for number in [1, 2] {
        let own = space.cluster.node(number);
        let node = space.get(&format!("node {}", own.name()));
        let labels = &node["metadata"]["labels"];
        for (label, value) in [
            ("kubernetes.io/hostname", own.name().as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", "amd64"),
        ] {
            assert_eq!(labels[label], value, "{label}: {labels}");
        }
        let status = &node["status"];
        let wanted = json!([
            {"type": "InternalIP", "address": own.ip()},
            {"type": "Hostname", "address": own.name()},
        ]);
        assert_eq!(status["addresses"], wanted);
        assert_eq!(status["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);

        let info = &status["nodeInfo"];
        let version = text(info, "/kubeletVersion");
        assert!(version.starts_with("v1.37.1+longshore."), "{version}");
        assert!(text(info, "/containerRuntimeVersion").starts_with("containerd://"), "{info}");
        for (field, file) in [
            ("bootID", "/proc/sys/kernel/random/boot_id"),
            ("kernelVersion", "/proc/sys/kernel/osrelease"),
        ] {
            assert_eq!(
                text(info, &format!("/{field}")),
                std::fs::read_to_string(file).unwrap().trim()
            );
        }
        assert_eq!(
            (&info["operatingSystem"], &info["architecture"]),
            (&"linux".into(), &"amd64".into())
        );
        assert!(!text(info, "/osImage").is_empty(), "{info}");

        let (capacity, allocatable) = (&status["capacity"], &status["allocatable"]);
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let cpus = cpuinfo.lines().filter(|line| line.starts_with("processor")).count() as u64;
        assert_eq!(quantity(&capacity["cpu"]), cpus);
        assert_eq!(capacity["pods"], "110");
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total = meminfo.lines().next().unwrap().split_whitespace().nth(1).unwrap();
        assert_eq!(capacity["memory"], format!("{total}Ki"));
        for resource in ["cpu", "memory", "ephemeral-storage", "pods"] {
            let (whole, usable) = (quantity(&capacity[resource]), quantity(&allocatable[resource]));
            assert!(0 < usable && usable <= whole, "{resource}: {usable} of {whole}");
        }
        let images = status["images"].as_array().unwrap();
        let names = || images.iter().flat_map(|image| image["names"].as_array().unwrap());
        assert!(names().any(|name| name == WORKLOAD), "{images:?}");
        let sizes: Vec<u64> =
            images.iter().filter_map(|image| image["sizeBytes"].as_u64()).collect();
        assert!(sizes.len() == images.len() && sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");

        let conditions: Vec<[String; 3]> = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| ["/type", "/status", "/reason"].map(|field| text(one, field)))
            .collect();
        let wanted = [
            ["MemoryPressure", "False", "KubeletHasSufficientMemory"],
            ["DiskPressure", "False", "KubeletHasNoDiskPressure"],
            ["PIDPressure", "False", "KubeletHasSufficientPID"],
            ["Ready", "True", "KubeletReady"],
        ];
        assert_eq!(conditions, wanted.map(|row| row.map(str::to_owned)));
        for one in status["conditions"].as_array().unwrap() {
            assert!(text(one, "/lastHeartbeatTime") >= text(one, "/lastTransitionTime"), "{one}");
        }
    }
}

#[test]
fn a13_the_lease_is_renewed() {
    let space = Shared::new("lease");
    let leases = Space { cluster: space.cluster, name: "kube-node-lease" };
    let lease = leases.get("lease n1");
    assert_eq!(lease["spec"]["holderIdentity"], "n1");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    let owner = &lease["metadata"]["ownerReferences"][0];
    let node = space.get("node n1");
    assert_eq!((&owner["kind"], &owner["uid"]), (&"Node".into(), &node["metadata"]["uid"]));
    let first = text(&lease, "/spec/renewTime");
    for _ in 0..2 {
        let last = text(&leases.get("lease n1"), "/spec/renewTime");
        leases.wait("lease n1", "renewed", |lease| text(lease, "/spec/renewTime") > last);
    }
    assert!(text(&leases.get("lease n1"), "/spec/renewTime") > first);
}

#[test]
fn a19_the_nodes_events_are_told() {
    let space = Shared::new("node-events");
    let default = Space { cluster: space.cluster, name: "default" };
    for reason in ["Starting", "NodeReady", "NodeAllocatableEnforced", "NodeHasSufficientMemory"] {
        let words = format!(
            "events --field-selector involvedObject.kind=Node,involvedObject.name=n1,reason={reason}"
        );
        let list = default.wait(&words, "told", |list| !items(list).is_empty());
        let event = &items(&list)[0];
        assert_eq!(
            (&event["source"]["component"], &event["source"]["host"]),
            (&"kubelet".into(), &"n1".into())
        );
    }
}
