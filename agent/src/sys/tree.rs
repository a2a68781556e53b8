//! Whole trees that containers write: removed, or gone through entry by entry.
//!
//! A container can nest directories as deep as the disk has inodes (by relative steps, whatever
//! `PATH_MAX` says) and put millions of entries into one of them. So nothing here recurses, holds a
//! descriptor for each level or has a whole directory in memory; each step is by descriptor, as in
//! [`super::dir`].

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, ResolveFlag, renameat2};
use nix::unistd::{UnlinkatFlags, Whence, lseek, unlinkat};

use super::dir::{DIRECTORY, Dir, Entry, beneath};

/// Levels of a tree that have an open descriptor at a time.
const LEVELS_OPEN: usize = 32;
/// A deeper tree is not gone through: what is remembered of each level must have an end.
const DEPTH_MAX: usize = 1 << 20;
/// What the kernel lists at once.
const BATCH_BYTES: usize = 32 << 10;

/// What [`Dir::walk`] comes to.
pub enum Visit<'a> {
    /// After everything below it.
    Directory(&'a Dir),
    /// Anything else, which may be a link.
    Other { parent: &'a Dir, name: &'a OsStr },
}

impl Dir {
    /// Removes `name` and all below it. Links are removed, not followed; a mount point below is an
    /// error, because what is mounted there is not ours to empty. A missing entry is success.
    ///
    /// # Errors
    /// A mount point stands in the way, or the file system refuses.
    pub fn remove_tree(&self, name: &OsStr) -> io::Result<()> {
        match self.entry(name)? {
            None => Ok(()),
            Some((Entry::Directory, _)) => {
                match self.inside(name) {
                    Ok(Some(top)) => empty(top)?,
                    Ok(None) => return Ok(()),
                    Err(Errno::EXDEV) => return Err(mounted(name)),
                    Err(errno) => return Err(errno.into()),
                }
                gone(unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir))
            }
            Some(_) => gone(unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)),
        }
    }

    /// Shows `visit` every entry of the tree at `name`, itself last. No link is followed, and what
    /// is mounted below is left out: it is not of this tree.
    ///
    /// # Errors
    /// That of `visit`, or the tree cannot be read, is changed meanwhile, or is deeper than any
    /// real one.
    pub fn walk(
        &self,
        name: &OsStr,
        visit: &mut dyn FnMut(Visit<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.entry(name)? {
            None => Ok(()),
            Some((Entry::Directory, _)) => go_through(self.dir(Path::new(name))?, visit),
            Some(_) => visit(Visit::Other { parent: self, name }),
        }
    }

    /// The directory `name` of the same file system; `None`: it is gone.
    fn inside(&self, name: &OsStr) -> nix::Result<Option<Dir>> {
        let inside = beneath() | ResolveFlag::RESOLVE_NO_XDEV;
        match self.openat(Path::new(name), DIRECTORY, inside) {
            Ok(fd) => Ok(Some(Dir { fd })),
            Err(error) => match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
                Errno::ENOENT => Ok(None),
                errno => Err(errno),
            },
        }
    }
}

fn mounted(name: &OsStr) -> io::Error {
    io::Error::other(format!("{} is a mount point or in use; unmount it first", name.display()))
}

fn gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// An open directory and how far it was read.
struct Level {
    dir: Dir,
    /// Read from the kernel and not taken yet: names, and where to go on after each.
    batch: VecDeque<(OsString, i64)>,
    /// Where to go on after what was taken.
    next: i64,
    /// To be taken again before all others.
    again: Option<OsString>,
    /// Something was removed from it.
    progress: bool,
    /// The entry that comes now was emptied without anything to remove.
    stuck: bool,
}

impl Level {
    fn new(dir: Dir) -> Self {
        let batch = VecDeque::new();
        Self { dir, batch, next: 0, again: None, progress: false, stuck: false }
    }

