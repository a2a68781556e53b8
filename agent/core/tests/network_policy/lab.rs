//! A small cluster: one node with pods, one node elsewhere, and the world outside.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use longshore_core::image::{Image, Protocol};
use longshore_core::model::node::ResolvConf;
use longshore_core::model::observed::Attachment;
use longshore_core::model::{Change, LocalPod, NodeView, ObjectKey, PodUid, Problem, World};
use longshore_core::oracle::{self, Flows, Hop, Packet, Scene, Verdict};
use longshore_core::policy::{Compiled, PolicyCompiler, compile_full};

pub const NODE: &str = "192.168.0.1";
pub const WORLD: &str = "203.0.113.9";

pub fn node() -> NodeView {
    NodeView {
        name: "node-a".into(),
        ips: vec![ip(NODE)],
        addresses: vec![ip(NODE), ip("10.0.0.1")],
        service_cidr: "10.96.0.0/12".parse().unwrap(),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        resolv: ResolvConf::default(),
        hosts_file: String::new(),
        cpu_milli: 2000,
        pids_max: None,
        memory_bytes: 1 << 30,
        kubepods_cgroup: "/kubepods".into(),
        systemd_cgroups: false,
        cgroup_v2: true,
        pods_dir: "/pods".into(),
        pod_logs_dir: "/logs".into(),
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `x/a`, or `x` for a cluster-scoped name.
pub fn key(text: &str) -> ObjectKey {
    match text.split_once('/') {
        Some((namespace, name)) => ObjectKey::new(namespace, name),
        None => ObjectKey::new("", text),
    }
}

pub fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The world, its compiler, and what changed since the compiler looked.
pub struct Lab {
    pub world: World,
    pub node: NodeView,
    pub compiler: PolicyCompiler,
    pub dirty: BTreeSet<Change>,
}

impl Default for Lab {
    fn default() -> Self {
        let world = World { synced: true, ..World::default() };
        let dirty = BTreeSet::from([Change::Synced]);
        Self { world, node: node(), compiler: PolicyCompiler::new(), dirty }
    }
}

impl Lab {
    /// Namespaces x, y, z (label `ns=<name>`) with pods a, b, c (label `pod=<name>`): those of x
    /// and y are on this node, those of z on another. 10.0.<0 or 9>.<n>.
    pub fn grid() -> Self {
        let mut lab = Self::default();
        for (n, namespace) in ["x", "y", "z"].into_iter().enumerate() {
            lab.namespace(namespace, &format!("{{ns: {namespace}}}"));
            for (p, name) in ["a", "b", "c"].into_iter().enumerate() {
                let pod = format!("{namespace}/{name}");
                let labels = format!("{{pod: {name}}}");
                let host = 10 + n * 10 + p;
                if namespace == "z" {
                    lab.remote(&pod, &format!("10.0.9.{host}"), &labels);
                } else {
                    lab.local(&pod, &format!("10.0.0.{host}"), &labels);
                }
            }
        }
        lab
    }

    pub fn namespace(&mut self, name: &str, labels: &str) {
        let object: Namespace = yaml(&format!("metadata: {{name: {name}, labels: {labels}}}"));
        self.world.namespaces.insert(key(name), Arc::new(object));
        self.dirty.insert(Change::Namespace(key(name)));
    }

    pub fn pod(&mut self, pod: &str, text: &str) {
        let object: Pod = yaml(text);
        self.world.pods.insert(key(pod), Arc::new(object));
        self.dirty.insert(Change::Pod(key(pod)));
    }

    /// A pod of this node, attached at `addr`.
    pub fn local(&mut self, pod: &str, addr: &str, labels: &str) {
        self.local_with_ports(pod, addr, labels, "[]");
    }

    pub fn local_with_ports(&mut self, pod: &str, addr: &str, labels: &str, ports: &str) {
        self.pod(
            pod,
            &format!(
                "metadata: {{name: n, uid: {}, labels: {labels}}}
spec: {{nodeName: node-a, containers: [{{name: c, ports: {ports}}}]}}
status: {{phase: Running}}",
                uid(pod)
            ),
        );
        self.attach(pod, addr);
    }

    pub fn attach(&mut self, pod: &str, addr: &str) {
        let uid = PodUid::new(uid(pod));
        let addr = ip(addr);
        let ifindex = ifindex_of(addr);
        let local = LocalPod {
            key: Some(key(pod)),
            uid: Some(uid.clone()),
            attachment: Some(Attachment {
                ip: addr,
                ifindex,
                ifname: format!("lsh{ifindex}"),
                mac: [2, 0, 0, 0, 0, 1],
                sandbox_id: uid.to_string(),
            }),
            ..LocalPod::default()
        };
        self.world.local.insert(uid.clone(), Arc::new(local));
        self.dirty.insert(Change::Local(uid));
    }

    pub fn detach(&mut self, pod: &str) {
        let uid = PodUid::new(uid(pod));
        self.world.local.remove(&uid);
        self.dirty.insert(Change::Local(uid));
    }

    pub fn remote(&mut self, pod: &str, addr: &str, labels: &str) {
        self.remote_with_ports(pod, addr, labels, "[]");
    }

    pub fn remote_with_ports(&mut self, pod: &str, addr: &str, labels: &str, ports: &str) {
        self.pod(
            pod,
            &format!(
                "metadata: {{name: n, uid: {}, labels: {labels}}}
spec: {{nodeName: node-b, containers: [{{name: c, ports: {ports}}}]}}
status: {{phase: Running, podIP: {addr}, podIPs: [{{ip: {addr}}}]}}",
                uid(pod)
            ),
        );
    }

    pub fn delete_pod(&mut self, pod: &str) {
        self.world.pods.remove(&key(pod));
        self.dirty.insert(Change::Pod(key(pod)));
    }

    /// `spec` in YAML.
    pub fn policy(&mut self, name: &str, spec: &str) {
        let indented: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        let object: NetworkPolicy = yaml(&format!("metadata: {{name: p}}\nspec:\n{indented}"));
        self.world.policies.insert(key(name), Arc::new(object));
        self.dirty.insert(Change::Policy(key(name)));
    }

    pub fn delete_policy(&mut self, name: &str) {
        self.world.policies.remove(&key(name));
        self.dirty.insert(Change::Policy(key(name)));
    }

    pub fn delete_namespace(&mut self, name: &str) {
        self.world.namespaces.remove(&key(name));
        self.dirty.insert(Change::Namespace(key(name)));
    }

    /// Marks a pod or a namespace as being deleted.
    pub fn terminate_namespace(&mut self, name: &str) {
        let object: Namespace = yaml(&format!(
            "metadata: {{name: {name}, labels: {{ns: {name}}}, deletionTimestamp: '2026-01-01T00:00:00Z'}}"
        ));
        self.world.namespaces.insert(key(name), Arc::new(object));
        self.dirty.insert(Change::Namespace(key(name)));
    }

    /// Tells the compiler what changed; returns the problems that are new.
    pub fn apply(&mut self) -> Vec<Problem> {
        let dirty = std::mem::take(&mut self.dirty);
        let before = self.compiler.compiled();
        let (changes, problems) = self.compiler.apply(&self.world, &dirty, &self.node);
        let mut image = image_of(before);
        for change in changes {
            replay(&mut image, change);
        }
        assert_eq!(image, image_of(self.compiler.compiled()), "the changes make the image");
        problems
    }

    /// The image as the compiler with a memory has it.
    pub fn remembered(&mut self) -> Image {
        self.apply();
        image_of(self.compiler.compiled())
    }

    /// The image, which no memory was needed for.
    pub fn image(&mut self) -> Image {
        self.apply();
        let full = compile_full(&self.world, &self.node);
        assert_eq!(self.compiler.compiled(), full, "incremental and full compile agree");
        image_of(full)
    }

    pub fn problems(&mut self) -> Vec<String> {
        self.apply();
        self.compiler.compiled().problems.iter().map(ToString::to_string).collect()
    }

    pub fn addr(&self, who: &str) -> IpAddr {
        if let Ok(addr) = who.parse() {
            return addr;
        }
        let local = self.world.local.get(&PodUid::new(uid(who)));
        if let Some(attachment) = local.and_then(|local| local.attachment.as_ref()) {
            return attachment.ip;
        }
        let pod = &self.world.pods[&key(who)];
        ip(pod.status.as_ref().unwrap().pod_ip.as_ref().unwrap())
    }

    /// Whether a new connection from `from` to `to` on `port` (`TCP/80`) passes, and every row of
    /// `expect`: `(from, to, port, allowed)`.
    pub fn check(&mut self, expect: &[(&str, &str, &str, bool)]) {
        let image = self.image();
        for (from, to, port, allowed) in expect {
            let got = opens(&image, self.addr(from), self.addr(to), port);
            assert_eq!(got, *allowed, "{from} → {to} on {port}\n{image:#?}");
        }
    }

    /// `check` for images that hold what the world no longer says.
    pub fn check_remembered(&mut self, expect: &[(&str, &str, &str, bool)]) {
        let image = self.remembered();
        for (from, to, port, allowed) in expect {
            let got = opens(&image, self.addr(from), self.addr(to), port);
            assert_eq!(got, *allowed, "{from} → {to} on {port}\n{image:#?}");
        }
    }
}

pub fn uid(pod: &str) -> String {
    pod.replace('/', "-")
}

pub fn ifindex_of(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => 100 + u32::from(addr.octets()[3]) + 256 * u32::from(addr.octets()[2]),
        IpAddr::V6(addr) => 100_000 + u32::from(addr.octets()[15]),
    }
}

pub fn image_of(compiled: Compiled) -> Image {
    Image {
        services: Default::default(),
        endpoints: compiled.endpoints,
        cidrs: compiled.cidrs,
        groups: compiled.groups,
    }
}

fn replay(image: &mut Image, change: longshore_core::image::ImageChange) {
    use longshore_core::image::ImageChange::*;
    fn put<K: Ord, V>(map: &mut std::collections::BTreeMap<K, V>, key: K, value: Option<V>) {
        match value {
            Some(value) => drop(map.insert(key, value)),
            None => drop(map.remove(&key)),
        }
    }
    match change {
        Service(..) => panic!("policy says nothing of Services"),
        Endpoint(key, value) => put(&mut image.endpoints, key, value),
        Cidr(key, value) => put(&mut image.cidrs, key, value),
        Group(key, value) => put(&mut image.groups, key, value),
    }
}

pub fn protocol(text: &str) -> (Protocol, u16) {
    let (proto, port) = text.split_once('/').unwrap();
    let proto = match proto {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => panic!("{other}"),
    };
    (proto, port.parse().unwrap())
}

/// Whether the first packet of a connection passes all hooks of this node.
pub fn opens(image: &Image, src: IpAddr, dst: IpAddr, port: &str) -> bool {
    let (proto, port) = protocol(port);
    sends(image, &mut Flows::default(), &Packet::open(src, dst, proto, 40000, port))
}

/// Takes `packet` through every hook of this node that it meets.
pub fn sends(image: &Image, flows: &mut Flows, packet: &Packet) -> bool {
    let local = |addr| image.endpoints.get(&addr).and_then(|row| row.local);
    let node = |addr| image.endpoints.get(&addr).is_some_and(|row| row.pod.is_none());
    let scene = Scene::default();
    if let Some(local) = local(packet.src) {
        let at = Hop::PodOut { ifindex: local.ifindex };
        match oracle::walk(image, &scene, flows, packet, at).verdict {
            Verdict::Pass => {}
            Verdict::Redirect { .. } => return true,
            _ => return false,
        }
    }
    match local(packet.dst) {
        None => true,
        Some(local) => {
            let at = Hop::PodIn { ifindex: local.ifindex, made_here: node(packet.src) };
            oracle::walk(image, &scene, flows, packet, at).verdict == Verdict::Pass
        }
    }
}
