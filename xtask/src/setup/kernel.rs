//! What the kernel must have. The missing feature is the first line of the error.

use std::path::Path;

use anyhow::{Result, bail};
use longshore_tests::cgroup;

/// The design floor: tcx and everything else that the programs use.
const FLOOR: (u32, u32) = (6, 6);
/// With clsact instead of tcx.
const FLOOR_CLSACT: (u32, u32) = (6, 1);

/// # Errors
/// A feature is missing; the second line says what to do.
pub fn check() -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    check_version(release.trim())?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "the kernel has no BTF (/sys/kernel/btf/vmlinux is missing)\n\
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
    match std::fs::read_to_string("/proc/filesystems") {
        Ok(text) if !text.lines().any(|line| line.ends_with("\tbpf")) => bail!(
            "the kernel has no bpf file system (CONFIG_BPF_SYSCALL)\n\
             use the distribution's own kernel"
        ),
        _ => Ok(()),
    }
    // cgroup-bpf and the attachment of classifiers cannot be seen without loading a program: the
    // daemon probes them first and names them in the same way.
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

#[cfg(test)]
mod tests {
    use super::check_version;

    #[test]
    fn an_old_kernel_is_the_first_line() {
        for fine in ["6.1.0-13-amd64", "6.18.3", "7.0.0-rc1"] {
            assert!(check_version(fine).is_ok(), "{fine}");
        }
        let error = check_version("5.10.0-8-amd64").unwrap_err().to_string();
        assert!(error.lines().next().is_some_and(|line| line.contains("too old")), "{error}");
    }
}
