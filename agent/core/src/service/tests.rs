//! Contract rows B1–B29 that a ClusterIP has, and the compiler against its oracle.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::image::{Image, Protocol, View};
use crate::model::node::ResolvConf;
use crate::model::observed::Attachment;
use crate::model::{LocalPod, PodUid};

fn node() -> NodeView {
    NodeView {
        name: "n1".into(),
        ips: vec![[192, 168, 0, 1].into()],
        addresses: vec![],
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        cluster_dns: vec![],
        cluster_domain: "cluster.local".into(),
        resolv: ResolvConf::default(),
        hosts_file: String::new(),
        cpu_milli: 1000,
        pids_max: None,
        memory_bytes: 1 << 30,
        kubepods_cgroup: "/kubepods".into(),
        systemd_cgroups: false,
        cgroup_v2: true,
        pods_dir: String::new(),
        pod_logs_dir: String::new(),
    }
}

fn service(name: &str, spec: Value) -> (ObjectKey, Arc<Service>) {
    let object = json!({"metadata": {"namespace": "a", "name": name}, "spec": spec});
    (ObjectKey::new("a", name), Arc::new(serde_json::from_value(object).unwrap()))
}

fn web() -> Value {
    json!({"clusterIP": "10.96.0.1", "ports": [{"name": "http", "port": 80}]})
}

fn slice(name: &str, of: &str, endpoints: Value) -> (ObjectKey, Arc<EndpointSlice>) {
    slice_with(name, of, json!({"endpoints": endpoints}))
}

fn slice_with(name: &str, of: &str, more: Value) -> (ObjectKey, Arc<EndpointSlice>) {
    let mut object = json!({
        "metadata": {
            "namespace": "a", "name": name, "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [],
    });
    for (key, value) in more.as_object().unwrap() {
        object[key] = value.clone();
    }
    (ObjectKey::new("a", name), Arc::new(serde_json::from_value(object).unwrap()))
}

fn world(
    services: impl IntoIterator<Item = (ObjectKey, Arc<Service>)>,
    slices: impl IntoIterator<Item = (ObjectKey, Arc<EndpointSlice>)>,
) -> World {
    World {
        synced: true,
        services: services.into_iter().collect(),
        endpoint_slices: slices.into_iter().collect(),
        nodes: std::iter::once(in_zone("z1")).collect(),
        ..World::default()
    }
}

/// This node's object.
fn in_zone(zone: &str) -> (ObjectKey, Arc<Node>) {
    let labels = json!({"topology.kubernetes.io/zone": zone});
    let object = json!({"metadata": {"name": "n1", "labels": labels}});
    (ObjectKey::new("", "n1"), Arc::new(serde_json::from_value(object).unwrap()))
}

fn local_pod(name: &str, host: u8, ready: bool, terminating: bool) -> (PodUid, Arc<LocalPod>) {
    let uid = PodUid::new(format!("uid-{name}"));
    let attachment = Attachment {
        ip: [10, 0, 0, host].into(),
        ifindex: 7,
        ifname: "ls0".into(),
        mac: [2; 6],
        sandbox_id: "s".into(),
    };
    let pod = LocalPod {
        key: Some(ObjectKey::new("a", name)),
        uid: Some(uid.clone()),
        attachment: Some(attachment),
        ready,
        terminating,
        ..LocalPod::default()
    };
    (uid, Arc::new(pod))
}

/// `10.0.0.1:8080*` for each backend, `*` when it is local, then what is special.
fn text(entry: &ServiceEntry) -> String {
    let mut words: Vec<String> = entry
        .backends
        .iter()
        .map(|b| format!("{}:{}{}", b.addr, b.port, if b.local { "*" } else { "" }))
        .collect();
    if entry.local_only {
        words.push("local-only".into());
    }
    words.join(" ")
}

/// The frontends of a World as text, and the fields of its problems.
fn compiled(world: &World) -> (Vec<String>, Vec<String>) {
    let (frontends, problems) = compile_full(world, &node());
    let frontends = frontends.iter().map(|(at, entry)| format!("{at} {}", text(entry))).collect();
    (frontends, problems.into_iter().map(|problem| problem.field).collect())
}

/// One Service `web` with `spec` merged in and one slice with `endpoints`.
fn chosen(spec: Value, endpoints: Value) -> String {
    let mut whole = web();
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let world = world([service("web", whole)], [slice("s", "web", endpoints)]);
    let (frontends, problems) = compiled(&world);
    assert_eq!(problems, Vec::<String>::new());
    frontends.join("; ").replace("tcp/10.96.0.1:80 ", "")
}

/// An endpoint; `conditions` is a text of `r` ready, `s` serving, `t` terminating; `*` is here.
fn endpoint(ip: &str, conditions: &str) -> Value {
    let has = |c| conditions.contains(c);
    let node = if has('*') { "n1" } else { "n2" };
    json!({
        "addresses": [ip], "nodeName": node,
        "conditions": {"ready": has('r'), "serving": has('s'), "terminating": has('t')},
    })
}

#[test]
fn b1_to_b4_headless_external_and_foreign_services_have_no_frontend() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
    ] {
        let world = world([service("web", spec)], []);
        assert_eq!(compiled(&world), (vec![], vec![]));
    }
    let (key, foreign) = service("web", web());
    let mut foreign = Service::clone(&foreign);
    foreign.metadata.labels = Some([(view::PROXY_NAME.to_owned(), String::new())].into());
    let world = world([(key, Arc::new(foreign))], []);
    assert_eq!(compiled(&world), (vec![], vec![]));
}

