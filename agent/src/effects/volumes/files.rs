//! Files of configMap, secret, downwardAPI and projected volumes, replaced all at once (A103).
//!
//! `..data` is a link to a directory with one complete generation; names that containers open are
//! links through it. Readers see the old files or the new ones. Deliberately absent: reading what
//! containers wrote there.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};

use longshore_core::pod::action::FileContent;

use super::Changed;
use crate::sys::dir::{Dir, Entry};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

type Entries = BTreeMap<String, FileContent>;

/// Makes `dir` show exactly `entries`.
pub fn ensure(dir: &Dir, entries: &Entries, fs_group: Option<i64>) -> io::Result<Changed> {
    let gid = fs_group.and_then(|gid| u32::try_from(gid).ok());
    let current = current_generation(dir)?;
    let same = match &current {
        Some(name) => same_content(&dir.dir(Path::new(name))?, entries, gid)?,
        None => false,
    };
    let mut changed = Changed::No;
    let generation = if let (true, Some(name)) = (same, current) {
        name
    } else {
        changed = Changed::Yes;
        let name = write_generation(dir, entries, gid)?;
        dir.remove_tree(OsStr::new(DATA_NEXT))?;
        dir.symlink(&name, OsStr::new(DATA_NEXT))?;
        // A container may have put a directory in the place of the link: rename would refuse.
        if !matches!(dir.entry(OsStr::new(DATA))?, None | Some((Entry::Symlink, _))) {
            dir.remove_tree(OsStr::new(DATA))?;
        }
        dir.rename(OsStr::new(DATA_NEXT), OsStr::new(DATA))?;
        name
    };
    Ok(changed.or(ensure_links(dir, entries, &generation)?))
}

/// Whether `dir` shows a complete generation.
pub fn are_there(dir: &Dir) -> io::Result<bool> {
    Ok(current_generation(dir)?.is_some())
}

/// Where `..data` points, if that is a generation of ours beside it.
fn current_generation(dir: &Dir) -> io::Result<Option<OsString>> {
    let Some(target) = dir.link_target(OsStr::new(DATA))? else { return Ok(None) };
    let text = target.to_string_lossy();
    let ours = text.starts_with("..") && text.len() > 2 && !text.contains('/') && text != DATA;
    let there = matches!(dir.entry(&target)?, Some((Entry::Directory, _)));
    Ok((ours && there).then_some(target))
}

/// The generation holds exactly `entries`, with modes and group.
fn same_content(data: &Dir, entries: &Entries, gid: Option<u32>) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    listing(data, "", 0, entries.len(), &mut found)?;
    if found != entries.keys().cloned().collect::<BTreeSet<_>>() {
        return Ok(false);
    }
    let own = nix::unistd::geteuid().as_raw();
    for (path, content) in entries {
        let path = Path::new(path);
        let (Some(parent), Some(leaf)) = (path.parent(), path.file_name()) else {
            return Ok(false);
        };
        let dir = if parent.as_os_str().is_empty() { None } else { Some(data.dir(parent)?) };
        let Some((Entry::File, stat)) = dir.as_ref().unwrap_or(data).entry(leaf)? else {
            return Ok(false);
        };
        let group = gid.is_none_or(|gid| stat.st_gid == gid);
        if stat.st_mode & 0o7777 != mode_of(content, gid)
            || !group
            || stat.st_uid != content.uid.unwrap_or(own)
            || data.read(path, content.data.len() as u64 + 1, false)? != content.data
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Paths of all files; a link or anything else that we never make is listed too, and so differs.
/// One more than `most` is enough to differ.
fn listing(
    dir: &Dir,
    prefix: &str,
    depth: u32,
    most: usize,
    found: &mut BTreeSet<String>,
) -> io::Result<()> {
    for name in dir.names()? {
        let name = name?;
        let path = format!("{prefix}{}", name.to_string_lossy());
        match dir.entry(&name)? {
            Some((Entry::Directory, _)) if depth < 64 => {
                let inner = dir.dir(Path::new(&name))?;
                listing(&inner, &format!("{path}/"), depth + 1, most, found)?;
            }
            Some(_) => {
                found.insert(path);
            }
            None => {}
        }
        if found.len() > most {
            return Ok(());
        }
    }
    Ok(())
}

/// These volumes are read-only for containers: the group may read (A115).
fn mode_of(content: &FileContent, gid: Option<u32>) -> u32 {
    let mode = content.mode & 0o777;
    if gid.is_some() { mode | 0o440 } else { mode }
}

/// Writes a complete new generation and answers its name.
fn write_generation(dir: &Dir, entries: &Entries, gid: Option<u32>) -> io::Result<OsString> {
    let name = fresh_name(dir)?;
    let data = dir.make_dir(Path::new(&name), 0o755)?;
    for (path, content) in entries {
        let path = Path::new(path);
        let leaf = path.file_name().ok_or_else(|| io::Error::other("an item without a name"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let at = match parent {
            Some(parent) => Some(data.make_dir(parent, 0o755)?),
            None => None,
        };
        let at = at.as_ref().unwrap_or(&data);
        at.create(leaf, &content.data, mode_of(content, gid))?;
        if gid.is_some() || content.uid.is_some() {
            // chown drops mode bits, so the mode is set again.
            at.own_by(leaf, content.uid, gid, Some(mode_of(content, gid)))?;
        }
    }
    Ok(name)
}

fn fresh_name(dir: &Dir) -> io::Result<OsString> {
    let now = crate::clock::now().unix_ms();
    for n in 0..1000 {
        let name = OsString::from(format!("..{now}.{n}"));
        if dir.entry(&name)?.is_none() {
            return Ok(name);
        }
    }
    Err(io::Error::other("no free name for a new generation"))
}

/// Links for what containers open, and nothing else: stale links and old generations go.
fn ensure_links(dir: &Dir, entries: &Entries, generation: &OsStr) -> io::Result<Changed> {
    let mut changed = Changed::No;
    let wanted: BTreeSet<OsString> = entries.keys().filter_map(|path| first(path)).collect();
    for name in &wanted {
        let target = OsString::from(format!("{DATA}/{}", name.to_string_lossy()));
        if dir.link_target(name)?.as_ref() == Some(&target) {
            continue;
        }
        dir.remove_tree(name)?;
        dir.symlink(&target, name)?;
        changed = Changed::Yes;
    }
    for name in dir.names()? {
        let name = name?;
        let keep = name == DATA || name == generation || wanted.contains(&name);
        if !keep {
            dir.remove_tree(&name)?;
            changed = Changed::Yes;
        }
    }
    Ok(changed)
}

fn first(path: &str) -> Option<OsString> {
    match Path::new(path).components().next()? {
        Component::Normal(name) => Some(name.to_owned()),
        _ => None,
    }
}
