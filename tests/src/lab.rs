//! What a lab is built from, and how a lane hands it to a test: by environment variables.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::containerd::Runtime;

/// The pod image of all tests; its entry point is the workload binary.
pub const WORKLOAD_IMAGE: &str = "localhost/longshore/workload:1";
/// The sandbox image.
pub const PAUSE_IMAGE: &str = "localhost/longshore/pause:1";

/// As the workload, under a name that [`crate::registry`] answers for, with a layer of its own.
pub const PULLED_IMAGE: &str = "127.0.0.1:5000/longshore/workload:1";

/// Everything that is there before the first node.
#[derive(Clone, Debug)]
pub struct Lab {
    /// The daemon under test.
    pub longshore: PathBuf,
    pub runtime: Runtime,
    /// The workload binary itself, for clients on the host.
    pub workload: PathBuf,
    /// OCI layout tars to import.
    pub images: Vec<PathBuf>,
    /// One that is not imported: [`PULLED_IMAGE`].
    pub pulled_image: PathBuf,
    /// Nodes live below it, each in a directory of its name. Short: socket paths end at 107 bytes.
    pub dir: PathBuf,
    /// What names of network namespaces and cgroups begin with.
    pub prefix: String,
}

impl Lab {
    /// Reads what `cargo xtask test` has set.
    ///
    /// # Errors
    /// A variable is missing: the test was started without xtask.
    pub fn from_env() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("this test makes network namespaces and cgroups: run it as root");
        }
        Self::from_variables(&|name| std::env::var(name).ok())
    }

    /// As [`Lab::from_env`], from what [`Lab::to_env`] gave, wherever it was kept.
    pub fn from_variables(get: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let runtime = Runtime {
            bin_dir: path(get, "LONGSHORE_LAB_RUNTIME")?,
            runc: path(get, "LONGSHORE_LAB_RUNC")?,
            version: variable(get, "LONGSHORE_LAB_RUNTIME_VERSION")?,
        };
        let images = variable(get, "LONGSHORE_LAB_IMAGES")?;
        Ok(Self {
            longshore: path(get, "LONGSHORE_LAB_BIN")?,
            workload: path(get, "LONGSHORE_LAB_WORKLOAD")?,
            runtime,
            images: images.split(':').map(PathBuf::from).collect(),
            pulled_image: path(get, "LONGSHORE_LAB_PULLED_IMAGE")?,
            dir: path(get, "LONGSHORE_LAB_DIR")?,
            prefix: get("LONGSHORE_LAB_PREFIX").unwrap_or_else(|| "longshore".into()),
        })
    }

    /// The variables for [`Lab::from_env`].
    pub fn to_env(&self) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.display().to_string();
        let images: Vec<String> = self.images.iter().map(|path| text(path)).collect();
        vec![
            ("LONGSHORE_LAB_BIN", text(&self.longshore)),
            ("LONGSHORE_LAB_WORKLOAD", text(&self.workload)),
            ("LONGSHORE_LAB_RUNTIME", text(&self.runtime.bin_dir)),
            ("LONGSHORE_LAB_RUNC", text(&self.runtime.runc)),
            ("LONGSHORE_LAB_RUNTIME_VERSION", self.runtime.version.clone()),
            ("LONGSHORE_LAB_IMAGES", images.join(":")),
            ("LONGSHORE_LAB_PULLED_IMAGE", text(&self.pulled_image)),
            ("LONGSHORE_LAB_DIR", text(&self.dir)),
            ("LONGSHORE_LAB_PREFIX", self.prefix.clone()),
        ]
    }
}

/// One of the variables that say where things are.
pub(crate) fn variable(get: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<String> {
    get(name)
        .with_context(|| format!("{name} is not set: start this test with `cargo xtask test e2e`"))
}

pub(crate) fn path(get: &dyn Fn(&str) -> Option<String>, name: &str) -> Result<PathBuf> {
    variable(get, name).map(PathBuf::from)
}
