//! On the machine's own kernel, below a root that only this test has.

use std::process::Command;

use super::hierarchy::{Layout, Version, shares_of_weight, weight_of_shares};
use super::*;
use crate::sys::mount::{self, Mount};

struct Root {
    name: String,
    cgroups: KernelCgroups,
}

impl Root {
    fn new(tag: &str) -> Self {
        let name = format!("/longshore-test-{}-{tag}", std::process::id());
        let all_pods = CgroupPlan {
            path: format!("{name}/kubepods"),
            cpu_shares: 2048,
            memory_bytes: Some(1 << 30),
            pids: Some(5000),
            ..CgroupPlan::default()
        };
        let cgroups = KernelCgroups::new(&name, &all_pods.path)
            .expect("these tests need root and mounted cgroups")
            .with_all_pods(all_pods);
        Self { name, cgroups }
    }

    fn plan(&self, qos: &str, uid: &str, shares: u64) -> CgroupPlan {
        CgroupPlan {
            path: format!("{}/kubepods{qos}/pod{uid}", self.name),
            cpu_shares: shares,
            cpu_quota_us: Some(50_000),
            cpu_period_us: 100_000,
            memory_bytes: Some(64 << 20),
            pids: Some(100),
        }
    }

    fn value(&self, controller: &str, path: &str, v1: &str, v2: &str) -> String {
        let hierarchy = self.cgroups.layout.controller(controller).unwrap();
        let file = if hierarchy.version == Version::V1 { v1 } else { v2 };
        let path = hierarchy.at(&format!("{}{path}", self.name)).join(file);
        std::fs::read_to_string(&path).unwrap().trim().to_owned()
    }

    fn shares(&self, path: &str) -> u64 {
        self.cgroups.layout.controller("cpu").unwrap().cpu_shares(&format!("{}{path}", self.name))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for hierarchy in &self.cgroups.layout.hierarchies {
            drop(hierarchy.kill(&self.name));
            drop(hierarchy.remove(&self.name));
        }
    }
}

#[test]
fn a146_a147_pod_and_qos_cgroups_exist_in_every_hierarchy_with_their_values() {
    let root = Root::new("values");
    let cgroups = &root.cgroups;
    let a = root.plan("/burstable", "a", 512);
    let b = root.plan("/burstable", "b", 1024);
    let c = root.plan("/besteffort", "c", 2);
    for plan in [&a, &b, &c, &a] {
        cgroups.ensure(plan).unwrap();
    }
    for hierarchy in &cgroups.layout.hierarchies {
        assert!(hierarchy.at(&a.path).is_dir(), "{}", hierarchy.root.display());
    }
    assert_eq!(root.shares("/kubepods"), 2048);
    assert_eq!(root.shares("/kubepods/besteffort"), 2);
    let burstable = root.shares("/kubepods/burstable");
    assert!((1500..=1560).contains(&burstable), "{burstable}");
    let memory =
        root.value("memory", "/kubepods/burstable/poda", "memory.limit_in_bytes", "memory.max");
    assert_eq!(memory, (64 << 20).to_string());
    assert_eq!(root.value("pids", "/kubepods/burstable/poda", "pids.max", "pids.max"), "100");
    let cpus =
        root.value("cpuset", "/kubepods/burstable/poda", "cpuset.cpus", "cpuset.cpus.effective");
    assert!(!cpus.is_empty());

    let mut free = a.clone();
    (free.cpu_quota_us, free.memory_bytes, free.pids) = (None, None, None);
    cgroups.ensure(&free).unwrap();
    assert_eq!(root.value("pids", "/kubepods/burstable/poda", "pids.max", "pids.max"), "max");
    cgroups.remove(&b).unwrap();
    assert_eq!(root.shares("/kubepods/burstable"), 512);
    assert_eq!(cgroups.pods().len(), 2);
}

#[test]
fn a150_all_pods_together_have_a_limit() {
    let root = Root::new("all");
    for _ in 0..2 {
        root.cgroups.limit_all_pods().unwrap();
        let memory = root.value("memory", "/kubepods", "memory.limit_in_bytes", "memory.max");
        assert_eq!(memory, (1u64 << 30).to_string());
        assert_eq!(root.value("pids", "/kubepods", "pids.max", "pids.max"), "5000");
        assert_eq!(root.shares("/kubepods"), 2048);
    }
}

