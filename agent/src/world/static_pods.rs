//! Pods of a directory on a node with a control plane (A29, A30): inotify and a rescan → the world.
//!
//! A file that cannot be used keeps what came from it last; a directory that is gone keeps all. A
//! pod whose file is gone or says something else ends with its grace before the next one of that
//! name starts. Deliberately absent: the copies in the API server.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use longshore_core::model::hash::uid_of;
use longshore_core::model::{Kind, ObjectKey, Problem, Severity, Time};
use longshore_core::standalone::{Located, parse, static_pods, unreadable};
use tokio::sync::Notify;

use super::api::Pods;
use super::directory::{self, identity_of, watch};
use crate::clock::{self, Retry};

/// An editor may empty or remove a file before it writes it again: what is new must stay for so
/// long.
const SETTLES_MS: i64 = 60;
const DEBOUNCE: Duration = Duration::from_millis(10);
/// Waits while the directory cannot be read (A29).
const FIRST_MS: u64 = 1_000;
const LONGEST_MS: u64 = 20_000;

/// `staticPodPath` and `fileCheckFrequency`.
#[derive(Clone, Debug)]
pub struct StaticPath {
    pub directory: PathBuf,
    pub every: Duration,
}

/// One file as it was last taken.
struct File {
    hash: String,
    pods: Vec<Arc<Pod>>,
    problems: Vec<Located>,
}

/// The part that runs.
pub struct StaticPods {
    path: StaticPath,
    node_name: String,
    pods: Pods,
    shown: Arc<Mutex<Vec<Located>>>,
    /// Called after the first look.
    arrived: Option<Box<dyn FnOnce() + Send>>,
    files: BTreeMap<String, File>,
    /// Files with another text than was taken: hash of it (empty: gone), and since when.
    settling: BTreeMap<String, (String, Time)>,
    directory_problem: Option<Located>,
    retry: Retry,
    scanned: bool,
}

impl StaticPods {
    pub fn new(
        path: StaticPath,
        node_name: String,
        pods: Pods,
        shown: Arc<Mutex<Vec<Located>>>,
        arrived: Box<dyn FnOnce() + Send>,
    ) -> Self {
        Self {
            path,
            node_name,
            pods,
            shown,
            arrived: Some(arrived),
            files: BTreeMap::new(),
            settling: BTreeMap::new(),
            directory_problem: None,
            retry: Retry::new(FIRST_MS, LONGEST_MS),
            scanned: false,
        }
    }

