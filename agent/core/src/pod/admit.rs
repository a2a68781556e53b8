//! Rejections that the API has, before anything of the pod exists: phase Failed (A74, A75, A138).
//!
//! Deliberately absent: what depends on the node's other pods (`fit`).

use super::Input;

/// `status.reason` and `status.message` of a rejected pod.
pub fn reject(input: &Input<'_>) -> Option<(&'static str, String)> {
    let spec = input.pod.spec.as_ref()?;
    if let Some(os) = spec.os.as_ref().filter(|os| os.name != "linux") {
        let text =
            format!("Failed to admit pod: spec.os.name is {:?}, this node is linux", os.name);
        return Some(("PodOSNotSupported", text));
    }
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_ref());
    let host_network = spec.host_network.unwrap_or(false);
    let host_ipc = spec.host_ipc.unwrap_or(false);
    for sysctl in sysctls.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        if let Err(why) =
            sysctl_allowed(&name, &input.config.allowed_unsafe_sysctls, host_network, host_ipc)
        {
            return Some(("SysctlForbidden", format!("forbidden sysctl: {:?} {why}", sysctl.name)));
        }
        // The value becomes text in a runtime's configuration (CVE row 70).
        if sysctl.value.contains(|c: char| c.is_control() || c == '+') {
            let text =
                format!("forbidden sysctl: the value of {name:?} has a control character or '+'");
            return Some(("SysctlForbidden", text));
        }
    }
    None
}

/// A138.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

fn sysctl_allowed(
    name: &str,
    allowed: &[String],
    host_network: bool,
    host_ipc: bool,
) -> Result<(), &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !name.bytes().all(plain) {
        return Err("is not a sysctl name");
    }
    let network = name.starts_with("net.");
    let ipc = name.starts_with("kernel.shm")
        || name.starts_with("kernel.msg")
        || name == "kernel.sem"
        || name.starts_with("fs.mqueue.");
    if !network && !ipc {
        return Err("is not namespaced");
    }
    if network && host_network {
        return Err("is not allowed with hostNetwork");
    }
    if ipc && host_ipc {
        return Err("is not allowed with hostIPC");
    }
    let matches = |pattern: &String| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    if SAFE.contains(&name) || allowed.iter().any(matches) {
        return Ok(());
    }
    Err("is not allowlisted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing::Case;

    fn check(spec: &str, expect: Option<&str>) {
        let mut case = Case::spec(spec);
        case.config.allowed_unsafe_sysctls = vec!["net.core.*".into(), "kernel.msgmax".into()];
        assert_eq!(reject(&case.input()).map(|(reason, _)| reason), expect, "{spec}");
    }

    #[test]
    fn a75_another_os_is_rejected() {
        check("{os: {name: windows}, containers: []}", Some("PodOSNotSupported"));
        check("{os: {name: linux}, containers: []}", None);
    }

    #[test]
    fn a138_cve70_sysctls() {
        let check = |rest: &str, name: &str, value: &str, allowed: bool| {
            let spec = format!(
                "{{{rest} containers: [], securityContext: {{sysctls: [{{name: {name}, value: {value}}}]}}}}"
            );
            check(&spec, (!allowed).then_some("SysctlForbidden"));
        };
        check("", "net.ipv4.tcp_syncookies", "'1'", true);
        check("", "net/ipv4/tcp_syncookies", "'1'", true);
        check("", "net.core.somaxconn", "'1'", true);
        check("", "kernel.msgmax", "'1'", true);
        check("", "kernel.sem", "'1'", false);
        check("", "kernel.core_pattern", "'|/bin/x'", false);
        check("", "vm.swappiness", "'1'", false);
        check("hostNetwork: true,", "net.ipv4.tcp_syncookies", "'1'", false);
        check("hostIPC: true,", "kernel.shm_rmid_forced", "'1'", false);
        check("", "net.ipv4.tcp_syncookies", "\"1\\nkernel.x = 1\"", false);
        check("", "net.ipv4.tcp_syncookies", "'1+kernel.x=1'", false);
        check("", "\"net.ipv4.x=1\"", "'1'", false);
    }
}
