//! What the kernel must have, asked before anything is touched.

use std::path::Path;

use aya::programs::tc;
use nix::sched::{CloneFlags, unshare};

use super::DataplaneError;
use crate::supervise;
use crate::sys::bpffs;

/// # Errors
/// The first feature that is missing, and what to do.
pub fn kernel(cgroup_v2_root: &Path) -> Result<(), DataplaneError> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(DataplaneError::KernelFeature {
            feature: "BTF (/sys/kernel/btf/vmlinux)",
            advice: "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y, as all current \
                     distributions have",
        });
    }
    if !bpffs::is_cgroup2(cgroup_v2_root).unwrap_or(false) {
        return Err(DataplaneError::KernelFeature {
            feature: "cgroup v2 hierarchy where it is expected",
            advice: "mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`), beside v1 if need \
                     be",
        });
    }
    if !has_clsact() {
        return Err(DataplaneError::KernelFeature {
            feature: "clsact qdisc",
            advice: "load the module sch_ingress, or boot a kernel with CONFIG_NET_SCH_INGRESS",
        });
    }
    Ok(())
}

/// Tried on the loopback interface of a network namespace that ends with its thread.
fn has_clsact() -> bool {
    let tried = supervise::thread("clsact-probe", || {
        unshare(CloneFlags::CLONE_NEWNET).is_ok() && tc::qdisc_add_clsact(c"lo").is_ok()
    });
    tried.unwrap_or(false)
}
