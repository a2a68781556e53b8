//! `ctr` in the namespace of Kubernetes: what runs, and commands inside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::process::Run;

/// A client of one containerd.
#[derive(Clone, Debug)]
pub struct Ctr {
    program: PathBuf,
    socket: PathBuf,
    snapshotter: &'static str,
}

/// A container of a pod, by the labels that CRI gives it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PodContainer {
    pub namespace: String,
    pub pod: String,
    pub container: String,
    pub id: String,
    /// Its first process; `None`: no task runs.
    pub pid: Option<i32>,
}

static EXEC: AtomicU32 = AtomicU32::new(0);

impl Ctr {
    pub fn new(program: PathBuf, socket: PathBuf, snapshotter: &'static str) -> Self {
        Self { program, socket, snapshotter }
    }

    pub fn run(&self) -> Run {
        Run::new(&self.program).arg("-a").arg(&self.socket).args(["-n", "k8s.io"])
    }

    pub fn answers(&self) -> bool {
        self.socket.exists()
            && self.run().arg("version").limit_s(5).output().is_ok_and(|output| output.ok())
    }

    /// Brings the images of an OCI layout tar in.
    pub fn import(&self, tar: &Path) -> Result<String> {
        self.run().args(["images", "import", "--snapshotter", self.snapshotter]).arg(tar).check()
    }

    pub fn images(&self) -> Result<Vec<String>> {
        let text = self.run().args(["images", "ls", "-q"]).check()?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// The pods' containers, without the sandboxes.
    ///
    /// # Errors
    /// containerd does not answer.
    pub fn containers(&self) -> Result<Vec<PodContainer>> {
        let tasks = self.tasks()?;
        let list = self
            .run()
            .args(["containers", "ls", "-q", r#"labels."io.cri-containerd.kind"==container"#])
            .check()?;
        let mut found = Vec::new();
        for id in list.lines() {
            // One that is removed between the list and the question is not there.
            let Ok(info) = self.run().args(["containers", "info", id]).check() else { continue };
            let label = |name: &str| json_string(&info, name).unwrap_or_default();
            found.push(PodContainer {
                namespace: label("io.kubernetes.pod.namespace"),
                pod: label("io.kubernetes.pod.name"),
                container: label("io.kubernetes.container.name"),
                id: id.to_owned(),
                pid: tasks.get(id).copied(),
            });
        }
        found.sort();
        Ok(found)
    }

    /// Running tasks: container id → pid. Sandboxes too.
    pub fn tasks(&self) -> Result<BTreeMap<String, i32>> {
        let text = self.run().args(["tasks", "ls"]).check()?;
        Ok(text
            .lines()
            .skip(1)
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let [id, pid, "RUNNING"] = words[..] else { return None };
                Some((id.to_owned(), pid.parse().ok()?))
            })
            .collect())
    }

    /// The running container of a pod whose name begins with `pod` (a Deployment's pods have a
    /// suffix): the first in name order.
    pub fn find(&self, namespace: &str, pod: &str) -> Result<PodContainer> {
        self.containers()?
            .into_iter()
            .find(|one| one.namespace == namespace && one.pod.starts_with(pod) && one.pid.is_some())
            .with_context(|| format!("no running container of pod {namespace}/{pod}"))
    }

    /// A command inside a container, in its cgroup, so that the socket hooks see it as the pod.
    pub fn exec(&self, id: &str, command: &[&str]) -> Run {
        let number = EXEC.fetch_add(1, Ordering::Relaxed);
        let exec_id = format!("x{}-{number}", std::process::id());
        self.run().args(["tasks", "exec", "--exec-id", &exec_id, id]).args(command)
    }
}

/// The string value of a key in `ctr`'s JSON. Labels have flat, unique names.
fn json_string(json: &str, key: &str) -> Option<String> {
    let (_, rest) = json.split_once(&format!("\"{key}\": \""))?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn labels_are_read_from_the_info() {
        let info =
            "{\n \"Labels\": {\n  \"io.kubernetes.pod.name\": \"web-1\",\n  \"x\": \"\"\n }\n}";
        assert_eq!(super::json_string(info, "io.kubernetes.pod.name").as_deref(), Some("web-1"));
        assert_eq!(super::json_string(info, "y"), None);
    }
}
