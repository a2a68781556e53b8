//! Services at the socket: connect, sendmsg, recvmsg and getpeername.
//!
//! A translated connection costs nothing per packet. Deliberately absent: ClientIP affinity, which
//! comes with the Service issue (the compiler reports it), and native IPv6.

use longshore_abi::service::{FLAG_LOCAL_ONLY, FLAG_REMOTE_EXISTS};
use longshore_abi::{Addr, Backend, DropReason, ServiceKey, ServiceValue, SocketState, View};

/// The address that a hook may read and rewrite: the destination, or the source that recvmsg and
/// getpeername are about to show.
pub trait SocketAddress {
    /// IPv4 as v4-mapped, from either socket family.
    fn addr(&self) -> Addr;
    /// Network byte order.
    fn port(&self) -> u16;
    /// IP protocol; 0: not one that Services know.
    fn proto(&self) -> u8;
    /// Keeps the socket's family: an IPv4 socket gets IPv4, an IPv6 socket v4-mapped.
    fn set(&mut self, addr: &Addr, port: u16);
}

pub trait ServiceMaps {
    fn service(&self, key: &ServiceKey) -> Option<ServiceValue>;
    fn backend(&self, slot: u32) -> Option<Backend>;
    fn random(&self) -> u32;
    /// What this socket remembers.
    fn socket(&self) -> Option<SocketState>;
    /// Whether it could be remembered (memory).
    fn set_socket(&self, state: &SocketState) -> bool;
}

/// What becomes of the system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketVerdict {
    /// Goes on, with the address as it is.
    Pass,
    /// Goes on, to this backend.
    Translated(SocketState),
    /// No endpoints: ECONNREFUSED (B26).
    Refuse,
    /// EHOSTUNREACH at once: what a packet path would drop until the caller's own timeout (B24).
    Drop(DropReason),
}

/// connect(2), TCP and UDP.
#[inline(always)]
pub fn connect<A: SocketAddress, M: ServiceMaps>(address: &mut A, maps: &M) -> SocketVerdict {
    let Some(key) = service_key(address) else {
        return SocketVerdict::Pass;
    };
    let Some(row) = maps.service(&key) else {
        // A UDP socket that leaves a Service. Where two hooks see one call (cgroup root and v2
        // root), the second sees the backend that the first chose: that is not leaving.
        if let Some(state) = maps.socket()
            && state.generation != 0
            && !is_backend(&state, address)
        {
            maps.set_socket(&SocketState { generation: 0, ..state });
        }
        return SocketVerdict::Pass;
    };
    translate(address, maps, &key, row)
}

/// sendto(2) and sendmsg(2) of UDP with an address. A socket keeps its backend while the Service
/// is as it was.
#[inline(always)]
pub fn sendmsg<A: SocketAddress, M: ServiceMaps>(address: &mut A, maps: &M) -> SocketVerdict {
    let Some(key) = service_key(address) else {
        return SocketVerdict::Pass;
    };
    let Some(row) = maps.service(&key) else {
        return SocketVerdict::Pass;
    };
    if let Some(state) = maps.socket()
        && state.vip == key.addr
        && state.vip_port == key.port
        && state.service == row.service
        && state.generation == row.generation
        && row.count != 0
    {
        address.set(&state.backend, state.backend_port);
        return SocketVerdict::Translated(state);
    }
    translate(address, maps, &key, row)
}

/// recvmsg(2) of UDP and getpeername(2): the caller sees the address that it asked for.
#[inline(always)]
pub fn show<A: SocketAddress, M: ServiceMaps>(address: &mut A, maps: &M) {
    if let Some(state) = maps.socket()
        && state.generation != 0
        && is_backend(&state, address)
    {
        address.set(&state.vip, state.vip_port);
    }
}

#[inline(always)]
fn is_backend<A: SocketAddress>(state: &SocketState, address: &A) -> bool {
    state.backend == address.addr() && state.backend_port == address.port()
}

#[inline(always)]
fn service_key<A: SocketAddress>(address: &A) -> Option<ServiceKey> {
    let (addr, proto) = (address.addr(), address.proto());
    if proto == 0 {
        return None;
    }
    addr.as_v4_raw()?;
    Some(ServiceKey { addr, port: address.port(), proto, view: View::Internal as u8 })
}

#[inline(always)]
fn translate<A: SocketAddress, M: ServiceMaps>(
    address: &mut A,
    maps: &M,
    key: &ServiceKey,
    row: ServiceValue,
) -> SocketVerdict {
    let mut row = row;
    let mut tries = 0;
    while tries < 2 {
        let backend = match pick(maps, &row) {
            Pick::Backend(backend) => backend,
            Pick::Refuse => return SocketVerdict::Refuse,
            Pick::Drop(reason) => return SocketVerdict::Drop(reason),
            Pick::Race => {
                // The element was recycled between its lookup and the slot's: look again, once.
                tries += 1;
                match maps.service(key) {
                    Some(again) => row = again,
                    None => return SocketVerdict::Refuse,
                }
                continue;
            }
        };
        let state = SocketState {
            vip: key.addr,
            backend: backend.addr,
            vip_port: key.port,
            backend_port: backend.port,
            service: row.service,
            generation: row.generation,
            flags: 0,
        };
        // Without memory for it getpeername shows the backend: better than no connection.
        maps.set_socket(&state);
        address.set(&state.backend, state.backend_port);
        return SocketVerdict::Translated(state);
    }
    SocketVerdict::Drop(DropReason::ServiceRace)
}

enum Pick {
    Backend(Backend),
    Refuse,
    Drop(DropReason),
    Race,
}

#[inline(always)]
fn pick<M: ServiceMaps>(maps: &M, row: &ServiceValue) -> Pick {
    let count = if row.flags & FLAG_LOCAL_ONLY == 0 {
        row.count
    } else {
        if row.count_local == 0 && (row.count != 0 || row.flags & FLAG_REMOTE_EXISTS != 0) {
            return Pick::Drop(DropReason::NoLocalEndpoint);
        }
        row.count_local
    };
    if count == 0 {
        return Pick::Refuse;
    }
    // Without a modulo: the high word of random × count.
    let offset = ((u64::from(maps.random()) * u64::from(count)) >> 32) as u32;
    match maps.backend(row.base.wrapping_add(offset)) {
        Some(backend) if backend.service == row.service && backend.generation == row.generation => {
            Pick::Backend(backend)
        }
        _ => Pick::Race,
    }
}