    fn take(&mut self) -> io::Result<Option<OsString>> {
        if let Some(name) = self.again.take() {
            return Ok(Some(name));
        }
        loop {
            if let Some((name, next)) = self.batch.pop_front() {
                self.next = next;
                return Ok(Some(name));
            }
            match batch(&self.dir.fd)? {
                Some(batch) => self.batch = batch,
                None => return Ok(None),
            }
        }
    }

    /// Removes one entry; `false`: it is a directory with something in it.
    fn remove(&self, name: &OsStr) -> io::Result<bool> {
        let fd = &self.dir.fd;
        match self.dir.entry(name)? {
            None => Ok(true),
            Some((Entry::Directory, _)) => match unlinkat(fd, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => Ok(true),
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
                Err(Errno::EBUSY) => Err(mounted(name)),
                Err(errno) => Err(errno.into()),
            },
            Some(_) => gone(unlinkat(fd, name, UnlinkatFlags::NoRemoveDir)).map(|()| true),
        }
    }
}

/// The next entries of an open directory, without `.` and `..`; `None`: there are no more.
fn batch(fd: &OwnedFd) -> io::Result<Option<VecDeque<(OsString, i64)>>> {
    /// Of `struct linux_dirent64`: inode, offset of the next one, length, kind; then the name.
    const HEAD_BYTES: usize = 8 + 8 + 2 + 1;
    let mut buffer = vec![0u8; BATCH_BYTES];
    // SAFETY: the kernel writes at most the buffer's length into the buffer, which lives on.
    let read = unsafe {
        libc::syscall(libc::SYS_getdents64, fd.as_raw_fd(), buffer.as_mut_ptr(), buffer.len())
    };
    let Ok(read) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
    if read == 0 {
        return Ok(None);
    }
    let mut found = VecDeque::new();
    let mut rest = &buffer[..read.min(BATCH_BYTES)];
    while let Some((head, _)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let mut next = [0; 8];
        next.copy_from_slice(&head[8..16]);
        let length = usize::from(u16::from_ne_bytes([head[16], head[17]]));
        let Some(name) = rest.get(HEAD_BYTES..length) else { break };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name != b"." && name != b".." {
            let name = OsString::from_vec(name.to_vec());
            found.push_back((name, i64::from_ne_bytes(next)));
        }
        rest = &rest[length..];
    }
    Ok(Some(found))
}

/// Removes everything in `top`. What is nested too deep is moved up into `top` and comes later, so
/// that few levels are open; ordinary trees need no move, which a full disk could refuse.
fn empty(top: Dir) -> io::Result<()> {
    let mut levels = vec![Level::new(top)];
    let (mut moves, mut moved) = (0u64, false);
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.take()? else {
            let done = levels.pop();
            match levels.last_mut() {
                Some(parent) => parent.stuck = !done.is_some_and(|done| done.progress),
                // What was moved up may not have been in the listing that has just ended.
                None if moved => {
                    moved = false;
                    if let Some(Level { dir, .. }) = done {
                        lseek(&dir.fd, 0, Whence::SeekSet)?;
                        levels.push(Level::new(dir));
                    }
                }
                None => {}
            }
            continue;
        };
        let stuck = std::mem::take(&mut level.stuck);
        if level.remove(&name)? {
            level.progress = true;
        } else if stuck {
            // Some file systems hide what is still open; going round in a circle removes nothing.
            return Err(Errno::ENOTEMPTY.into());
        } else if levels.len() < LEVELS_OPEN {
            descend(&mut levels, name)?;
        } else {
            move_up(&mut levels, &name, &mut moves)?;
            moved = true;
        }
    }
    Ok(())
}

