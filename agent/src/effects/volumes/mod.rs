//! A pod's directories, files and mounts on disk: made what the plan says, and removed (A99–A105).
//!
//! Everything below a volume may have been changed by containers, so it is reached by descriptors
//! that follow no link. Deliberately absent: what goes into a file (core decides), sizes and
//! quotas, volumes of drivers.

mod files;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use longshore_core::pod::action::{FileContent, HostPathKind, PlannedVolume, Volume, VolumePlan};

use crate::sys::dir::{Dir, Entry};
use crate::sys::mount;
use crate::sys::tree::Visit;

/// What went wrong; becomes the event FailedMount.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?}: {source}{}", advice(source))]
    Volume { volume: String, source: io::Error },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?}: hostPath type check failed: {path} {is}"
    )]
    HostPath { volume: String, path: String, is: String },
    #[error("{path}: {source}{}", advice(source))]
    Io { path: String, source: io::Error },
    #[error("{path:?} is not below {below}: this is an error of Longshore, please report it")]
    Outside { path: String, below: String },
    #[error("cannot unmount {}: {source}; is a process still using it?", path.display())]
    Unmount { path: PathBuf, source: io::Error },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; the disk is full: free space, the pod goes on by itself",
        io::ErrorKind::QuotaExceeded => "; the quota is used up",
        io::ErrorKind::ReadOnlyFilesystem => "; the file system is read-only",
        _ => "",
    }
}

/// Whether anything had to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Changed {
    No,
    Yes,
}

impl Changed {
    fn or(self, other: Changed) -> Changed {
        if self == Changed::Yes { self } else { other }
    }
}

/// Makes the plan true. A second call with the same plan writes nothing (I14).
///
/// `at_path` is told each path before it is touched: one of them may never answer.
///
/// # Errors
/// The first volume that cannot be made; what was made stays and is found by the next call.
pub fn ensure(
    pods_dir: &Path,
    plan: &VolumePlan,
    at_path: &dyn Fn(&str),
) -> Result<Changed, VolumeError> {
    at_path(&plan.pod_dir);
    let pod = open_pod(pods_dir, &plan.pod_dir)?;
    let mut changed = Changed::No;
    for (name, planned) in &plan.volumes {
        at_path(match &planned.volume {
            Volume::HostPath { path, .. } => path,
            _ => &planned.path,
        });
        changed = changed.or(ensure_volume(&pod, plan, name, planned)?);
    }
    at_path(&plan.pod_dir);
    for (path, content) in &plan.files {
        changed = changed.or(ensure_file(&pod, path, content).map_err(at(path))?);
    }
    for path in &plan.termination_files {
        changed = changed.or(ensure_empty(&pod, path).map_err(at(path))?);
    }
    at_path(&plan.log_dir);
    Ok(changed.or(ensure_logs(plan)?))
}

fn at(path: &str) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { path, source }
}

/// `path` below `below`, as a relative path of plain names.
fn relative(path: &str, below: &str) -> Result<PathBuf, VolumeError> {
    let outside = || VolumeError::Outside { path: path.into(), below: below.into() };
    let rest = Path::new(path).strip_prefix(below).map_err(|_| outside())?;
    let plain = rest.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if rest.as_os_str().is_empty() || !plain { Err(outside()) } else { Ok(rest.to_owned()) }
}

/// The pod's own directory: 0750, so that no user of the node looks into volumes.
fn open_pod(pods_dir: &Path, pod_dir: &str) -> Result<Dir, VolumeError> {
    let name = relative(pod_dir, &pods_dir.to_string_lossy())?;
    std::fs::create_dir_all(pods_dir).map_err(at(&pods_dir.to_string_lossy()))?;
    let root = Dir::open(pods_dir).map_err(at(&pods_dir.to_string_lossy()))?;
    root.make_dir(&name, 0o750).map_err(at(pod_dir))
}

