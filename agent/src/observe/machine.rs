//! Facts of the machine and of its runtime: capacity, identity, what is left, images (A6, A8, A14).
//!
//! Deliberately absent: what follows from them (`core::node`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longshore_core::model::{Filesystem, ImageFacts, MachineFacts, RuntimeFacts, RuntimeHandler};
use longshore_proto::cri;
use longshore_proto::cri::image_service_client::ImageServiceClient;
use longshore_proto::cri::runtime_service_client::RuntimeServiceClient;
use nix::sys::statvfs::statvfs;
use tonic::transport::Channel;

use super::runtime::{MESSAGE_MAX, ReadError, call};
use crate::supervise::Scope;

/// The node's heartbeat does not wait longer for a runtime that hangs.
const ANSWER: Duration = Duration::from_secs(5);

/// Where facts are read; clones share what was learned.
#[derive(Clone)]
pub struct Machine {
    scope: Scope,
    /// `/`, but for tests.
    root: PathBuf,
    data_dir: PathBuf,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    /// Where the runtime said that images are, when it last said it.
    imagefs: Arc<Mutex<Option<PathBuf>>>,
}

impl Machine {
    /// `data_dir`: where pods' files are, on the filesystem that is the node's ephemeral storage.
    /// `channel`: the runtime's.
    pub fn new(scope: Scope, data_dir: PathBuf, channel: Channel) -> Self {
        Self {
            scope,
            root: PathBuf::from("/"),
            data_dir,
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_MAX),
            imagefs: Arc::default(),
        }
    }

    /// Measures now. What cannot be read is `None` and has a line in `problems`.
    pub async fn read(&self) -> MachineFacts {
        let known = match self.image_directory().await {
            Ok(path) => {
                let mut known = self.imagefs.lock().unwrap_or_else(PoisonError::into_inner);
                *known = path.or(known.take());
                known.clone()
            }
            Err(error) => {
                tracing::debug!(%error, "the runtime does not say where images are");
                self.imagefs.lock().unwrap_or_else(PoisonError::into_inner).clone()
            }
        };
        let (root, data_dir) = (self.root.clone(), self.data_dir.clone());
        let read = move || facts(&root, &data_dir, known.as_deref());
        self.scope.blocking(read).await.unwrap_or_else(|error| MachineFacts {
            problems: vec![format!("reading the machine's facts panicked: {error}")],
            ..MachineFacts::default()
        })
    }

    /// What the runtime says of itself; each part that it does not answer is `None`.
    pub async fn read_runtime(&self) -> RuntimeFacts {
        let (version, status, images) = tokio::join!(self.version(), self.status(), self.listed());
        let mut facts = RuntimeFacts {
            version: told(version),
            images: told(images),
            ..RuntimeFacts::default()
        };
        if let Some(status) = told(status) {
            facts.handlers = Some(status.runtime_handlers.into_iter().map(handler).collect());
            facts.supplemental_groups_policy =
                status.features.map(|features| features.supplemental_groups_policy);
        }
        facts
    }

    async fn version(&self) -> Result<String, ReadError> {
        let mut client = self.runtime.clone();
        let request = cri::VersionRequest { version: "v1".into() };
        let answer = soon("Version", call("Version", client.version(request))).await?;
        Ok(format!("{}://{}", answer.runtime_name, answer.runtime_version))
    }

    async fn status(&self) -> Result<cri::StatusResponse, ReadError> {
        let mut client = self.runtime.clone();
        let request = cri::StatusRequest { verbose: false };
        soon("Status", call("Status", client.status(request))).await
    }

    async fn listed(&self) -> Result<Vec<ImageFacts>, ReadError> {
        let mut client = self.images.clone();
        let request = cri::ListImagesRequest { filter: None };
        let answer = soon("ListImages", call("ListImages", client.list_images(request))).await?;
        Ok(answer.images.into_iter().map(image).collect())
    }

    async fn image_directory(&self) -> Result<Option<PathBuf>, ReadError> {
        let mut client = self.images.clone();
        let request = cri::ImageFsInfoRequest {};
        let answer =
            soon("ImageFsInfo", call("ImageFsInfo", client.image_fs_info(request))).await?;
        let id = answer.image_filesystems.into_iter().find_map(|usage| usage.fs_id);
        Ok(id.map(|id| PathBuf::from(id.mountpoint)))
    }
}

async fn soon<T>(
    method: &'static str,
    answer: impl Future<Output = Result<T, ReadError>>,
) -> Result<T, ReadError> {
    tokio::time::timeout(ANSWER, answer).await.unwrap_or_else(|_| {
        let message = format!("no answer within {} s", ANSWER.as_secs());
        Err(ReadError { method, code: tonic::Code::DeadlineExceeded, message })
    })
}

