//! The last status of each pod on disk, so that a restart keeps Ready, start times and ended
//! containers (A96, F04).
//!
//! tmp + rename, no fsync: it must survive the process, not the machine; after a reboot the
//! containers are gone too. Deliberately absent: anything that a decision cannot do without.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::PodStatus;
use longshore_core::model::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::effects::volumes::STATUS_FILE;

/// What is stored. Fields that a newer version added are ignored (F05).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stored {
    pub key: ObjectKey,
    pub status: PodStatus,
    /// The pod was being deleted: its status says nothing about a pod that is wanted again under
    /// the same UID (static UIDs come from content, A30).
    #[serde(default)]
    pub ending: bool,
}

fn path_of(pod_dir: &Path) -> PathBuf {
    pod_dir.join(STATUS_FILE)
}

/// `None`: there is none, or it is damaged; that one is set aside for whoever looks (F39).
pub fn load(pod_dir: &Path) -> Option<Stored> {
    let path = path_of(pod_dir);
    let text = std::fs::read(&path).ok()?;
    match serde_json::from_slice(&text) {
        Ok(stored) => Some(stored),
        Err(error) => {
            let aside = path.with_extension("json.bad");
            tracing::warn!(path = %path.display(), aside = %aside.display(), %error,
                "a stored pod status is damaged: set aside, going on without it");
            if let Err(error) = std::fs::rename(&path, &aside) {
                tracing::warn!(path = %path.display(), %error, "it cannot be set aside either");
            }
            None
        }
    }
}

/// Replaces the stored status.
///
/// # Errors
/// The file system refuses; the pod goes on, a restart would know less.
pub fn save(pod_dir: &Path, stored: &Stored) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let path = path_of(pod_dir);
    let next = path.with_extension("json.tmp");
    let text = serde_json::to_vec(stored).map_err(io::Error::other)?;
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(pod_dir)?;
    std::fs::write(&next, text)?;
    std::fs::rename(&next, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f39_a_damaged_status_is_set_aside_and_the_pod_goes_on() {
        let dir = std::env::temp_dir().join(format!("longshore-status-{}", std::process::id()));
        let status = PodStatus { phase: Some("Running".into()), ..PodStatus::default() };
        let stored = Stored { key: ObjectKey::new("ns", "p"), status, ending: false };
        assert_eq!(load(&dir), None);
        save(&dir, &stored).unwrap();
        assert_eq!(load(&dir).as_ref(), Some(&stored));
        let whole = std::fs::read(dir.join(STATUS_FILE)).unwrap();
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            std::fs::write(dir.join(STATUS_FILE), &whole[..cut]).unwrap();
            assert_eq!(load(&dir), None, "cut at {cut}");
            assert!(dir.join("status.json.bad").exists());
            assert!(!dir.join(STATUS_FILE).exists());
        }
        save(&dir, &stored).unwrap();
        assert_eq!(load(&dir), Some(stored));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
