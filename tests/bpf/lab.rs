//! A process, a network namespace, a mount namespace and a cgroup for one test.
//!
//! The parent runs the same test again in a child, which enters all of them. So nothing can stay
//! behind: bpffs and its pins go with the mount namespace, links with the pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longshore::dataplane::{Dataplane, DataplaneConfig};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const CHILD: &str = "LONGSHORE_BPF_TEST_DIR";

/// What the child has for itself.
pub struct Lab {
    pub config: DataplaneConfig,
}

/// Runs `body` in a lab; `name` is the test's full name.
pub fn run(name: &str, body: impl FnOnce(&Lab)) {
    match std::env::var_os(CHILD) {
        Some(dir) => body(&Lab::enter(Path::new(&dir))),
        None => parent(name),
    }
}

fn parent(name: &str) {
    assert!(nix::unistd::geteuid().is_root(), "the bpf tests load programs: run them as root");
    let id = format!("longshore-test-{}-{}", std::process::id(), name.replace("::", "-"));
    let (dir, cgroup) = (std::env::temp_dir().join(&id), cgroup_v2_root().join(&id));
    fs::create_dir_all(&dir).unwrap();
    fs::create_dir(&cgroup).unwrap();
    fs::write(dir.join("cgroup"), cgroup.to_str().unwrap()).unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, &dir)
        .status();
    // The child has ended and was waited for, so its cgroup is empty.
    let removed = (fs::remove_dir(&cgroup), fs::remove_dir_all(&dir));
    assert!(status.unwrap().success(), "{name} failed in its lab (see above)");
    assert!(matches!(removed, (Ok(()), Ok(()))), "left behind: {removed:?}");
}

/// Mount point of the cgroup v2 hierarchy.
pub fn cgroup_v2_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(mount.expect("cgroup v2 is mounted").split(' ').nth(1).unwrap())
}

impl Lab {
    fn enter(dir: &Path) -> Self {
        let cgroup_dir = PathBuf::from(fs::read_to_string(dir.join("cgroup")).unwrap());
        fs::write(cgroup_dir.join("cgroup.procs"), "0").unwrap();
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        ip("link set lo up");
        Self {
            config: DataplaneConfig {
                bpffs_dir: dir.join("bpf"),
                cgroup_v2_root: cgroup_v2_root(),
                cgroup_dir,
                service_cidr: Some("10.96.0.0/16".parse().unwrap()),
                bpf_log: false,
            },
        }
    }

    pub fn open(&self) -> Dataplane {
        Dataplane::open(&self.config).unwrap()
    }

    /// A file of this layout, such as `maps/services`.
    pub fn pin(&self, name: &str) -> PathBuf {
        self.config.bpffs_dir.join(format!("v{}", longshore_abi::LAYOUT)).join(name)
    }
}

/// Runs ip(8) in the lab's network namespace.
pub fn ip(args: &str) {
    let output = Command::new("ip").args(args.split(' ')).output().expect("ip(8) is installed");
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
}