fn told<T>(answer: Result<T, ReadError>) -> Option<T> {
    answer.inspect_err(|error| tracing::debug!(%error, "asking the runtime for its facts")).ok()
}

fn handler(told: cri::RuntimeHandler) -> RuntimeHandler {
    let features = told.features;
    RuntimeHandler {
        name: told.name,
        recursive_read_only_mounts: features.map(|features| features.recursive_read_only_mounts),
        user_namespaces: features.map(|features| features.user_namespaces),
    }
}

fn image(told: cri::Image) -> ImageFacts {
    ImageFacts {
        id: told.id,
        digests: told.repo_digests,
        tags: told.repo_tags,
        size_bytes: i64::try_from(told.size).unwrap_or(i64::MAX),
    }
}

/// Everything that files say. Blocks.
fn facts(root: &Path, data_dir: &Path, imagefs: Option<&Path>) -> MachineFacts {
    let mut facts = MachineFacts::default();
    let mut from = Files { root, problems: Vec::new() };
    facts.cpus = from.parsed("sys/devices/system/cpu/online", cpus);
    if let Some(meminfo) = from.parsed("proc/meminfo", |text| Some(meminfo(text))) {
        let total = meminfo.get("MemTotal").copied();
        let free = meminfo.get("MemFree").zip(meminfo.get("Inactive(file)"));
        facts.memory_bytes = total;
        // Capacity without the working set, which is what the kubelet calls available (A161).
        facts.memory_available_bytes = free.map(|(free, inactive)| free + inactive);
        facts.swap_bytes = meminfo.get("SwapTotal").copied().unwrap_or(0);
        if total.is_none() {
            from.problems.push("/proc/meminfo has no MemTotal".into());
        }
    }
    facts.huge_pages = from.huge_pages();
    facts.nodefs = from.filesystem(data_dir);
    facts.imagefs = imagefs.and_then(|path| from.filesystem(path));
    let number = |text: &str| text.trim().parse::<i64>().ok();
    let pids = from.parsed("proc/sys/kernel/pid_max", number);
    let threads = from.parsed("proc/sys/kernel/threads-max", number);
    facts.pids_max = pids.into_iter().chain(threads).min();
    facts.pids = from.parsed("proc/loadavg", tasks);
    let trimmed = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    facts.kernel_version = from.parsed("proc/sys/kernel/osrelease", trimmed).unwrap_or_default();
    facts.boot_id = from.parsed("proc/sys/kernel/random/boot_id", trimmed).unwrap_or_default();
    // The initial namespace is the one that maps every ID to itself.
    facts.in_user_namespace = from
        .first(&["proc/self/uid_map"])
        .map(|map| map.split_whitespace().ne(["0", "0", "4294967295"]));
    facts.machine_id =
        from.first(&["etc/machine-id", "var/lib/dbus/machine-id"]).unwrap_or_default();
    let uuids =
        ["sys/class/dmi/id/product_uuid", "proc/device-tree/system-id", "proc/device-tree/vm,uuid"];
    facts.system_uuid = from.first(&uuids).unwrap_or_else(|| facts.machine_id.clone());
    facts.os_image = from.os_image();
    facts.problems = from.problems;
    facts
}

/// Reads below a root, and remembers what it could not read.
struct Files<'a> {
    root: &'a Path,
    problems: Vec<String>,
}

impl Files<'_> {
    fn parsed<T>(&mut self, path: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let full = self.root.join(path);
        let problem = match fs::read_to_string(&full) {
            Ok(text) => match parse(&text) {
                Some(value) => return Some(value),
                None => format!("{} is not what it should be: {text:?}", full.display()),
            },
            Err(error) => format!("{}: {error}", full.display()),
        };
        self.problems.push(problem);
        None
    }

    /// The first of `paths` that says something; none of them has to be there.
    fn first(&self, paths: &[&str]) -> Option<String> {
        paths.iter().find_map(|path| {
            let text = fs::read_to_string(self.root.join(path)).ok()?;
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            Some(text.to_owned()).filter(|text| !text.is_empty())
        })
    }

    fn huge_pages(&self) -> BTreeMap<i64, i64> {
        let directory = self.root.join("sys/kernel/mm/hugepages");
        // A kernel without huge pages has no such directory.
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let kib: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
                let pages = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
                Some((kib.checked_mul(1024)?, pages.trim().parse().ok()?))
            })
            .collect()
    }

    fn filesystem(&mut self, path: &Path) -> Option<Filesystem> {
        let found = statvfs(path)
            .inspect_err(|error| self.problems.push(format!("{}: {error}", path.display())))
            .ok()?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let bytes = |blocks: u64| number(blocks.saturating_mul(found.fragment_size()));
        Some(Filesystem {
            capacity_bytes: bytes(found.blocks()),
            available_bytes: bytes(found.blocks_available()),
            inodes: number(found.files()),
            inodes_free: number(found.files_free()),
        })
    }

    fn os_image(&self) -> String {
        let text = self.first(&["etc/os-release", "usr/lib/os-release"]).unwrap_or_default();
        let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        name.map_or("Linux", |name| name.trim_matches(['"', '\''])).to_owned()
    }
}