    /// Follows the directory for ever.
    pub async fn run(mut self) {
        let events = Arc::new(Notify::new());
        let finished = self.pods.static_finished();
        let (mut watcher, mut watched) = (None, None);
        loop {
            // A watch stays with the directory that it was made for, not with its name.
            let identity = identity_of(&self.path.directory);
            if watched != identity || watcher.is_none() {
                watcher = watch(&self.path.directory, events.clone());
                watched = identity;
            }
            let pause = self.scan(clock::now());
            self.publish(clock::now());
            if self.scanned
                && let Some(arrived) = self.arrived.take()
            {
                arrived();
            }
            tokio::select! {
                biased;
                () = events.notified() => tokio::time::sleep(DEBOUNCE).await,
                () = finished.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads the directory. Returns when to look again.
    fn scan(&mut self, now: Time) -> Duration {
        let texts = match directory::read_all(&self.path.directory) {
            Ok(texts) => texts,
            Err(message) => return self.unreadable(message),
        };
        self.directory_problem = None;
        self.retry.reset();
        let mut pause = self.path.every;
        let gone: Vec<String> =
            self.files.keys().filter(|file| !texts.contains_key(*file)).cloned().collect();
        for file in gone {
            match self.settled(&file, "", now) {
                true => drop(self.files.remove(&file)),
                false => pause = Duration::from_millis(SETTLES_MS as u64),
            }
        }
        for (name, text) in &texts {
            let hash = match text {
                Ok(text) => uid_of(&["text", text]),
                Err(why) => uid_of(&["error", why]),
            };
            if self.files.get(name).is_some_and(|file| file.hash == hash) {
                self.settling.remove(name);
            } else if self.settled(name, &hash, now) {
                self.take(name, text, hash, now);
            } else {
                pause = Duration::from_millis(SETTLES_MS as u64);
            }
        }
        self.scanned = true;
        pause
    }

    fn unreadable(&mut self, message: String) -> Duration {
        // None at all is no pods (A29); one that vanishes later ends nothing.
        let absent = !self.path.directory.exists();
        self.scanned |= absent;
        let message = match self.files.is_empty() {
            true => format!("{message}: there are no static pods until it can be read"),
            false => format!("{message}; static pods stay as they were until it can be read"),
        };
        let file = self.path.directory.display().to_string();
        self.directory_problem = Some(Located {
            line: 0,
            problem: Problem {
                kind: Kind::File,
                key: ObjectKey::new("", file.as_str()),
                severity: if absent { Severity::Warning } else { Severity::Error },
                reason: "UnreadableDirectory",
                field: String::new(),
                message,
            },
            file,
        });
        self.retry.wait()
    }

    /// True when the new text of a file that pods come from has stayed for long enough.
    fn settled(&mut self, file: &str, hash: &str, now: Time) -> bool {
        if self.files.get(file).is_none_or(|file| file.pods.is_empty()) {
            return true;
        }
        let entry = self.settling.entry(file.to_owned()).or_insert_with(|| (hash.to_owned(), now));
        if entry.0 != hash {
            *entry = (hash.to_owned(), now);
        }
        let settled = entry.1 + SETTLES_MS <= now;
        if settled {
            self.settling.remove(file);
        }
        settled
    }

    fn take(&mut self, name: &str, text: &directory::Text, hash: String, now: Time) {
        let parsed = match text {
            Ok(text) => parse(name, text),
            Err(why) => unreadable(name, 0, why.clone()),
        };
        let path = match self.path.directory.is_file() {
            true => self.path.directory.display().to_string(),
            false => self.path.directory.join(name).display().to_string(),
        };
        let found = static_pods(parsed, &path, &self.node_name, now);
        let mut pods = found.pods;
        if !found.complete
            && let Some(old) = self.files.get(name)
        {
            let named = |pod: &Pod| pods.iter().any(|new| key_of(new) == key_of(pod));
            let kept: Vec<_> = old.pods.iter().filter(|pod| !named(pod)).cloned().collect();
            pods.extend(kept);
        }
        self.files.insert(name.to_owned(), File { hash, pods, problems: found.problems });
    }

    /// What is wanted beside what is still here: one pod of a name at a time (A35).
    fn publish(&mut self, now: Time) {
        let mut problems: Vec<Located> =
            self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        problems.extend(self.directory_problem.clone());
        let mut wanted: BTreeMap<ObjectKey, &Arc<Pod>> = BTreeMap::new();
        for (name, file) in &self.files {
            for pod in &file.pods {
                let key = key_of(pod);
                match wanted.entry(key) {
                    Entry::Occupied(taken) => {
                        problems.push(duplicate(name, taken.key().clone()));
                    }
                    Entry::Vacant(free) => {
                        free.insert(pod);
                    }
                }
            }
        }
        let mut here = self.pods.statics();
        for (key, pod) in &mut here {
            let same = wanted.get(key).is_some_and(|new| new.metadata.uid == pod.metadata.uid);
            if !same && pod.metadata.deletion_timestamp.is_none() {
                delete(Arc::make_mut(pod), now);
            }
        }
        for (key, pod) in wanted {
            here.entry(key).or_insert_with(|| pod.clone());
        }
        self.pods.set_statics(here);
        problems.sort();
        problems.dedup();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.iter().filter(|problem| !shown.contains(problem)) {
            match problem.problem.severity {
                Severity::Error => tracing::error!("Static pods: {problem}"),
                Severity::Warning => tracing::warn!("Static pods: {problem}"),
            }
        }
        for problem in shown.iter().filter(|problem| !problems.contains(problem)) {
            tracing::info!("Resolved: {problem}");
        }
        *shown = problems;
    }
}

fn key_of(pod: &Pod) -> ObjectKey {
    let meta = &pod.metadata;
    ObjectKey::new(
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default(),
    )
}

fn delete(pod: &mut Pod, now: Time) {
    let spec = pod.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod.metadata.deletion_timestamp = Some(now.plus_s(grace).to_api());
}

fn duplicate(file: &str, key: ObjectKey) -> Located {
    Located {
        file: file.to_owned(),
        line: 0,
        problem: Problem {
            kind: Kind::Pod,
            key,
            severity: Severity::Error,
            reason: "DuplicateName",
            field: "metadata.name".into(),
            message: "is the name of a pod of another file; the first file in order is used".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TempDir;
    use super::super::store::Store;
    use super::*;
    use longshore_core::model::PodUid;

    fn manifest(image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web}}\nspec: {{containers: [{{name: a, image: {image}}}]}}\n"
        )
    }

    struct Case {
        dir: TempDir,
        store: Store,
        pods: Pods,
        source: StaticPods,
        now: Time,
    }

    impl Case {
        fn new(name: &str) -> Self {
            let (dir, store) = (TempDir::new(name), Store::default());
            let pods = Pods::new(store.clone());
            let path = StaticPath { directory: dir.path().into(), every: Duration::from_secs(20) };
            let source =
                StaticPods::new(path, "n1".into(), pods.clone(), Arc::default(), Box::new(|| {}));
            Self { dir, store, pods, source, now: Time(1_000_000) }
        }

        fn write(&self, text: &str) {
            std::fs::write(self.dir.path().join("web.manifest"), text).unwrap();
        }

        /// UID of the pod and whether it ends, `after_ms` later.
        fn look(&mut self, after_ms: i64) -> Option<(String, bool)> {
            self.now = self.now + after_ms;
            self.source.scan(self.now);
            self.source.publish(self.now);
            let world = self.store.snapshot();
            let pod = world.pods.get(&ObjectKey::new("default", "web-n1"))?;
            let meta = &pod.metadata;
            Some((meta.uid.clone().unwrap(), meta.deletion_timestamp.is_some()))
        }
    }

    #[test]
    fn a29_a_changed_file_ends_its_pod_before_the_next_starts() {
        let mut case = Case::new("static-change");
        assert_eq!(case.look(0), None);
        case.write(&manifest("x"));
        let (first, ending) = case.look(0).unwrap();
        assert!(!ending);
        case.write(&manifest("other"));
        assert_eq!(case.look(0), Some((first.clone(), false)), "an editor may not be done");
        assert_eq!(case.look(60), Some((first.clone(), true)));
        case.pods.finish(&ObjectKey::new("default", "web-n1"), &PodUid::new(first.as_str()));
        let (second, ending) = case.look(0).unwrap();
        assert!(second != first && !ending);
        std::fs::remove_file(case.dir.path().join("web.manifest")).unwrap();
        assert_eq!(case.look(0), Some((second.clone(), false)));
        assert_eq!(case.look(60), Some((second.clone(), true)));
        case.pods.finish(&ObjectKey::new("default", "web-n1"), &PodUid::new(second.as_str()));
        assert_eq!(case.look(0), None);
    }

    #[test]
    fn f67_a_broken_file_or_directory_keeps_the_pod() {
        let mut case = Case::new("static-broken");
        case.write(&manifest("x"));
        let first = case.look(0).unwrap();
        case.write("kind: [");
        case.look(0);
        assert_eq!(case.look(100), Some(first.clone()));
        let shown = case.source.shown.lock().unwrap().clone();
        assert!(shown[0].to_string().starts_with("web.manifest"), "{shown:?}");
        std::fs::remove_dir_all(case.dir.path()).unwrap();
        case.look(0);
        assert_eq!(case.look(100), Some(first));
        std::fs::create_dir(case.dir.path()).unwrap();
    }
}
