//! In a directory of their own; the tmpfs tests mount, so they need root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

struct Scratch {
    pods: PathBuf,
}

impl Scratch {
    fn new(name: &str) -> Self {
        let pods =
            std::env::temp_dir().join(format!("longshore-vol-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&pods));
        fs::create_dir_all(&pods).unwrap();
        Self { pods }
    }

    fn pod_dir(&self) -> String {
        self.pods.join("uid1").display().to_string()
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.pods.join(format!("uid1/volumes/kubernetes.io~{kind}/{name}"))
    }

    fn plan(&self, kind: &str, volume: Volume) -> VolumePlan {
        let path = self.path(kind, "v").display().to_string();
        VolumePlan {
            pod_dir: self.pod_dir(),
            volumes: BTreeMap::from([("v".to_owned(), PlannedVolume { path, volume })]),
            ..VolumePlan::default()
        }
    }

    fn ensure(&self, plan: &VolumePlan) -> Changed {
        ensure(&self.pods, plan, &|_| ()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(remove(&self.pods, &self.pod_dir()));
        drop(fs::remove_dir_all(&self.pods));
    }
}

fn content(text: &str, mode: u32) -> FileContent {
    FileContent { data: text.as_bytes().to_vec(), mode, uid: None }
}

fn files(entries: &[(&str, &str)]) -> Volume {
    let entries = entries.iter().map(|(path, text)| ((*path).to_owned(), content(text, 0o644)));
    Volume::Files { entries: entries.collect(), tmpfs: false }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a99_empty_dir_is_0777_and_survives() {
    let s = Scratch::new("a99");
    let plan = s.plan("empty-dir", Volume::EmptyDir);
    assert_eq!(s.ensure(&plan), Changed::Yes);
    let path = s.path("empty-dir", "v");
    assert_eq!(mode(&path), 0o777);
    fs::write(path.join("f"), "kept").unwrap();
    assert_eq!(s.ensure(&plan), Changed::No);
    assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "kept");
}

#[test]
fn a100_memory_is_a_tmpfs_of_its_size_and_removal_unmounts_it() {
    let s = Scratch::new("a100");
    let plan = s.plan("empty-dir", Volume::EmptyDirMemory { size_bytes: Some(1 << 20) });
    assert_eq!(s.ensure(&plan), Changed::Yes);
    assert_eq!(s.ensure(&plan), Changed::No);
    let path = s.path("empty-dir", "v");
    assert_eq!(mode(&path), 0o777);
    let full = fs::write(path.join("big"), vec![0u8; 2 << 20]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    // Busy, as after a container that was killed hard.
    let held = fs::File::create(path.join("held")).unwrap();
    remove(&s.pods, &s.pod_dir()).unwrap();
    drop(held);
    assert!(!exists(&s.pod_dir()));
    assert!(mount::below(&s.pods).unwrap().is_empty());
    remove(&s.pods, &s.pod_dir()).unwrap();
}

#[test]
fn a102_host_path_types_are_checked_and_made() {
    let s = Scratch::new("a102");
    let dir = s.pods.join("made/dir");
    let file = s.pods.join("made-file");
    let text = |path: &Path| path.display().to_string();
    use HostPathKind as K;
    let check = |path: &Path, kind: K, expect: Result<Changed, &str>| {
        let plan = s.plan("host-path", Volume::HostPath { path: text(path), kind });
        match (ensure(&s.pods, &plan, &|_| ()), expect) {
            (Ok(got), Ok(expect)) => assert_eq!(got, expect, "{kind:?}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{kind:?}: {got:?}, expected {expect:?}"),
        }
    };
    check(&dir, K::Unchecked, Ok(Changed::No));
    check(&dir, K::Directory, Err("does not exist"));
    check(&dir, K::DirectoryOrCreate, Ok(Changed::Yes));
    check(&dir, K::DirectoryOrCreate, Ok(Changed::No));
    assert_eq!(mode(&dir), 0o755);
    check(&dir, K::File, Err("is not a file"));
    check(&file, K::FileOrCreate, Ok(Changed::Yes));
    assert_eq!(mode(&file), 0o644);
    check(&file, K::File, Ok(Changed::No));
    check(&file, K::Directory, Err("is not a directory"));
    check(&file, K::Socket, Err("is not a socket file"));
    check(Path::new("/dev/null"), K::CharDevice, Ok(Changed::No));
    check(Path::new("/dev/null"), K::BlockDevice, Err("is not a block device"));
    let socket = s.pods.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    check(&socket, K::Socket, Ok(Changed::No));
}

#[test]
fn a103_files_change_all_at_once_by_one_link() {
    let s = Scratch::new("a103");
    let path = s.path("configmap", "v");
    let first = s.plan("configmap", files(&[("a", "1"), ("sub/b", "2")]));
    assert_eq!(s.ensure(&first), Changed::Yes);
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(path.join("sub/b")).unwrap(), "2");
    assert_eq!(fs::read_link(path.join("a")).unwrap(), Path::new("..data/a"));
    let generation = fs::read_link(path.join("..data")).unwrap();
    assert_eq!(s.ensure(&first), Changed::No);
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), generation);

    assert_eq!(s.ensure(&s.plan("configmap", files(&[("a", "3"), ("c", "4")]))), Changed::Yes);
    assert_ne!(fs::read_link(path.join("..data")).unwrap(), generation);
    let mut names: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(&names[1..], ["..data", "a", "c"]);
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
}

#[test]
fn i10_a_volume_is_kept_as_it_is_if_it_is_whole() {
    let s = Scratch::new("kept");
    let refused = |plan: &VolumePlan| ensure(&s.pods, plan, &|_| ()).unwrap_err().to_string();
    let kept = s.plan("secret", Volume::Kept);
    assert!(refused(&kept).contains("nothing is left of it here"), "{}", refused(&kept));
    s.ensure(&s.plan("secret", files(&[("a", "1")])));
    assert_eq!(s.ensure(&kept), Changed::No);
    assert_eq!(fs::read_to_string(s.path("secret", "v").join("a")).unwrap(), "1");
    fs::remove_file(s.path("secret", "v").join("..data")).unwrap();
    assert!(refused(&kept).contains("nothing is left of it here"));
}

#[test]
fn a103_a_crash_at_any_step_of_a_swap_is_repaired() {
    let s = Scratch::new("crash");
    let path = s.path("configmap", "v");
    let plan = s.plan("configmap", files(&[("a", "1")]));
    s.ensure(&plan);
    // Died after writing half of a generation and the temporary link.
    fs::create_dir(path.join("..123.0")).unwrap();
    fs::write(path.join("..123.0/a"), "half").unwrap();
    symlink("..123.0", path.join("..data_tmp")).unwrap();
    // Died before the links of containers were made.
    fs::remove_file(path.join("a")).unwrap();
    assert_eq!(s.ensure(&plan), Changed::Yes);
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "1");
    assert!(!path.join("..123.0").exists() && !path.join("..data_tmp").exists());
    assert_eq!(s.ensure(&plan), Changed::No);
}