fn ensure_volume(
    pod: &Dir,
    plan: &VolumePlan,
    name: &str,
    planned: &PlannedVolume,
) -> Result<Changed, VolumeError> {
    let failed = |source| VolumeError::Volume { volume: name.to_owned(), source };
    if let Volume::HostPath { path, kind } = &planned.volume {
        return host_path(name, path, *kind);
    }
    let path = relative(&planned.path, &plan.pod_dir)?;
    let (Some(parent), Some(leaf)) = (path.parent(), path.file_name()) else {
        return Err(VolumeError::Outside {
            path: planned.path.clone(),
            below: plan.pod_dir.clone(),
        });
    };
    let parent = pod.make_dir(parent, 0o750).map_err(failed)?;
    let made = match &planned.volume {
        Volume::EmptyDir => {
            let made = make_volume_dir(&parent, leaf, 0o777).map_err(failed)?;
            made.or(own_tree(&parent, leaf, plan.fs_group).map_err(failed)?)
        }
        Volume::EmptyDirMemory { size_bytes } => {
            let made = make_volume_dir(&parent, leaf, 0o777).map_err(failed)?;
            let mounted = ensure_tmpfs(&parent, leaf, *size_bytes, 0o777).map_err(failed)?;
            made.or(mounted).or(own_tree(&parent, leaf, plan.fs_group).map_err(failed)?)
        }
        Volume::Files { entries, tmpfs } => {
            let mut changed = make_volume_dir(&parent, leaf, 0o755).map_err(failed)?;
            if *tmpfs {
                changed = changed.or(ensure_tmpfs(&parent, leaf, None, 0o755).map_err(failed)?);
            }
            let dir = parent.dir(Path::new(leaf)).map_err(failed)?;
            changed.or(files::ensure(&dir, entries, plan.fs_group).map_err(failed)?)
        }
        Volume::Kept => {
            let there = matches!(parent.entry(leaf).map_err(failed)?, Some((Entry::Directory, _)));
            if !there
                || !files::are_there(&parent.dir(Path::new(leaf)).map_err(failed)?)
                    .map_err(failed)?
            {
                return Err(failed(io::Error::other(
                    "the API server has not said yet what is in it, and nothing is left of it here",
                )));
            }
            Changed::No
        }
        Volume::HostPath { .. } => Changed::No,
    };
    Ok(made)
}

/// Makes the volume's root with its mode in one step: a crash between mkdir and chmod must not
/// leave a directory that looks finished. The suffix cannot be a volume's name.
fn make_volume_dir(parent: &Dir, name: &OsStr, mode: u32) -> io::Result<Changed> {
    match parent.entry(name)? {
        Some((Entry::Directory, _)) => return Ok(Changed::No),
        Some(_) => return Err(io::Error::other("something that is no directory is in its place")),
        None => {}
    }
    let mut unfinished = OsString::from(name);
    unfinished.push(".new");
    parent.remove_tree(&unfinished)?;
    parent.make_dir(Path::new(&unfinished), mode)?;
    parent.rename(&unfinished, name)?;
    Ok(Changed::Yes)
}

fn ensure_tmpfs(parent: &Dir, name: &OsStr, size: Option<i64>, mode: u32) -> io::Result<Changed> {
    let dir = parent.dir(Path::new(name))?;
    if dir.stat()?.st_dev != parent.stat()?.st_dev {
        return Ok(Changed::No);
    }
    // Through the descriptor: the directory that was checked is the one that is mounted on.
    let target = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    mount::tmpfs(Path::new(&target), size, mode, true)?;
    Ok(Changed::Yes)
}

/// fsGroup of a volume that containers write to (A115). A root that has the group already is done:
/// the walk sets it last.
fn own_tree(parent: &Dir, name: &OsStr, fs_group: Option<i64>) -> io::Result<Changed> {
    let Some(gid) = fs_group.and_then(|gid| u32::try_from(gid).ok()) else {
        return Ok(Changed::No);
    };
    match parent.entry(name)? {
        Some((_, stat)) if stat.st_gid == gid && stat.st_mode & 0o2000 != 0 => Ok(Changed::No),
        _ => {
            own(parent, name, gid)?;
            Ok(Changed::Yes)
        }
    }
}

