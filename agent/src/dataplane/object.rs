//! The embedded eBPF objects, written by build.rs.

/// What runs otherwise: no message code, no message map.
pub static PLAIN: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/longshore-ebpf"));
/// With messages, for `--bpf-log`.
pub static WITH_LOG: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/longshore-ebpf-log"));

/// Hooks of a pod's veth: ingress and egress of its host side.
pub const POD_OUT: &str = "pod_out";
pub const POD_IN: &str = "pod_in";

/// Socket hooks; each has a twin `…_host` for the v2 root.
pub const SOCKET_HOOKS: [&str; 8] = [
    "connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeer4", "getpeer6",
];

/// The CNI shim, a static program.
pub static CNI_SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/longshore-cni"));
