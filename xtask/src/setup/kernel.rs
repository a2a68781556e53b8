//! What the kernel must have. The missing feature is the first line of the error.

use std::path::Path;

use anyhow::{Result, bail};
use longshore_tests::cgroup;
use longshore_tests::process::Run;

/// The design floor: tcx and everything else that the programs use.
const FLOOR: (u32, u32) = (6, 6);
/// With clsact instead of tcx.
const FLOOR_CLSACT: (u32, u32) = (6, 1);

/// Options of the kernel's build: any of the first, what they are for.
const OPTIONS: [(&[&str], &str); 4] = [
    (&["CONFIG_CGROUP_BPF"], "cgroup-bpf: Services attach socket programs to a cgroup"),
    (&["CONFIG_NET_XGRESS", "CONFIG_NET_SCH_INGRESS"], "tcx or clsact: policy is a classifier"),
    (&["CONFIG_VETH"], "veth: a pod's interface"),
    (&["CONFIG_NF_TABLES"], "nftables: pods are masqueraded to the world"),
];

/// # Errors
/// A feature is missing; the second line says what to do.
pub fn check() -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    check_version(release.trim())?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "BTF is missing from the kernel (no /sys/kernel/btf/vmlinux)\n\
             use a kernel with CONFIG_DEBUG_INFO_BTF=y, such as the distribution's own, and see \
             that /sys is mounted"
        );
    }
    if cgroup::v2().is_none() {
        bail!(
            "no cgroup v2 hierarchy is mounted: Services attach their programs to it\n\
             mount -t cgroup2 cgroup2 /sys/fs/cgroup (or /sys/fs/cgroup/unified beside v1)"
        );
    }
    match config(release.trim()) {
        Some(config) => check_config(&config),
        // Not published by this kernel: the daemon probes by loading, and names it in the same way.
        None => Ok(()),
    }
}

fn check_version(release: &str) -> Result<()> {
    let mut numbers = release.split(['.', '-']).map(|word| word.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < FLOOR_CLSACT {
        bail!(
            "kernel {release} is too old: {}.{} or newer is needed, {}.{} for tcx\n\
             install a newer kernel of the distribution (Debian 12 has 6.1) and boot it",
            FLOOR_CLSACT.0,
            FLOOR_CLSACT.1,
            FLOOR.0,
            FLOOR.1
        );
    }
    Ok(())
}

/// The options that the kernel was built with, where it says so.
fn config(release: &str) -> Option<String> {
    let file = format!("/boot/config-{release}");
    std::fs::read_to_string(file)
        .ok()
        .or_else(|| Run::new("zcat").arg("/proc/config.gz").check().ok())
        .filter(|text| text.contains("CONFIG_"))
}

fn check_config(config: &str) -> Result<()> {
    let has = |option: &str| {
        config
            .lines()
            .any(|line| line.strip_prefix(option).is_some_and(|value| matches!(value, "=y" | "=m")))
    };
    for (options, purpose) in OPTIONS {
        if !options.iter().any(|option| has(option)) {
            bail!(
                "the kernel lacks {purpose}\n\
                 use a kernel with {}=y, such as the distribution's own",
                options.join("=y or ")
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_the_first_line() {
        for fine in ["6.1.0-13-amd64", "6.18.3", "7.0.0-rc1"] {
            assert!(check_version(fine).is_ok(), "{fine}");
        }
        let error = check_version("5.10.0-8-amd64").unwrap_err().to_string();
        assert!(error.lines().next().is_some_and(|line| line.contains("too old")), "{error}");
    }

    #[test]
    fn a_missing_feature_is_the_first_line() {
        let full =
            "CONFIG_CGROUP_BPF=y\nCONFIG_NET_SCH_INGRESS=m\nCONFIG_VETH=m\nCONFIG_NF_TABLES=m\n";
        assert!(check_config(full).is_ok());
        let error = check_config(&full.replace("CONFIG_CGROUP_BPF=y", "")).unwrap_err().to_string();
        assert!(error.lines().next().is_some_and(|line| line.contains("cgroup-bpf")), "{error}");
        let error = check_config(&full.replace("INGRESS=m", "INGRESS=n")).unwrap_err().to_string();
        assert!(error.contains("clsact"), "{error}");
    }
}
