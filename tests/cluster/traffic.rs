//! Services, policies and names over two nodes.

use std::collections::BTreeSet;

use crate::script::*;

/// A client on each node.
fn clients(space: &Shared) -> [Pod; 2] {
    ["n1", "n2"].map(|node| {
        let name = format!("client-{node}");
        space.apply(&pod(&name, "sleep", &on(node)));
        space.wait_ready(&name);
        space.pod(&name)
    })
}

#[test]
fn b10_b20_a_service_is_answered_by_the_pods_of_both_nodes() {
    let space = Shared::new("service");
    space.apply(&netexec("web", 4, "", ""));
    let clients = clients(&space);
    space.wait_rolled_out("web");
    let web = space.pods("web");
    let nodes: BTreeSet<&str> = web.iter().map(|pod| pod.node.as_str()).collect();
    assert_eq!(nodes, BTreeSet::from(["n1", "n2"]), "{web:?}");
    let names: BTreeSet<String> = web.iter().map(|pod| pod.name.clone()).collect();
    let ip = space.cluster_ip("web");
    let many = format!("get http://{ip}/hostname --count 80 --timeout 5");

    // From a pod of either node every backend answers, and no request fails.
    for client in &clients {
        space.wait_ok(client, &format!("get http://{ip}/hostname --timeout 2"));
        poll("all backends to answer", || {
            let output = space.exec(client, &many);
            assert!(output.ok(), "{}", output.text);
            Ok(answers(&output) == names)
        })
        .unwrap();
    }
    // From a process of either node that is in no pod.
    for node in space.cluster.nodes() {
        let output = wait_host_ok(node, &many);
        assert_eq!(answers(&output), names, "{}", output.text);
    }
    // A backend reaches its own Service, perhaps itself.
    for backend in &web {
        let output = space.exec(backend, &many);
        assert!(output.ok(), "{}", output.text);
    }
    // Pod to pod, over the nodes and inside one; the server sees the client's own address.
    for client in &clients {
        for server in &web {
            let output =
                space.exec(client, &format!("get http://{}:8080/clientip --timeout 5", server.ip));
            assert!(output.ok(), "{} to {}: {}", client.node, server.node, output.text);
            assert!(output.stdout.starts_with(&format!("{}:", client.ip)), "{}", output.stdout);
        }
    }
    // Node to pod, its own and the other's.
    for node in space.cluster.nodes() {
        for server in &web {
            wait_host_ok(node, &format!("get http://{}:8080/hostname --timeout 5", server.ip));
        }
    }
}

/// Zones are labels of nodes; the control plane writes the hints.
#[test]
fn b29_a_service_that_prefers_the_zone_is_answered_from_it() {
    let space = Shared::new("zone");
    for (node, zone) in [("n1", "east"), ("n2", "west")] {
        let words = format!("label node {node} --overwrite topology.kubernetes.io/zone={zone}");
        space.kubectl(&words).check().unwrap();
    }
    let near = service("near", 80, "8080") + "  trafficDistribution: PreferSameZone\n";
    space.apply(&near);
    for node in ["n1", "n2"] {
        let name = format!("near-{node}");
        let text = pod_of(&name, "netexec --http-port=8080", AGNHOST, &on(node));
        space.apply(&text.replace(&format!("app: {name}"), "app: near"));
        space.wait_ready(&name);
    }
    let (clients, ip) = (clients(&space), space.cluster_ip("near"));
    let many = format!("get http://{ip}/hostname --count 20 --timeout 5");
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    for (client, server) in clients.iter().zip(["near-n1", "near-n2"]) {
        poll(&format!("answers from {server} alone"), || {
            Ok(answers(&space.exec(client, &many)) == only(server))
        })
        .unwrap();
    }
    // The node moves; the control plane may leave its hints as they were.
    space.kubectl("label node n2 --overwrite topology.kubernetes.io/zone=east").check().unwrap();
    poll("answers from the new zone", || {
        Ok(answers(&space.exec(&clients[1], &many)).contains("near-n1"))
    })
    .unwrap();
}

/// Only the node's own configuration names a range, and nobody has a route back into it.
#[test]
fn b33_pods_of_a_configured_range_reach_the_world() {
    let cluster = cluster("range", 1, |options| options.pod_cidr = Some("10.250.0.0/24".into()));
    let space = e2e(&cluster);
    assert_eq!(text(&space.get("node n1"), "/spec/podCIDR"), "");
    space.apply(&pod("client", "sleep", ""));
    space.wait_ready("client");
    let client = space.pod("client");
    assert!(client.ip.to_string().starts_with("10.250.0."), "{}", client.ip);
    // The API server is outside the cluster's networks, behind a Service.
    let api = text(&cluster_service(&cluster), "/spec/clusterIP");
    space.wait_ok(&client, &format!("connect {api}:443 --timeout 2"));
    cluster.down().unwrap();
}

fn cluster_service(cluster: &longshore_tests::cluster::Cluster) -> serde_json::Value {
    Space { cluster, name: "default" }.get("service kubernetes")
}

#[test]
fn b26_a_service_follows_its_pods_on_the_other_node() {
    let space = Shared::new("follow");
    space.apply(&service("web", 80, "8080"));
    space.apply(&pod("client", "sleep", &on("n1")));
    space.wait_ready("client");
    let client = space.pod("client");
    let ip = space.cluster_ip("web");
    let request = format!("get http://{ip}/ --timeout 2");
    space.wait_fails(&client, &request, "refused");
    space.apply(&pod("web", "web --port 8080", &on("n2")));
    space.wait_ok(&client, &request);
    space.delete("pod web");
    space.wait_fails(&client, &request, "refused");
}

