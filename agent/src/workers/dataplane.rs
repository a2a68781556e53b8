//! Keeps the kernel's maps what the World means: changed keys → compilers → image → ordered writes.
//!
//! One task, so that writes have one order. A write that fails or is refused leaves the old rows
//! (I9); what the kernel then holds is read back and the difference is tried again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use longshore_abi as abi;
use longshore_core::image::physical::{Physical, Refused, Subject};
use longshore_core::image::rows::addr_of;
use longshore_core::image::{Image, ImageChange, KernelRows, MapOp};
use longshore_core::model::{Change, LocalPod, NodeView, PodUid, Problem, Time, World};
use longshore_core::policy::{self, PolicyCompiler};
use longshore_core::service::ServiceCompiler;
use tokio::sync::watch;

use super::Programmed;
use crate::clock;
use crate::dataplane::Dataplane;
use crate::failpoint;
use crate::world::Store;

/// Time until a write that failed is tried again.
const RETRY_MS: i64 = 1_000;
/// Time until a change that did not fit is tried again.
const REFUSED_RETRY_MS: i64 = 10_000;

/// What `status` shows of the dataplane.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// World revision that the kernel's maps mean.
    pub revision: u64,
    /// There is no World yet, and the rows of the last daemon are in force.
    pub adopted: bool,
    /// The last write's failure, until one succeeds.
    pub error: Option<String>,
    /// What users' objects asked for and cannot have.
    pub problems: Vec<Problem>,
    /// Changes that did not fit, and why; others are unharmed.
    pub refused: Vec<String>,
}

/// The image that the worker means the kernel to hold, for those who look. Behind a lock and not
/// published: one event must not copy what has the size of the cluster.
#[derive(Clone, Default)]
pub struct SharedImage {
    image: Arc<Mutex<Image>>,
}

