//! The directory as the source of the world: inotify and a rescan each 20 s (A29) → the standalone
//! controllers → [`Store`].
//!
//! Everything it knows is either in the files, in the checkpoint, or observed; a broken file, a
//! directory that is gone and a disk that is full change nothing that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_core::model::{Change, Kind, ObjectKey, PodUid, Problem, Severity, Time};
use longshore_core::standalone::{
    self, Catalog, Inputs, Located, Outcome, Settings, State, finished, parse, state, unreadable,
};
use tokio::sync::Notify;

use super::checkpoint::{Checkpoint, Loaded};
use super::directory::{self, identity_of, watch};
use super::publish::publish;
use super::store::{Changes, Store};
use crate::clock;

/// fileCheckFrequency (A29).
const RESCAN: Duration = Duration::from_secs(20);
/// A directory that cannot be read is tried again after so long.
const MISSING_MS: i64 = 1000;
/// Events of one save come together; so long to see all of them.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// An editor may empty or remove a file before it writes it again: what disappears must stay away
/// for so long.
const LOSS_SETTLES_MS: i64 = 60;

/// Handle to the source; clones share it.
#[derive(Clone)]
pub struct Files {
    shared: Arc<Shared>,
}

struct Shared {
    finished: Mutex<Vec<(ObjectKey, PodUid)>>,
    problems: Mutex<Vec<Located>>,
    wake: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The part that runs.
pub struct Source {
    shared: Arc<Shared>,
    directory: PathBuf,
    checkpoint: Checkpoint,
    settings: Settings,
    store: Store,
    changes: Changes,
    catalog: Catalog,
    state: State,
    /// The checkpoint was unusable: pods that run are adopted by name and UID.
    adopt: Option<Vec<(ObjectKey, PodUid)>>,
    /// Hash of the text that each file was last taken from.
    texts: BTreeMap<String, String>,
    /// Files that lost objects: hash of the new text, and since when.
    losing: BTreeMap<String, (String, Time)>,
    directory_problem: Option<Located>,
    checkpoint_problem: Option<Located>,
    /// The checkpoint on disk is older than what is known.
    unsaved: bool,
    scanned: bool,
    /// The checkpoint was lost: while a file cannot be used either, nobody knows which running pods
    /// are wanted, and nothing may be deleted (A38).
    unsure: bool,
}

impl Files {
    /// Reads the checkpoint. `running`: pods in the runtime by their labels (A204), used only when
    /// the checkpoint is lost. Nothing is published before [`Source::run`].
    pub fn open(
        directory: &Path,
        state_dir: &Path,
        settings: Settings,
        store: Store,
        running: Vec<(ObjectKey, PodUid)>,
    ) -> (Files, Source) {
        let shared = Arc::new(Shared {
            finished: Mutex::default(),
            problems: Mutex::default(),
            wake: Notify::new(),
        });
        let checkpoint = Checkpoint::new(state_dir);
        let (catalog, state, adopt) = match checkpoint.load() {
            // The first start of this directory may follow a lost state directory.
            Loaded::Fresh => (Catalog::default(), State::default(), Some(running)),
            Loaded::Found(found) => (found.0, found.1, None),
            Loaded::Lost { why, kept } => {
                tracing::error!(
                    checkpoint = %checkpoint.path().display(), kept = %kept.display(), why,
                    "Set aside an unusable checkpoint; running pods are adopted by name and UID"
                );
                (Catalog::default(), State::default(), Some(running))
            }
        };
        let unsure = adopt.as_ref().is_some_and(|running: &Vec<_>| !running.is_empty());
        let changes = store.subscribe();
        let source = Source {
            shared: shared.clone(),
            directory: directory.to_owned(),
            checkpoint,
            settings,
            store,
            changes,
            catalog,
            state,
            adopt,
            texts: BTreeMap::new(),
            losing: BTreeMap::new(),
            directory_problem: None,
            checkpoint_problem: None,
            unsaved: true,
            scanned: false,
            unsure,
        };
        (Files { shared }, source)
    }

    /// The pod worker has removed everything of this pod: its name is free (A62).
    pub fn finished(&self, key: &ObjectKey, uid: &PodUid) {
        lock(&self.shared.finished).push((key.clone(), uid.clone()));
        self.shared.wake.notify_one();
    }

    /// What is wrong with the directory now, sorted by file and line.
    pub fn problems(&self) -> Vec<Located> {
        lock(&self.shared.problems).clone()
    }
}

impl Source {
    /// Follows the directory for ever.
    pub async fn run(mut self) {
        let events = Arc::new(Notify::new());
        let mut watcher = None;
        let mut watched = None;
        let mut next_scan = clock::now();
        let mut wake_at = None;
        loop {
            // A watch stays with the directory that it was made for, not with its name.
            let identity = identity_of(&self.directory);
            if watched != identity || watcher.is_none() {
                watcher = watch(&self.directory, events.clone());
                watched = identity;
            }
            let now = clock::now();
            if now >= next_scan {
                let settle = self.scan(now);
                next_scan =
                    settle.unwrap_or(now + i64::try_from(RESCAN.as_millis()).unwrap_or(20_000));
            }
            let decided = self.step(now);
            wake_at = decided.or(wake_at.filter(|at| *at > now));
            let until = wake_at.map_or(next_scan, |at: Time| at.min(next_scan));
            tokio::select! {
                biased;
                () = events.notified() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    next_scan = clock::now();
                }
                () = self.shared.wake.notified() => {}
                () = local_change(&mut self.changes) => {}
                () = tokio::time::sleep(clock::until(until)) => {}
            }
        }
    }

