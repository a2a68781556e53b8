//! Frames in memory and maps as trees: what `cargo test` runs the packet logic over. Included by
//! the tests of this crate and by `tests/bpf`, which compares it with the kernel.
#![allow(dead_code, reason = "each test file uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use longshore_abi::{
    Addr, Backend, CidrKey, Endpoint, FlowKey, FlowValue, FragmentKey, FragmentValue, GroupHeader,
    IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP, Mask, PeerKey, PortKey, RangeKey, ServiceKey,
    ServiceValue, SocketState,
};
use longshore_packet::{Maps, Packet, ServiceMaps, SocketAddress};

/// A frame and where the hook sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub vlan: bool,
    pub ifindex: u32,
    pub ingress_ifindex: u32,
}

impl Packet for Frame {
    fn frame_len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap()
    }

    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = usize::try_from(offset).unwrap();
        self.bytes.get(start..start + N)?.try_into().ok()
    }

    fn bytes_at<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.bytes(offset)
    }

    fn has_vlan_tag(&self) -> bool {
        self.vlan
    }

    fn ifindex(&self) -> u32 {
        self.ifindex
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ingress_ifindex
    }
}

/// The maps of one node.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub endpoints: BTreeMap<Addr, Endpoint>,
    pub cidrs: BTreeMap<CidrKey, u64>,
    pub groups: BTreeMap<u64, GroupHeader>,
    pub peers: BTreeMap<PeerKey, Mask>,
    pub ports: BTreeMap<PortKey, Mask>,
    pub ranges: BTreeMap<RangeKey, Mask>,
    pub flows: RefCell<BTreeMap<FlowKey, FlowValue>>,
    pub fragments: RefCell<BTreeMap<FragmentKey, FragmentValue>>,
    pub now_ns: Cell<u64>,
}

/// The first `bits` of `bytes`, the rest zero.
fn masked<const N: usize>(bytes: [u8; N], bits: u32) -> [u8; N] {
    let mut out = [0; N];
    for bit in 0..bits as usize {
        out[bit / 8] |= bytes[bit / 8] & (0x80 >> (bit % 8));
    }
    out
}

pub fn cidr(addr: Addr, prefix_len: u32) -> CidrKey {
    CidrKey { prefix_len, addr: Addr::v6(masked(addr.octets(), prefix_len)) }
}

fn range_bytes(key: &RangeKey) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&key.group);
    bytes[8] = key.proto;
    bytes[9..11].copy_from_slice(&key.port);
    bytes
}

pub fn range(group: u64, proto: u8, port: u16, prefix_len: u32) -> RangeKey {
    let key = RangeKey {
        prefix_len,
        group: group.to_be_bytes(),
        proto,
        port: port.to_be_bytes(),
        reserved: 0,
    };
    let b = masked(range_bytes(&key), prefix_len);
    RangeKey {
        prefix_len,
        group: b[..8].try_into().unwrap(),
        proto: b[8],
        port: [b[9], b[10]],
        reserved: 0,
    }
}

impl Maps for Model {
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint> {
        self.endpoints.get(addr)
    }

    fn cidr_class(&self, key: &CidrKey) -> Option<u64> {
        let lens = (0..=key.prefix_len).rev();
        lens.filter_map(|len| self.cidrs.get(&cidr(key.addr, len))).next().copied()
    }

    fn group(&self, group: u64) -> Option<&GroupHeader> {
        self.groups.get(&group)
    }

    fn peer(&self, key: &PeerKey) -> Option<&Mask> {
        self.peers.get(key)
    }

    fn port(&self, key: &PortKey) -> Option<&Mask> {
        self.ports.get(key)
    }

    fn range(&self, key: &RangeKey) -> Option<Mask> {
        let group = u64::from_be_bytes(key.group);
        let port = u16::from_be_bytes(key.port);
        let lens = (0..=key.prefix_len).rev();
        lens.filter_map(|len| self.ranges.get(&range(group, key.proto, port, len))).next().copied()
    }

    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        self.flows.borrow_mut().get_mut(key).map(f)
    }

    fn insert_flow(&self, key: &FlowKey, value: &FlowValue) {
        self.flows.borrow_mut().insert(*key, *value);
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.borrow().get(key).copied()
    }

    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.borrow_mut().insert(*key, *value);
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
}

