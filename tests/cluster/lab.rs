//! The lab itself, with what no other test of this lane asks it for.

use longshore_tests::cluster::{Agent, Proxy};

use crate::script::*;

/// The oracle with kube-proxy's other mode; and of a kubelet's cluster, too, nothing stays.
#[test]
fn a_cluster_of_kubelet_and_nftables_answers_and_leaves_nothing() {
    let cluster = cluster("nftables", 1, |options| {
        (options.agent, options.proxy) = (Agent::Kubelet, Proxy::Nftables);
    });
    let space = e2e(&cluster);
    space.apply(&netexec("web", 2, "", ""));
    let extra = "  volumes: [{name: memory, emptyDir: {medium: Memory}}]\n";
    space.apply(
        &(pod("client", "sleep", extra)
            + "      volumeMounts: [{name: memory, mountPath: /memory}]\n"),
    );
    space.wait_rolled_out("web");
    space.wait_ready("client");
    let request = format!("get http://{}/hostname --timeout 2", space.cluster_ip("web"));
    space.wait_ok(&space.pod("client"), &request);
    wait_host_ok(cluster.node(1), &request);
    // It is this proxy that answered.
    let tables = cluster.node(1).netns().run("nft").words("list tables").check().unwrap();
    assert!(tables.contains("table ip kube-proxy"), "{tables}");
    let chains = cluster.node(1).netns().run("nft").words("list chains").check().unwrap();
    assert!(!chains.contains("KUBE-SERVICES"), "{chains}");
    // With all pods still running.
    cluster.down().unwrap();
}