    /// Reads the directory into the catalog. Returns when to look again for a loss that has not
    /// settled.
    fn scan(&mut self, now: Time) -> Option<Time> {
        let files = match directory::read(&self.directory) {
            Ok(files) => files,
            Err(message) => {
                let message = format!("{message}; everything stays as it was until it can be read");
                self.directory_problem =
                    Some(located(&self.directory, "UnreadableDirectory", message));
                return Some(now + MISSING_MS);
            }
        };
        self.directory_problem = None;
        let known: BTreeSet<String> = self.catalog.files().map(str::to_owned).collect();
        let mut look_again = None;
        let gone = known.iter().filter(|file| !files.contains_key(*file));
        for file in gone {
            if self.settled(file, "", now, &mut look_again) {
                self.catalog.remove(file);
                self.texts.remove(file);
                self.unsaved = true;
            }
        }
        for (file, text) in &files {
            let hash = match text {
                Ok(text) => hash(text),
                Err(why) => hash(&format!("\0{why}")),
            };
            if self.texts.get(file) == Some(&hash) {
                self.losing.remove(file);
                continue;
            }
            let parsed = match text {
                Ok(text) => parse(file, text),
                Err(why) => unreadable(file, 0, why.clone()),
            };
            let mut next = self.catalog.clone();
            next.set(file, parsed);
            if self.scanned
                && next.loses(&self.catalog, file)
                && !self.settled(file, &hash, now, &mut look_again)
            {
                continue;
            }
            self.losing.remove(file);
            self.catalog = next;
            self.unsaved = true;
            self.texts.insert(file.clone(), hash);
        }
        self.scanned = true;
        look_again
    }

    /// True when `file` has been losing objects to the same text for long enough.
    fn settled(
        &mut self,
        file: &str,
        hash: &str,
        now: Time,
        look_again: &mut Option<Time>,
    ) -> bool {
        if !self.scanned {
            return true;
        }
        let entry = self.losing.entry(file.to_owned()).or_insert_with(|| (hash.to_owned(), now));
        if entry.0 != hash {
            *entry = (hash.to_owned(), now);
        }
        let at = entry.1 + LOSS_SETTLES_MS;
        if at <= now {
            self.losing.remove(file);
            return true;
        }
        *look_again = Some(look_again.map_or(at, |old: Time| old.min(at)));
        false
    }

    /// Decides and publishes. Returns when to decide again.
    fn step(&mut self, now: Time) -> Option<Time> {
        let mut given = false;
        for (key, uid) in std::mem::take(&mut *lock(&self.shared.finished)) {
            given |= finished(&mut self.state, &key, &uid);
        }
        let manifests = self.catalog.settle();
        let world = self.store.snapshot();
        let inputs =
            Inputs { manifests: &manifests, settings: &self.settings, live: &world.local, now };
        if self.scanned {
            let whole =
                self.catalog.problems().iter().all(|one| one.problem.severity != Severity::Error);
            if self.unsure && whole {
                self.unsure = false;
            }
            // Until the files are whole again, each look adopts what they name by then.
            if let Some(running) = &self.adopt {
                let found = standalone::recover(&inputs, running);
                self.state.adopt(found);
            }
            if !self.unsure {
                self.adopt = None;
            }
        }
        let Outcome { desired, state, problems, wake_at } =
            standalone::reconcile(&inputs, &self.state);
        given |= state != self.state;
        self.state = state;
        self.unsaved |= given;
        // UIDs and addresses are on disk before anyone sees them; last good manifests can wait.
        if given {
            self.save();
        }
        let complete = self.scanned && !self.unsure;
        self.store.edit(|world| {
            let mut changes = publish(world, &desired);
            if complete && !world.synced {
                world.synced = true;
                changes.push(Change::Synced);
            }
            changes
        });
        self.save();
        self.report(problems);
        wake_at
    }

    /// Writes the checkpoint if it would be another one; what failed is tried again next time.
    fn save(&mut self) {
        // Before the first scan the file on disk knows better; while unsure, it would forget pods.
        if !self.unsaved || !self.scanned || self.unsure {
            return;
        }
        let text = state::to_text(&self.catalog, &self.state);
        self.checkpoint_problem = match self.checkpoint.store(&text) {
            Ok(()) => {
                self.unsaved = false;
                None
            }
            Err(error) => {
                let message = format!(
                    "cannot write the checkpoint: {error}; pods go on, but a restart may renumber them: make room"
                );
                Some(located(self.checkpoint.path(), "CheckpointFailed", message))
            }
        };
    }

    /// Keeps the problems for `status`; logs each once when it comes and once when it goes.
    fn report(&mut self, decided: Vec<Located>) {
        let mut problems = self.catalog.problems();
        problems.extend(decided);
        problems.extend(self.directory_problem.clone());
        problems.extend(self.checkpoint_problem.clone());
        problems.sort();
        problems.dedup();
        let mut known = lock(&self.shared.problems);
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            match problem.problem.severity {
                Severity::Error => tracing::error!("{problem}"),
                Severity::Warning => tracing::warn!("{problem}"),
            }
        }
        for problem in known.iter().filter(|problem| !problems.contains(problem)) {
            tracing::info!("Resolved: {problem}");
        }
        *known = problems;
    }
}

/// Waits until something of the node's own pods changed; what we publish ourselves is not it.
async fn local_change(changes: &mut Changes) {
    loop {
        if changes.next().await.iter().any(|change| matches!(change, Change::Local(_))) {
            return;
        }
    }
}

fn hash(text: &str) -> String {
    longshore_core::model::hash::uid_of(&[text])
}

fn located(path: &Path, reason: &'static str, message: String) -> Located {
    let file = path.display().to_string();
    let key = ObjectKey::new("", file.as_str());
    let severity = Severity::Error;
    Located {
        file,
        line: 0,
        problem: Problem { kind: Kind::File, key, severity, reason, field: String::new(), message },
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
pub(crate) mod tests;
