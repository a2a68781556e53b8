//! The machine and its container runtime, as measured.

use std::collections::BTreeMap;

/// What a machine is and what it has left. `None`: it could not be read, and `problems` says why.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MachineFacts {
    /// Processors that are online.
    pub cpus: Option<i64>,
    pub memory_bytes: Option<i64>,
    /// What a new workload can have without taking it from another: free, or inactive file cache.
    pub memory_available_bytes: Option<i64>,
    /// 0: no swap.
    pub swap_bytes: i64,
    /// Pages by their size in bytes.
    pub huge_pages: BTreeMap<i64, i64>,
    /// Where the daemon and its pods keep their files.
    pub nodefs: Option<Filesystem>,
    /// Where the runtime keeps images.
    pub imagefs: Option<Filesystem>,
    /// PIDs that the kernel can give at once.
    pub pids_max: Option<i64>,
    /// Tasks that there are.
    pub pids: Option<i64>,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// The daemon is root only of a user namespace; `None`: not known.
    pub in_user_namespace: Option<bool>,
    /// What could not be read, in words; empty on a healthy machine.
    pub problems: Vec<String>,
}

/// One filesystem, in bytes and inodes. Filesystems without a fixed number of inodes have 0 of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filesystem {
    pub capacity_bytes: i64,
    /// For processes without privileges.
    pub available_bytes: i64,
    pub inodes: i64,
    pub inodes_free: i64,
}

/// What the container runtime says of itself. `None`: it did not answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RuntimeFacts {
    /// `containerd://2.4.2` (A8).
    pub version: Option<String>,
    /// A16; `None` of a handler's field: the runtime does not say.
    pub handlers: Option<Vec<RuntimeHandler>>,
    /// A16; `None`: the runtime does not say.
    pub supplemental_groups_policy: Option<bool>,
    pub images: Option<Vec<ImageFacts>>,
}

/// One runtime handler (A16).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct RuntimeHandler {
    /// Empty: the default handler.
    pub name: String,
    pub recursive_read_only_mounts: Option<bool>,
    pub user_namespaces: Option<bool>,
}

/// One image of the runtime (A14).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ImageFacts {
    pub id: String,
    /// `registry/name@sha256:…`.
    pub digests: Vec<String>,
    pub tags: Vec<String>,
    pub size_bytes: i64,
}