impl SharedImage {
    /// A copy.
    pub fn get(&self) -> Image {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The worker. [`DataplaneWorker::run`] never ends.
pub struct DataplaneWorker {
    store: Store,
    node: NodeView,
    dataplane: Arc<Dataplane>,
    services: ServiceCompiler,
    policy: PolicyCompiler,
    image: SharedImage,
    physical: Physical,
    /// When to read the kernel's rows back and write every difference.
    compare_all_at: Option<Time>,
    /// World revision that the image means.
    compiled: u64,
    /// A write failed: `physical` may not be what the kernel holds, so nothing is written by key.
    diverged: bool,
    programmed: Programmed,
    view: watch::Sender<View>,
}

impl DataplaneWorker {
    pub fn new(
        store: Store,
        node: NodeView,
        dataplane: Arc<Dataplane>,
        programmed: Programmed,
    ) -> (Self, watch::Receiver<View>, SharedImage) {
        let (view, receiver) = watch::channel(View::default());
        let image = SharedImage::default();
        let worker = Self {
            store,
            node,
            dataplane,
            services: ServiceCompiler::default(),
            policy: PolicyCompiler::default(),
            image: image.clone(),
            physical: Physical::adopt(&KernelRows::default()),
            compare_all_at: None,
            compiled: 0,
            diverged: true,
            programmed,
            view,
        };
        (worker, receiver, image)
    }

    /// Waits for the first complete World, writes the difference to what the kernel holds, and
    /// follows every change from there. Until then the pinned rows of the last run stay (A38, B9).
    pub async fn run(mut self) {
        let mut changes = self.store.subscribe();
        while !self.store.snapshot().synced {
            self.publish_pinned();
            changes.next().await;
        }
        let world = self.store.snapshot();
        self.compile(&world, &everything(&world));
        self.compare_all_at = Some(clock::now());
        loop {
            self.write_all_if_due();
            self.release_if_due();
            self.publish();
            let wake_at =
                [self.compare_all_at, self.physical.wake_at()].into_iter().flatten().min();
            tokio::select! {
                biased;
                dirty = changes.next() => {
                    let world = self.store.snapshot();
                    let compiled = self.compile(&world, &dirty);
                    if !self.diverged {
                        self.write(&compiled);
                    }
                }
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Without a World the rows of the last daemon are the truth: a pod whose row is open under its
    /// interface of now may start containers while the API server is away (I10).
    fn publish_pinned(&self) {
        let Ok(rows) = self.dataplane.rows() else { return };
        let is_open = |local: &LocalPod| {
            let row = local.attachment.as_ref().and_then(|attachment| {
                let row = rows.endpoints.get(&addr_of(attachment.ip))?;
                Some(row.flags & abi::policy::OPEN != 0 && row.ifindex == attachment.ifindex)
            });
            row.unwrap_or(false)
        };
        let world = self.store.snapshot();
        let open = world.local.iter().filter(|(_, local)| is_open(local));
        self.programmed.set(open.map(|(uid, _)| uid.clone()).collect());
        // A World that was written has at least the Service of the API server.
        let adopted = !rows.endpoints.is_empty() || !rows.services.is_empty();
        self.update(|view| view.adopted = adopted);
    }

    /// Also while changes never pause.
    fn release_if_due(&mut self) {
        let now = clock::now();
        if self.physical.wake_at().is_some_and(|at| at <= now) {
            let released = self.physical.tick(now);
            self.apply(&released);
        }
    }

    /// Compiles the keys that changed, and takes them into the image.
    fn compile(&mut self, world: &World, dirty: &BTreeSet<Change>) -> Vec<ImageChange> {
        let (mut changes, mut fresh) = self.services.apply(world, dirty, &self.node);
        let (policy, problems) = self.policy.apply(world, dirty, &self.node);
        changes.extend(policy);
        fresh.extend(problems);
        for problem in &fresh {
            tracing::warn!(%problem, "An object asks for what it cannot have");
        }
        let mut image = self.image.lock();
        for change in &changes {
            image.apply(change);
        }
        drop(image);
        let mut problems = self.policy.problems();
        problems.extend(self.services.problems());
        self.compiled = world.revision;
        self.update(|view| view.problems = problems);
        changes
    }

    fn write(&mut self, changes: &[ImageChange]) {
        if changes.is_empty() {
            return;
        }
        let (ops, refused) = self.physical.plan_each(changes, clock::now());
        self.refuse(&refused);
        self.apply(&ops);
    }

    /// Reads the kernel's rows and writes what differs from the image.
    fn write_all_if_due(&mut self) {
        let now = clock::now();
        if self.compare_all_at.is_none_or(|at| at > now) {
            return;
        }
        let rows = match self.dataplane.rows() {
            Ok(rows) => rows,
            Err(error) => return self.fail(error.to_string()),
        };
        self.physical = Physical::adopt(&rows);
        self.compare_all_at = None;
        self.diverged = false;
        self.update(|view| view.refused.clear());
        let (ops, refused) = self.physical.plan_full_each(&self.image.lock(), now);
        self.refuse(&refused);
        self.apply(&ops);
    }

    /// What did not fit keeps its old rows; it is tried again when rows may have become free.
    fn refuse(&mut self, refused: &[(Subject, Refused)]) {
        for (subject, why) in refused {
            let text = format!("{subject}: {why}");
            if !self.view.borrow().refused.contains(&text) {
                tracing::error!(refused = text, "A change does not fit; the old rows stay");
                self.update(|view| view.refused.push(text));
            }
        }
        if !refused.is_empty() {
            self.compare_all_at.get_or_insert(clock::now().plus_ms(REFUSED_RETRY_MS));
        }
    }

    fn update(&self, change: impl FnOnce(&mut View)) {
        self.view.send_if_modified(|view| {
            let before = view.clone();
            change(view);
            *view != before
        });
    }

    fn apply(&mut self, ops: &[MapOp]) {
        if ops.is_empty() {
            return;
        }
        failpoint::hit("dataplane.apply.before");
        match self.dataplane.apply(ops) {
            Ok(()) => self.update(|view| view.error = None),
            Err(error) => self.fail(error.to_string()),
        }
        failpoint::hit("dataplane.apply.after");
    }

    /// The old rows stay; the whole image is compared with them and tried again.
    fn fail(&mut self, error: String) {
        tracing::error!(error, "Cannot write the maps; the old verdicts stay, trying again");
        self.diverged = true;
        self.compare_all_at = Some(clock::now().plus_ms(RETRY_MS));
        self.update(|view| view.error = Some(error));
    }

    /// Tells the pods' workers whose policy is in the kernel, and which World the kernel knows.
    fn publish(&self) {
        if !self.diverged {
            let waiting: BTreeSet<IpAddr> = self.physical.waiting().collect();
            self.programmed.set(self.open_pods(&self.store.snapshot(), &waiting));
            self.programmed.reach(self.compiled);
            self.update(|view| (view.revision, view.adopted) = (self.compiled, false));
        }
    }

    fn open_pods(&self, world: &World, waiting: &BTreeSet<IpAddr>) -> BTreeSet<PodUid> {
        let image = self.image.lock();
        let open = |local: &LocalPod| {
            let attachment = local.attachment.as_ref()?;
            let endpoint = image.endpoints.get(&attachment.ip)?;
            let interface = endpoint.local.as_ref()?;
            (endpoint.open
                && !waiting.contains(&attachment.ip)
                && endpoint.pod == local.key
                && interface.ifindex == attachment.ifindex)
                .then_some(())
        };
        world
            .local
            .iter()
            .filter(|(_, local)| open(local).is_some())
            .map(|(uid, _)| uid.clone())
            .collect()
    }
}

/// Every key of the world, as if all had just changed.
fn everything(world: &World) -> BTreeSet<Change> {
    let mut all = policy::everything(world);
    all.extend(world.services.keys().cloned().map(Change::Service));
    all.extend(world.endpoint_slices.keys().cloned().map(Change::EndpointSlice));
    all
}

async fn sleep_until(at: Option<Time>) {
    match at {
        Some(at) => tokio::time::sleep(clock::until(at).max(Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}