#[test]
fn b2_slices_of_headless_services_are_not_read() {
    let (key, slice) = slice("s", "web", json!([endpoint("10.0.0.1", "rs")]));
    let mut slice = EndpointSlice::clone(&slice);
    slice.metadata.labels.as_mut().unwrap().insert(view::HEADLESS.into(), String::new());
    let world = world([service("web", web())], [(key, Arc::new(slice))]);
    assert_eq!(compiled(&world).0, ["tcp/10.96.0.1:80 "]);
}

#[test]
fn b5_slices_merge_and_of_two_copies_the_one_that_stays_wins() {
    let slices = [
        slice("s1", "web", json!([endpoint("10.0.0.1", "st"), endpoint("10.0.0.2", "rs")])),
        slice("s2", "web", json!([endpoint("10.0.0.1", "rs"), endpoint("10.0.0.3", "rs")])),
        slice("s3", "other", json!([endpoint("10.0.0.9", "rs")])),
    ];
    let world = world([service("web", web())], slices);
    let want = "tcp/10.96.0.1:80 10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080";
    assert_eq!(compiled(&world).0, [want]);
}

#[test]
fn b5_bad_endpoints_are_told_and_left_out() {
    let more = json!({
        "endpoints": [{"addresses": ["nonsense"]}, {"addresses": []}, endpoint("10.0.0.1", "rs")],
        "ports": [{"name": "http", "port": 8080}, {"name": "http", "port": 0}, {"name": "http"}],
    });
    let world = world([service("web", web())], [slice_with("s", "web", more)]);
    let (frontends, problems) = compiled(&world);
    assert_eq!(frontends, ["tcp/10.96.0.1:80 10.0.0.1:8080"]);
    let fields = [
        "endpoints[0].addresses[0]",
        "endpoints[1].addresses[0]",
        "ports[1].port",
        "ports[2].port",
    ];
    assert_eq!(problems, fields);
}

