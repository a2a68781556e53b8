//! Reads the manifests of a directory: regular files (through links), `*.yaml`, `*.yml`, `*.json`,
//! no name that begins with a dot (A29), and tells when to read them again.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use longshore_core::standalone::FILE_BYTES_MAX;
use notify::Watcher as _;
use tokio::sync::Notify;

/// Files of one directory; more are a mistake.
const FILES_MAX: usize = 4096;

/// The text of a file, or why it has none.
pub type Text = Result<String, String>;

/// All manifests by file name.
///
/// # Errors
/// The directory is gone, is none, or may not be read.
pub fn read(directory: &Path) -> Result<BTreeMap<String, Text>, String> {
    read_named(directory, is_manifest)
}

/// All files by name, whatever they are called: how the kubelet reads staticPodPath. It may also be
/// one file.
///
/// # Errors
/// The directory is gone, is none, or may not be read.
pub fn read_all(directory: &Path) -> Result<BTreeMap<String, Text>, String> {
    if directory.is_file()
        && let Some(name) = directory.file_name().and_then(|name| name.to_str())
    {
        return Ok(read_file(directory)?
            .map(|text| (name.to_owned(), Ok(text)))
            .into_iter()
            .collect());
    }
    read_named(directory, |_| true)
}

fn read_named(
    directory: &Path,
    is_manifest: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Text>, String> {
    let named = |error: std::io::Error| format!("cannot read {}: {error}", directory.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(named)? {
        let entry = entry.map_err(named)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || !is_manifest(&name) {
            continue;
        }
        if files.len() == FILES_MAX {
            return Err(format!("{} has more than {FILES_MAX} manifests", directory.display()));
        }
        match read_file(&entry.path()) {
            // Removed since the listing, or a directory that is named like a file.
            Ok(None) => {}
            Ok(Some(text)) => drop(files.insert(name, Ok(text))),
            Err(why) => drop(files.insert(name, Err(why))),
        }
    }
    Ok(files)
}

fn is_manifest(name: &str) -> bool {
    [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}

fn read_file(path: &Path) -> Result<Option<String>, String> {
    // Without O_NONBLOCK a named pipe would hold us.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let dangling = path.symlink_metadata().is_ok();
            return if dangling { Err("is a link to nothing".to_owned()) } else { Ok(None) };
        }
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    let metadata = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let limited = std::io::Read::take(file, FILE_BYTES_MAX as u64 + 1);
    let mut limited = limited;
    std::io::Read::read_to_end(&mut limited, &mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("has more than {FILE_BYTES_MAX} bytes: split it"));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| "is not UTF-8 text".to_owned())
}

/// A watch of the directory itself: files are replaced by name, and the links of a mounted
/// ConfigMap by the swap of `..data`. `None`: the rescan alone must do.
pub fn watch(directory: &Path, events: Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let told = move |event: notify::Result<notify::Event>| {
        let read = event.is_ok_and(|event| event.kind.is_access() && !is_close_write(&event.kind));
        if !read {
            events.notify_one();
        }
    };
    let mut watcher = notify::recommended_watcher(told)
        .inspect_err(|error| tracing::warn!(%error, "Could not start inotify; the directory is read every 20 s"))
        .ok()?;
    watcher.watch(directory, notify::RecursiveMode::NonRecursive).ok()?;
    Some(watcher)
}

/// Device and inode.
pub fn identity_of(directory: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(directory).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn is_close_write(kind: &notify::EventKind) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}
