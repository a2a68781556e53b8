//! Restart, upgrade and removal: nothing in the kernel changes that was not asked for.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

use longshore::dataplane::{Dataplane, DataplaneError, MAP_NAMES};
use longshore_abi::{Addr, Endpoint, LAYOUT};
use longshore_core::image::MapOp;

use crate::lab::{self, Lab};

fn ids(lab: &Lab) -> BTreeSet<u32> {
    MAP_NAMES
        .iter()
        .map(|name| aya::maps::MapInfo::from_pin(lab.pin(&format!("maps/{name}"))).unwrap().id())
        .collect()
}

fn links(lab: &Lab) -> BTreeSet<(String, u32)> {
    let link = |entry: fs::DirEntry| {
        let pinned = aya::programs::links::PinnedLink::from_pin(entry.path()).unwrap();
        let link = aya::programs::links::FdLink::from(pinned);
        (entry.file_name().into_string().unwrap(), link.info().unwrap().id())
    };
    fs::read_dir(lab.pin("links")).unwrap().map(|entry| link(entry.unwrap())).collect()
}

#[test]
fn f05_restart_keeps_maps_links_and_rows() {
    lab::run("restart::f05_restart_keeps_maps_links_and_rows", |lab| {
        let row = (Addr::v4([10, 0, 0, 1]), Endpoint { ifindex: 3, ..Endpoint::default() });
        let first = lab.open();
        first.apply(&[MapOp::PutEndpoint(row.0, row.1)]).unwrap();
        let before = (ids(lab), links(lab), first.rows().unwrap());
        let programs = first.programs().unwrap();
        for program in &programs {
            println!("{} verified {:?}", program.name, program.verified_instructions);
        }
        drop(first);
        let second = lab.open();
        assert_eq!((ids(lab), links(lab), second.rows().unwrap()), before);
        assert_eq!(before.1.len(), 16, "8 hooks at the cgroup root and 8 at the v2 root");
        assert_ne!(second.programs().unwrap(), programs, "the programs are the new ones");
    });
}

#[test]
fn f05_a_bpffs_is_never_mounted_twice() {
    lab::run("restart::f05_a_bpffs_is_never_mounted_twice", |lab| {
        drop(lab.open());
        drop(lab.open());
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let dir = lab.config.bpffs_dir.to_str().unwrap();
        assert_eq!(mounts.lines().filter(|line| line.contains(dir)).count(), 1);
    });
}

#[test]
fn i9_a_map_of_another_layout_is_refused() {
    lab::run("restart::i9_a_map_of_another_layout_is_refused", |lab| {
        drop(lab.open());
        let pin = lab.pin("maps/endpoints");
        fs::remove_file(&pin).unwrap();
        fs::rename(lab.pin("maps/groups"), &pin).unwrap();
        match Dataplane::open(&lab.config) {
            Err(error @ DataplaneError::ForeignMap { .. }) => {
                assert!(error.to_string().contains("longshore cleanup"), "{error}");
            }
            other => panic!("opened a foreign map: {:?}", other.err()),
        }
    });
}

#[test]
fn i3_remove_leaves_nothing() {
    lab::run("restart::i3_remove_leaves_nothing", |lab| {
        let device = |lab: &Lab| fs::metadata(&lab.config.bpffs_dir).unwrap().dev();
        drop(lab.open());
        let mounted = device(lab);
        Dataplane::remove(&lab.config.bpffs_dir).unwrap();
        assert_ne!(device(lab), mounted, "unmounted");
        assert!(!lab.config.bpffs_dir.join(format!("v{LAYOUT}")).exists());
        Dataplane::remove(&lab.config.bpffs_dir).unwrap();
    });
}

#[test]
fn f05_a_changed_cgroup_root_moves_the_links() {
    lab::run("restart::f05_a_changed_cgroup_root_moves_the_links", |lab| {
        drop(lab.open());
        let mut config = lab.config.clone();
        config.cgroup_dir = config.cgroup_v2_root.clone();
        drop(Dataplane::open(&config).unwrap());
        let names: Vec<String> = links(lab).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), 8, "the v2 root needs one set: {names:?}");
        assert!(names.iter().all(|name| !name.contains("_host")), "{names:?}");
    });
}

#[test]
fn f05_programs_with_messages_take_over_and_back() {
    lab::run("restart::f05_programs_with_messages_take_over_and_back", |lab| {
        drop(lab.open());
        let before = (ids(lab), links(lab));
        let mut config = lab.config.clone();
        config.bpf_log = true;
        drop(Dataplane::open(&config).unwrap());
        assert_eq!((ids(lab), links(lab)), before);
        drop(lab.open());
        assert_eq!((ids(lab), links(lab)), before);
    });
}
