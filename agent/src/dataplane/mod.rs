//! The kernel side of the network: loads, attaches, pins, writes and reads the eBPF half.
//!
//! Everything is pinned under `<bpffs>/v<LAYOUT>/{maps,links,progs}` and goes on without the
//! daemon. A start loads its programs against the pinned maps, whose type, sizes and flags aya
//! compares with the object before reuse, and swaps programs in place: link update for cgroups,
//! filter replacement for pods. Deliberately absent: what rows mean (`core::image`), and any
//! removal other than [`Dataplane::remove`].

mod error;
mod hooks;
mod links;
pub mod object;
mod probe;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::MapError;
use aya::programs::Program;
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use ipnet::Ipv4Net;
use longshore_abi::{self as abi, DropReason, LAYOUT};
use longshore_core::image::{KernelRows, MapOp};

pub use error::{ApplyError, DataplaneError};
pub use tables::{NAMES as MAP_NAMES, OldFlows};

use crate::supervise::{Policy, Scope};
use crate::sys::{bpf, bpffs, mount};

/// Where and how the dataplane lives.
#[derive(Clone, Debug)]
pub struct DataplaneConfig {
    /// A directory for us alone; a bpffs is mounted on it unless it is one.
    pub bpffs_dir: PathBuf,
    /// Mount point of the cgroup v2 hierarchy.
    pub cgroup_v2_root: PathBuf,
    /// Directory of `--cgroup-root` in it.
    pub cgroup_dir: PathBuf,
    /// Packets to it that no socket hook translated are dropped with a reason.
    pub service_cidr: Option<Ipv4Net>,
    /// Load the programs that tell of drops and translations.
    pub bpf_log: bool,
}

/// A loaded program, for `longshore status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramStatus {
    pub name: String,
    pub id: u32,
    /// Instructions that the verifier walked; `None` before Linux 5.16.
    pub verified_instructions: Option<u32>,
}

/// The eBPF half of one node. Shared behind an `Arc`; every call blocks for microseconds, an
/// attachment for about a millisecond.
pub struct Dataplane {
    ebpf: Mutex<Ebpf>,
    tables: Tables,
    bpf_log: bool,
}

use tables::Tables;

impl Dataplane {
    /// Loads and attaches, taking over what is pinned. The calling thread is in the network
    /// namespace of the node.
    ///
    /// # Errors
    /// What was in the kernel before stays as it was.
    pub fn open(config: &DataplaneConfig) -> Result<Self, DataplaneError> {
        let object = if config.bpf_log { object::WITH_LOG } else { object::PLAIN };
        if object.is_empty() {
            return Err(DataplaneError::NothingEmbedded);
        }
        probe::kernel(&config.cgroup_v2_root)?;
        let pins = Pins::make(&config.bpffs_dir)?;
        let mut ebpf = load(object, &pins, config)?;
        let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
        for name in &names {
            load_program(&mut ebpf, name)?;
        }
        let tables = Tables::open(&pins.maps)?;
        links::attach(&mut ebpf, &pins.links, &config.cgroup_v2_root, &config.cgroup_dir)?;
        for name in &names {
            pin_program(&mut ebpf, name, &pins.progs)?;
        }
        Ok(Self { ebpf: Mutex::new(ebpf), tables, bpf_log: config.bpf_log })
    }

    /// Puts the pod hooks on an interface of the calling thread's network namespace. Until an
    /// endpoint row opens the pod, nothing but the node's own traffic passes. Idempotent.
    ///
    /// # Errors
    /// The interface is gone, or the kernel's.
    pub fn attach_pod(&self, ifname: &str) -> Result<(), DataplaneError> {
        hooks::attach(&mut self.ebpf(), ifname)
    }

    /// Writes in order; stops at the first failure, what was written holds.
    ///
    /// # Errors
    /// The write that failed; a full map is told apart.
    pub fn apply(&self, ops: &[MapOp]) -> Result<(), ApplyError> {
        self.tables.apply(ops)
    }

    /// # Errors
    /// The kernel's.
    pub fn rows(&self) -> Result<KernelRows, DataplaneError> {
        self.tables.rows()
    }

    /// Packets dropped since the maps were made.
    ///
    /// # Errors
    /// The kernel's.
    pub fn drops(&self) -> Result<BTreeMap<DropReason, u64>, DataplaneError> {
        self.tables.drops()
    }

    /// # Errors
    /// The kernel's.
    pub fn flow_rows(&self) -> Result<BTreeMap<abi::FlowKey, abi::FlowValue>, DataplaneError> {
        self.tables.flows()
    }

    /// How many flows there are, and which are older than they may become. `now_ns`:
    /// [`clock::monotonic_ns`](crate::clock::monotonic_ns).
    ///
    /// # Errors
    /// The kernel's.
    pub fn old_flows(&self, now_ns: u64) -> Result<OldFlows, DataplaneError> {
        self.tables.old_flows(now_ns)
    }