#[test]
fn b6_ports_match_by_name_and_protocol_and_may_differ_per_slice() {
    let spec = json!({"clusterIP": "10.96.0.1", "ports": [
        {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]});
    let ports = |http: u16| {
        json!([
            {"name": "http", "port": http, "protocol": "TCP"},
            {"name": "dns", "port": 5353, "protocol": "UDP"},
            {"name": "dns", "port": 5354, "protocol": "TCP"},
        ])
    };
    let slices = [
        slice_with(
            "s1",
            "web",
            json!({"ports": ports(1), "endpoints": [endpoint("10.0.0.1", "rs")]}),
        ),
        slice_with(
            "s2",
            "web",
            json!({"ports": ports(2), "endpoints": [endpoint("10.0.0.2", "rs")]}),
        ),
    ];
    let world = world([service("web", spec)], slices);
    let want =
        ["udp/10.96.0.1:53 10.0.0.1:5353 10.0.0.2:5353", "tcp/10.96.0.1:80 10.0.0.1:1 10.0.0.2:2"];
    assert_eq!(compiled(&world).0, want);
}

#[test]
fn b9_nothing_is_compiled_before_the_first_complete_list() {
    let mut world = world([service("web", web())], []);
    world.synced = false;
    let mut compiler = ServiceCompiler::default();
    let changes = BTreeSet::from([Change::Service(ObjectKey::new("a", "web"))]);
    assert_eq!(compiler.apply(&world, &changes, &node()), (vec![], vec![]));
    world.synced = true;
    let (changes, _) = compiler.apply(&world, &BTreeSet::from([Change::Synced]), &node());
    assert_eq!(changes.len(), 1);
}

#[test]
fn b23_an_endpoint_on_the_nodes_own_address_is_a_local_backend() {
    let endpoints = json!([endpoint("192.168.0.1", "rs*"), endpoint("192.168.0.2", "rs")]);
    assert_eq!(chosen(json!({}), endpoints), "192.168.0.1:8080* 192.168.0.2:8080");
}

#[test]
fn b24_local_policy_keeps_remote_ones_only_to_tell_drop_from_refuse() {
    let local = json!({"internalTrafficPolicy": "Local"});
    for (endpoints, want) in [
        (
            json!([endpoint("10.0.0.1", "rs*"), endpoint("10.0.1.1", "rs")]),
            "10.0.0.1:8080* 10.0.1.1:8080 local-only",
        ),
        (json!([endpoint("10.0.1.1", "rs")]), "10.0.1.1:8080 local-only"),
        (json!([]), "local-only"),
    ] {
        assert_eq!(chosen(local.clone(), endpoints), want);
    }
}

#[test]
fn b26_a_service_without_endpoints_has_a_row_that_refuses() {
    assert_eq!(chosen(json!({}), json!([endpoint("10.0.0.1", "")])), "");
    let world = world([service("web", web())], []);
    assert_eq!(compile_full(&world, &node()).0.len(), 1);
}

#[test]
fn b27_missing_conditions_are_ready_and_not_terminating() {
    let endpoints = json!([
        {"addresses": ["10.0.0.1"]},
        {"addresses": ["10.0.0.2"], "conditions": {}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
    ]);
    assert_eq!(chosen(json!({}), endpoints), "10.0.0.1:8080 10.0.0.2:8080");
}

#[test]
fn b28_terminating_endpoints_serve_only_when_none_is_ready_each_set_for_itself() {
    let local = json!({"internalTrafficPolicy": "Local"});
    for (spec, endpoints, want) in [
        (
            json!({}),
            json!([endpoint("10.0.0.1", "st*"), endpoint("10.0.1.1", "rs")]),
            "10.0.1.1:8080",
        ),
        (
            json!({}),
            json!([endpoint("10.0.0.1", "st*"), endpoint("10.0.1.1", "st")]),
            "10.0.0.1:8080* 10.0.1.1:8080",
        ),
        (json!({}), json!([endpoint("10.0.0.1", "t*"), endpoint("10.0.1.1", "s")]), ""),
        (
            local.clone(),
            json!([endpoint("10.0.0.1", "st*"), endpoint("10.0.1.1", "rs")]),
            "10.0.0.1:8080* 10.0.1.1:8080 local-only",
        ),
        (
            local,
            json!([
                endpoint("10.0.0.1", "st*"),
                endpoint("10.0.0.2", "rs*"),
                endpoint("10.0.1.1", "st"),
            ]),
            "10.0.0.2:8080* local-only",
        ),
    ] {
        assert_eq!(chosen(spec, endpoints.clone()), want, "{endpoints}");
    }
}

fn hinted(ip: &str, nodes: &[&str], zones: &[&str]) -> Value {
    let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Value>();
    let mut endpoint = endpoint(ip, "rs");
    endpoint["hints"] = json!({"forNodes": named(nodes), "forZones": named(zones)});
    endpoint
}

#[test]
fn b29_hints_count_when_every_ready_endpoint_has_one_and_one_is_for_us() {
    for (endpoints, want) in [
        (json!([hinted("10.0.0.1", &["n1"], &["z2"]), hinted("10.0.0.2", &["n2"], &["z1"])]), "1"),
        (json!([hinted("10.0.0.1", &["n1"], &["z2"]), hinted("10.0.0.2", &[], &["z1"])]), "2"),
        (json!([hinted("10.0.0.1", &["n3"], &["z2"]), hinted("10.0.0.2", &["n2"], &["z1"])]), "2"),
        (json!([hinted("10.0.0.1", &[], &["z1"]), hinted("10.0.0.2", &[], &[])]), "12"),
        (json!([hinted("10.0.0.1", &[], &["z3"]), hinted("10.0.0.2", &[], &["z2"])]), "12"),
        // What is not ready has no say.
        (
            json!([
                hinted("10.0.0.1", &[], &["z1"]),
                hinted("10.0.0.2", &[], &["z2"]),
                endpoint("10.0.0.3", "")
            ]),
            "1",
        ),
        // The fallback does not ask for hints.
        (json!([endpoint("10.0.0.3", "st")]), "3"),
    ] {
        let digits: String = chosen(json!({}), endpoints.clone())
            .split(' ')
            .filter_map(|backend| backend.strip_prefix("10.0.0.")?.strip_suffix(":8080"))
            .collect();
        assert_eq!(digits, want, "{endpoints}");
    }
}

#[test]
fn i9_a_cluster_ip_out_of_the_range_is_served_and_told() {
    let mut spec = web();
    spec["clusterIP"] = json!("10.112.0.1");
    let world = world([service("web", spec)], []);
    let (frontends, problems) = compile_full(&world, &node());
    assert_eq!(frontends.len(), 1);
    let told: Vec<_> = problems.iter().map(|p| (p.reason, p.field.as_str())).collect();
    assert_eq!(told, [("ClusterIPOutOfRange", "spec.clusterIP")]);
    assert!(problems[0].message.contains("--service-cidr 10.96.0.0/16"), "{}", problems[0]);
}

#[test]
fn b29_the_zone_is_that_of_the_nodes_label_and_follows_it() {
    let near = |zone: &str| match zone {
        "z1" => vec!["10.0.0.1:8080"],
        "z2" => vec!["10.0.0.2:8080"],
        _ => vec!["10.0.0.1:8080", "10.0.0.2:8080"],
    };
    let endpoints = [hinted("10.0.0.1", &[], &["z1"]), hinted("10.0.0.2", &[], &["z2"])];
    let mut world = world([service("web", web())], [slice("s", "web", json!(endpoints))]);
    let mut compiler = ServiceCompiler::default();
    compiler.apply(&world, &BTreeSet::from([Change::Synced]), &node());
    for zone in ["z2", "z3", "z1", ""] {
        let (key, object) = in_zone(zone);
        world.nodes.insert(key.clone(), object);
        let (changes, _) = compiler.apply(&world, &BTreeSet::from([Change::Node(key)]), &node());
        let [ImageChange::Service(_, Some(entry))] = &changes[..] else { panic!("{changes:?}") };
        let chosen: Vec<_> =
            entry.backends.iter().map(|b| format!("{}:{}", b.addr, b.port)).collect();
        assert_eq!(chosen, near(zone), "{zone:?}");
    }
}

#[test]
fn what_is_not_served_yet_is_told_and_the_cluster_ip_works() {
    let more = |key: &str, value: Value| {
        let mut spec = web();
        spec[key] = value;
        spec
    };
    for (spec, fields) in [
        (more("type", json!("NodePort")), vec!["spec.type"]),
        (more("type", json!("LoadBalancer")), vec!["spec.type"]),
        (more("externalIPs", json!(["192.0.2.1"])), vec!["spec.externalIPs"]),
        (more("sessionAffinity", json!("ClientIP")), vec!["spec.sessionAffinity"]),
        (more("clusterIPs", json!(["10.96.0.1", "fd00::1"])), vec!["spec.clusterIPs[1]"]),
        (
            more(
                "ports",
                json!([
                    {"name": "http", "port": 80}, {"name": "x", "port": 81, "protocol": "SCTP"},
                ]),
            ),
            vec!["spec.ports[1].protocol"],
        ),
        (
            more(
                "ports",
                json!([
                    {"name": "http", "port": 80}, {"name": "http", "port": 80}, {"port": 0},
                ]),
            ),
            vec!["spec.ports[2].port", "spec.ports[1].port"],
        ),
    ] {
        let slices = [slice("s", "web", json!([endpoint("10.0.0.1", "rs")]))];
        let (frontends, mut problems) = compiled(&world([service("web", spec)], slices));
        problems.sort();
        let mut fields = fields;
        fields.sort_unstable();
        assert_eq!(problems, fields);
        assert_eq!(frontends, ["tcp/10.96.0.1:80 10.0.0.1:8080"]);
    }
    let only_v6 = service("web", json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}));
    assert_eq!(compiled(&world([only_v6], [])), (vec![], vec!["spec.clusterIP".to_owned()]));
    let none = service("web", json!({"ports": [{"port": 80}]}));
    assert_eq!(compiled(&world([none], [])), (vec![], vec!["spec.clusterIP".to_owned()]));
}

