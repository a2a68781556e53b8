//! What a pod worker remembers between decisions and loses with the process: back-off, what it
//! asked for and has not seen yet, which events it has told. Everything else is observed (A48, A205).
//!
//! Deliberately absent: anything that a decision could not do without after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::action::{Action, CgroupPlan, Once, PlannedVolume};
use super::backoff::{self, Backoff};
use super::volumes;
use crate::model::{ObservedPod, Time};

/// First and longest wait after a step that failed (a CRI call, a mount).
const STEP_FIRST_MS: i64 = 1_000;
const STEP_LONGEST_MS: i64 = 60_000;
/// A runtime whose caller went away undoes the sandbox that it was making, or lists it. The pod's
/// directory, by which a late sandbox is known to be ours, stays so long.
const ABANDONED_MS: i64 = 5_000;

/// After each executed action the worker calls [`Memory::done`] or [`Memory::failed`] on the memory
/// of the decision; the next decision gets the result.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Memory {
    /// Failed pulls, by image; `tried_at` is the `at` of the failure that was counted.
    pub(super) images: BTreeMap<String, Backoff>,
    /// Pulls asked for, by container: (image, when). Ends when the container is created, so that
    /// the next instance pulls again under policy Always (A50).
    pub(super) pulls: BTreeMap<String, (String, Time)>,
    /// Restarts, by container (A48).
    pub(super) crashes: BTreeMap<String, Backoff>,
    /// End of the last instance, by container, as the decision saw it.
    pub(super) finished: BTreeMap<String, Time>,
    /// Steps that failed and were not done since, by [`step_of`].
    pub(super) failures: BTreeMap<String, Failure>,
    /// StopContainer was asked for, by container ID: it ends by then.
    pub(super) stops: BTreeMap<String, Time>,
    /// StopSandbox was done.
    pub(super) stopped_sandboxes: BTreeSet<String>,
    /// RunSandbox was given up before its answer: until then its sandbox may still appear.
    pub(super) abandoned_until: Option<Time>,
    /// Digest of the plan that EnsureVolumes made true.
    pub(super) volumes: Option<String>,
    /// The volumes of that plan: what a running pod keeps when a ConfigMap goes away.
    pub(super) volume_content: Option<Arc<BTreeMap<String, PlannedVolume>>>,
    pub(super) cgroup: Option<CgroupPlan>,
    /// Events that were told, by subject: not told again until the text changes.
    pub(super) said: BTreeMap<String, String>,
    /// A decision has seen the pod before it was deleted.
    pub(super) seen_wanted: bool,
    /// The grace in seconds with which the pod is being deleted, and when it ends by this node's
    /// clock.
    pub(super) deletion: Option<(i64, Time)>,
    /// Since when an input is not known (A124).
    pub(super) unknown_since: Option<Time>,
    /// `crashLoopBackOff.maxContainerRestartPeriod`, for [`Memory::done`].
    pub(super) longest_crash_wait_ms: i64,
}

/// The last failure of one step.
#[derive(Clone, PartialEq, Debug)]
pub struct Failure {
    pub backoff: Backoff,
    pub message: String,
    pub count: u32,
}

/// Names a step so that its failure is found again: `create/<container>`, `sandbox`, …
pub(super) fn step_of(action: &Action) -> String {
    match action {
        Action::EnsureCgroup(_) => "cgroup".into(),
        Action::EnsureVolumes(_) => "volumes".into(),
        Action::PullImage { image, .. } => format!("pull/{image}"),
        Action::RunSandbox { .. } => "sandbox".into(),
        Action::CreateContainer { config, .. } => format!("create/{}", name_of(config)),
        Action::StartContainer { id, name } => {
            format!("start/{}", id.as_ref().unwrap_or(name))
        }
        Action::StopContainer { id, .. } => format!("stop/{id}"),
        Action::RemoveContainer { id, .. } => format!("remove/{id}"),
        Action::StopSandbox { id } => format!("stop/{id}"),
        Action::RemoveSandbox { id } => format!("remove/{id}"),
        Action::RemoveVolumes { .. } => "remove/volumes".into(),
        Action::RemoveCgroup(plan) => format!("remove/cgroup/{}", plan.path),
        Action::RemoveLogs { .. } => "remove/logs".into(),
        Action::Finish => "finish".into(),
        Action::Event { .. } => "event".into(),
    }
}

fn name_of(config: &longshore_proto::cri::ContainerConfig) -> &str {
    config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
}