#[test]
fn b10_udp_answers_come_from_the_service_across_nodes() {
    let space = Shared::new("udp");
    space.apply(&pod("echo", "udp-echo --port 9000", &on("n2")));
    space.apply(&service("echo", 53, "9000").replace("targetPort", "protocol: UDP, targetPort"));
    space.apply(&pod("client", "sleep", &on("n1")));
    space.wait_ready("client");
    space.wait_ready("echo");
    let (client, ip) = (space.pod("client"), space.cluster_ip("echo"));
    space.wait_ok(&client, &format!("udp-get {ip}:53 --timeout 1"));
    let output = space.exec(&client, &format!("udp-get {ip}:53 --count 20"));
    assert!(output.ok(), "{}", output.text);
}

#[test]
fn c1_c5_c12_c18_policy_allows_and_denies_across_nodes() {
    let space = Shared::new("policy");
    let other = Shared::new("policy-other");
    space.apply(&netexec("web", 1, "", &on("n1").replace("  node", "      node")));
    for node in ["n1", "n2"] {
        for name in ["friend", "stranger"] {
            let text = pod(&format!("{name}-{node}"), "sleep", &on(node));
            space.apply(&text.replace(&format!("app: {name}-{node}"), &format!("app: {name}")));
        }
    }
    other.apply(&pod("friend", "sleep", &on("n2")));
    other.wait_ready("friend");
    let client = |name: &str| {
        space.wait_ready(name);
        space.pod(name)
    };
    let friends = [client("friend-n1"), client("friend-n2")];
    let strangers = [client("stranger-n1"), client("stranger-n2")];
    space.wait_rolled_out("web");
    let web = space.pods("web").remove(0);
    let targets = [format!("{}:80", space.cluster_ip("web")), format!("{}:8080", web.ip)];
    let connect = |target: &str| format!("connect {target} --timeout 1");

    for target in &targets {
        for pod in friends.iter().chain(&strangers) {
            space.wait_ok(pod, &connect(target));
        }
    }
    space.apply(&allow("web", &["friend"]));
    for target in &targets {
        for pod in &strangers {
            space.wait_fails(pod, &connect(target), "timed out");
        }
        // The label of another namespace is not the label of this one.
        other.wait_fails(&other.pod("friend"), &connect(target), "timed out");
        for pod in &friends {
            let output = space.exec(pod, &connect(target));
            assert!(output.ok(), "{} on {}: {}", pod.name, pod.node, output.text);
        }
        // Its own node reaches a pod; another node is a stranger.
        wait_host_ok(space.cluster.node(1), &connect(target));
        wait_host_fails(space.cluster.node(2), &connect(target), "timed out");
    }
    // Probes come from the own node: the pod stays Ready.
    assert!(is_ready(&space.get(&format!("pod {}", web.name))));
    // A label makes a friend of a stranger, and its removal undoes it.
    let stranger = &strangers[1];
    space.kubectl(&format!("label pod {} app=friend --overwrite", stranger.name)).check().unwrap();
    space.wait_ok(stranger, &connect(&targets[0]));
    space
        .kubectl(&format!("label pod {} app=stranger --overwrite", stranger.name))
        .check()
        .unwrap();
    space.wait_fails(stranger, &connect(&targets[0]), "timed out");
    space.delete("networkpolicy web");
    for pod in &strangers {
        space.wait_ok(pod, &connect(&targets[0]));
    }
}

#[test]
fn c3_c8_egress_to_one_port_across_nodes() {
    let space = Shared::new("egress");
    space.apply(&pod("server", "web --port 8080", &on("n2")));
    space.apply(&pod("second", "web --port 8081", &on("n2")));
    space.apply(&pod("client", "sleep", &on("n1")));
    for name in ["server", "second", "client"] {
        space.wait_ready(name);
    }
    let (client, server, second) = (space.pod("client"), space.pod("server"), space.pod("second"));
    space.wait_ok(&client, &format!("connect {}:8081 --timeout 1", second.ip));
    space.apply(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress]
  egress: [{ports: [{port: 8080}]}]
",
    );
    space.wait_fails(&client, &format!("connect {}:8081 --timeout 1", second.ip), "timed out");
    space.wait_ok(&client, &format!("connect {}:8080 --timeout 1", server.ip));
}

#[test]
fn a196_a197_coredns_answers_through_its_service() {
    let space = Shared::new("dns");
    let dns = Space { cluster: space.cluster, name: "kube-system" };
    dns.wait_rolled_out("coredns");
    space.apply(&netexec("web", 2, "", ""));
    space.wait_rolled_out("web");
    for node in ["n1", "n2"] {
        let name = format!("asks-{node}");
        space.apply(&shell(&name, "sleep 1000000", &on(node)));
        space.wait_ready(&name);
        // Short, in its namespace, and complete: the search list and ndots are a pod's own.
        for host in ["web", "web.dns", "web.dns.svc", "web.dns.svc.cluster.local"] {
            let words = format!("exec {name} -- /agnhost connect {host}:80 --timeout=5s");
            poll(&format!("{host} to be resolved on {node}"), || {
                Ok(space.kubectl(&words).output()?.ok())
            })
            .unwrap();
        }
        let words = format!("exec {name} -- /agnhost connect is-not-there:80 --timeout=5s");
        let output = space.kubectl(&words).output().unwrap();
        assert!(!output.ok() && output.text.contains("DNS"), "{}", output.text);
    }
}