/// An IPv4 packet to be written as a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ip {
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub proto: u8,
    pub id: u16,
    /// Flags and offset, as the field has them.
    pub fragment: u16,
    pub payload: Vec<u8>,
}

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const FIN: u8 = 0x01;
pub const RST: u8 = 0x04;
pub const MORE_FRAGMENTS: u16 = 0x2000;

impl Ip {
    pub fn new(src: [u8; 4], dst: [u8; 4], proto: u8, payload: Vec<u8>) -> Self {
        Self { src, dst, proto, id: 7, fragment: 0, payload }
    }

    pub fn tcp(src: ([u8; 4], u16), dst: ([u8; 4], u16), flags: u8) -> Self {
        let mut payload = ports(src.1, dst.1);
        payload.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        Self::new(src.0, dst.0, IPPROTO_TCP, payload)
    }

    pub fn udp(src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Self {
        let mut payload = ports(src.1, dst.1);
        payload.extend([0, 12, 0, 0, b'p', b'i', b'n', b'g']);
        Self::new(src.0, dst.0, IPPROTO_UDP, payload)
    }

    pub fn icmp(src: [u8; 4], dst: [u8; 4], kind: u8, id: u16) -> Self {
        let [high, low] = id.to_be_bytes();
        Self::new(src, dst, IPPROTO_ICMP, vec![kind, 0, 0, 0, high, low, 0, 1])
    }

    /// Destination unreachable (3), time exceeded (11) or parameter problem (12) about `inner`.
    pub fn icmp_error(src: [u8; 4], dst: [u8; 4], kind: u8, inner: &Ip) -> Self {
        let mut payload = vec![kind, 4, 0, 0, 0, 0, 5, 0];
        let quote = inner.bytes();
        payload.extend(&quote[..quote.len().min(28)]);
        Self::new(src, dst, IPPROTO_ICMP, payload)
    }

    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = offset | if more { MORE_FRAGMENTS } else { 0 };
        self
    }

    /// The IPv4 packet.
    pub fn bytes(&self) -> Vec<u8> {
        let total = u16::try_from(20 + self.payload.len()).unwrap();
        let mut bytes = vec![0x45, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.proto, 0, 0]);
        bytes.extend(self.src);
        bytes.extend(self.dst);
        bytes.extend(&self.payload);
        bytes
    }

    /// In an Ethernet frame, seen at `ifindex`.
    pub fn at(&self, ifindex: u32) -> Frame {
        Frame { bytes: ethernet(0x0800, &self.bytes()), ifindex, ..Frame::default() }
    }

    /// In an Ethernet frame that came in at `ingress` and is about to leave at `ifindex`.
    pub fn through(&self, ingress_ifindex: u32, ifindex: u32) -> Frame {
        Frame { ingress_ifindex, ..self.at(ifindex) }
    }
}

fn ports(src: u16, dst: u16) -> Vec<u8> {
    [src.to_be_bytes(), dst.to_be_bytes()].concat()
}

pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// An address at a socket hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub addr: Addr,
    /// Host byte order.
    pub port: u16,
    pub proto: u8,
}

impl SocketAddress for Address {
    fn addr(&self) -> Addr {
        self.addr
    }

    fn port(&self) -> u16 {
        self.port.to_be()
    }

    fn proto(&self) -> u8 {
        self.proto
    }

    fn set(&mut self, addr: &Addr, port: u16) {
        self.addr = *addr;
        self.port = u16::from_be(port);
    }
}

/// The service maps, as one socket sees them.
#[derive(Clone, Debug, Default)]
pub struct Services {
    pub services: RefCell<BTreeMap<ServiceKey, ServiceValue>>,
    pub backends: BTreeMap<u32, Backend>,
    pub socket: Cell<Option<SocketState>>,
    pub random: Cell<u32>,
    /// What the row becomes after the next lookup: a publish in between.
    pub published: Cell<Option<ServiceValue>>,
}

impl ServiceMaps for Services {
    fn service(&self, key: &ServiceKey) -> Option<ServiceValue> {
        let row = self.services.borrow().get(key).copied();
        if let Some(next) = self.published.take() {
            self.services.borrow_mut().insert(*key, next);
        }
        row
    }

    fn backend(&self, slot: u32) -> Option<Backend> {
        self.backends.get(&slot).copied()
    }

    fn random(&self) -> u32 {
        self.random.get()
    }

    fn socket(&self) -> Option<SocketState> {
        self.socket.get()
    }

    fn set_socket(&self, state: &SocketState) -> bool {
        self.socket.set(Some(*state));
        true
    }
}