/// Bytes by name; lines without a unit are left out.
fn meminfo(text: &str) -> BTreeMap<String, i64> {
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let kib: i64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some((name.to_owned(), kib.checked_mul(1024)?))
        })
        .collect()
}

/// How many processors a list like `0-3,6` names.
fn cpus(text: &str) -> Option<i64> {
    text.trim().split(',').try_fold(0i64, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (i64, i64) = (first.parse().ok()?, last.parse().ok()?);
        (last >= first).then(|| sum + last - first + 1)
    })
}

/// Tasks that there are, from `0.00 0.00 0.00 1/234 5678`.
fn tasks(text: &str) -> Option<i64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a machine, removed at the end.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("n1-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a6_a8_facts_are_read_from_the_machine() {
        let root = Root::new(
            "facts",
            &[
                ("sys/devices/system/cpu/online", "0-2,5\n"),
                (
                    "proc/meminfo",
                    "MemTotal:  1000 kB\nMemFree: 100 kB\nInactive(file):  50 kB\n\
                     SwapTotal: 7 kB\nHugePages_Total: 3\n",
                ),
                ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "3\n"),
                ("proc/sys/kernel/pid_max", "32768\n"),
                ("proc/sys/kernel/threads-max", "1000\n"),
                ("proc/self/uid_map", "         0          0 4294967295\n"),
                ("proc/loadavg", "0.1 0.2 0.3 2/345 678\n"),
                ("proc/sys/kernel/osrelease", "6.18.0\n"),
                ("proc/sys/kernel/random/boot_id", "b\n"),
                ("var/lib/dbus/machine-id", "m\n"),
                ("etc/os-release", "NAME=x\nPRETTY_NAME=\"Some Linux 1\"\n"),
            ],
        );
        let found = facts(&root.0, &root.0, Some(&root.0));
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!((found.cpus, found.memory_bytes), (Some(4), Some(1000 << 10)));
        assert_eq!(found.memory_available_bytes, Some(150 << 10));
        assert_eq!(found.swap_bytes, 7 << 10);
        assert_eq!(found.huge_pages, BTreeMap::from([(2 << 20, 3)]));
        assert_eq!((found.pids_max, found.pids), (Some(1000), Some(345)));
        assert_eq!((found.kernel_version.as_str(), found.boot_id.as_str()), ("6.18.0", "b"));
        assert_eq!(found.in_user_namespace, Some(false));
        // Without firmware that has a UUID, the machine ID stands for it.
        assert_eq!((found.machine_id.as_str(), found.system_uuid.as_str()), ("m", "m"));
        assert_eq!(found.os_image, "Some Linux 1");
        assert!(found.nodefs.unwrap().capacity_bytes > 0 && found.nodefs == found.imagefs);
    }

    #[test]
    fn a11_what_cannot_be_read_is_missing_and_named() {
        let root = Root::new("empty", &[("proc/loadavg", "nonsense\n")]);
        let found = facts(&root.0, &root.0.join("nowhere"), None);
        assert_eq!((found.cpus, found.memory_bytes, found.nodefs), (None, None, None));
        assert_eq!(found.pids, None);
        for what in ["cpu/online", "meminfo", "loadavg", "nowhere"] {
            assert!(found.problems.iter().any(|line| line.contains(what)), "{what}");
        }
    }

    #[test]
    fn a6_this_machine_has_everything_that_a_node_needs() {
        let found = facts(Path::new("/"), Path::new("/"), None);
        assert_eq!(found.problems, Vec::<String>::new());
        assert!(found.cpus.is_some_and(|n| n > 0) && found.memory_bytes.is_some_and(|n| n > 0));
        let fs = found.nodefs.unwrap();
        assert!(fs.capacity_bytes >= fs.available_bytes && !found.boot_id.is_empty());
    }
}
