//! Files below a directory that others can write, by descriptor and never by a resolved name.
//!
//! Containers may have replaced any name below a volume by a link (CVE-2017-1002101,
//! CVE-2017-1002102, CVE-2021-25741), so each step opens with `openat2`: beneath the directory, no
//! symbolic link, no magic link. Deliberately absent: a way to get a path back out.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, OFlag, OpenHow, RenameFlags, ResolveFlag, openat2, readlinkat, renameat2,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, fchown, fchownat, symlinkat};

/// What a directory entry is, without following it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    Directory,
    File,
    Symlink,
    Other,
}

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    pub(super) fd: OwnedFd,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) const DIRECTORY: OFlag =
    OFlag::O_DIRECTORY.union(OFlag::O_RDONLY).union(OFlag::O_CLOEXEC);

pub(super) fn beneath() -> ResolveFlag {
    ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_MAGICLINKS
        | ResolveFlag::RESOLVE_NO_SYMLINKS
}

impl Dir {
    /// Opens a path that only the administrator can change (the state directory).
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = nix::fcntl::open(path, DIRECTORY, Mode::empty())?;
        Ok(Self { fd })
    }

    /// Opens an existing directory below this one.
    ///
    /// # Errors
    /// It is missing, not a directory, or reached only through a link.
    pub fn dir(&self, path: &Path) -> io::Result<Self> {
        self.openat(path, DIRECTORY, beneath()).map(|fd| Self { fd })
    }

    /// Opens the directory below this one and makes what is missing of it. The last one gets
    /// exactly `mode`, whatever the umask; those between get 0755.
    ///
    /// # Errors
    /// A component is a link or a file, or the file system refuses.
    pub fn make_dir(&self, path: &Path, mode: u32) -> io::Result<Self> {
        let mut at = Self { fd: self.fd.try_clone()? };
        let mut rest = path.components().peekable();
        while let Some(component) = rest.next() {
            let name = normal(component)?;
            let last = rest.peek().is_none();
            let made = match mkdirat(&at.fd, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) => true,
                Err(Errno::EEXIST) => false,
                Err(errno) => return Err(errno.into()),
            };
            at = at.dir(Path::new(name))?;
            if made && last {
                fchmod(&at.fd, Mode::from_bits_truncate(mode))?;
            }
        }
        Ok(at)
    }

    /// Permission bits and kind of the directory itself.
    ///
    /// # Errors
    /// `fstat` failed.
    pub fn stat(&self) -> io::Result<FileStat> {
        Ok(fstat(&self.fd)?)
    }

    /// # Errors
    /// The file system refuses.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(fchmod(&self.fd, Mode::from_bits_truncate(mode))?)
    }

    /// What `name` is; `None`: nothing.
    ///
    /// # Errors
    /// Anything but "no such entry".
    pub fn entry(&self, name: &OsStr) -> io::Result<Option<(Entry, FileStat)>> {
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((kind_of(&stat), stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Names in the directory, as they come: there may be millions.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>> + use<>> {
        // The magic link leads to the directory that is open, whatever its name is by now.
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?;
        Ok(entries.map(|entry| entry.map(|entry| entry.file_name())))
    }

    /// Opens a regular file for reading. Never blocks on a FIFO and never opens a device.
    ///
    /// # Errors
    /// It is missing, reached through a link, or not a regular file.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        // O_PATH first: opening a device has side effects that fstat cannot take back.
        let probe = self.openat(path, OFlag::O_PATH | OFlag::O_CLOEXEC, beneath())?;
        let stat = fstat(&probe)?;
        if kind_of(&stat) != Entry::File {
            return Err(io::Error::other(format!("{} is not a regular file", path.display())));
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = File::from(self.openat(path, flags, beneath())?);
        let opened = fstat(&file)?;
        if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
            return Err(io::Error::other(format!("{} was replaced while opening", path.display())));
        }
        Ok(file)
    }

    /// Up to `max` bytes of a regular file, from its end where `tail`; see [`Dir::file`].
    ///
    /// # Errors
    /// As [`Dir::file`].
    pub fn read(&self, path: &Path, max: u64, tail: bool) -> io::Result<Vec<u8>> {
        let mut file = self.file(path)?;
        if tail {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
        }
        let mut data = Vec::new();
        file.take(max).read_to_end(&mut data)?;
        Ok(data)
    }

    /// Makes a new file with exactly `mode`; fails where one is.
    ///
    /// # Errors
    /// The name exists, or the file system refuses (full, read-only).
    pub fn create(&self, name: &OsStr, data: &[u8], mode: u32) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let how =
            OpenHow::new().flags(flags).mode(Mode::from_bits_truncate(0o600)).resolve(beneath());
        let mut file = File::from(openat2(&self.fd, name, how)?);
        file.write_all(data)?;
        fchmod(&file, Mode::from_bits_truncate(mode))?;
        Ok(())
    }

    /// Overwrites the same inode, because containers have it mounted (etc-hosts).
    ///
    /// # Errors
    /// It is not a regular file, or the file system refuses.
    pub fn overwrite(&self, name: &OsStr, data: &[u8], mode: u32) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        match self.entry(name)? {
            Some((Entry::File, _)) => {}
            _ => return Err(io::Error::other(format!("{} is not a regular file", name.display()))),
        }
        let mut file = File::from(self.openat(Path::new(name), flags, beneath())?);
        file.write_all(data)?;
        file.set_len(data.len() as u64)?;
        fchmod(&file, Mode::from_bits_truncate(mode))?;
        Ok(())
    }

    /// # Errors
    /// The name exists, or the file system refuses.
    pub fn symlink(&self, target: &OsStr, name: &OsStr) -> io::Result<()> {
        Ok(symlinkat(target, &self.fd, name)?)
    }

    /// Where the link `name` points; `None`: it is missing or not a link.
    ///
    /// # Errors
    /// Anything else.
    pub fn link_target(&self, name: &OsStr) -> io::Result<Option<OsString>> {
        match readlinkat(&self.fd, name) {
            Ok(target) => Ok(Some(target)),
            Err(Errno::ENOENT | Errno::EINVAL) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Replaces `to` by `from` in one step, both in this directory.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(renameat2(&self.fd, from, &self.fd, to, RenameFlags::empty())?)
    }

    /// Group and mode of the directory itself.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn own_self(&self, gid: u32, mode: u32) -> io::Result<()> {
        fchown(&self.fd, None, Some(Gid::from_raw(gid)))?;
        self.set_mode(mode)
    }

    /// Owner and mode of an entry that is not a link.
    ///
    /// # Errors
    /// It is a link, or the file system refuses.
    pub fn own(&self, name: &OsStr, gid: Option<u32>, mode: Option<u32>) -> io::Result<()> {
        self.own_by(name, None, gid, mode)
    }

    /// [`Dir::own`], and gives it to the user `uid`.
    ///
    /// # Errors
    /// It is a link, or the file system refuses.
    pub fn own_by(
        &self,
        name: &OsStr,
        uid: Option<u32>,
        gid: Option<u32>,
        mode: Option<u32>,
    ) -> io::Result<()> {
        let path = Path::new(name);
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        match self.entry(name)? {
            Some((Entry::Directory | Entry::File, _)) => {
                let fd = self.openat(path, flags, beneath())?;
                fchown(&fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
                if let Some(mode) = mode {
                    fchmod(&fd, Mode::from_bits_truncate(mode))?;
                }
                Ok(())
            }
            Some((Entry::Symlink | Entry::Other, _)) => {
                let group = gid.map(Gid::from_raw);
                Ok(fchownat(
                    &self.fd,
                    name,
                    uid.map(Uid::from_raw),
                    group,
                    AtFlags::AT_SYMLINK_NOFOLLOW,
                )?)
            }
            None => Err(Errno::ENOENT.into()),
        }
    }

    pub(super) fn openat(
        &self,
        path: &Path,
        flags: OFlag,
        resolve: ResolveFlag,
    ) -> io::Result<OwnedFd> {
        Ok(openat2(&self.fd, path, OpenHow::new().flags(flags).resolve(resolve))?)
    }
}

