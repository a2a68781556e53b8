//! Pod hooks on real interfaces: two pods as network namespaces of threads, and their node.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::{LinkOrder, SchedClassifier, TcAttach, TcAttachType};
use longshore::dataplane::Dataplane;
use longshore_abi::policy::{ISOLATED_INGRESS, LOCAL, NODE, OPEN};
use longshore_abi::{Addr, DropReason, Endpoint, GroupHeader};
use longshore_core::image::MapOp;
use nix::sched::{CloneFlags, unshare};

use crate::lab::{self, Lab};

const NODE_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, behind a veth of the lab's.
struct Pod {
    ip: Ipv4Addr,
    ifname: String,
    ifindex: u32,
    mac: [u8; 6],
    jobs: Sender<Job>,
}

impl Pod {
    fn new(number: u8) -> Self {
        let (ip, ifname) = (Ipv4Addr::new(10, 0, 0, number), format!("veth{number}"));
        let mac = [2, 0, 0, 0, 2, number];
        let (jobs, work): (Sender<Job>, Receiver<Job>) = channel();
        let (tell, told) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid()).unwrap();
            for job in work {
                job();
            }
        });
        let tid = told.recv().unwrap();
        let ifindex = 200 + u32::from(number);
        lab::ip(&format!(
            "link add {ifname} index {ifindex} type veth peer name eth0 address 02:00:00:00:02:{number:02x}"
        ));
        lab::ip(&format!("link set eth0 netns {tid}"));
        lab::ip(&format!("link set {ifname} address 02:00:00:00:01:01 up"));
        lab::ip(&format!("route add {ip}/32 dev {ifname}"));
        let pod = Self { ip, ifname, ifindex, mac, jobs };
        pod.run(move || {
            lab::ip("link set lo up");
            lab::ip(&format!("addr add {ip}/32 dev eth0"));
            lab::ip("link set eth0 up");
            lab::ip(&format!("route add {NODE_IP}/32 dev eth0"));
            lab::ip(&format!("route add default via {NODE_IP}"));
            lab::ip(&format!(
                "neigh add {NODE_IP} lladdr 02:00:00:00:01:01 dev eth0 nud permanent"
            ));
        });
        lab::ip(&format!(
            "neigh add {ip} lladdr 02:00:00:00:02:{number:02x} dev veth{number} nud permanent"
        ));
        pod
    }

    /// Runs a job in the pod.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = channel();
        self.jobs.send(Box::new(move || drop(tell.send(job())))).unwrap();
        told.recv().unwrap()
    }

    fn row(&self, flags: u32) -> MapOp {
        let row = Endpoint {
            class: 1,
            stamp: u64::from(flags) + 1,
            ingress: 7,
            ifindex: self.ifindex,
            flags: LOCAL | flags,
            mac: self.mac,
            ..Endpoint::default()
        };
        MapOp::PutEndpoint(Addr::v4(self.ip.octets()), row)
    }

    /// A server in the pod that echoes one connection after another.
    fn serve(&self) -> SocketAddr {
        self.serve_at(0)
    }

    fn serve_at(&self, port: u16) -> SocketAddr {
        let ip = self.ip;
        self.run(move || {
            let listener = TcpListener::bind((ip, port)).unwrap();
            let addr = listener.local_addr().unwrap();
            // The thread is made in the pod, so it is in its namespace.
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    thread::spawn(move || {
                        let mut byte = [0];
                        while stream.read_exact(&mut byte).is_ok() {
                            stream.write_all(&byte).unwrap();
                        }
                    });
                }
            });
            addr
        })
    }

    fn connect(&self, to: SocketAddr, timeout: Duration) -> Result<TcpStream, ErrorKind> {
        self.run(move || TcpStream::connect_timeout(&to, timeout).map_err(|e| e.kind()))
    }
}

fn echo(stream: &mut TcpStream, timeout: Duration) -> Result<(), ErrorKind> {
    stream.set_read_timeout(Some(timeout)).unwrap();
    stream.write_all(b"x").map_err(|error| error.kind())?;
    stream.read_exact(&mut [0]).map_err(|error| error.kind())
}

fn node(lab: &Lab) -> (Dataplane, Pod, Pod) {
    let dataplane = lab.open();
    lab::ip(&format!("addr add {NODE_IP}/32 dev lo"));
    let (a, b) = (Pod::new(1), Pod::new(2));
    for pod in [&a, &b] {
        dataplane.attach_pod(&pod.ifname).unwrap();
    }
    let row = Endpoint { flags: NODE, ..Endpoint::default() };
    dataplane.apply(&[MapOp::PutEndpoint(Addr::v4(NODE_IP.octets()), row)]).unwrap();
    (dataplane, a, b)
}

#[test]
fn c16_a_pod_is_closed_until_its_row_opens_it() {
    lab::run("pods::c16_a_pod_is_closed_until_its_row_opens_it", |lab| {
        let (dataplane, a, b) = node(lab);
        let server = b.serve();
        let drops = |reason| dataplane.drops().unwrap()[&reason];
        assert!(a.connect(server, SHORT).is_err(), "no rows");
        assert!(drops(DropReason::Closed) > 0);
        dataplane.apply(&[a.row(OPEN), b.row(0)]).unwrap();
        assert!(a.connect(server, SHORT).is_err(), "the peer is closed");
        assert!(drops(DropReason::PeerClosed) > 0);
        dataplane.apply(&[b.row(OPEN)]).unwrap();
        // Without forwarding in the node: straight from one namespace into the other.
        echo(&mut a.connect(server, LONG).unwrap(), LONG).unwrap();
    });
}

