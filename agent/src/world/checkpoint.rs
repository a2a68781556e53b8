//! `standalone.json`: the memory of the standalone controllers, replaced in one step (F37, F39).
//!
//! A file that cannot be used is set aside, never deleted and never a reason not to start.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use longshore_core::standalone::{Catalog, State, state};

/// What was on disk.
pub enum Loaded {
    /// Nothing: the first start.
    Fresh,
    Found(Box<(Catalog, State)>),
    /// Something unusable, which now has the name `kept`.
    Lost {
        why: String,
        kept: PathBuf,
    },
}

/// The file of one state directory.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
}

impl Checkpoint {
    pub fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("standalone.json") }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file once, at start.
    pub fn load(&self) -> Loaded {
        let why = match self.read() {
            Ok(None) => return Loaded::Fresh,
            Ok(Some(text)) => match state::from_text(&text) {
                Ok(found) => return Loaded::Found(Box::new(found)),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        let kept = self.path.with_extension("json.bad");
        let why = match std::fs::rename(&self.path, &kept) {
            Ok(()) => why,
            Err(error) => format!("{why}; it could not be set aside: {error}"),
        };
        Loaded::Lost { why, kept }
    }

    fn read(&self) -> std::io::Result<Option<String>> {
        read(&self.path)
    }

    /// Writes beside the file, syncs, and renames: after a crash the old text or the new one is
    /// there. Mode 0600.
    ///
    /// # Errors
    /// The disk's own, with the path.
    pub fn store(&self, text: &str) -> std::io::Result<()> {
        let named = |error: std::io::Error| {
            std::io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
        };
        self.replace(text).map_err(named)
    }

    fn replace(&self, text: &str) -> std::io::Result<()> {
        replace(&self.path, text)
    }
}

/// `None`: there is no such file.
pub(super) fn read(path: &Path) -> std::io::Result<Option<String>> {
    // A link here was not made by us.
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    std::io::Read::read_to_string(&mut file, &mut text)?;
    Ok(Some(text))
}

/// Writes `path.tmp`, syncs, and renames. Mode 0600.
pub(super) fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_extension("json.tmp");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TempDir;
    use super::*;

    fn text() -> String {
        state::to_text(&Catalog::default(), &State::default())
    }

    #[test]
    fn f39_a_checkpoint_that_is_not_one_is_set_aside() {
        let good = text();
        for bad in ["", "{", "[]", "{\"version\":7}", &good[..good.len() / 2], "\u{0}\u{0}"] {
            let dir = TempDir::new("checkpoint-bad");
            let checkpoint = Checkpoint::new(dir.path());
            std::fs::write(checkpoint.path(), bad).unwrap();
            let Loaded::Lost { why, kept } = checkpoint.load() else { panic!("{bad:?} was used") };
            assert!(!why.is_empty());
            assert_eq!(std::fs::read_to_string(kept).unwrap(), bad);
            assert!(matches!(checkpoint.load(), Loaded::Fresh));
        }
    }

    #[test]
    fn f39_a_link_or_a_directory_is_no_checkpoint() {
        let dir = TempDir::new("checkpoint-link");
        let checkpoint = Checkpoint::new(dir.path());
        std::fs::write(dir.path().join("other"), text()).unwrap();
        std::os::unix::fs::symlink(dir.path().join("other"), checkpoint.path()).unwrap();
        assert!(matches!(checkpoint.load(), Loaded::Lost { .. }));
        std::fs::create_dir(checkpoint.path()).unwrap();
        assert!(matches!(checkpoint.load(), Loaded::Lost { .. }));
        assert!(dir.path().join("other").exists());
    }

    #[test]
    fn f37_a_torn_write_leaves_the_old_checkpoint() {
        let dir = TempDir::new("checkpoint-torn");
        let checkpoint = Checkpoint::new(dir.path());
        checkpoint.store(&text()).unwrap();
        std::fs::write(dir.path().join("standalone.json.tmp"), "{half").unwrap();
        assert!(matches!(checkpoint.load(), Loaded::Found(_)));
        checkpoint.store(&text()).unwrap();
        assert!(matches!(checkpoint.load(), Loaded::Found(_)));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &std::fs::metadata(checkpoint.path()).unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
    }
}
