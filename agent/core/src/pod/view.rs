//! A pod's spec beside what was observed of it: the questions that decision and status share.

use std::net::IpAddr;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodSpec};

use super::visit::Role;
use super::{Input, visit};
use crate::model::{
    ContainerState, ObservedContainer, ObservedSandbox, ProbeKind, ProbeVerdict, SandboxState, Time,
};

/// When a container that ended runs again (A45, A46).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

/// How the last instance of a container ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Nothing of it ran, or it is running, or it will run again.
    Open,
    /// It will not run again.
    Final { success: bool },
}

#[derive(Clone, Copy)]
pub struct View<'a> {
    pub input: &'a Input<'a>,
    pub spec: &'a PodSpec,
}

static NO_SPEC: LazyLock<PodSpec> = LazyLock::new(PodSpec::default);

impl<'a> View<'a> {
    pub fn new(input: &'a Input<'a>) -> Self {
        let spec = match &input.pod.spec {
            Some(spec) => spec,
            None => LazyLock::force(&NO_SPEC),
        };
        Self { input, spec }
    }

    pub fn host_network(&self) -> bool {
        self.spec.host_network.unwrap_or(false)
    }

    pub fn containers(&self) -> impl DoubleEndedIterator<Item = (Role, &'a Container)> {
        visit::containers(self.spec)
    }