/// Goes on in `name`, which is tried again afterwards.
fn descend(levels: &mut Vec<Level>, name: OsString) -> io::Result<()> {
    let Some(level) = levels.last_mut() else { return Ok(()) };
    match level.dir.inside(&name) {
        Ok(Some(child)) => {
            level.again = Some(name);
            levels.push(Level::new(child));
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(Errno::EXDEV) => Err(mounted(&name)),
        Err(errno) => Err(errno.into()),
    }
}

fn move_up(levels: &mut [Level], name: &OsStr, moves: &mut u64) -> io::Result<()> {
    let [top, .., level] = levels else { return Ok(()) };
    loop {
        let free = OsString::from(format!("{moves}.deep"));
        *moves += 1;
        if top.dir.entry(&free)?.is_some() {
            continue;
        }
        match renameat2(&level.dir.fd, name, &top.dir.fd, free.as_os_str(), RenameFlags::empty()) {
            Ok(()) | Err(Errno::ENOENT) => {
                level.progress = true;
                return Ok(());
            }
            Err(Errno::EBUSY | Errno::EXDEV) => return Err(mounted(name)),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A directory that was closed while its subdirectories are gone through.
struct Left {
    /// Device and inode.
    identity: (u64, u64),
    next: i64,
}

impl Left {
    fn of(level: &Level) -> io::Result<Self> {
        let stat = level.dir.stat()?;
        Ok(Self { identity: (stat.st_dev, stat.st_ino), next: level.next })
    }

    /// Back from `child`. `..` leads wherever the child is by now, so it is compared.
    fn reopen(&self, child: &Dir) -> io::Result<Level> {
        let inside = ResolveFlag::RESOLVE_NO_XDEV
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let dir = Dir { fd: child.openat(Path::new(".."), DIRECTORY, inside)? };
        let stat = dir.stat()?;
        if (stat.st_dev, stat.st_ino) != self.identity {
            return Err(io::Error::other("a directory was moved meanwhile; trying again"));
        }
        lseek(&dir.fd, self.next, Whence::SeekSet)?;
        Ok(Level { next: self.next, ..Level::new(dir) })
    }
}

fn go_through(top: Dir, visit: &mut dyn FnMut(Visit<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut far: Vec<Left> = Vec::new();
    let mut near = VecDeque::from([Level::new(top)]);
    while let Some(level) = near.back_mut() {
        if let Some(name) = level.take()? {
            match level.dir.entry(&name)? {
                None => {}
                Some((Entry::Directory, _)) => {
                    let child = match level.dir.inside(&name) {
                        Ok(Some(child)) => child,
                        Ok(None) | Err(Errno::EXDEV) => continue,
                        Err(errno) => return Err(errno.into()),
                    };
                    if far.len() >= DEPTH_MAX {
                        let text = format!("more than {DEPTH_MAX} directories in one another");
                        return Err(io::Error::other(text));
                    }
                    near.push_back(Level::new(child));
                    if near.len() > LEVELS_OPEN
                        && let Some(first) = near.pop_front()
                    {
                        far.push(Left::of(&first)?);
                    }
                }
                Some(_) => visit(Visit::Other { parent: &level.dir, name: &name })?,
            }
            continue;
        }
        visit(Visit::Directory(&level.dir))?;
        if let Some(done) = near.pop_back()
            && near.is_empty()
            && let Some(parent) = far.pop()
        {
            near.push_back(parent.reopen(&done.dir)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;
    use crate::sys::mount;

    /// Deeper than a process may have descriptors or frames.
    const DEEP: usize = 20_000;

    /// A directory that goes with everything in it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let name = format!("longshore-tree-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        /// In memory: a disk takes long for so many directories.
        fn in_memory(name: &str) -> Self {
            let scratch = Self::new(name);
            mount::tmpfs(&scratch.0, None, 0o755, false).unwrap();
            scratch
        }

        fn dir(&self) -> Dir {
            Dir::open(&self.0).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            for path in mount::below(&self.0).unwrap_or_default() {
                drop(mount::unmount(&path, true));
            }
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    /// A chain of directories as a container makes it, step by step, with a file in some.
    fn nest(top: &Dir, depth: usize) {
        let mut at = top.make_dir(Path::new("d"), 0o755).unwrap();
        for level in 1..depth {
            if level % 1000 == 0 {
                at.create(OsStr::new("f"), b"x", 0o600).unwrap();
                // What is moved up must not run into a name that is there.
                at.make_dir(Path::new("0.deep/x"), 0o755).unwrap();
            }
            at = at.make_dir(Path::new("d"), 0o755).unwrap();
        }
    }

    #[test]
    fn f65_a_tree_that_is_deeper_than_descriptors_is_removed() {
        let scratch = Scratch::in_memory("deep");
        let (root, dir) = (&scratch.0, scratch.dir());
        let vol = dir.make_dir(Path::new("vol"), 0o755).unwrap();
        vol.make_dir(Path::new("0.deep/full"), 0o755).unwrap();
        nest(&vol, DEEP);
        std::fs::create_dir(root.join("host")).unwrap();
        std::fs::write(root.join("host/canary"), "alive").unwrap();
        symlink(root.join("host"), root.join("vol/d/d/d/out")).unwrap();
        dir.remove_tree(OsStr::new("vol")).unwrap();
        assert!(!root.join("vol").exists());
        assert_eq!(std::fs::read_to_string(root.join("host/canary")).unwrap(), "alive");
    }

    #[test]
    fn f65_a_tree_that_is_deeper_than_descriptors_is_gone_through_once() {
        let scratch = Scratch::in_memory("walk");
        let (root, dir) = (&scratch.0, scratch.dir());
        let vol = dir.make_dir(Path::new("vol"), 0o755).unwrap();
        nest(&vol, DEEP);
        symlink("/etc", root.join("vol/d/out")).unwrap();
        let (mut directories, mut others, mut last) = (0, Vec::new(), 0);
        dir.walk(OsStr::new("vol"), &mut |found| {
            match found {
                Visit::Directory(dir) => {
                    directories += 1;
                    last = dir.stat()?.st_ino;
                }
                Visit::Other { name, .. } => others.push(name.to_owned()),
            }
            Ok(())
        })
        .unwrap();
        let side = (DEEP - 1) / 1000;
        assert_eq!(directories, 1 + DEEP + 2 * side);
        assert_eq!(others.iter().filter(|name| *name == "f").count(), side);
        assert_eq!(others.len(), side + 1);
        assert_eq!(last, vol.stat().unwrap().st_ino, "the top comes last");
        dir.remove_tree(OsStr::new("vol")).unwrap();
    }

    #[test]
    fn f65_many_entries_of_one_directory_are_all_seen() {
        let scratch = Scratch::new("wide");
        let (root, dir) = (&scratch.0, scratch.dir());
        let vol = dir.make_dir(Path::new("vol"), 0o755).unwrap();
        // More than the kernel lists at once, files and full directories.
        for n in 0..1000 {
            vol.create(OsStr::new(&format!("file-with-a-rather-long-name-{n}")), b"", 0o600)
                .unwrap();
            vol.make_dir(Path::new(&format!("{n}/x")), 0o755).unwrap();
        }
        let mut seen = 0;
        dir.walk(OsStr::new("vol"), &mut |_| {
            seen += 1;
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, 1 + 3 * 1000);
        dir.remove_tree(OsStr::new("vol")).unwrap();
        assert!(!root.join("vol").exists());
    }

    #[test]
    fn cve_3_what_is_mounted_below_is_neither_emptied_nor_owned() {
        let scratch = Scratch::new("mount");
        let (root, dir) = (&scratch.0, scratch.dir());
        std::fs::create_dir_all(root.join("vol/a/mnt")).unwrap();
        let mount = root.join("vol/a/mnt");
        mount::tmpfs(&mount, None, 0o755, true).unwrap();
        std::fs::write(mount.join("canary"), "alive").unwrap();
        let error = dir.remove_tree(OsStr::new("vol")).unwrap_err().to_string();
        let mut files = 0;
        dir.walk(OsStr::new("vol"), &mut |found| {
            files += usize::from(matches!(found, Visit::Other { .. }));
            Ok(())
        })
        .unwrap();
        let canary = std::fs::read_to_string(mount.join("canary")).unwrap();
        mount::unmount(&mount, false).unwrap();
        assert!(error.contains("unmount it first"), "{error}");
        assert_eq!((canary.as_str(), files), ("alive", 0));
    }
}