#[test]
fn i3_removal_kills_only_the_pods_own_processes_and_leaves_no_directory() {
    let root = Root::new("kill");
    let cgroups = &root.cgroups;
    let (a, b) = (root.plan("", "a", 100), root.plan("", "b", 100));
    cgroups.ensure(&a).unwrap();
    cgroups.ensure(&b).unwrap();
    let enter = |path: &str| {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        for hierarchy in &cgroups.layout.hierarchies {
            let inner = hierarchy.at(&format!("{path}/ctr"));
            std::fs::create_dir_all(&inner).unwrap();
            if hierarchy.version == Version::V1 && hierarchy.controllers == ["cpuset"] {
                hierarchy.make(&[path.to_owned(), format!("{path}/ctr")]).unwrap();
            }
            std::fs::write(inner.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        child
    };
    let (mut in_a, mut in_b) = (enter(&a.path), enter(&b.path));
    assert!(cgroups.exists(&a));
    // A zombie keeps a cgroup busy until its parent reaps it; here that parent is the test.
    std::thread::scope(|scope| {
        scope.spawn(|| in_a.wait().unwrap());
        cgroups.remove(&a).unwrap();
    });
    cgroups.remove(&a).unwrap();
    assert!(!cgroups.exists(&a));
    assert!(in_b.try_wait().unwrap().is_none(), "the other pod's process must live");
    in_b.kill().unwrap();
    in_b.wait().unwrap();
}

#[test]
fn i3_nothing_outside_the_cgroup_root_is_touched() {
    let root = Root::new("outside");
    let kubepods = format!("{}/kubepods", root.name);
    for path in [
        "/",
        "/kubepods/poda",
        root.name.as_str(),
        kubepods.as_str(),
        &format!("{kubepods}/../poda"),
        &format!("{kubepods}//poda"),
        &format!("{kubepods}x/poda"),
    ] {
        let plan = CgroupPlan { path: path.to_owned(), ..root.plan("", "a", 2) };
        assert!(matches!(root.cgroups.ensure(&plan), Err(CgroupError::Outside { .. })), "{path}");
        assert!(matches!(root.cgroups.remove(&plan), Err(CgroupError::Outside { .. })), "{path}");
    }
    let qos = CgroupPlan { path: format!("{kubepods}/burstable"), ..root.plan("", "a", 2) };
    assert!(matches!(root.cgroups.remove(&qos), Err(CgroupError::Outside { .. })));
}

#[test]
fn a149_each_controller_is_found_where_it_is_mounted() {
    let mount = |at: &str, fs_type: &str, options: &str| Mount {
        at: at.into(),
        fs_type: fs_type.into(),
        options: options.into(),
    };
    let layout = Layout::from_mounts(&[
        mount("/sys/fs/cgroup", "tmpfs", "rw,mode=755"),
        mount("/c/cpu", "cgroup", "rw,cpu,cpuacct"),
        mount("/c/memory", "cgroup", "rw,memory"),
        mount("/c/systemd", "cgroup", "rw,xattr,name=systemd"),
        mount("/again/memory", "cgroup", "rw,memory"),
        mount("/c/unified", "cgroup2", "rw"),
    ]);
    assert_eq!(layout.hierarchies.len(), 4);
    let at = |name| layout.controller(name).map(|h| h.root.display().to_string());
    assert_eq!(at("cpuacct").as_deref(), Some("/c/cpu"));
    assert_eq!(at("memory").as_deref(), Some("/c/memory"));
    assert_eq!(at("pids"), None);
    assert_eq!(layout.v2().unwrap().root, Path::new("/c/unified"));
}

#[test]
fn a149_the_v2_hierarchy_is_found_beside_v1() {
    let v2_root = |mountinfo: &str| {
        Layout::from_mounts(&mount::parse(mountinfo)).v2().map(|hierarchy| hierarchy.root.clone())
    };
    let hybrid = "25 30 0:22 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                  26 30 0:23 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
    assert_eq!(v2_root(hybrid), Some("/sys/fs/cgroup/unified".into()));
    assert_eq!(v2_root("25 30 0:22 / / rw - ext4 /dev/vda rw\n"), None);
}

#[test]
fn a140_shares_become_weights_by_the_quadratic_rule() {
    for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000), (0, 1)] {
        assert_eq!(weight_of_shares(shares), weight, "{shares}");
    }
    for shares in [2u64, 102, 512, 1024, 4096, 262_144] {
        let back = shares_of_weight(weight_of_shares(shares));
        assert!(back.abs_diff(shares) <= shares / 10, "{shares} became {back}");
    }
}