    /// Instances of a container, newest first.
    pub fn instances(&self, name: &str) -> Vec<&'a ObservedContainer> {
        let all = self.input.observed.containers.iter();
        let mut own: Vec<_> = all.filter(|c| c.name == name && !self.is_cut_off(c)).collect();
        own.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.created_at)));
        own
    }

    /// One that stands in the way of the next, and is nothing but that.
    pub fn cut_off(&self, name: &str) -> Option<&'a ObservedContainer> {
        self.input.observed.containers.iter().find(|c| c.name == name && self.is_cut_off(c))
    }

    /// A start that this daemon itself saw fail is a failure like any other, and backs off.
    fn is_cut_off(&self, container: &ObservedContainer) -> bool {
        container.never_ran() && self.input.memory.failed_start(&container.id).is_none()
    }

    pub fn newest(&self, name: &str) -> Option<&'a ObservedContainer> {
        self.instances(name).first().copied()
    }

    pub fn newest_sandbox(&self) -> Option<&'a ObservedSandbox> {
        self.input.observed.sandboxes.iter().max_by_key(|s| (s.attempt, s.created_at))
    }

    /// The sandbox that containers run in, if it can be used (A39).
    pub fn sandbox(&self) -> Option<&'a ObservedSandbox> {
        let sandboxes = &self.input.observed.sandboxes;
        let ready = sandboxes.iter().filter(|s| s.state == SandboxState::Ready).count();
        self.newest_sandbox().filter(|newest| {
            newest.state == SandboxState::Ready
                && ready == 1
                && newest.host_network == self.host_network()
                && (newest.host_network || !newest.ips.is_empty())
                && !self.input.observed.lost_interfaces.contains(&newest.id)
        })
    }

    /// The pod's addresses: its sandbox's, the node's for hostNetwork, else the last known ones.
    pub fn ips(&self) -> Vec<IpAddr> {
        if self.host_network() {
            return self.input.node.ips.clone();
        }
        let current = self.newest_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        if !current.is_empty() {
            return current;
        }
        let previous = self.input.previous.and_then(|status| status.pod_ips.as_ref());
        previous.into_iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect()
    }

    pub fn restart(&self, role: Role, container: &Container) -> Restart {
        let policy = match role {
            Role::Sidecar => return Restart::Always,
            _ => container.restart_policy.as_deref().or(self.spec.restart_policy.as_deref()),
        };
        match (policy.unwrap_or("Always"), role) {
            ("Never", _) => Restart::Never,
            // An init container that succeeded is done (A42).
            ("OnFailure", _) | (_, Role::Init) => Restart::OnFailure,
            _ => Restart::Always,
        }
    }

    /// What the last status said of a container.
    pub fn previous(&self, name: &str) -> Option<&'a ContainerStatus> {
        let status = self.input.previous?;
        let all = status.init_container_statuses.iter().chain(&status.container_statuses);
        all.flatten().find(|status| status.name == name)
    }

    /// The last status speaks of this very instance.
    pub fn previous_of(&self, instance: &ObservedContainer) -> Option<&'a ContainerStatus> {
        self.previous(&instance.name).filter(|status| {
            status.container_id.as_deref().is_some_and(|id| bare_id(id) == instance.id)
        })
    }

    /// The last status knows an instance that ran, whatever the runtime lists now (F04, I4).
    pub fn ran_before(&self, name: &str) -> bool {
        self.previous(name).is_some_and(|status| {
            status.container_id.is_some()
                && [&status.state, &status.last_state]
                    .into_iter()
                    .flatten()
                    .any(|state| state.running.is_some() || state.terminated.is_some())
        })
    }

    /// An instance that is there; one that was only created in a sandbox that is gone never ran.
    pub fn counts(&self, instance: &ObservedContainer) -> bool {
        instance.state != ContainerState::Created
            || self.sandbox().is_some_and(|sandbox| sandbox.id == instance.sandbox_id)
    }

    /// Whether a container has run for the last time (A42, A45, I4, I5).
    pub fn end(&self, role: Role, container: &Container) -> End {
        let restart = self.restart(role, container);
        match self.newest(&container.name).filter(|newest| self.counts(newest)) {
            Some(newest) => match &newest.state {
                ContainerState::Exited { exit_code, .. } => {
                    let success = *exit_code == 0;
                    match restart {
                        Restart::Always => End::Open,
                        Restart::OnFailure if !success => End::Open,
                        _ => End::Final { success },
                    }
                }
                ContainerState::Unknown if restart == Restart::Never => {
                    End::Final { success: false }
                }
                _ => End::Open,
            },
            None if !self.ran_before(&container.name) => End::Open,
            // The record is gone: the end that was seen, or a failure; never a guess of success.
            None => {
                let state = self.previous(&container.name).and_then(|s| s.state.as_ref());
                let seen = state.and_then(|state| state.terminated.as_ref()).map(|t| t.exit_code);
                match (restart, seen) {
                    (Restart::Always, _) => End::Open,
                    (_, Some(0)) => End::Final { success: true },
                    (Restart::OnFailure, _) => End::Open,
                    (Restart::Never, _) => End::Final { success: false },
                }
            }
        }
    }

    /// Attempt number of the next instance: restart counts never fall (I5).
    pub fn next_attempt(&self, name: &str) -> u32 {
        let observed = self.instances(name).iter().map(|c| c.attempt.saturating_add(1)).max();
        let previous = self.previous(name).map(|status| {
            let count = u32::try_from(status.restart_count).unwrap_or(0);
            count.saturating_add(u32::from(self.ran_before(name)))
        });
        observed.max(previous).unwrap_or(0)
    }

    pub fn verdict(
        &self,
        instance: &ObservedContainer,
        kind: ProbeKind,
    ) -> Option<&'a ProbeVerdict> {
        let verdict = self.input.observed.probes.get(&(instance.name.clone(), kind));
        verdict.filter(|verdict| verdict.container_id == instance.id)
    }

    /// Running and, with a startup probe, past it (A92). What the last status said of the same
    /// instance holds until a verdict says otherwise (A96).
    pub fn started(&self, container: &Container, instance: &ObservedContainer) -> bool {
        if !matches!(instance.state, ContainerState::Running { .. }) {
            return false;
        }
        if container.startup_probe.is_none() {
            return true;
        }
        match self.verdict(instance, ProbeKind::Startup) {
            Some(verdict) => verdict.success,
            None => self.previous_of(instance).is_some_and(|status| status.started == Some(true)),
        }
    }

    /// A91, A96.
    pub fn ready(&self, role: Role, container: &Container, instance: &ObservedContainer) -> bool {
        if role == Role::Init || !self.started(container, instance) {
            return false;
        }
        if container.readiness_probe.is_none() {
            return true;
        }
        match self.verdict(instance, ProbeKind::Readiness) {
            Some(verdict) => verdict.success,
            None => self.previous_of(instance).is_some_and(|status| status.ready),
        }
    }

    /// All init containers are behind: each ended well, sidecars started; or an app container
    /// exists in this sandbox, which proves it (A42).
    pub fn initialized(&self) -> bool {
        let in_sandbox = |instance: &&ObservedContainer| {
            self.sandbox().is_some_and(|sandbox| sandbox.id == instance.sandbox_id)
        };
        let app_exists = self
            .spec
            .containers
            .iter()
            .any(|app| self.newest(&app.name).is_some_and(|instance| in_sandbox(&instance)));
        app_exists
            || self.containers().filter(|(role, _)| *role != Role::App).all(|(role, container)| {
                let newest = self.newest(&container.name).filter(in_sandbox);
                newest.is_some_and(|instance| match role {
                    Role::Sidecar => self.started(container, instance),
                    _ => exited_well(instance),
                })
            })
    }

    /// The grace with which the pod is being deleted.
    pub fn deletion_grace_s(&self) -> i64 {
        let given = self.input.pod.metadata.deletion_grace_period_seconds;
        given.map_or_else(|| self.grace_s(), |grace| grace.clamp(0, 31_536_000))
    }

    /// When the pod must be gone by the API server's clock, with the grace that it gave (A58, F03).
    pub fn deletion_deadline(&self) -> Option<Time> {
        let metadata = &self.input.pod.metadata;
        let at = Time::from_api(metadata.deletion_timestamp.as_ref()?);
        Some(match metadata.deletion_grace_period_seconds {
            // The API's timestamp is the end of the grace period.
            Some(_) => at,
            None => at.plus_s(self.grace_s()),
        })
    }

    /// `terminationGracePeriodSeconds`, not negative and at most a year.
    pub fn grace_s(&self) -> i64 {
        self.spec.termination_grace_period_seconds.unwrap_or(30).clamp(0, 31_536_000)
    }
}

pub fn exited_well(instance: &ObservedContainer) -> bool {
    matches!(instance.state, ContainerState::Exited { exit_code: 0, .. })
}

/// The runtime's own ID in `containerd://<id>`.
pub fn bare_id(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}
