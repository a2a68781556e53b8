//! What can go wrong in the kernel, each with what to do next.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum DataplaneError {
    #[error(
        "this build of longshore embeds no eBPF programs (it was built with \
         LONGSHORE_SKIP_EMBED=1): build it with `make build`"
    )]
    NothingEmbedded,
    #[error(
        "the kernel has no {feature}: {advice}. Longshore needs Linux 6.1 or newer with BTF, \
         cgroup v2 and clsact"
    )]
    KernelFeature { feature: &'static str, advice: &'static str },
    #[error("{what} {path}: {source}")]
    Path { what: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the pinned map {name} in {dir} was made by another layout ({source}): nothing was \
         changed. Run `longshore cleanup`, or use the version that made it",
        dir = dir.display()
    )]
    ForeignMap { name: String, dir: PathBuf, source: MapError },
    #[error("loading the eBPF programs: {0}")]
    Load(#[source] Box<EbpfError>),
    #[error("eBPF program {name}: {source}")]
    Program { name: String, source: Box<ProgramError> },
    #[error("eBPF program {0} is not in the embedded object: rebuild with `make build`")]
    NoProgram(String),
    #[error("pinning {path}: {source}", path = path.display())]
    Pin { path: PathBuf, source: aya::pin::PinError },
    #[error("link {path}: {source}", path = path.display())]
    Link { path: PathBuf, source: aya::programs::links::LinkError },
    #[error("map {name}: {source}")]
    Map { name: &'static str, source: MapError },
    #[error("reading map {name}: {source}")]
    Rows { name: &'static str, source: io::Error },
    #[error("clsact on {ifname}: {source}")]
    Qdisc { ifname: String, source: aya::programs::tc::TcError },
    #[error("messages of the eBPF programs: {0}")]
    Log(String),
}

impl DataplaneError {
    pub(super) fn program(name: &str, source: ProgramError) -> Self {
        Self::Program { name: name.to_owned(), source: Box::new(source) }
    }

    pub(super) fn path(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Path { what, path: path.into(), source }
    }
}

/// The first write that failed; those before it hold, those after it were not tried (I9).
#[derive(Debug, Error)]
#[error(
    "map {map}, write {index}: {}",
    if *full { "the map is full; the old rows hold".to_owned() } else { source.to_string() }
)]
pub struct ApplyError {
    /// Index into the list of writes.
    pub index: usize,
    /// Name of the map, as in `longshore maps dump`.
    pub map: &'static str,
    /// The map has no room: fewer rows are needed, not a retry.
    pub full: bool,
    pub source: io::Error,
}