fn own(parent: &Dir, name: &OsStr, gid: u32) -> io::Result<()> {
    parent.walk(name, &mut |found| match found {
        Visit::Directory(dir) => {
            let mode = dir.stat()?.st_mode & 0o7777;
            dir.own_self(gid, mode | 0o2770)
        }
        Visit::Other { parent, name } => {
            let mode = match parent.entry(name)? {
                None => return Ok(()),
                Some((Entry::File, stat)) => Some(stat.st_mode & 0o7777 | 0o660),
                Some(_) => None,
            };
            parent.own(name, Some(gid), mode)
        }
    })
}

/// hostPath types (A102). Links are followed: the path is the administrator's.
fn host_path(volume: &str, path: &str, kind: HostPathKind) -> Result<Changed, VolumeError> {
    let failed = |source| VolumeError::Volume { volume: volume.to_owned(), source };
    let found = match std::fs::metadata(path) {
        Ok(found) => Some(found.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) if kind == HostPathKind::Unchecked => None,
        Err(error) => return Err(failed(error)),
    };
    let wrong = |is: &str| {
        let (volume, path, is) = (volume.to_owned(), path.to_owned(), is.to_owned());
        Err(VolumeError::HostPath { volume, path, is })
    };
    let (right, what) = match (kind, found) {
        (HostPathKind::Unchecked, _) => return Ok(Changed::No),
        (HostPathKind::DirectoryOrCreate, None) => {
            create_directory(Path::new(path)).map_err(failed)?;
            return Ok(Changed::Yes);
        }
        (HostPathKind::FileOrCreate, None) => {
            create_file(Path::new(path)).map_err(failed)?;
            return Ok(Changed::Yes);
        }
        (_, None) => return wrong("does not exist"),
        (HostPathKind::DirectoryOrCreate | HostPathKind::Directory, Some(found)) => {
            (found.is_dir(), "is not a directory")
        }
        (HostPathKind::FileOrCreate | HostPathKind::File, Some(found)) => {
            (found.is_file(), "is not a file")
        }
        (HostPathKind::Socket, Some(found)) => (found.is_socket(), "is not a socket file"),
        (HostPathKind::CharDevice, Some(found)) => {
            (found.is_char_device(), "is not a character device")
        }
        (HostPathKind::BlockDevice, Some(found)) => {
            (found.is_block_device(), "is not a block device")
        }
    };
    if right { Ok(Changed::No) } else { wrong(what) }
}

fn create_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

fn create_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let file = std::fs::File::options().create_new(true).write(true).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

/// A file that containers have mounted: the same inode gets the new bytes.
fn ensure_file(pod: &Dir, path: &str, content: &FileContent) -> io::Result<Changed> {
    let (dir, leaf) = parent_of(pod, path)?;
    let most = content.data.len() as u64 + 1;
    match dir.entry(&leaf)? {
        Some((Entry::File, stat)) => {
            let same = stat.st_mode & 0o7777 == content.mode & 0o7777
                && dir.read(Path::new(&leaf), most, false)? == content.data;
            if same {
                return Ok(Changed::No);
            }
            dir.overwrite(&leaf, &content.data, content.mode)?;
        }
        Some(_) => {
            dir.remove_tree(&leaf)?;
            dir.create(&leaf, &content.data, content.mode)?;
        }
        None => dir.create(&leaf, &content.data, content.mode)?,
    }
    Ok(Changed::Yes)
}

/// A termination message file: whatever a container wrote into it stays (A71).
fn ensure_empty(pod: &Dir, path: &str) -> io::Result<Changed> {
    let (dir, leaf) = parent_of(pod, path)?;
    match dir.entry(&leaf)? {
        Some(_) => Ok(Changed::No),
        None => {
            // Every user of the container may write it, as the kubelet has it.
            dir.create(&leaf, b"", 0o666)?;
            Ok(Changed::Yes)
        }
    }
}