impl Memory {
    /// When the grace of `grace_s` ends, that ends at `at` by the API server's clock. It is counted
    /// here from when its beginning was seen: clocks differ (F32). A deletion that began before this
    /// process did gets no more than what is left (F03).
    pub(super) fn deletion_end(&mut self, grace_s: i64, at: Time, now: Time) -> Time {
        match self.deletion {
            Some((known, end)) if known == grace_s => end,
            Some(_) => self.delete_by(grace_s, now.plus_s(grace_s)),
            None if self.seen_wanted => self.delete_by(grace_s, now.plus_s(grace_s)),
            None => self.delete_by(grace_s, at.min(now.plus_s(grace_s))),
        }
    }

    fn delete_by(&mut self, grace_s: i64, end: Time) -> Time {
        self.deletion = Some((grace_s, end));
        end
    }

    /// Why StartContainer of this container failed.
    pub(super) fn failed_start(&self, id: &str) -> Option<&Failure> {
        self.failures.get(&format!("start/{id}"))
    }

    /// `action` was executed and succeeded.
    pub fn done(&mut self, action: &Action, now: Time) {
        self.failures.remove(&step_of(action));
        match action {
            Action::EnsureCgroup(plan) => self.cgroup = Some(plan.clone()),
            Action::EnsureVolumes(plan) => {
                self.volumes = Some(volumes::digest(plan));
                self.volume_content = Some(Arc::new(plan.volumes.clone()));
            }
            Action::RemoveVolumes { .. } => {
                self.volumes = None;
                self.volume_content = None;
            }
            Action::RemoveCgroup(_) => self.cgroup = None,
            Action::PullImage { image, container } => {
                self.pulls.insert(container.clone(), (image.clone(), now));
            }
            Action::CreateContainer { config, .. } => {
                let name = name_of(config);
                self.pulls.remove(name);
                if let Some(finished_at) = self.finished.remove(name) {
                    let longest = match self.longest_crash_wait_ms {
                        0 => backoff::LONGEST_MS,
                        ms => ms,
                    };
                    let next =
                        backoff::after_restart(self.crashes.get(name), finished_at, now, longest);
                    self.crashes.insert(name.into(), next);
                }
            }
            Action::StopContainer { id, grace_s, .. } => {
                self.stops.insert(id.clone(), now.plus_s(*grace_s));
            }
            Action::RemoveContainer { id, .. } => {
                self.stops.remove(id);
            }
            Action::StopSandbox { id } => {
                self.stopped_sandboxes.insert(id.clone());
            }
            Action::RemoveSandbox { id } => {
                self.stopped_sandboxes.remove(id);
            }
            Action::RunSandbox { .. }
            | Action::StartContainer { .. }
            | Action::RemoveLogs { .. }
            | Action::Finish => {}
            // Only now: a decision is not carried out beyond its first failed action.
            Action::Event { once, .. } => {
                if let Some(Once { subject, mark }) = once {
                    self.said.insert(subject.clone(), mark.clone());
                }
            }
        }
    }

    /// Nobody waits for the answer of `action` any more: the pod is being deleted. What the runtime
    /// made of it is observed like everything else; not at once, though.
    pub fn abandoned(&mut self, action: &Action, now: Time) {
        if matches!(action, Action::RunSandbox { .. }) {
            self.abandoned_until = Some(now.plus_ms(ABANDONED_MS));
        }
    }

    /// What is gone from the runtime needs no memory.
    pub(super) fn forget_gone(&mut self, observed: &ObservedPod) {
        let mut ids: BTreeSet<&str> = observed.containers.iter().map(|c| c.id.as_str()).collect();
        ids.extend(observed.sandboxes.iter().map(|sandbox| sandbox.id.as_str()));
        self.stops.retain(|id, _| ids.contains(id.as_str()));
        self.stopped_sandboxes.retain(|id| ids.contains(id.as_str()));
        self.said.retain(|subject, _| {
            subject.strip_prefix("killing/").is_none_or(|id| ids.contains(id))
        });
        self.failures.retain(|step, _| match step.split_once('/') {
            Some(("start" | "stop", id)) => ids.contains(id),
            Some(("remove", id)) => {
                ids.contains(id) || matches!(id, "volumes" | "logs") || id.starts_with("cgroup/")
            }
            _ => true,
        });
    }

    /// `action` failed; `message` is what the runtime or the kernel said. The actions after it were
    /// not executed.
    pub fn failed(&mut self, action: &Action, message: &str, now: Time) {
        if let Action::StopContainer { id, .. } = action {
            // Nothing is under way: it is asked for again as soon as the back-off allows.
            self.stops.remove(id);
        }
        let step = step_of(action);
        let last = self.failures.get(&step);
        let failure = Failure {
            backoff: backoff::after_failure(
                last.map(|last| &last.backoff),
                now,
                STEP_FIRST_MS,
                STEP_LONGEST_MS,
            ),
            message: message.to_owned(),
            count: last.map_or(1, |last| last.count.saturating_add(1)),
        };
        self.failures.insert(step, failure);
    }
}
