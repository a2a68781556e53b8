//! The maps of `longshore-abi`, and the packet crate's traits over them.
//!
//! Names and sizes are those of `longshore_abi::names`; a test of the daemon compares them.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::btf_map;
use longshore_abi::names::{
    BACKENDS_MAX, CIDRS_MAX, ENDPOINTS_MAX, FLOWS_ANY_MAX, FLOWS_TCP_MAX, FRAGMENTS_MAX,
    GROUPS_MAX, PEERS_MAX, PORTS_MAX, RANGES_MAX, SERVICES_MAX,
};
use longshore_abi::{
    Addr, Backend, CidrKey, DropReason, Endpoint, FlowKey, FlowValue, FragmentKey, FragmentValue,
    GroupHeader, IPPROTO_TCP, Mask, PeerKey, PortKey, RangeKey, ServiceKey, ServiceValue,
    SocketState,
};
use longshore_packet::{End, Maps, Service};

/// What follows `prefix_len` in a [`RangeKey`].
type RangeData = [u8; 12];
/// A [`Mask`] as it lies in a trie node: right after 12 bytes of key, so aligned to 4.
type RangeMask = [u32; 8];
type CidrData = [u8; 16];

#[btf_map(name = "services")]
pub static SERVICES: HashMap<ServiceKey, ServiceValue, { SERVICES_MAX as usize }> = HashMap::new();
#[btf_map(name = "backends")]
pub static BACKENDS: Array<Backend, { BACKENDS_MAX as usize }> = Array::new();
#[btf_map(name = "sockets")]
pub static SOCKETS: SkStorage<SocketState> = SkStorage::new();
#[btf_map(name = "endpoints")]
static ENDPOINTS: HashMap<Addr, Endpoint, { ENDPOINTS_MAX as usize }> = HashMap::new();
#[btf_map(name = "cidrs")]
static CIDRS: LpmTrie<CidrData, u64, { CIDRS_MAX as usize }> = LpmTrie::new();
#[btf_map(name = "groups")]
static GROUPS: HashMap<u64, GroupHeader, { GROUPS_MAX as usize }> = HashMap::new();
#[btf_map(name = "peers")]
static PEERS: HashMap<PeerKey, Mask, { PEERS_MAX as usize }> = HashMap::new();
#[btf_map(name = "ports")]
static PORTS: HashMap<PortKey, Mask, { PORTS_MAX as usize }> = HashMap::new();
#[btf_map(name = "ranges")]
static RANGES: LpmTrie<RangeData, RangeMask, { RANGES_MAX as usize }> = LpmTrie::new();
#[btf_map(name = "flows_tcp")]
static FLOWS_TCP: LruHashMap<FlowKey, FlowValue, { FLOWS_TCP_MAX as usize }> = LruHashMap::new();
#[btf_map(name = "flows_any")]
static FLOWS_ANY: LruHashMap<FlowKey, FlowValue, { FLOWS_ANY_MAX as usize }> = LruHashMap::new();
#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, { FRAGMENTS_MAX as usize }> =
    LruHashMap::new();
#[btf_map(name = "drops")]
static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();

#[inline(always)]
pub fn count_drop(reason: DropReason) {
    if let Some(count) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is this CPU's own element, valid until the program ends.
        unsafe { *count += 1 };
    }
}

/// The kernel's maps.
pub struct KernelMaps;

#[inline(always)]
fn get<K, V, const N: usize>(map: &'static HashMap<K, V, N>, key: &K) -> Option<&'static V> {
    // SAFETY: the element stays readable until the program ends; that it may be recycled for
    // another key meanwhile is what generations and quarantines are for.
    unsafe { map.get(key) }
}

impl Maps for KernelMaps {
    #[inline(always)]
    fn endpoint(&self, addr: &Addr) -> Option<&Endpoint> {
        get(&ENDPOINTS, addr)
    }

    #[inline(always)]
    fn cidr_class(&self, key: &CidrKey) -> Option<u64> {
        // SAFETY: a `CidrKey` is a prefix length and 16 bytes, as this `Key` is, without padding.
        let key = unsafe { &*core::ptr::from_ref(key).cast::<Key<CidrData>>() };
        CIDRS.get(key).copied()
    }

    #[inline(always)]
    fn group(&self, group: u64) -> Option<&GroupHeader> {
        get(&GROUPS, &group)
    }

    #[inline(always)]
    fn peer(&self, key: &PeerKey) -> Option<&Mask> {
        get(&PEERS, key)
    }

    #[inline(always)]
    fn port(&self, key: &PortKey) -> Option<&Mask> {
        get(&PORTS, key)
    }

    #[inline(always)]
    fn range(&self, key: &RangeKey) -> Option<Mask> {
        // SAFETY: a `RangeKey` is a prefix length and 12 bytes, as this `Key` is, without padding.
        let key = unsafe { &*core::ptr::from_ref(key).cast::<Key<RangeData>>() };
        let m = RANGES.get(key)?;
        let word = |i: usize| {
            let (first, second) = (m[i].to_ne_bytes(), m[i + 1].to_ne_bytes());
            u64::from_ne_bytes([
                first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3],
            ])
        };
        Some(Mask { bits: [word(0), word(2), word(4), word(6)] })
    }

    #[inline(always)]
    fn with_flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        let flow = if key.proto == IPPROTO_TCP {
            FLOWS_TCP.get_ptr_mut(key)
        } else {
            FLOWS_ANY.get_ptr_mut(key)
        };
        // SAFETY: the element stays mapped until the program ends. Another CPU may write it at
        // the same time: every field is one aligned word, and a lost flag is set again by the
        // flow's next packet.
        flow.map(|flow| f(unsafe { &mut *flow }))
    }

    #[inline(always)]
    fn insert_flow(&self, key: &FlowKey, value: &FlowValue) {
        let _ = if key.proto == IPPROTO_TCP {
            FLOWS_TCP.insert(key, value, 0)
        } else {
            FLOWS_ANY.insert(key, value, 0)
        };
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: as in `get`.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn insert_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        let _ = FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn evaluate(&self, src: &End, dst: &End, service: Service) -> Result<(), DropReason> {
        let packed = u32::from(service.port) << 8 | u32::from(service.proto);
        match policy(src, dst, packed) {
            ALLOW => Ok(()),
            DENY_EGRESS => Err(DropReason::PolicyEgress),
            _ => Err(DropReason::PolicyIngress),
        }
    }
}

const ALLOW: u32 = 0;
const DENY_EGRESS: u32 = 1;
const DENY_INGRESS: u32 = 2;

/// A global function: the verifier walks it once, for any arguments, and not once for each state
/// of its callers. `service`: port (as in the packet) and protocol.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn policy(src: *const End, dst: *const End, service: u32) -> u32 {
    // SAFETY: null, or an `End` of the caller's: the verifier checks that too.
    let (src, dst) = unsafe { (src.as_ref(), dst.as_ref()) };
    let (Some(src), Some(dst)) = (src, dst) else {
        return DENY_INGRESS;
    };
    let service = Service { port: (service >> 8) as u16, proto: service as u8 };
    match longshore_packet::policy::evaluate(&KernelMaps, src, dst, service) {
        Ok(()) => ALLOW,
        Err(DropReason::PolicyEgress) => DENY_EGRESS,
        Err(_) => DENY_INGRESS,
    }
}
