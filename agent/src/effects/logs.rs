//! A pod's log directory (A206): made with its volumes, removed with the pod; and the links to the
//! logs of its containers, which log collectors read.
//!
//! Several daemons may share the directory of links: only what points into the own pods' logs is
//! touched.
//!
//! Deliberately absent: rotation and reading.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;

use crate::sys::dir::Dir;

/// Removes `<pod_logs_dir>/<namespace>_<name>_<uid>` and its files, following no link.
///
/// # Errors
/// `directory` is not below `pod_logs_dir`, or the file system refuses.
pub fn remove(pod_logs_dir: &Path, directory: &Path) -> io::Result<()> {
    let name = directory
        .strip_prefix(pod_logs_dir)
        .ok()
        .filter(|name| name.components().count() == 1)
        .and_then(|name| name.components().next())
        .ok_or_else(|| {
            io::Error::other(format!(
                "{} is not a pod's directory below {}",
                directory.display(),
                pod_logs_dir.display()
            ))
        })?;
    match Dir::open(pod_logs_dir) {
        Ok(dir) => dir.remove_tree(name.as_os_str()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the links of one pod exactly `wanted` (name → target): those that point elsewhere below
/// `log_dir`, its log directory, go.
///
/// # Errors
/// The file system refuses, or a name is taken by something that is not a link.
pub fn link(links_dir: &Path, log_dir: &Path, wanted: &BTreeMap<String, String>) -> io::Result<()> {
    if !wanted.is_empty() {
        std::fs::create_dir_all(links_dir)?;
    }
    let Some(dir) = open(links_dir)? else { return Ok(()) };
    for name in dir.names()? {
        let name = name?;
        let Some(target) = dir.link_target(&name)? else { continue };
        let is_wanted = name.to_str().and_then(|name| wanted.get(name)).map(OsStr::new);
        if Path::new(&target).starts_with(log_dir) && is_wanted != Some(target.as_os_str()) {
            dir.remove_tree(&name)?;
        }
    }
    for (name, target) in wanted {
        match dir.link_target(OsStr::new(name))? {
            Some(_) => {}
            None => dir.symlink(OsStr::new(target), OsStr::new(name))?,
        }
    }
    Ok(())
}

/// Removes the links that point into log directories of pods that are gone.
///
/// # Errors
/// The file system refuses.
pub fn sweep(links_dir: &Path, pod_logs_dir: &Path) -> io::Result<()> {
    let Some(dir) = open(links_dir)? else { return Ok(()) };
    for name in dir.names()? {
        let name = name?;
        let Some(target) = dir.link_target(&name)? else { continue };
        let Ok(below) = Path::new(&target).strip_prefix(pod_logs_dir) else { continue };
        let Some(pod) = below.components().next() else { continue };
        if !pod_logs_dir.join(pod).try_exists()? {
            dir.remove_tree(&name)?;
        }
    }
    Ok(())
}

fn open(dir: &Path) -> io::Result<Option<Dir>> {
    match Dir::open(dir) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a206_links_follow_a_pods_containers_and_nothing_else_is_touched() {
        let root = std::env::temp_dir().join(format!("longshore-links-{}", std::process::id()));
        let (links, logs) = (root.join("containers"), root.join("pods"));
        let pod = logs.join("ns_web_u");
        // Nothing wanted and nothing there: nothing is made.
        link(&links, &pod, &BTreeMap::new()).unwrap();
        sweep(&links, &logs).unwrap();
        assert!(!root.exists());
        let to = |attempt: u32| pod.join(format!("app/{attempt}.log")).display().to_string();
        let wanted = |ids: &[u32]| -> BTreeMap<String, String> {
            ids.iter().map(|id| (format!("web_ns_app-c{id}.log"), to(*id))).collect()
        };
        let found = || {
            let dir = std::fs::read_dir(&links).unwrap();
            let mut names: Vec<_> =
                dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        std::fs::create_dir_all(pod.join("app")).unwrap();
        std::fs::write(pod.join("app/1.log"), "said").unwrap();
        link(&links, &pod, &wanted(&[0, 1])).unwrap();
        link(&links, &pod, &wanted(&[0, 1])).unwrap();
        assert_eq!(found(), ["web_ns_app-c0.log", "web_ns_app-c1.log"]);
        assert_eq!(std::fs::read_to_string(links.join("web_ns_app-c1.log")).unwrap(), "said");
        // Of another daemon, of another pod, and no link at all.
        std::os::unix::fs::symlink("/elsewhere/ns_a_u/a/0.log", links.join("a")).unwrap();
        std::os::unix::fs::symlink(logs.join("ns_b_u/b/0.log"), links.join("b")).unwrap();
        std::fs::write(links.join("c"), "").unwrap();
        link(&links, &pod, &wanted(&[1])).unwrap();
        assert_eq!(found(), ["a", "b", "c", "web_ns_app-c1.log"]);
        sweep(&links, &logs).unwrap();
        assert_eq!(found(), ["a", "c", "web_ns_app-c1.log"]);
        link(&links, &pod, &BTreeMap::new()).unwrap();
        assert_eq!(found(), ["a", "c"]);
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a206_only_a_pod_directory_below_the_log_root_is_removed() {
        let root = std::env::temp_dir().join(format!("longshore-logs-{}", std::process::id()));
        let pod = root.join("ns_pod_uid");
        std::fs::create_dir_all(pod.join("app")).unwrap();
        std::fs::write(pod.join("app/0.log"), "x").unwrap();
        for bad in [root.clone(), root.join(".."), root.join("a/b"), "/etc".into()] {
            assert!(remove(&root, &bad).is_err(), "{}", bad.display());
        }
        remove(&root, &pod).unwrap();
        remove(&root, &pod).unwrap();
        assert!(!pod.exists() && root.exists());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