#[test]
fn cve_3_links_that_a_container_made_in_a_files_volume_lead_nowhere() {
    let s = Scratch::new("cve3");
    let canary = s.pods.join("canary");
    fs::create_dir_all(&canary).unwrap();
    fs::write(canary.join("a"), "alive").unwrap();
    let path = s.path("secret", "v");
    let plan = s.plan("secret", files(&[("a", "1"), ("d/b", "2")]));
    for attack in ["..data", "a", "d", "..data_tmp", "extra"] {
        s.ensure(&plan);
        drop(fs::remove_file(path.join(attack)));
        symlink(&canary, path.join(attack)).unwrap();
        s.ensure(&plan);
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "1", "{attack}");
        assert_eq!(fs::read_to_string(path.join("d/b")).unwrap(), "2", "{attack}");
        assert_eq!(fs::read_to_string(canary.join("a")).unwrap(), "alive", "{attack}");
        assert_eq!(fs::read_dir(&canary).unwrap().count(), 1, "{attack}");
    }
    let generation = path.join(fs::read_link(path.join("..data")).unwrap());
    fs::remove_dir_all(&generation).unwrap();
    symlink(&canary, &generation).unwrap();
    s.ensure(&plan);
    assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "1");
    // The whole volume replaced: refused, because its parent is ours and nobody may do that.
    fs::remove_dir_all(&path).unwrap();
    symlink(&canary, &path).unwrap();
    assert!(ensure(&s.pods, &plan, &|_| ()).is_err());
    remove(&s.pods, &s.pod_dir()).unwrap();
    assert_eq!(fs::read_to_string(canary.join("a")).unwrap(), "alive");
}

#[test]
fn a115_fs_group_owns_what_it_should_and_modes_open_for_it() {
    let s = Scratch::new("a115");
    let mut plan = s.plan("empty-dir", Volume::EmptyDir);
    plan.fs_group = Some(4242);
    assert_eq!(s.ensure(&plan), Changed::Yes);
    let root = s.path("empty-dir", "v");
    assert_eq!((root.metadata().unwrap().gid(), mode(&root)), (4242, 0o2777));
    assert_eq!(s.ensure(&plan), Changed::No);

    let secret = Volume::Files {
        entries: BTreeMap::from([("key".to_owned(), content("x", 0o400))]),
        tmpfs: true,
    };
    let mut plan = s.plan("secret", secret);
    plan.fs_group = Some(4242);
    assert_eq!(s.ensure(&plan), Changed::Yes);
    let key = s.path("secret", "v").join("key");
    assert_eq!((key.metadata().unwrap().gid(), mode(&key)), (4242, 0o440));
    assert_eq!(s.ensure(&plan), Changed::No);
}

