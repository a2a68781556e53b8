//! Socket hooks with real sockets: the lab's own process stands in its cgroup.

use std::io::{ErrorKind, Read, Write};
use std::net::{
    Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use longshore::dataplane::Dataplane;
use longshore_abi::service::{FLAG_LOCAL_ONLY, FLAG_REMOTE_EXISTS};
use longshore_abi::{
    Addr, Backend, DropReason, IPPROTO_TCP, IPPROTO_UDP, ServiceKey, ServiceValue,
};
use longshore_core::image::MapOp;
use nix::sched::{CloneFlags, unshare};

use crate::lab::{self, Lab};

const VIP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 10), 80);
const SERVICE: u32 = 5;

fn mapped(addr: SocketAddrV4) -> SocketAddr {
    SocketAddrV6::new(addr.ip().to_ipv6_mapped(), addr.port(), 0, 0).into()
}

fn key(proto: u8) -> ServiceKey {
    ServiceKey { addr: Addr::v4(VIP.ip().octets()), port: VIP.port().to_be(), proto, view: 0 }
}

fn local(server: SocketAddr) -> Backend {
    let SocketAddr::V4(server) = server else { panic!("servers here are IPv4") };
    Backend {
        addr: Addr::v4(server.ip().octets()),
        port: server.port().to_be(),
        ..Backend::default()
    }
}

/// The writes that publish `backends` at `base`, as the physical layer orders them.
fn publish(proto: u8, base: u32, generation: u32, backends: &[Backend]) -> Vec<MapOp> {
    let slot = |(n, backend): (u32, &Backend)| {
        MapOp::PutBackend(base + n, Backend { service: SERVICE, generation, ..*backend })
    };
    let mut ops: Vec<MapOp> = (0..).zip(backends).map(slot).collect();
    let count = u16::try_from(backends.len()).unwrap();
    let row = ServiceValue {
        base,
        generation,
        service: SERVICE,
        count,
        count_local: count,
        ..ServiceValue::default()
    };
    ops.push(MapOp::PutService(key(proto), row));
    ops
}

/// Accepts for ever, and answers with its name.
fn tcp_server(ip: [u8; 4], name: u8) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::from(ip), 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(&[name]);
        }
    });
    addr
}

/// Answers each datagram with its name.
fn udp_server(ip: [u8; 4], name: u8) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::from(ip), 0)).unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        loop {
            let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
            let _ = socket.send_to(&[name], from);
        }
    });
    addr
}

fn ask(mut stream: TcpStream) -> u8 {
    let mut name = [0];
    stream.read_exact(&mut name).unwrap();
    name[0]
}

fn udp_client(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

#[test]
fn b10_tcp_connects_to_a_backend_and_sees_the_service() {
    lab::run("sockets::b10_tcp_connects_to_a_backend_and_sees_the_service", |lab| {
        let dataplane = lab.open();
        let servers = [tcp_server([127, 0, 0, 1], 1), tcp_server([127, 0, 0, 2], 2)];
        dataplane.apply(&publish(IPPROTO_TCP, 0, 1, &servers.map(local))).unwrap();
        for to in [SocketAddr::V4(VIP), mapped(VIP)] {
            let mut met = [0; 3];
            for _ in 0..40 {
                let stream = TcpStream::connect(to).unwrap();
                assert_eq!(stream.peer_addr().unwrap(), to);
                met[usize::from(ask(stream))] += 1;
            }
            assert!(met[1] > 0 && met[2] > 0, "both backends are met: {met:?}");
        }
    });
}

#[test]
fn b10_udp_replies_come_from_the_service() {
    lab::run("sockets::b10_udp_replies_come_from_the_service", |lab| {
        let dataplane = lab.open();
        let server = udp_server([127, 0, 0, 1], 1);
        dataplane.apply(&publish(IPPROTO_UDP, 0, 1, &[local(server)])).unwrap();
        for (bind, to) in [("0.0.0.0", SocketAddr::V4(VIP)), ("::", mapped(VIP))] {
            let socket = udp_client(bind);
            for _ in 0..3 {
                socket.send_to(b"?", to).unwrap();
                assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (1, to), "unconnected");
            }
            let socket = udp_client(bind);
            socket.connect(to).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), to);
            socket.send(b"?").unwrap();
            assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (1, to), "connected");
        }
        // What is not the Service stays what it is.
        let socket = udp_client("0.0.0.0");
        let other = udp_server([127, 0, 0, 3], 3);
        socket.send_to(b"?", VIP).unwrap();
        socket.recv_from(&mut [0; 16]).unwrap();
        socket.send_to(b"?", other).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 16]).unwrap(), (1, other));
    });
}

#[test]
fn e4_an_unconnected_udp_socket_moves_when_its_service_changes() {
    lab::run("sockets::e4_an_unconnected_udp_socket_moves_when_its_service_changes", |lab| {
        let dataplane = lab.open();
        let servers = [udp_server([127, 0, 0, 1], 1), udp_server([127, 0, 0, 2], 2)];
        dataplane.apply(&publish(IPPROTO_UDP, 0, 1, &servers.map(local))).unwrap();
        let socket = udp_client("0.0.0.0");
        let ask = || {
            let mut name = [0];
            socket.send_to(b"?", VIP).unwrap();
            assert_eq!(socket.recv_from(&mut name).unwrap(), (1, VIP.into()));
            name[0]
        };
        let first = ask();
        assert!((0..20).all(|_| ask() == first), "it keeps its backend");
        let left = servers[2 - usize::from(first)];
        dataplane.apply(&publish(IPPROTO_UDP, 8, 2, &[local(left)])).unwrap();
        assert_eq!(ask(), 3 - first);
    });
}

