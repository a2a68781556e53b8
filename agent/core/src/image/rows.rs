//! Logical names as map keys, and what one [`MapOp`] does to the kernel's rows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use longshore_abi as abi;

use super::{Frontend, KernelRows, MapOp};

/// An address as it stands in keys: IPv4 is v4-mapped.
pub fn addr_of(ip: IpAddr) -> abi::Addr {
    match ip {
        IpAddr::V4(ip) => abi::Addr::v4(ip.octets()),
        IpAddr::V6(ip) => abi::Addr::v6(ip.octets()),
    }
}

/// The address behind a key.
pub fn ip_of(addr: abi::Addr) -> IpAddr {
    match addr.as_v4_raw() {
        Some(raw) => IpAddr::V4(Ipv4Addr::from(raw.to_ne_bytes())),
        None => IpAddr::V6(Ipv6Addr::from(addr.octets())),
    }
}

/// Host bits are cut; an IPv4 prefix is 96 bits longer in the trie.
pub fn cidr_key_of(net: IpNet) -> abi::CidrKey {
    let net = net.trunc();
    let prefix_len = match net {
        IpNet::V4(net) => 96 + u32::from(net.prefix_len()),
        IpNet::V6(net) => u32::from(net.prefix_len()),
    };
    abi::CidrKey { prefix_len, addr: addr_of(net.addr()) }
}

/// The prefix behind a key; `None` when the key is not one that [`cidr_key_of`] makes.
pub fn cidr_of(key: abi::CidrKey) -> Option<IpNet> {
    let ip = ip_of(key.addr);
    let length = if ip.is_ipv4() { key.prefix_len.checked_sub(96)? } else { key.prefix_len };
    IpNet::new(ip, u8::try_from(length).ok()?).ok()
}

pub fn service_key_of(frontend: &Frontend) -> abi::ServiceKey {
    abi::ServiceKey {
        addr: addr_of(frontend.addr),
        port: frontend.port.to_be(),
        proto: frontend.proto.number(),
        view: frontend.view as u8,
    }
}

impl KernelRows {
    /// What the kernel's maps hold after `op`: the model of tests, and of `maps diff`.
    pub fn apply(&mut self, op: &MapOp) {
        match *op {
            MapOp::PutService(key, value) => drop(self.services.insert(key, value)),
            MapOp::DelService(key) => drop(self.services.remove(&key)),
            MapOp::PutBackend(slot, value) if value.generation == 0 => {
                self.backends.remove(&slot);
            }
            MapOp::PutBackend(slot, value) => drop(self.backends.insert(slot, value)),
            MapOp::PutEndpoint(key, value) => drop(self.endpoints.insert(key, value)),
            MapOp::DelEndpoint(key) => drop(self.endpoints.remove(&key)),
            MapOp::PutCidr(key, value) => drop(self.cidrs.insert(key, value)),
            MapOp::DelCidr(key) => drop(self.cidrs.remove(&key)),
            MapOp::PutGroup(key, value) => drop(self.groups.insert(key, value)),
            MapOp::DelGroup(key) => drop(self.groups.remove(&key)),
            MapOp::PutPeer(key, value) => drop(self.peers.insert(key, value)),
            MapOp::DelPeer(key) => drop(self.peers.remove(&key)),
            MapOp::PutPort(key, value) => drop(self.ports.insert(key, value)),
            MapOp::DelPort(key) => drop(self.ports.remove(&key)),
            MapOp::PutRange(key, value) => drop(self.ranges.insert(key, value)),
            MapOp::DelRange(key) => drop(self.ranges.remove(&key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_the_address_they_were_made_of() {
        for net in ["10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "2001:db8::/32", "::/0"] {
            let net: IpNet = net.parse().unwrap();
            assert_eq!(cidr_of(cidr_key_of(net)), Some(net));
            assert_eq!(ip_of(addr_of(net.addr())), net.addr());
        }
        let cut = cidr_key_of("10.1.2.3/8".parse().unwrap());
        assert_eq!(cut, cidr_key_of("10.0.0.0/8".parse().unwrap()));
        assert_eq!(cut.prefix_len, 104);
    }
}