#[test]
fn f65_a_volume_that_is_nested_without_end_gets_its_group_and_is_removed() {
    let s = Scratch::new("f65");
    // In memory: a disk takes long for so many directories.
    mount::tmpfs(&s.pods, None, 0o755, false).unwrap();
    let mut plan = s.plan("empty-dir", Volume::EmptyDir);
    s.ensure(&plan);
    let root = s.path("empty-dir", "v");
    let canary = s.pods.join("canary");
    fs::write(&canary, "alive").unwrap();
    let mut at = Dir::open(&root).unwrap();
    for level in 0..20_000 {
        if level == 10_000 {
            at.create(OsStr::new("f"), b"x", 0o600).unwrap();
            at.symlink(canary.as_os_str(), OsStr::new("out")).unwrap();
        }
        at = at.make_dir(Path::new("d"), 0o700).unwrap();
    }
    plan.fs_group = Some(4242);
    assert_eq!(s.ensure(&plan), Changed::Yes);
    assert_eq!((at.stat().unwrap().st_gid, at.stat().unwrap().st_mode & 0o7777), (4242, 0o2770));
    assert_eq!((root.metadata().unwrap().gid(), mode(&root)), (4242, 0o2777));
    assert_ne!(canary.metadata().unwrap().gid(), 4242);
    assert_eq!(s.ensure(&plan), Changed::No);
    remove(&s.pods, &s.pod_dir()).unwrap();
    assert!(!exists(&s.pod_dir()));
    drop(at);
    mount::unmount(&s.pods, true).unwrap();
}

#[test]
fn a199_the_hosts_file_keeps_its_inode() {
    let s = Scratch::new("a199");
    let mut plan = VolumePlan { pod_dir: s.pod_dir(), ..VolumePlan::default() };
    plan.files.insert("etc-hosts".into(), content("127.0.0.1 localhost\n", 0o644));
    plan.termination_files.push("containers/app/termination-0".into());
    assert_eq!(s.ensure(&plan), Changed::Yes);
    let path = s.pods.join("uid1/etc-hosts");
    let inode = path.metadata().unwrap().ino();
    let message = s.pods.join("uid1/containers/app/termination-0");
    assert_eq!(mode(&message), 0o666);
    fs::write(&message, "bye").unwrap();
    plan.files.insert("etc-hosts".into(), content("::1 x\n", 0o644));
    assert_eq!(s.ensure(&plan), Changed::Yes);
    assert_eq!(fs::read_to_string(&path).unwrap(), "::1 x\n");
    assert_eq!(path.metadata().unwrap().ino(), inode);
    assert_eq!(fs::read_to_string(&message).unwrap(), "bye");
    assert_eq!(s.ensure(&plan), Changed::No);
}

#[test]
fn f34_a_full_disk_is_a_typed_error_that_says_so() {
    let s = Scratch::new("f34");
    mount::tmpfs(&s.pods, Some(64 << 10), 0o755, false).unwrap();
    let big = "x".repeat(256 << 10);
    let error = ensure(&s.pods, &s.plan("configmap", files(&[("a", &big)])), &|_| ()).unwrap_err();
    assert!(error.to_string().contains("the disk is full"), "{error}");
    remove(&s.pods, &s.pod_dir()).unwrap();
    mount::unmount(&s.pods, false).unwrap();
}

#[test]
fn cve_22_paths_outside_the_pod_are_refused() {
    let s = Scratch::new("cve22");
    for pod_dir in
        ["/etc", "/", &s.pods.display().to_string(), &format!("{}/../x", s.pods.display())]
    {
        let plan = VolumePlan { pod_dir: pod_dir.to_owned(), ..VolumePlan::default() };
        assert!(
            matches!(ensure(&s.pods, &plan, &|_| ()), Err(VolumeError::Outside { .. })),
            "{pod_dir}"
        );
        assert!(matches!(remove(&s.pods, pod_dir), Err(VolumeError::Outside { .. })), "{pod_dir}");
    }
    let mut plan = s.plan("empty-dir", Volume::EmptyDir);
    plan.volumes.get_mut("v").unwrap().path = "/etc/x".into();
    assert!(matches!(ensure(&s.pods, &plan, &|_| ()), Err(VolumeError::Outside { .. })));
}
