//! Reads the manifests of a directory: regular files (through links), `*.yaml`, `*.yml`, `*.json`,
//! no name that begins with a dot (A29).

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use longshore_core::standalone::FILE_BYTES_MAX;

/// Files of one directory; more are a mistake.
const FILES_MAX: usize = 4096;

/// The text of a file, or why it has none.
pub type Text = Result<String, String>;

/// All manifests by file name.
///
/// # Errors
/// The directory is gone, is none, or may not be read.
pub fn read(directory: &Path) -> Result<BTreeMap<String, Text>, String> {
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