#[test]
fn c12_the_node_reaches_its_closed_pods() {
    lab::run("pods::c12_the_node_reaches_its_closed_pods", |lab| {
        let (_dataplane, a, _b) = node(lab);
        echo(&mut TcpStream::connect_timeout(&a.serve(), LONG).unwrap(), LONG).unwrap();
    });
}

#[test]
fn c15_a_policy_change_reaches_an_established_connection() {
    lab::run("pods::c15_a_policy_change_reaches_an_established_connection", |lab| {
        let (dataplane, a, b) = node(lab);
        let server = b.serve();
        let mut bits = longshore_abi::Mask::default();
        bits.bits[0] = 1;
        let allow = GroupHeader { any_peer: bits, any_port: bits, ..GroupHeader::default() };
        let ops = [MapOp::PutGroup(7, allow), a.row(OPEN), b.row(OPEN | ISOLATED_INGRESS)];
        dataplane.apply(&ops).unwrap();
        let mut stream = a.connect(server, LONG).unwrap();
        echo(&mut stream, LONG).unwrap();
        assert_eq!(dataplane.flow_rows().unwrap().len(), 1);
        // Another group, without a rule, under a new stamp.
        let MapOp::PutEndpoint(addr, row) = b.row(OPEN | ISOLATED_INGRESS) else { unreachable!() };
        let denied = Endpoint { ingress: 8, stamp: 99, ..row };
        let ops = [MapOp::PutGroup(8, GroupHeader::default()), MapOp::PutEndpoint(addr, denied)];
        dataplane.apply(&ops).unwrap();
        let cut = echo(&mut stream, SHORT).unwrap_err();
        assert!(matches!(cut, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{cut:?}");
        assert!(a.connect(server, SHORT).is_err(), "nor is a new one allowed");
        dataplane.apply(&[b.row(OPEN | ISOLATED_INGRESS)]).unwrap();
        // What was sent meanwhile arrives by retransmission.
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.read_exact(&mut [0]).unwrap();
    });
}

#[test]
fn c15_a_first_policy_reaches_a_connection_that_nobody_tracked() {
    lab::run("pods::c15_a_first_policy_reaches_a_connection_that_nobody_tracked", |lab| {
        let (dataplane, a, b) = node(lab);
        let server = b.serve_at(7000);
        dataplane.apply(&[a.row(OPEN), b.row(OPEN)]).unwrap();
        let mut stream = a.connect(server, LONG).unwrap();
        echo(&mut stream, LONG).unwrap();
        assert!(dataplane.flow_rows().unwrap().is_empty());
        // For ingress only: the server's own egress stays free.
        let deny = MapOp::PutGroup(7, GroupHeader::default());
        dataplane.apply(&[deny, b.row(OPEN | ISOLATED_INGRESS)]).unwrap();
        let cut = echo(&mut stream, SHORT).unwrap_err();
        assert!(matches!(cut, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{cut:?}");
        assert!(dataplane.flow_rows().unwrap().is_empty());
        // One that the server opens is none of its ingress policy's business.
        let other = a.serve_at(7000);
        echo(&mut b.connect(other, LONG).unwrap(), LONG).unwrap();
    });
}

#[test]
fn f05_attaching_again_replaces_in_place_under_traffic() {
    lab::run("pods::f05_attaching_again_replaces_in_place_under_traffic", |lab| {
        let (dataplane, a, b) = node(lab);
        let server = b.serve();
        dataplane.apply(&[a.row(OPEN), b.row(OPEN)]).unwrap();
        let mut stream = a.connect(server, LONG).unwrap();
        drop(dataplane);
        echo(&mut stream, LONG).unwrap();
        let dataplane = lab.open();
        for _ in 0..50 {
            assert!(dataplane.attach_pod("gone0").is_err());
            for pod in [&a, &b] {
                dataplane.attach_pod(&pod.ifname).unwrap();
            }
            echo(&mut stream, LONG).unwrap();
        }
        let filters = std::process::Command::new("tc")
            .args(["filter", "show", "dev", &a.ifname, "ingress"])
            .output()
            .unwrap();
        let filters = String::from_utf8(filters.stdout).unwrap();
        assert_eq!(filters.matches("handle").count(), 1, "{filters}");
    });
}

/// Not a judgement, but printed: why pod hooks are clsact filters.
#[test]
fn attaching_is_timed() {
    lab::run("pods::attaching_is_timed", |lab| {
        let dataplane = lab.open();
        let median = |mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 2]
        };
        let mut clsact = Vec::new();
        let mut tcx = Vec::new();
        for number in 0..9 {
            lab::ip(&format!("link add c{number} type veth peer name cp{number}"));
            let ifname = format!("c{number}");
            clsact.push(timed(|| dataplane.attach_pod(&ifname).unwrap()));
            let mut program = SchedClassifier::from_pin(lab.pin("progs/pod_in")).unwrap();
            let attach =
                TcAttach::Tcx { attach_type: TcAttachType::Ingress, order: LinkOrder::default() };
            let ifname = std::ffi::CString::new(format!("cp{number}")).unwrap();
            tcx.push(timed(|| {
                program.attach(ifname.as_c_str(), attach).unwrap();
            }));
        }
        println!(
            "clsact qdisc and both filters: {:?}; one tcx link: {:?}",
            median(clsact),
            median(tcx)
        );
    });
}

fn timed(call: impl FnOnce()) -> Duration {
    let start = Instant::now();
    call();
    start.elapsed()
}
