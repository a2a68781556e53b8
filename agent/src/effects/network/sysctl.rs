//! Sysctls below `net.`: they belong to the daemon's network namespace. No other one is touched.

use super::NetworkError;

/// Writes `value` unless it is there already. `path` is below `/proc/sys` and begins with `net/`.
///
/// # Errors
/// The file is missing or read-only, or the path leaves `net/`.
pub fn set(path: &str, value: &str) -> Result<(), NetworkError> {
    if !path.starts_with("net/") {
        let refused = std::io::Error::other("only sysctls of the network namespace are touched");
        return Err(NetworkError::io(format!("set {path}"))(refused));
    }
    let file = format!("/proc/sys/{path}");
    if std::fs::read_to_string(&file).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    std::fs::write(&file, value)
        .map_err(NetworkError::io(format!("set {} to {value}", path.replace('/', "."))))
}

/// Packets of pods are routed.
///
/// # Errors
/// See [`set`].
pub fn enable_forwarding() -> Result<(), NetworkError> {
    set("net/ipv4/ip_forward", "1")
}

/// The host side of a pod's veth takes no router advertisements and speaks no IPv6
/// (CVE-2020-10749). A kernel without IPv6 has nothing to close.
///
/// # Errors
/// See [`set`].
pub fn close_ipv6(interface: &str) -> Result<(), NetworkError> {
    let directory = format!("/proc/sys/net/ipv6/conf/{interface}");
    if !std::path::Path::new(&directory).is_dir() {
        return Ok(());
    }
    set(&format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
    set(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "1")
}
