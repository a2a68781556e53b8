//! Our conflist and shim in the runtime's CNI directories.
//!
//! A foreign conflist is never touched: two plugins that each believe to own the pod network would
//! break both, so the daemon refuses to start and says how to go on.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use longshore_cni::CNI_VERSIONS;
use serde_json::{Value, json};
use thiserror::Error;

/// File name of our conflist: early in the order in which runtimes read the directory.
pub const CONFLIST: &str = "05-longshore.conflist";
/// File name of the shim, and `type` of our plugin.
pub const PLUGIN: &str = "longshore-cni";

/// Where the runtime looks, and where the shim finds the daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conf {
    /// `--cni-conf-dir`.
    pub conf_dir: PathBuf,
    /// `--cni-bin-dir`.
    pub bin_dir: PathBuf,
    pub socket: PathBuf,
}

#[derive(Debug, Error)]
pub enum ConfError {
    #[error(
        "another network plugin is configured: {0}; longshore is the network plugin of its node. \
         Move that file away, or give longshore a directory of its own with --cni-conf-dir (and \
         point the runtime there)"
    )]
    Foreign(PathBuf),
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> ConfError + 'a {
    move |source| ConfError::Io { what, path: path.to_owned(), source }
}

impl Conf {
    /// Refuses when a foreign configuration is in the way. Touches nothing.
    ///
    /// # Errors
    /// [`ConfError::Foreign`], or the directory cannot be read.
    pub fn check(&self) -> Result<(), ConfError> {
        let entries = match fs::read_dir(&self.conf_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(io_error("read", &self.conf_dir)(error)),
        };
        let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort();
        for path in names {
            let is_conf = path
                .extension()
                .is_some_and(|e| ["conf", "conflist", "json"].contains(&&*e.to_string_lossy()));
            if is_conf && !path.ends_with(CONFLIST) {
                return Err(ConfError::Foreign(path));
            }
        }
        Ok(())
    }

    /// Writes the shim, then the conflist: the runtime never sees a conflist without its plugin.
    ///
    /// # Errors
    /// A directory or file cannot be written.
    pub fn install(&self, shim: &[u8]) -> Result<(), ConfError> {
        for directory in [&self.conf_dir, &self.bin_dir] {
            fs::create_dir_all(directory).map_err(io_error("create", directory))?;
        }
        replace(&self.bin_dir.join(PLUGIN), shim, 0o755)?;
        let conflist = format!("{:#}\n", self.conflist());
        replace(&self.conf_dir.join(CONFLIST), conflist.as_bytes(), 0o644)
    }

    /// Removes what [`Conf::install`] wrote, the conflist first.
    ///
    /// # Errors
    /// A file is there and cannot be removed.
    pub fn remove(&self) -> Result<(), ConfError> {
        for path in [self.conf_dir.join(CONFLIST), self.bin_dir.join(PLUGIN)] {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_error("remove", &path)(error)),
            }
        }
        Ok(())
    }

    fn conflist(&self) -> Value {
        json!({
            "cniVersion": CNI_VERSIONS[2],
            "name": "longshore",
            "plugins": [{ "type": PLUGIN, "socket": self.socket }],
        })
    }
}

/// Writes a file in one step; one with the same content is left alone.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), ConfError> {
    if fs::read(path).is_ok_and(|now| now == content) {
        return Ok(());
    }
    // Not a name that a runtime would read.
    let fresh = path.with_extension("longshore-new");
    let mut file = fs::File::create(&fresh).map_err(io_error("write", &fresh))?;
    file.write_all(content).map_err(io_error("write", &fresh))?;
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(io_error("write", &fresh))?;
    drop(file);
    fs::rename(&fresh, path).map_err(io_error("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(root: &Path) -> Conf {
        Conf {
            conf_dir: root.join("net.d"),
            bin_dir: root.join("bin"),
            socket: root.join("cni.sock"),
        }
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("longshore-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("scratch directory");
        path
    }

    #[test]
    fn a_foreign_conflist_is_refused_and_left_alone() {
        let root = scratch("conf-foreign");
        let conf = conf(&root);
        fs::create_dir_all(&conf.conf_dir).expect("conf dir");
        let foreign = conf.conf_dir.join("10-flannel.conflist");
        fs::write(&foreign, "{}").expect("foreign conflist");
        let error = conf.check().expect_err("refused").to_string();
        assert!(
            error.contains("10-flannel.conflist") && error.contains("--cni-conf-dir"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&foreign).expect("still there"), "{}");
        fs::remove_dir_all(root).expect("clean up");
    }

    #[test]
    fn i14_installing_twice_writes_once_and_removing_leaves_nothing() {
        let root = scratch("conf-install");
        let conf = conf(&root);
        conf.check().expect("an empty machine is fine");
        conf.install(b"shim").expect("installed");
        let first =
            fs::metadata(conf.bin_dir.join(PLUGIN)).expect("shim").modified().expect("time");
        conf.install(b"shim").expect("installed again");
        conf.check().expect("our own conflist is not foreign");
        let second =
            fs::metadata(conf.bin_dir.join(PLUGIN)).expect("shim").modified().expect("time");
        assert_eq!(first, second);
        conf.remove().expect("removed");
        conf.remove().expect("removed already");
        assert_eq!(fs::read_dir(&conf.conf_dir).expect("dir").count(), 0);
        fs::remove_dir_all(root).expect("clean up");
    }
}
