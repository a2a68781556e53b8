//! Socket hooks on cgroups: attached once, pinned, and taken over by link update ever after.
//!
//! A pin's name holds its cgroup's inode number, so a changed `--cgroup-root` or a recreated
//! directory is another link: the new one is attached before the old one goes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::cgroup_sock_addr::CgroupSockAddrLink;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError};
use aya::sys::SyscallError;

use super::DataplaneError;
use super::object::SOCKET_HOOKS;

/// Attaches every socket hook; programs are loaded.
///
/// # Errors
/// Whatever was attached before stays attached.
pub fn attach(
    ebpf: &mut Ebpf,
    pins: &Path,
    cgroup_v2_root: &Path,
    cgroup_dir: &Path,
) -> Result<(), DataplaneError> {
    let open = |path: &Path| {
        let file = File::open(path)?;
        let inode = file.metadata()?.ino();
        io::Result::Ok((file, inode))
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| DataplaneError::path("opening cgroup", path, source)
    };
    let (node, node_inode) = open(cgroup_dir).map_err(failed(cgroup_dir))?;
    let (root, root_inode) = open(cgroup_v2_root).map_err(failed(cgroup_v2_root))?;
    let mut wanted = Vec::new();
    for hook in SOCKET_HOOKS {
        let pin = pins.join(format!("{hook}-{node_inode:x}"));
        attach_one(ebpf, hook, &node, &pin)?;
        wanted.push(pin);
        if node_inode != root_inode {
            let hook = format!("{hook}_host");
            let pin = pins.join(format!("{hook}-{root_inode:x}"));
            attach_one(ebpf, &hook, &root, &pin)?;
            wanted.push(pin);
        }
    }
    remove_others(pins, &wanted)
}

fn attach_one(
    ebpf: &mut Ebpf,
    name: &str,
    cgroup: &File,
    pin: &Path,
) -> Result<(), DataplaneError> {
    let program: &mut CgroupSockAddr = ebpf
        .program_mut(name)
        .ok_or_else(|| DataplaneError::NoProgram(name.to_owned()))?
        .try_into()
        .map_err(|error| DataplaneError::program(name, error))?;
    if let Some(link) = pinned(pin)? {
        match take_over(program, link) {
            Ok(()) => return Ok(()),
            // Its cgroup is gone: the kernel has detached it.
            Err(error) if errno(&error) == Some(libc::ENOLINK) => {
                fs::remove_file(pin)
                    .map_err(|source| DataplaneError::path("unpinning", pin, source))?;
            }
            Err(error) => return Err(DataplaneError::program(name, error)),
        }
    }
    let link = first(program, cgroup).map_err(|error| DataplaneError::program(name, error))?;
    // Dropped on failure: then it is detached, and nothing half-done stays.
    link.pin(pin).map_err(|source| DataplaneError::pin(pin, source))?;
    Ok(())
}

fn pinned(pin: &Path) -> Result<Option<CgroupSockAddrLink>, DataplaneError> {
    let failed = |source| DataplaneError::Link { path: pin.to_owned(), source: Box::new(source) };
    match PinnedLink::from_pin(pin) {
        Ok(old) => Ok(Some(FdLink::from(old).try_into().map_err(failed)?)),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Swaps the program behind a pinned link, atomically: no call goes without a program.
fn take_over(program: &mut CgroupSockAddr, link: CgroupSockAddrLink) -> Result<(), ProgramError> {
    let id = program.attach_to_link(link)?;
    // The pin holds it: closing our descriptor changes nothing.
    drop(program.take_link(id)?);
    Ok(())
}

fn first(program: &mut CgroupSockAddr, cgroup: &File) -> Result<FdLink, ProgramError> {
    // The kernel takes no flags for a link: it always runs beside others, as if BPF_F_ALLOW_MULTI.
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        _ => None,
    }
}

fn remove_others(pins: &Path, wanted: &[PathBuf]) -> Result<(), DataplaneError> {
    let failed = |source| DataplaneError::path("listing", pins, source);
    for entry in fs::read_dir(pins).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !wanted.contains(&path) {
            fs::remove_file(&path)
                .map_err(|source| DataplaneError::path("unpinning", path, source))?;
        }
    }
    Ok(())
}