fn parent_of(pod: &Dir, path: &str) -> io::Result<(Dir, OsString)> {
    let path = Path::new(path);
    let leaf = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?;
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => pod.make_dir(parent, 0o750)?,
        _ => pod.dir(Path::new("."))?,
    };
    Ok((dir, leaf.to_owned()))
}

/// Log directories are for the runtime to write and for everyone's tools to read.
fn ensure_logs(plan: &VolumePlan) -> Result<Changed, VolumeError> {
    if plan.log_dir.is_empty() {
        return Ok(Changed::No);
    }
    let path = Path::new(&plan.log_dir);
    let fresh = !path.exists();
    std::fs::create_dir_all(path).map_err(at(&plan.log_dir))?;
    let root = Dir::open(path).map_err(at(&plan.log_dir))?;
    let mut changed = if fresh { Changed::Yes } else { Changed::No };
    for directory in &plan.log_directories {
        let name = Path::new(directory.strip_prefix(&plan.log_dir).unwrap_or(directory));
        let name = name.strip_prefix("/").unwrap_or(name);
        if root.dir(name).is_err() {
            root.make_dir(name, 0o755).map_err(at(directory))?;
            changed = Changed::Yes;
        }
    }
    Ok(changed)
}

/// The one file of a pod's directory that outlives its volumes: its last status, until the pod is
/// finished.
pub const STATUS_FILE: &str = "status.json";

/// Unmounts and deletes everything below the pod's directory but [`STATUS_FILE`]. Only after its
/// containers are gone: what is busy then is detached lazily.
///
/// # Errors
/// A mount stays, or the file system refuses; the next call goes on.
pub fn remove(pods_dir: &Path, pod_dir: &str) -> Result<(), VolumeError> {
    let name = relative(pod_dir, &pods_dir.to_string_lossy())?;
    let Some(root) = open_existing(pods_dir)? else { return Ok(()) };
    // mountinfo shows real paths.
    let real = std::fs::canonicalize(pods_dir).map_err(at(pod_dir))?.join(&name);
    for mount in mount::below(&real).map_err(at("/proc/self/mountinfo"))? {
        mount::unmount(&mount, true)
            .map_err(|source| VolumeError::Unmount { path: mount.clone(), source })?;
    }
    if !matches!(root.entry(name.as_os_str()).map_err(at(pod_dir))?, Some((Entry::Directory, _))) {
        return root.remove_tree(name.as_os_str()).map_err(at(pod_dir));
    }
    let dir = root.dir(&name).map_err(at(pod_dir))?;
    // Containers cannot write here, only in the volumes below.
    let names =
        dir.names().and_then(|names| names.collect::<io::Result<Vec<_>>>()).map_err(at(pod_dir))?;
    for entry in names.iter().filter(|entry| *entry != STATUS_FILE) {
        dir.remove_tree(entry).map_err(at(pod_dir))?;
    }
    if !names.iter().any(|entry| entry == STATUS_FILE) {
        root.remove_tree(name.as_os_str()).map_err(at(pod_dir))?;
    }
    Ok(())
}

/// Removes what [`remove`] left: the pod is finished.
///
/// # Errors
/// The file system refuses.
pub fn forget(pods_dir: &Path, uid: &str) -> Result<(), VolumeError> {
    let pod_dir = pods_dir.join(uid).display().to_string();
    remove(pods_dir, &pod_dir)?;
    let name = relative(&pod_dir, &pods_dir.to_string_lossy())?;
    match open_existing(pods_dir)? {
        Some(root) => root.remove_tree(name.as_os_str()).map_err(at(&pod_dir)),
        None => Ok(()),
    }
}

fn open_existing(path: &Path) -> Result<Option<Dir>, VolumeError> {
    match Dir::open(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path.to_string_lossy())(error)),
    }
}

/// Anything of the pod but its stored status is on disk.
pub fn exists(pod_dir: &str) -> bool {
    match std::fs::read_dir(pod_dir) {
        Ok(entries) => entries.flatten().any(|entry| entry.file_name() != STATUS_FILE),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// UIDs that have a directory: orphans are among them (A37).
pub fn pods(pods_dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(pods_dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
