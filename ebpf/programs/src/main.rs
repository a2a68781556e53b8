//! The eBPF programs of Longshore: one file per family of hooks, and nothing but translation.
//! Contexts become `Packet` or `SocketAddress`, maps become `Maps`, verdicts become return codes;
//! what to decide stands in `longshore-packet`.
#![no_std]
#![no_main]

mod maps;
mod pod;
mod socket;

#[cfg(feature = "log")]
mod log;

// `bpf_set_retval`, `bpf_redirect_peer` and others are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses programs with a reachable endless loop: no panic gets loaded.
    loop {}
}
