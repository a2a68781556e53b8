//! The socket hooks over maps in memory.

mod host;

use host::{Address, Services};
use longshore_abi::service::{FLAG_LOCAL_ONLY, FLAG_REMOTE_EXISTS};
use longshore_abi::{
    Addr, Backend, DropReason, IPPROTO_TCP, IPPROTO_UDP, ServiceKey, ServiceValue,
};
use longshore_packet::SocketVerdict;
use longshore_packet::socket::{connect, sendmsg, show};

const VIP: [u8; 4] = [10, 96, 0, 10];
const ROW: ServiceValue = ServiceValue {
    base: 100,
    generation: 3,
    service: 9,
    count: 4,
    count_local: 1,
    flags: 0,
    affinity_s: 0,
    reserved: [0; 2],
};

fn address(addr: [u8; 4], port: u16, proto: u8) -> Address {
    Address { addr: Addr::v4(addr), port, proto }
}

fn vip(proto: u8) -> Address {
    address(VIP, 53, proto)
}

fn key(proto: u8) -> ServiceKey {
    ServiceKey { addr: Addr::v4(VIP), port: 53_u16.to_be(), proto, view: 0 }
}

/// Slots 100–103 are backends 10.0.0.0–3, port 8000 + n.
fn services(row: ServiceValue) -> Services {
    let mut services = Services::default();
    for proto in [IPPROTO_TCP, IPPROTO_UDP] {
        services.services.borrow_mut().insert(key(proto), row);
    }
    for n in 0..4_u8 {
        let backend = Backend {
            addr: Addr::v4([10, 0, 0, n]),
            port: (8000 + u16::from(n)).to_be(),
            service: 9,
            generation: 3,
            ..Backend::default()
        };
        services.backends.insert(100 + u32::from(n), backend);
    }
    services
}

fn backend(n: u8, proto: u8) -> Address {
    address([10, 0, 0, n], 8000 + u16::from(n), proto)
}

#[test]
fn b10_connect_goes_to_each_backend_alike() {
    let services = services(ROW);
    for n in 0..4_u8 {
        services.random.set(u32::from(n) << 30);
        let mut address = vip(IPPROTO_TCP);
        assert!(matches!(connect(&mut address, &services), SocketVerdict::Translated(_)));
        assert_eq!(address, backend(n, IPPROTO_TCP));
        show(&mut address, &services);
        assert_eq!(address, vip(IPPROTO_TCP), "getpeername shows the Service");
    }
}

#[test]
fn b10_other_addresses_ports_and_protocols_pass() {
    let services = services(ROW);
    for other in [
        address([10, 96, 0, 11], 53, IPPROTO_TCP),
        address(VIP, 54, IPPROTO_TCP),
        address(VIP, 53, 0),
        Address { addr: Addr::v6([1; 16]), port: 53, proto: IPPROTO_TCP },
    ] {
        let mut address = other;
        assert_eq!(connect(&mut address, &services), SocketVerdict::Pass);
        assert_eq!(sendmsg(&mut address, &services), SocketVerdict::Pass);
        assert_eq!(address, other);
    }
}

#[test]
fn b26_no_endpoints_refuse() {
    let none = services(ServiceValue { count: 0, count_local: 0, ..ROW });
    assert_eq!(connect(&mut vip(IPPROTO_TCP), &none), SocketVerdict::Refuse);
    assert_eq!(sendmsg(&mut vip(IPPROTO_UDP), &none), SocketVerdict::Refuse);
}

#[test]
fn b24_internal_traffic_policy_local() {
    let local = ServiceValue { flags: FLAG_LOCAL_ONLY, ..ROW };
    let services_ = services(local);
    services_.random.set(u32::MAX);
    let mut address = vip(IPPROTO_TCP);
    connect(&mut address, &services_);
    assert_eq!(address, backend(0, IPPROTO_TCP), "the one local backend");
    let dropped = SocketVerdict::Drop(DropReason::NoLocalEndpoint);
    for (row, expect) in [
        (ServiceValue { count_local: 0, ..local }, dropped),
        (
            ServiceValue {
                count: 0,
                count_local: 0,
                flags: FLAG_LOCAL_ONLY | FLAG_REMOTE_EXISTS,
                ..ROW
            },
            dropped,
        ),
        (ServiceValue { count: 0, count_local: 0, ..local }, SocketVerdict::Refuse),
    ] {
        assert_eq!(connect(&mut vip(IPPROTO_TCP), &services(row)), expect);
    }
}

#[test]
fn e3_a_row_that_changes_under_the_reader_is_read_again_once() {
    // The first lookup sees a range that was given away meanwhile.
    let services_ = services(ServiceValue { generation: 2, ..ROW });
    services_.published.set(Some(ROW));
    let mut address = vip(IPPROTO_TCP);
    assert!(matches!(connect(&mut address, &services_), SocketVerdict::Translated(_)));
    assert_eq!(address, backend(0, IPPROTO_TCP));
    // Twice in a row is given up.
    let services_ = services(ServiceValue { generation: 2, ..ROW });
    let verdict = connect(&mut vip(IPPROTO_TCP), &services_);
    assert_eq!(verdict, SocketVerdict::Drop(DropReason::ServiceRace));
}

#[test]
fn e4_an_unconnected_socket_keeps_its_backend_until_the_service_changes() {
    let services_ = services(ROW);
    let send = || {
        let mut address = vip(IPPROTO_UDP);
        sendmsg(&mut address, &services_);
        address
    };
    assert_eq!(send(), backend(0, IPPROTO_UDP));
    services_.random.set(u32::MAX);
    assert_eq!(send(), backend(0, IPPROTO_UDP), "kept");
    let mut reply = backend(0, IPPROTO_UDP);
    show(&mut reply, &services_);
    assert_eq!(reply, vip(IPPROTO_UDP), "recvmsg shows the Service");
    let mut stranger = backend(1, IPPROTO_UDP);
    show(&mut stranger, &services_);
    assert_eq!(stranger, backend(1, IPPROTO_UDP));
    let row = ServiceValue { base: 200, generation: 4, count: 1, ..ROW };
    services_.services.borrow_mut().insert(key(IPPROTO_UDP), row);
    let mut address = vip(IPPROTO_UDP);
    let moved = Services {
        backends: [(
            200,
            Backend {
                addr: Addr::v4([10, 0, 0, 7]),
                port: 8007_u16.to_be(),
                service: 9,
                generation: 4,
                ..Backend::default()
            },
        )]
        .into(),
        ..services_.clone()
    };
    sendmsg(&mut address, &moved);
    assert_eq!(address, backend(7, IPPROTO_UDP));
}

#[test]
fn e4_a_socket_that_leaves_a_service_shows_what_it_is_connected_to() {
    let services_ = services(ROW);
    connect(&mut vip(IPPROTO_UDP), &services_);
    let mut direct = backend(0, IPPROTO_UDP);
    // The hook at the v2 root sees the same call after the one at the cgroup root.
    assert_eq!(connect(&mut direct, &services_), SocketVerdict::Pass);
    show(&mut direct, &services_);
    assert_eq!(direct, vip(IPPROTO_UDP));
    connect(&mut address([9, 9, 9, 9], 53, IPPROTO_UDP), &services_);
    let mut direct = backend(0, IPPROTO_UDP);
    show(&mut direct, &services_);
    assert_eq!(direct, backend(0, IPPROTO_UDP));
}
