use std::sync::atomic::{AtomicU32, Ordering};

use longshore_core::model::{LocalPod, World};

use super::*;
use crate::supervise::{Policy, Supervisor, Task};

/// A directory of its own, removed at the end.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("longshore-{name}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Rig {
    dir: TempDir,
    state: TempDir,
    store: Store,
    files: Files,
    supervisor: Supervisor,
    task: Option<Task>,
}

fn settings() -> Settings {
    Settings {
        node_name: "node-a".to_owned(),
        node_ips: Vec::new(),
        service_cidr: "10.96.0.0/24".parse().unwrap(),
    }
}

impl Rig {
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        let (dir, state) = (TempDir::new("manifests"), TempDir::new("state"));
        prepare(dir.path());
        let supervisor = Supervisor::default();
        let store = Store::default();
        let (files, source) =
            Files::open(dir.path(), state.path(), settings(), store.clone(), Vec::new());
        let task = Some(supervisor.scope().spawn("files", Policy::Critical, source.run()));
        Self { dir, state, store, files, supervisor, task }
    }

    /// kill -9 and a new start.
    fn restart(&mut self, running: Vec<(ObjectKey, PodUid)>) {
        self.task = None;
        self.store = Store::default();
        let (files, source) = Files::open(
            self.dir.path(),
            self.state.path(),
            settings(),
            self.store.clone(),
            running,
        );
        self.files = files;
        self.task = Some(self.supervisor.scope().spawn("files", Policy::Critical, source.run()));
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// Waits for a world; a test that hangs is stopped by its runner.
    async fn until(&self, what: &str, is: impl Fn(&World) -> bool) -> Arc<World> {
        let mut changes = self.store.subscribe();
        let wait = async {
            loop {
                let world = self.store.snapshot();
                if is(&world) {
                    return world;
                }
                changes.next().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"))
    }

    async fn until_problem(&self, part: &str) {
        let seen = async {
            while !self.files.problems().iter().any(|problem| problem.to_string().contains(part)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(30), seen).await;
        assert!(in_time.is_ok(), "no problem with {part:?} in {:?}", self.files.problems());
    }
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n---\n"
    )
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n";

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn uid(world: &World, name: &str) -> PodUid {
    PodUid::new(world.pods[&key(name)].metadata.uid.clone().unwrap())
}

#[tokio::test]
async fn a29_files_come_change_and_go() {
    let rig = Rig::start(|dir| {
        std::fs::write(dir.join("a.yaml"), pod("a", "x:1")).unwrap();
        std::fs::write(dir.join(".hidden.yaml"), pod("hidden", "x:1")).unwrap();
        std::fs::write(dir.join("notes.txt"), "not a manifest").unwrap();
    });
    let world = rig.until("the first pass", |world| world.synced).await;
    assert_eq!(world.pods.keys().cloned().collect::<Vec<_>>(), [key("a")]);
    rig.write("b.yml", &pod("b", "x:1"));
    let world = rig.until("b", |world| world.pods.contains_key(&key("b"))).await;
    std::fs::remove_file(rig.dir.path().join("a.yaml")).unwrap();
    let deleting = |world: &World| {
        world.pods.get(&key("a")).is_some_and(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    rig.until("a is deleted", deleting).await;
    rig.files.finished(&key("a"), &PodUid::new("another"));
    rig.files.finished(&key("a"), &uid(&world, "a"));
    rig.until("a is gone", |world| !world.pods.contains_key(&key("a"))).await;
}

#[tokio::test]
async fn a29_the_links_of_a_mounted_config_map_are_files() {
    let rig = Rig::start(|dir| {
        std::fs::create_dir(dir.join("..v1")).unwrap();
        std::fs::write(dir.join("..v1/a.yaml"), pod("a", "x:1")).unwrap();
        std::os::unix::fs::symlink("..v1", dir.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    });
    rig.until("a", |world| world.pods.contains_key(&key("a"))).await;
    let dir = rig.dir.path();
    std::fs::create_dir(dir.join("..v2")).unwrap();
    std::fs::write(dir.join("..v2/a.yaml"), pod("a", "x:1").replace("app: web", "app: new"))
        .unwrap();
    std::os::unix::fs::symlink("..v2", dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    let labelled =
        |world: &World| world.pods[&key("a")].metadata.labels.as_ref().unwrap()["app"] == "new";
    rig.until("the swap", labelled).await;
}

#[tokio::test]
async fn f67_broken_files_pipes_and_a_lost_directory_keep_everything() {
    let rig = Rig::start(|dir| std::fs::write(dir.join("a.yaml"), pod("a", "x:1")).unwrap());
    let world = rig.until("a", |world| world.synced).await;
    rig.write("a.yaml", "kind: [");
    rig.until_problem("a.yaml:1: not YAML").await;
    rig.write("big.yaml", &"#".repeat(standalone::FILE_BYTES_MAX + 1));
    rig.until_problem("big.yaml: has more than").await;
    nix::unistd::mkfifo(&rig.dir.path().join("p.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    rig.until_problem("p.yaml: is not a regular file").await;
    std::fs::write(rig.dir.path().join("u.yaml"), [0xff, 0xfe]).unwrap();
    rig.until_problem("u.yaml: is not UTF-8").await;
    let aside = rig.dir.path().with_extension("aside");
    std::fs::rename(rig.dir.path(), &aside).unwrap();
    rig.until_problem("everything stays as it was").await;
    assert_eq!(rig.store.snapshot().pods, world.pods);
    std::fs::rename(&aside, rig.dir.path()).unwrap();
}

#[tokio::test]
async fn f39_a_restart_keeps_uids_addresses_and_pods_of_broken_files() {
    let mut rig = Rig::start(|dir| {
        std::fs::write(dir.join("a.yaml"), pod("a", "x:1")).unwrap();
        std::fs::write(dir.join("s.yaml"), SERVICE).unwrap();
    });
    let before = rig.until("a", |world| world.synced).await;
    rig.write("a.yaml", &pod("a", "x:2"));
    rig.until("the edit", |world| world.pods[&key("a")].metadata.deletion_timestamp.is_some())
        .await;
    rig.files.finished(&key("a"), &uid(&before, "a"));
    let before = rig
        .until("a again", |world| {
            world.pods.get(&key("a")).is_some_and(|p| p.metadata.deletion_timestamp.is_none())
        })
        .await;
    rig.task = None;
    rig.write("a.yaml", "kind: [");
    rig.restart(Vec::new());
    let after = rig.until("the restart", |world| world.synced).await;
    assert_eq!((&after.pods, &after.services), (&before.pods, &before.services));
    // Without the checkpoint a running pod is recognised by its name and UID.
    rig.task = None;
    rig.write("a.yaml", &pod("a", "x:2"));
    std::fs::write(rig.state.path().join("standalone.json"), "{").unwrap();
    rig.restart(vec![(key("a"), uid(&before, "a"))]);
    let after = rig.until("the restart", |world| world.synced).await;
    assert_eq!(uid(&after, "a"), uid(&before, "a"));
    assert_eq!(after.services, before.services);
    assert!(rig.state.path().join("standalone.json.bad").exists());
}

#[tokio::test]
async fn b27_readiness_reaches_the_slices_and_touches_nothing_else() {
    let rig =
        Rig::start(|dir| std::fs::write(dir.join("a.yaml"), pod("a", "x:1") + SERVICE).unwrap());
    let before = rig.until("a", |world| world.synced).await;
    let status = k8s_openapi::api::core::v1::PodStatus {
        pod_ip: Some("10.85.0.2".to_owned()),
        ..Default::default()
    };
    let local = LocalPod { ready: true, status, ..LocalPod::default() };
    let mut changes = rig.store.subscribe();
    rig.store.set_local(&uid(&before, "a"), Some(local));
    let after = rig.until("an endpoint", |world| !world.endpoint_slices.is_empty()).await;
    let slice = after.endpoint_slices.keys().next().unwrap().clone();
    let mut seen = changes.next().await;
    if !seen.contains(&Change::EndpointSlice(slice.clone())) {
        seen.extend(changes.next().await);
    }
    assert_eq!(
        seen,
        BTreeSet::from([Change::Local(uid(&before, "a")), Change::EndpointSlice(slice)])
    );
    assert!(Arc::ptr_eq(&before.pods[&key("a")], &after.pods[&key("a")]));
}

#[tokio::test]
async fn a38_without_checkpoint_and_with_a_broken_file_nothing_is_deleted() {
    let mut rig = Rig::start(|dir| std::fs::write(dir.join("a.yaml"), pod("a", "x:1")).unwrap());
    let before = rig.until("a", |world| world.synced).await;
    rig.task = None;
    std::fs::remove_file(rig.state.path().join("standalone.json")).unwrap();
    rig.write("a.yaml", "kind: [");
    rig.restart(vec![(key("a"), uid(&before, "a"))]);
    rig.until_problem("a.yaml:1: not YAML").await;
    assert!(!rig.store.snapshot().synced);
    assert!(!rig.state.path().join("standalone.json").exists());
    rig.write("a.yaml", &pod("a", "x:1"));
    let after = rig.until("the repaired file", |world| world.synced).await;
    assert_eq!(uid(&after, "a"), uid(&before, "a"));
}

/// A source that is driven by hand, on a clock of its own.
fn by_hand(dir: &TempDir, state: &TempDir) -> (Store, Source) {
    let store = Store::default();
    let (_, source) = Files::open(dir.path(), state.path(), settings(), store.clone(), Vec::new());
    (store, source)
}

#[test]
fn f67_a_file_that_an_editor_empties_for_a_moment_ends_no_pod() {
    let (dir, state) = (TempDir::new("editor"), TempDir::new("editor-state"));
    let file = dir.path().join("a.yaml");
    let (store, mut source) = by_hand(&dir, &state);
    let alive = |store: &Store| {
        let world = store.snapshot();
        world.pods.get(&key("a")).is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
    };
    let start = Time::from_unix_ms(1_000_000);
    let mut look = |after: i64, text: Option<&str>| {
        match text {
            Some(text) => std::fs::write(&file, text).unwrap(),
            None => drop(std::fs::remove_file(&file)),
        }
        let next = source.scan(start + after);
        source.step(start + after);
        (alive(&store), next.map(|at| at - start))
    };
    let full = pod("a", "x:1");
    assert_eq!(look(0, Some(&full)), (true, None));
    assert_eq!(look(100, Some("")), (true, Some(160)));
    assert_eq!(look(150, Some(&full)), (true, None));
    assert_eq!(look(200, None), (true, Some(260)));
    assert_eq!(look(210, Some("")), (true, Some(270)));
    assert_eq!(look(269, Some(&full)), (true, None));
    assert_eq!(look(300, None), (true, Some(360)));
    assert_eq!(look(360, None), (false, None));
}

#[test]
fn f37_a_full_disk_is_said_and_stops_nothing() {
    let (dir, state) = (TempDir::new("full"), TempDir::new("full-state"));
    std::fs::write(dir.path().join("a.yaml"), pod("a", "x:1")).unwrap();
    let (store, mut source) = by_hand(&dir, &state);
    // A directory in the place of the file that is written first stands for a disk that refuses.
    std::fs::create_dir(state.path().join("standalone.json.tmp")).unwrap();
    let now = Time::from_unix_ms(1_000_000);
    source.scan(now);
    source.step(now);
    assert!(store.snapshot().synced && store.snapshot().pods.contains_key(&key("a")));
    let problems = lock(&source.shared.problems).clone();
    assert!(problems[0].to_string().contains("cannot write the checkpoint"), "{problems:?}");
    std::fs::remove_dir(state.path().join("standalone.json.tmp")).unwrap();
    source.step(now);
    assert!(lock(&source.shared.problems).is_empty());
    assert!(state.path().join("standalone.json").exists());
}