    /// Removes those of `keys` that are still old at `now_ns`; how many.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_flows(
        &self,
        keys: &[abi::FlowKey],
        now_ns: u64,
    ) -> Result<usize, DataplaneError> {
        self.tables.remove_flows(keys, now_ns)
    }

    /// Sorted by name.
    ///
    /// # Errors
    /// The kernel's.
    pub fn programs(&self) -> Result<Vec<ProgramStatus>, DataplaneError> {
        let ebpf = self.ebpf();
        let status = |(name, program): (&str, &Program)| {
            let info = match program {
                Program::SchedClassifier(program) => program.info(),
                Program::CgroupSockAddr(program) => program.info(),
                _ => return Err(DataplaneError::NoProgram(name.to_owned())),
            };
            let info = info.map_err(|error| DataplaneError::program(name, error))?;
            Ok(ProgramStatus {
                name: name.to_owned(),
                id: info.id(),
                verified_instructions: info.verified_instruction_count(),
            })
        };
        let mut all = ebpf.programs().map(status).collect::<Result<Vec<_>, _>>()?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Carries the programs' messages to the log, when they were asked for. In a tokio runtime.
    ///
    /// # Errors
    /// The ring buffer cannot be read.
    pub fn spawn_log(&self, scope: &Scope) -> Result<(), DataplaneError> {
        if !self.bpf_log {
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| DataplaneError::Log(error.to_string());
        let logger = EbpfLogger::init(&mut self.ebpf()).map_err(|error| failed(&error))?;
        let mut logger = bpf::readable(logger).map_err(|error| failed(&error))?;
        scope.detach("bpf-log", Policy::Finite, async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(())
    }

    /// Takes everything away, for `longshore cleanup`: links (which detaches the socket hooks),
    /// programs, maps, and the mount. Pod hooks go with their interfaces.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(bpffs_dir: &Path) -> Result<(), DataplaneError> {
        if !bpffs_dir.exists() || !bpffs::is_bpffs(bpffs_dir).unwrap_or(false) {
            return Ok(());
        }
        let failed = |source| DataplaneError::path("removing pins in", bpffs_dir, source);
        for entry in fs::read_dir(bpffs_dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let is_layout = name.to_str().is_some_and(|name| {
                name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok())
            });
            if is_layout {
                remove_layout(&entry.path()).map_err(failed)?;
            }
        }
        // The kernel puts files of its own into each bpffs; a directory is somebody else's.
        let mut rest = fs::read_dir(bpffs_dir).map_err(failed)?;
        let is_empty = !rest.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir()));
        // The system's own bpffs is not ours to unmount.
        if is_empty && bpffs_dir != Path::new("/sys/fs/bpf") {
            mount::unmount(bpffs_dir, true)
                .map_err(|source| DataplaneError::path("unmounting", bpffs_dir, source))?;
        }
        Ok(())
    }

    fn ebpf(&self) -> MutexGuard<'_, Ebpf> {
        // A panic ends the process (crash-only); in tests another thread's does not matter here.
        self.ebpf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Directories of this layout.
struct Pins {
    maps: PathBuf,
    links: PathBuf,
    progs: PathBuf,
}

impl Pins {
    fn make(bpffs_dir: &Path) -> Result<Self, DataplaneError> {
        fs::create_dir_all(bpffs_dir)
            .map_err(|source| DataplaneError::path("creating", bpffs_dir, source))?;
        bpffs::mount_bpffs(bpffs_dir)
            .map_err(|source| DataplaneError::path("mounting a bpffs on", bpffs_dir, source))?;
        let layout = bpffs_dir.join(format!("v{LAYOUT}"));
        let pins = Self {
            maps: layout.join("maps"),
            links: layout.join("links"),
            progs: layout.join("progs"),
        };
        for dir in [&pins.maps, &pins.links, &pins.progs] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|source| DataplaneError::path("creating", dir, source))?;
        }
        Ok(pins)
    }
}

fn load(object: &[u8], pins: &Pins, config: &DataplaneConfig) -> Result<Ebpf, DataplaneError> {
    let cookie = bpf::netns_cookie()
        .map_err(|source| DataplaneError::path("cookie of", "/proc/self/ns/net", source))?;
    let (base, mask) = match config.service_cidr {
        Some(net) => (raw(net.network()), raw(net.netmask())),
        None => (0, 0),
    };
    let mut loader = EbpfLoader::new();
    for name in MAP_NAMES {
        loader.map_pin_path(name, pins.maps.join(name));
    }
    loader
        .override_global("OWN_NETNS_COOKIE", &cookie, true)
        .override_global("SERVICE_BASE", &base, true)
        .override_global("SERVICE_MASK", &mask, true)
        .load(object)
        .map_err(|error| match error {
            EbpfError::MapError(MapError::IncompatiblePinnedMap {
                name,
                property,
                expected,
                actual,
            }) => DataplaneError::ForeignMap {
                name: name.clone(),
                dir: pins.maps.clone(),
                source: Box::new(MapError::IncompatiblePinnedMap {
                    name,
                    property,
                    expected,
                    actual,
                }),
            },
            error => DataplaneError::Load(Box::new(error)),
        })
}

/// As the address stands in packets.
fn raw(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), DataplaneError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| DataplaneError::NoProgram(name.to_owned()))?;
    match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => return Err(DataplaneError::NoProgram(name.to_owned())),
    }
    .map_err(|error| DataplaneError::program(name, error))
}

/// Replaces the pin of the program, for tools that look at a node without a daemon.
fn pin_program(ebpf: &mut Ebpf, name: &str, dir: &Path) -> Result<(), DataplaneError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| DataplaneError::NoProgram(name.to_owned()))?;
    let (pin, fresh) = (dir.join(name), dir.join(format!("{name}_new")));
    // Left by a crash between the two steps below.
    if fresh.exists() {
        fs::remove_file(&fresh)
            .map_err(|source| DataplaneError::path("unpinning", &fresh, source))?;
    }
    program.pin(&fresh).map_err(|source| DataplaneError::pin(&fresh, source))?;
    fs::rename(&fresh, &pin).map_err(|source| DataplaneError::path("pinning", pin, source))
}

/// Links first: a program must not run on without the maps' names.
fn remove_layout(layout: &Path) -> std::io::Result<()> {
    for dir in ["links", "progs", "maps"] {
        let dir = layout.join(dir);
        if !dir.exists() {
            continue;
        }
        for entry in fs::read_dir(&dir)? {
            fs::remove_file(entry?.path())?;
        }
        fs::remove_dir(&dir)?;
    }
    fs::remove_dir(layout)
}
