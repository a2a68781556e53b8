//! A pod's interface pair: made, reachable from the node, removed without a trace.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::mpsc;

use longshore::effects::network::{Network, pod, sysctl};
use longshore::supervise::Supervisor;
use longshore_core::net::interface_plan;

use crate::space::Space;

const NODE: Ipv4Addr = Ipv4Addr::new(10, 241, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 241, 0, 9);

/// A41, A98: the node reaches its pod and the pod sees the node's own address.
#[test]
fn a98_the_node_reaches_its_pod_from_its_own_address() {
    let (node, inside) = (Space::new(), Space::new());
    let plan = interface_plan("sandbox-1", POD, NODE, 1400);
    node.block_on(|| async {
        let supervisor = Supervisor::default();
        let network = Network::open(&supervisor.scope()).expect("netlink");
        network.adopt_address(NODE.into()).await.expect("node address");
        sysctl::enable_forwarding().expect("forwarding");
        // Twice: a try whose answer was lost is simply done again.
        for _ in 0..2 {
            let host = network.create_pair(&plan, inside.file.as_fd()).await.expect("pair");
            network.open_host(&plan, host).await.expect("host side");
            pod::configure_pod(inside.file.as_fd(), &plan).expect("pod side");
        }
    });

    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            inside.run(|| {
                let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).expect("listen");
                tell.send(()).expect("tell");
                let (mut stream, peer) = listener.accept().expect("accept");
                stream.write_all(peer.ip().to_string().as_bytes()).expect("answer");
            });
        });
        told.recv().expect("the server listens");
        let seen = node.run(|| {
            let mut stream = TcpStream::connect(SocketAddr::from((POD, 80))).expect("connect");
            let mut seen = String::new();
            stream.read_to_string(&mut seen).expect("read");
            seen
        });
        assert_eq!(seen, NODE.to_string());
    });

    let left = node.block_on(|| async {
        let supervisor = Supervisor::default();
        let network = Network::open(&supervisor.scope()).expect("netlink");
        network.delete_link(&plan.host_name).await.expect("delete");
        network.delete_link(&plan.host_name).await.expect("deleted already");
        network.links().await.expect("links").into_iter().map(|link| link.name).collect::<Vec<_>>()
    });
    assert_eq!(left, ["lo"], "I3: nothing of the pod is left");
}
