//! Socket hooks. Each exists twice: for the cgroup root of this node's pods, and (`_host`) for the
//! root of the v2 hierarchy, where it serves only sockets of the daemon's own network namespace:
//! the node's host processes may stand outside of the node's cgroups, and other nodes' too.

use aya_ebpf::EbpfContext;
use aya_ebpf::Global;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_set_retval};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use longshore_abi::{
    Addr, Backend, IPPROTO_TCP, IPPROTO_UDP, ServiceKey, ServiceValue, SocketState,
};
use longshore_packet::socket::{connect, sendmsg, show};
use longshore_packet::{ServiceMaps, SocketAddress, SocketVerdict};

use crate::maps::{BACKENDS, SERVICES, SOCKETS, count_drop};

/// Cookie of the daemon's network namespace; 0 matches none. Set by the daemon at load.
#[unsafe(no_mangle)]
static OWN_NETNS_COOKIE: Global<u64> = Global::new(0);

const PROTO_TCP: u32 = IPPROTO_TCP as u32;
const PROTO_UDP: u32 = IPPROTO_UDP as u32;
/// Its subflows are TCP connections to the same address.
const PROTO_MPTCP: u32 = 262;

const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// The address of the hook's context; `V6`: of an IPv6 socket.
struct Address<'a, const V6: bool>(&'a SockAddrContext);

impl<const V6: bool> Address<'_, V6> {
    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.0.sock_addr
    }
}

impl<const V6: bool> SocketAddress for Address<'_, V6> {
    #[inline(always)]
    fn addr(&self) -> Addr {
        // SAFETY: the context is valid; the kernel lets the hooks of each family read its fields.
        unsafe {
            if V6 {
                let words = &raw const (*self.raw()).user_ip6;
                Addr { words: [(*words)[0], (*words)[1], (*words)[2], (*words)[3]] }
            } else {
                Addr::v4_raw((*self.raw()).user_ip4)
            }
        }
    }

    #[inline(always)]
    fn port(&self) -> u16 {
        // SAFETY: as above. Network byte order in the low half of the word.
        unsafe { (*self.raw()).user_port as u16 }
    }

    #[inline(always)]
    fn proto(&self) -> u8 {
        // SAFETY: as above.
        match unsafe { (*self.raw()).protocol } {
            PROTO_TCP | PROTO_MPTCP => IPPROTO_TCP,
            PROTO_UDP => IPPROTO_UDP,
            _ => 0,
        }
    }

    #[inline(always)]
    fn set(&mut self, addr: &Addr, port: u16) {
        // SAFETY: as above; these fields are writable in every hook of this file.
        unsafe {
            if V6 {
                // The other words are those of a v4-mapped address already.
                (*self.raw()).user_ip6[3] = addr.words[3];
            } else {
                (*self.raw()).user_ip4 = addr.words[3];
            }
            (*self.raw()).user_port = u32::from(port);
        }
    }
}

struct Sockets<'a>(&'a SockAddrContext);

impl ServiceMaps for Sockets<'_> {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceValue> {
        // SAFETY: the element stays readable until the program ends; recycling is what the
        // generation check is for.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn backend(&self, slot: u32) -> Option<Backend> {
        BACKENDS.get(slot).copied()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and cannot fail.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn socket(&self) -> Option<SocketState> {
        let state = SOCKETS.get_ptr_mut(self.0);
        // SAFETY: null or this socket's element, valid until the program ends.
        unsafe { state.as_ref() }.copied()
    }

    #[inline(always)]
    fn set_socket(&self, state: &SocketState) -> bool {
        let mut value = *state;
        let element = SOCKETS.get_or_insert_ptr_mut(self.0, Some(&mut value));
        // SAFETY: as in `socket`.
        match unsafe { element.as_mut() } {
            Some(element) => {
                *element = *state;
                true
            }
            None => false,
        }
    }
}

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

#[inline(always)]
fn is_own(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid; the helper cannot fail.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) == OWN_NETNS_COOKIE.load() }
}

#[inline(always)]
fn enforce(ctx: &SockAddrContext, verdict: SocketVerdict) -> i32 {
    let errno = match verdict {
        SocketVerdict::Pass => return ALLOW,
        SocketVerdict::Translated(state) => {
            #[cfg(feature = "log")]
            crate::log::translated(ctx, &state);
            let _ = (ctx, state);
            return ALLOW;
        }
        SocketVerdict::Refuse => {
            #[cfg(feature = "log")]
            crate::log::refused(ctx);
            ECONNREFUSED
        }
        SocketVerdict::Drop(reason) => {
            count_drop(reason);
            #[cfg(feature = "log")]
            crate::log::socket_dropped(ctx, reason);
            EHOSTUNREACH
        }
    };
    // SAFETY: the helper takes a number; the kernel has it in connect and sendmsg hooks.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}

#[inline(always)]
fn on_connect<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    enforce(ctx, connect(&mut Address::<V6>(ctx), &Sockets(ctx)))
}

#[inline(always)]
fn on_sendmsg<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    enforce(ctx, sendmsg(&mut Address::<V6>(ctx), &Sockets(ctx)))
}

#[inline(always)]
fn on_show<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    show(&mut Address::<V6>(ctx), &Sockets(ctx));
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    on_connect::<false>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    on_connect::<true>(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    on_sendmsg::<false>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    on_sendmsg::<true>(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    on_show::<false>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    on_show::<true>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeer4(ctx: SockAddrContext) -> i32 {
    on_show::<false>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeer6(ctx: SockAddrContext) -> i32 {
    on_show::<true>(&ctx)
}

#[cgroup_sock_addr(connect4)]
pub fn connect4_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_connect::<false>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_connect::<true>(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_sendmsg::<false>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_sendmsg::<true>(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_show::<false>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_show::<true>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeer4_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_show::<false>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeer6_host(ctx: SockAddrContext) -> i32 {
    if !is_own(&ctx) {
        return ALLOW;
    }
    on_show::<true>(&ctx)
}