#[test]
fn two_services_with_one_address_are_told_apart() {
    let world = world([service("web", web()), service("late", web())], []);
    let (frontends, problems) = compile_full(&world, &node());
    let owner = frontends.values().next().unwrap().service.to_string();
    assert_eq!((frontends.len(), owner.as_str()), (1, "a/late"));
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].key, ObjectKey::new("a", "web"));
}

/// Endpoint 10.0.0.1 of pod `p` as the slice has it (`rs*`), with what this node knows of it.
fn overlaid(spec: Value, conditions: &str, pods: &[(&str, bool, bool)]) -> String {
    let mut whole = web();
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let mut first = endpoint("10.0.0.1", conditions);
    first["targetRef"] = json!({"kind": "Pod", "namespace": "a", "name": "p"});
    let slices = [slice("s", "web", json!([first]))];
    let mut world = world([service("web", whole)], slices);
    let pods = pods.iter().map(|(name, ready, leaving)| local_pod(name, 1, *ready, *leaving));
    world.local = pods.collect();
    compiled(&world).0.join("; ").replace("tcp/10.96.0.1:80 ", "")
}

#[test]
fn decision_12_the_local_overlay_only_narrows() {
    let all = json!({"publishNotReadyAddresses": true});
    for (spec, slice, pods, want) in [
        (json!({}), "rs*", &[][..], "10.0.0.1:8080*"),
        (json!({}), "rs*", &[("p", true, false)], "10.0.0.1:8080*"),
        (json!({}), "rs*", &[("p", false, false)], ""),
        // B28: it terminates and still serves, and there is no other.
        (json!({}), "rs*", &[("p", true, true)], "10.0.0.1:8080*"),
        (json!({}), "rs*", &[("p", false, true)], ""),
        // It never widens.
        (json!({}), "*", &[("p", true, false)], ""),
        // B22: readiness is not asked.
        (all.clone(), "rs*", &[("p", false, true)], "10.0.0.1:8080*"),
        // The address is another pod's by now.
        (all, "rs*", &[("q", true, false)], ""),
        (json!({}), "rs*", &[("p", true, false), ("q", false, true)], "10.0.0.1:8080*"),
    ] {
        assert_eq!(overlaid(spec, slice, pods), want, "{slice} {pods:?}");
    }
}

