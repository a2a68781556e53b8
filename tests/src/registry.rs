//! A registry inside a node's network namespace, with the one image that no node has at first.

use anyhow::{Result, bail};

use crate::lab::PULLED_IMAGE;
use crate::node::Node;
use crate::process::{Child, Run, wait_for};

/// Ends when it is dropped: drop it before its node.
pub struct Registry(Child);

impl Registry {
    /// Starts it and waits until it listens. Plain HTTP: every containerd speaks that to 127.0.0.1.
    ///
    /// # Errors
    /// The image cannot be unpacked, or the port is taken.
    pub fn start(node: &Node) -> Result<Self> {
        let layout = node.dir().join("registry");
        std::fs::create_dir_all(&layout)?;
        Run::new("tar").arg("-xf").arg(&node.lab().pulled_image).arg("-C").arg(&layout).check()?;
        let log = node.dir().join("registry.log");
        let mut child = node.on_host("registry").arg(&layout).start(&log)?;
        wait_for("the registry to listen", 10, || {
            if let Some(code) = child.exited()? {
                bail!("the registry ended ({code:?}): {}", child.log());
            }
            Ok(child.log().contains("serves "))
        })?;
        Ok(Self(child))
    }

    /// One line each: `GET /v2/… 200`.
    pub fn requests(&self) -> String {
        self.0.log()
    }

    /// A name that this registry answers for, and does not have.
    pub fn missing_image() -> String {
        PULLED_IMAGE.replace(":1", ":missing")
    }
}