fn kind_of(stat: &FileStat) -> Entry {
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if kind == SFlag::S_IFDIR {
        Entry::Directory
    } else if kind == SFlag::S_IFREG {
        Entry::File
    } else if kind == SFlag::S_IFLNK {
        Entry::Symlink
    } else {
        Entry::Other
    }
}

fn normal(component: Component<'_>) -> io::Result<&OsStr> {
    match component {
        Component::Normal(name) => Ok(name),
        other => Err(io::Error::other(format!(
            "{} is not a plain name below the directory",
            other.as_os_str().display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("longshore-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// CVE-2017-1002101: a link at any depth leads nowhere.
    #[test]
    fn cve_1_links_at_every_depth_are_refused() {
        let root = scratch("cve1");
        std::fs::create_dir_all(root.join("vol/a")).unwrap();
        std::fs::create_dir_all(root.join("host")).unwrap();
        std::fs::write(root.join("host/secret"), "canary").unwrap();
        symlink(root.join("host"), root.join("vol/absolute")).unwrap();
        symlink("../host", root.join("vol/relative")).unwrap();
        symlink("../../host/secret", root.join("vol/a/file")).unwrap();
        symlink("/proc/self/root", root.join("vol/magic")).unwrap();
        let vol = Dir::open(&root.join("vol")).unwrap();
        for path in ["absolute/secret", "relative/secret", "a/file", "magic/etc/passwd", "../host"]
        {
            assert!(vol.read(Path::new(path), 100, false).is_err(), "{path}");
            assert!(vol.make_dir(Path::new(path), 0o755).is_err(), "{path}");
        }
        assert!(vol.overwrite(OsStr::new("absolute"), b"x", 0o644).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }

    /// CVE-2017-1002102: removal empties the volume and nothing behind its links.
    #[test]
    fn cve_3_removal_follows_no_link() {
        let root = scratch("cve3");
        std::fs::create_dir_all(root.join("vol/deep/er")).unwrap();
        std::fs::create_dir_all(root.join("host")).unwrap();
        std::fs::write(root.join("host/canary"), "alive").unwrap();
        symlink(root.join("host"), root.join("vol/deep/er/out")).unwrap();
        symlink(root.join("host/canary"), root.join("vol/..data")).unwrap();
        Dir::open(&root).unwrap().remove_tree(OsStr::new("vol")).unwrap();
        assert!(!root.join("vol").exists());
        assert_eq!(std::fs::read_to_string(root.join("host/canary")).unwrap(), "alive");
        std::fs::remove_dir_all(&root).unwrap();
    }

    /// CVE-2021-25741: a racer that swaps a directory for a link by atomic exchange never leads a
    /// reader or a remover outside.
    #[test]
    fn cve_2_a_racing_swap_never_escapes() {
        let root = scratch("cve2");
        std::fs::create_dir_all(root.join("vol/x")).unwrap();
        std::fs::create_dir_all(root.join("host")).unwrap();
        std::fs::write(root.join("vol/x/f"), "inside").unwrap();
        std::fs::write(root.join("host/f"), "outside").unwrap();
        symlink(root.join("host"), root.join("vol/y")).unwrap();
        let vol = Dir::open(&root.join("vol")).unwrap();
        let racer = Dir::open(&root.join("vol")).unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let swap = RenameFlags::RENAME_EXCHANGE;
                    renameat2(&racer.fd, "x", &racer.fd, "y", swap).unwrap();
                }
            });
            for _ in 0..20_000 {
                if let Ok(text) = vol.read(Path::new("x/f"), 100, false) {
                    assert_eq!(text, b"inside");
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn modes_are_exact_whatever_the_umask_is() {
        let root = scratch("modes");
        let dir = Dir::open(&root).unwrap();
        dir.make_dir(Path::new("a/b"), 0o777).unwrap();
        dir.create(OsStr::new("f"), b"x", 0o666).unwrap();
        let mode = |p: &str| root.join(p).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("a/b"), mode("f")), (0o777, 0o666));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