#[test]
fn b26_no_endpoints_is_connection_refused() {
    lab::run("sockets::b26_no_endpoints_is_connection_refused", |lab| {
        let dataplane = lab.open();
        dataplane.apply(&publish(IPPROTO_TCP, 0, 1, &[])).unwrap();
        dataplane.apply(&publish(IPPROTO_UDP, 0, 1, &[])).unwrap();
        for (bind, to) in [("0.0.0.0", SocketAddr::V4(VIP)), ("::", mapped(VIP))] {
            let refused =
                |error: std::io::Error| assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
            refused(TcpStream::connect(to).unwrap_err());
            refused(udp_client(bind).send_to(b"?", to).unwrap_err());
            refused(udp_client(bind).connect(to).unwrap_err());
        }
    });
}

#[test]
fn b24_local_only_without_a_local_endpoint_is_unreachable() {
    lab::run("sockets::b24_local_only_without_a_local_endpoint_is_unreachable", |lab| {
        let dataplane = lab.open();
        let row = ServiceValue {
            generation: 1,
            service: SERVICE,
            flags: FLAG_LOCAL_ONLY | FLAG_REMOTE_EXISTS,
            ..ServiceValue::default()
        };
        dataplane.apply(&[MapOp::PutService(key(IPPROTO_TCP), row)]).unwrap();
        let error = TcpStream::connect(VIP).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
        // Counted by both hooks: this process is in the cgroup and in the daemon's namespace.
        assert_eq!(dataplane.drops().unwrap()[&DropReason::NoLocalEndpoint], 2);
    });
}

#[test]
fn the_v2_root_serves_only_the_daemons_own_network_namespace() {
    lab::run("sockets::the_v2_root_serves_only_the_daemons_own_network_namespace", |lab| {
        let dataplane = lab.open();
        let server = tcp_server([127, 0, 0, 1], 1);
        dataplane.apply(&publish(IPPROTO_TCP, 0, 1, &[local(server)])).unwrap();
        std::fs::write(lab.config.cgroup_v2_root.join("cgroup.procs"), "0").unwrap();
        for to in [SocketAddr::V4(VIP), mapped(VIP)] {
            let stream = TcpStream::connect(to).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), to);
            assert_eq!(ask(stream), 1);
        }
        let elsewhere = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            lab::ip("link set lo up");
            TcpStream::connect(VIP).unwrap_err().kind()
        });
        assert_eq!(elsewhere.join().unwrap(), ErrorKind::NetworkUnreachable);
    });
}

/// A thread that connects until told to stop.
struct Connects {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: thread::JoinHandle<Vec<String>>,
}

impl Connects {
    fn start() -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let (stopped, count) = (stop.clone(), done.clone());
        let thread = thread::spawn(move || {
            let mut failed = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                match TcpStream::connect(VIP) {
                    Ok(stream) => {
                        ask(stream);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => failed.push(error.to_string()),
                }
            }
            failed
        });
        Self { stop, done, thread }
    }

    fn done(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn all_succeeded(self) {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.thread.join().unwrap();
        println!("{:?} connections", self.done);
        assert!(failed.is_empty(), "beside {:?}: {failed:?}", self.done);
    }
}

#[test]
fn e3_publishing_is_atomic_for_those_who_connect() {
    lab::run("sockets::e3_publishing_is_atomic_for_those_who_connect", |lab| {
        let dataplane = lab.open();
        let servers = [tcp_server([127, 0, 0, 1], 1), tcp_server([127, 0, 0, 2], 2)].map(local);
        dataplane.apply(&publish(IPPROTO_TCP, 0, 1, &servers)).unwrap();
        let threads = [Connects::start(), Connects::start()];
        let mut generation = 1;
        while threads.iter().any(|thread| thread.done() < 3000) || generation < 4000 {
            generation += 1;
            let some = &servers[..1 + generation as usize % 2];
            // A range is given again only after many more publications: the quarantine.
            let base = generation % 16_384 * 8;
            dataplane.apply(&publish(IPPROTO_TCP, base, generation, some)).unwrap();
        }
        println!("{generation} publications");
        for thread in threads {
            thread.all_succeeded();
        }
        assert_eq!(dataplane.drops().unwrap()[&DropReason::ServiceRace], 0);
    });
}

#[test]
fn f05_connects_go_on_through_restarts() {
    lab::run("sockets::f05_connects_go_on_through_restarts", |lab: &Lab| {
        let server = tcp_server([127, 0, 0, 1], 1);
        let dataplane = lab.open();
        dataplane.apply(&publish(IPPROTO_TCP, 0, 1, &[local(server)])).unwrap();
        let mut held = TcpStream::connect(VIP).unwrap();
        drop(dataplane);
        assert_eq!(ask(TcpStream::connect(VIP).unwrap()), 1, "without a daemon");
        let thread = Connects::start();
        for log in [false, true, false, true, false] {
            let before = thread.done();
            let mut config = lab.config.clone();
            config.bpf_log = log;
            drop(Dataplane::open(&config).unwrap());
            while thread.done() < before + 100 {
                thread::yield_now();
            }
        }
        thread.all_succeeded();
        assert_eq!(held.peer_addr().unwrap(), SocketAddr::V4(VIP));
        let mut name = [0];
        held.read_exact(&mut name).unwrap();
        assert_eq!(name, [1]);
    });
}

#[test]
fn native_ipv6_passes_untouched() {
    lab::run("sockets::native_ipv6_passes_untouched", |lab| {
        let dataplane = lab.open();
        dataplane.apply(&publish(IPPROTO_TCP, 0, 1, &[])).unwrap();
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 80)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
    });
}
