//! Worlds for the tests of this room.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use serde_json::{Value, json};

use super::{Input, Memory};
use crate::config::KubeletConfig;
use crate::model::node::ResolvConf;
use crate::model::{NodeView, ObjectKey, ObservedPod, PodUid, Time, World};

pub fn node() -> NodeView {
    NodeView {
        name: "node-a".into(),
        ips: vec!["192.0.2.1".parse().unwrap()],
        addresses: vec!["192.0.2.1".parse().unwrap()],
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        resolv: ResolvConf {
            nameservers: vec!["192.0.2.53".into()],
            searches: vec!["example.org".into()],
            options: Vec::new(),
        },
        hosts_file: "127.0.0.1 localhost\n192.0.2.1 node-a\n".into(),
        cpu_milli: 4000,
        memory_bytes: 8 << 30,
        pids_max: Some(4_194_304),
        kubepods_cgroup: "/kubepods".into(),
        systemd_cgroups: false,
        cgroup_v2: true,
        pods_dir: "/state/pods".into(),
        pod_logs_dir: "/var/log/pods".into(),
    }
}

/// A pod `default/web` with UID `uid-1` from the YAML of its spec.
pub fn pod(spec: &str) -> Pod {
    pod_with(
        spec,
        json!({"name": "web", "namespace": "default", "uid": "uid-1", "generation": 1,
        "labels": {"app": "web"}, "annotations": {"note": "hello"}}),
    )
}

pub fn pod_with(spec: &str, metadata: Value) -> Pod {
    let spec: Value =
        serde_saphyr::from_str(spec).unwrap_or_else(|error| panic!("{error}\n{spec}"));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": quantities(spec, false)});
    serde_json::from_value(pod).unwrap_or_else(|error| panic!("{error}"))
}

/// Numbers below `limits` and `requests` as the strings that the API has.
fn quantities(value: Value, inside: bool) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| {
                let inside = inside || matches!(key.as_str(), "limits" | "requests");
                (key, quantities(value, inside))
            })
            .collect(),
        Value::Array(list) => list.into_iter().map(|v| quantities(v, inside)).collect(),
        Value::Number(number) if inside => Value::String(number.to_string()),
        other => other,
    }
}

/// Everything an [`Input`] borrows.
#[derive(Clone)]
pub struct Case {
    pub pod: Pod,
    pub key: ObjectKey,
    pub uid: PodUid,
    pub world: World,
    pub node: NodeView,
    pub config: KubeletConfig,
    pub observed: ObservedPod,
    pub previous: Option<k8s_openapi::api::core::v1::PodStatus>,
    pub memory: Memory,
    pub extra_hosts: Vec<(IpAddr, Vec<String>)>,
    pub now: Time,
}

impl Case {
    pub fn new(pod: Pod) -> Self {
        Self {
            key: ObjectKey::new("default", pod.metadata.name.clone().unwrap()),
            uid: PodUid::new(pod.metadata.uid.clone().unwrap()),
            pod,
            world: World::default(),
            node: node(),
            config: KubeletConfig::default(),
            observed: ObservedPod { network_ready: true, ..ObservedPod::default() },
            previous: None,
            memory: Memory::default(),
            extra_hosts: Vec::new(),
            now: Time(1_000_000_000_000),
        }
    }

    pub fn spec(spec: &str) -> Self {
        Self::new(pod(spec))
    }

    pub fn input(&self) -> Input<'_> {
        Input {
            pod: &self.pod,
            key: &self.key,
            uid: &self.uid,
            world: &self.world,
            node: &self.node,
            config: &self.config,
            observed: &self.observed,
            previous: self.previous.as_ref(),
            memory: &self.memory,
            extra_hosts: &self.extra_hosts,
            runtime_name: "containerd",
            now: self.now,
        }
    }

    pub fn config_map(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        let data = data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        self.world.config_maps.insert(ObjectKey::new("default", name), Arc::new(map));
        self
    }

    pub fn secret(mut self, name: &str, data: &[(&str, &str)]) -> Self {
        let data = data
            .iter()
            .map(|(k, v)| ((*k).into(), k8s_openapi::ByteString(v.as_bytes().to_vec())))
            .collect();
        let secret = Secret { data: Some(data), ..Secret::default() };
        self.world.secrets.insert(ObjectKey::new("default", name), Arc::new(secret));
        self
    }

    pub fn service(mut self, key: (&str, &str), spec: Value) -> Self {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": key.1}, "spec": spec})).unwrap();
        self.world.services.insert(ObjectKey::new(key.0, key.1), Arc::new(service));
        self
    }
}