#[test]
fn decision_12_a_local_pod_that_terminates_leaves_while_another_is_ready() {
    let endpoints = json!([endpoint("10.0.0.1", "rs*"), endpoint("10.0.0.2", "rs*")]);
    let mut world = world([service("web", web())], [slice("s", "web", endpoints)]);
    let mut compiler = ServiceCompiler::default();
    compiler.apply(&world, &BTreeSet::from([Change::Synced]), &node());
    let (uid, pod) = local_pod("p", 1, true, true);
    world.local.insert(uid.clone(), pod);
    let (changes, _) =
        compiler.apply(&world, &BTreeSet::from([Change::Local(uid.clone())]), &node());
    let [ImageChange::Service(_, Some(entry))] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(text(entry), "10.0.0.2:8080*");
    // The attachment is gone: what the slice says holds again.
    world.local.remove(&uid);
    let (changes, _) = compiler.apply(&world, &BTreeSet::from([Change::Local(uid)]), &node());
    assert_eq!(changes.len(), 1);
}

// ---- the compiler against its oracle

#[derive(Clone, Debug)]
enum Edit {
    Service(u8, Option<Value>),
    Slice(u8, Option<(u8, Value)>),
    Local(u8, Option<(u8, bool, bool)>),
    Zone(u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let spec = (1u8..4, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(ip, local, affinity, all)| {
            json!({
                "clusterIP": format!("10.96.0.{ip}"),
                "ports": [{"name": "http", "port": 80}],
                "internalTrafficPolicy": if local { "Local" } else { "Cluster" },
                "sessionAffinity": if affinity { "ClientIP" } else { "None" },
                "publishNotReadyAddresses": all,
            })
        },
    );
    let conditions = prop_oneof![Just("rs*"), Just("rs"), Just("st*"), Just("st"), Just("s")];
    let zone = proptest::option::weighted(0.8, 1u8..3);
    let endpoint = (1u8..6, conditions, zone).prop_map(|(ip, text, zone)| {
        let mut endpoint = endpoint(&format!("10.0.0.{ip}"), text);
        if let Some(zone) = zone {
            endpoint["hints"] = json!({"forZones": [{"name": format!("z{zone}")}]});
        }
        endpoint
    });
    let endpoints = proptest::collection::vec(endpoint, 0..4).prop_map(Value::Array);
    let slice = proptest::option::of((0u8..4, endpoints));
    let local = proptest::option::of((1u8..6, any::<bool>(), any::<bool>()));
    prop_oneof![
        (0u8..4, proptest::option::of(spec)).prop_map(|(n, spec)| Edit::Service(n, spec)),
        (0u8..5, slice).prop_map(|(n, slice)| Edit::Slice(n, slice)),
        (0u8..4, local).prop_map(|(n, local)| Edit::Local(n, local)),
        (1u8..4).prop_map(Edit::Zone),
    ]
}

fn set<K: Ord + Clone, V: Clone>(map: &mut imbl::OrdMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}

fn make(world: &mut World, edit: &Edit) -> Change {
    match edit {
        Edit::Service(n, spec) => {
            let name = format!("svc-{n}");
            let object = spec.clone().map(|spec| service(&name, spec).1);
            set(&mut world.services, ObjectKey::new("a", name.as_str()), object);
            Change::Service(ObjectKey::new("a", name))
        }
        Edit::Slice(n, content) => {
            let name = format!("slice-{n}");
            let object = content
                .clone()
                .map(|(of, endpoints)| slice(&name, &format!("svc-{of}"), endpoints).1);
            set(&mut world.endpoint_slices, ObjectKey::new("a", name.as_str()), object);
            Change::EndpointSlice(ObjectKey::new("a", name))
        }
        Edit::Local(n, content) => {
            let uid = PodUid::new(format!("uid-{n}"));
            let pod =
                content.map(|(ip, ready, leaving)| local_pod(&n.to_string(), ip, ready, leaving).1);
            set(&mut world.local, uid.clone(), pod);
            Change::Local(uid)
        }
        Edit::Zone(n) => {
            let (key, object) = in_zone(&format!("z{n}"));
            world.nodes.insert(key.clone(), object);
            Change::Node(key)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn i15_the_compiler_per_key_is_the_full_compile(
        turns in proptest::collection::vec(proptest::collection::vec(edit(), 1..4), 1..12),
        synced_at in 0usize..3,
    ) {
        let mut world = World::default();
        let mut compiler = ServiceCompiler::default();
        let mut image = Image::default();
        for (turn, edits) in turns.iter().enumerate() {
            let mut changes: BTreeSet<Change> =
                edits.iter().map(|edit| make(&mut world, edit)).collect();
            if turn == synced_at {
                changes.insert(Change::Synced);
            }
            world.synced = turn >= synced_at;
            let (changes, _) = compiler.apply(&world, &changes, &node());
            for change in &changes {
                let mut next = image.clone();
                next.apply(change);
                prop_assert_ne!(&next, &image, "a change that changes nothing");
                image = next;
            }
            if world.synced {
                let (services, mut problems) = compile_full(&world, &node());
                prop_assert_eq!(&image.services, &services);
                let mut known = compiler.problems();
                problems.sort();
                known.sort();
                prop_assert_eq!(known, problems);
            }
        }
        let again = compiler.apply(&world, &BTreeSet::from([Change::Synced]), &node()).0;
prop_assert_eq!(again, Vec::new());
    }
}

#[test]
fn i14_an_edit_that_means_nothing_changes_nothing() {
    let slices = |name: &str| [slice(name, "web", json!([endpoint("10.0.0.1", "rs")]))];
    let mut world = world([service("web", web())], slices("s1"));
    let mut compiler = ServiceCompiler::default();
    let (changes, _) = compiler.apply(&world, &BTreeSet::from([Change::Synced]), &node());
    let at = Frontend {
        addr: [10, 96, 0, 1].into(),
        port: 80,
        proto: Protocol::Tcp,
        view: View::Internal,
    };
    assert!(matches!(&changes[..], [ImageChange::Service(key, Some(_))] if *key == at));
    // The same endpoint moves to another slice.
    world.endpoint_slices = slices("s2").into_iter().collect();
    let moved = ["s1", "s2"].map(|name| Change::EndpointSlice(ObjectKey::new("a", name))).into();
    assert_eq!(compiler.apply(&world, &moved, &node()).0, []);
}
