//! A decision while it is being made.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Container;
use longshore_proto::cri;

use super::probes;
use crate::model::{Problem, Time};
use crate::pod::action::{Action, Decision, FileContent, Once, PlannedVolume, VolumePlan};
use crate::pod::memory::{Failure, Memory, step_of};
use crate::pod::status::{self, Facts, Wait};
use crate::pod::view::View;
use crate::pod::{cgroup, hosts, inputs, paths, volumes};

pub(super) struct Steps<'a> {
    pub view: View<'a>,
    pub actions: Vec<Action>,
    pub facts: Facts,
    pub memory: Memory,
    pub why: Vec<String>,
    /// Set by [`Steps::ensure_volumes`].
    pub volumes: BTreeMap<String, PlannedVolume>,
    /// What the pod needs and nobody knows yet; nothing is created before (A124).
    unknown: Vec<String>,
    creates: Vec<Action>,
    termination_files: Vec<String>,
    wake_at: Option<Time>,
}

impl<'a> Steps<'a> {
    pub fn new(view: View<'a>) -> Self {
        let mut memory = view.input.memory.clone();
        memory.longest_crash_wait_ms = view.input.config.max_container_restart_period_ms;
        Self {
            view,
            actions: Vec::new(),
            facts: Facts::default(),
            memory,
            why: Vec::new(),
            volumes: BTreeMap::new(),
            unknown: Vec::new(),
            creates: Vec::new(),
            termination_files: Vec::new(),
            wake_at: None,
        }
    }

    pub fn now(&self) -> Time {
        self.view.input.now
    }

    pub fn why(&mut self, text: impl Into<String>) {
        self.why.push(text.into());
    }

    /// Look again at `at`, if that is still to come.
    pub fn wake(&mut self, at: Time) {
        if at > self.now() {
            self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
        }
    }

    pub fn fail(&mut self, reason: &str, message: &str) {
        self.facts.failed = Some((reason.into(), message.into()));
    }

    pub fn wait(&mut self, container: &str, reason: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.why.push(format!("container {container}: {reason}: {message}"));
        self.facts.waits.insert(container.into(), Wait { reason, message });
    }

    pub fn event(
        &mut self,
        warning: bool,
        reason: &'static str,
        message: String,
        container: Option<&str>,
    ) {
        let container = container.map(Into::into);
        self.actions.push(Action::Event { warning, reason, message, container, once: None });
    }

    /// An event that is told once until its text changes.
    pub fn say(
        &mut self,
        subject: &str,
        warning: bool,
        reason: &'static str,
        message: String,
        container: Option<&str>,
    ) {
        self.say_mark(subject, &message.clone(), warning, reason, message, container);
    }

    /// An event that is told once until `mark` changes.
    pub fn say_mark(
        &mut self,
        subject: &str,
        mark: &str,
        warning: bool,
        reason: &'static str,
        message: String,
        container: Option<&str>,
    ) {
        if self.memory.said.get(subject).map(String::as_str) == Some(mark) {
            return;
        }
        let once = Some(Once { subject: subject.into(), mark: mark.into() });
        let is_it = |action: &Action| matches!(action, Action::Event { once: o, .. } if *o == once);
        if !self.actions.iter().any(is_it) {
            let container = container.map(Into::into);
            self.actions.push(Action::Event { warning, reason, message, container, once });
        }
    }

    pub fn say_problem(&mut self, problem: &Problem) {
        let text = format!("{}: {}", problem.field, problem.message);
        self.say(&format!("problem/{}", problem.field), true, problem.reason, text, None);
    }

    /// Pending until the user or a newer Longshore changes something; nothing is started.
    pub fn hold(&mut self, reason: &'static str, field: &str, message: &str) {
        let text = format!("{field}: {message}");
        self.say(&format!("problem/{field}"), true, reason, text.clone(), None);
        self.why(format!("held: {text}"));
        let view = self.view;
        for (_, container) in view.containers() {
            self.wait(&container.name, "CreateContainerConfigError", text.clone());
        }
    }

    /// Asks for `action` unless its last failure is too recent. Returns that failure.
    pub fn push(&mut self, action: Action) -> Option<Failure> {
        let failure = self.memory.failures.get(&step_of(&action)).cloned();
        match &failure {
            Some(failure) if failure.backoff.ready_at() > self.now() => {
                self.wake(failure.backoff.ready_at());
            }
            _ => self.actions.push(action),
        }
        failure
    }

    /// Asks for steps of which each needs the one before; stops at one that waits for its back-off.
    pub fn push_in_order(&mut self, actions: impl IntoIterator<Item = Action>) -> bool {
        for action in actions {
            let asked = self.actions.len();
            let failure = self.push(action);
            if self.actions.len() == asked {
                let text = failure.map(|failure| failure.message).unwrap_or_default();
                self.why(format!("trying again later: {text}"));
                return false;
            }
        }
        true
    }

    /// Asks for something that may fail and tells of its last failure. True when it was asked for
    /// or is not needed.
    fn push_or_tell(&mut self, action: Action, reason: &'static str) -> bool {
        let asked = self.actions.len();
        let Some(failure) = self.push(action) else { return true };
        let mark = failure.count.to_string();
        let retried = self.actions.len() > asked;
        self.why(format!("{reason}: {}", failure.message));
        self.say_mark(reason, &mark, true, reason, failure.message, None);
        retried
    }

    pub fn ensure_cgroup(&mut self) -> bool {
        let input = self.view.input;
        let plan = cgroup::plan(input.node, input.config, input.uid, self.view.spec);
        if input.observed.cgroup_ready && self.memory.cgroup.as_ref() == Some(&plan) {
            return true;
        }
        let asked = self.push_or_tell(Action::EnsureCgroup(plan), "FailedCreatePodContainer");
        asked || self.view.sandbox().is_some()
    }

    /// Looks which inputs are not known yet. For a while that is silent: the answer is on its way.
    fn ask_inputs(&mut self) {
        let input = self.view.input;
        self.unknown = inputs::unknown(input);
        if self.unknown.is_empty() {
            self.memory.unknown_since = None;
            return;
        }
        let since = *self.memory.unknown_since.get_or_insert(input.now);
        self.wake(since.plus_ms(inputs::SILENT_MS));
        self.why(format!("waiting to hear of {}", self.unknown.join(", ")));
    }

    /// True: the container cannot be created, because an input is not known yet. Volumes that were
    /// made before are as they were.
    pub fn lacks_inputs(&mut self, container: &Container) -> bool {
        let unknown = match self.view.sandbox() {
            Some(_) => inputs::unknown_of_container(self.view.input, container),
            None => self.unknown.clone(),
        };
        if unknown.is_empty() {
            return false;
        }
        let since = self.memory.unknown_since.unwrap_or(self.now());
        if self.now() >= since.plus_ms(inputs::SILENT_MS) {
            let text = format!(
                "the API server has not said yet whether there is a {}",
                unknown.join(", a ")
            );
            self.wait(&container.name, "CreateContainerConfigError", text);
        }
        true
    }

    /// False: a volume cannot be made yet and the pod does not run already.
    pub fn ensure_volumes(&mut self) -> bool {
        let (view, input) = (self.view, self.view.input);
        self.ask_inputs();
        let were_made = view.sandbox().is_some();
        if !self.unknown.is_empty() && !were_made {
            for (_, container) in view.containers() {
                self.lacks_inputs(container);
            }
            return false;
        }
        match volumes::plan(input, were_made) {
            Ok(planned) => {
                self.volumes = planned;
                self.memory.said.remove("volume-sources");
            }
            Err(error) => {
                self.why(error.clone());
                self.say("volume-sources", true, "FailedMount", error, None);
                // A pod that runs keeps the content that it has.
                match self.memory.volume_content.clone() {
                    Some(last) if self.view.sandbox().is_some() => self.volumes = (*last).clone(),
                    _ => return false,
                }
            }
        }
        let plan = self.volume_plan();
        let wanted = volumes::digest(&plan);
        if input.observed.volumes_ready && self.memory.volumes.as_deref() == Some(&wanted) {
            return true;
        }
        let asked = self.push_or_tell(Action::EnsureVolumes(plan), "FailedMount");
        asked || self.view.sandbox().is_some()
    }

    /// The hosts file needs the pod's address: it comes with the sandbox.
    fn volume_plan(&self) -> VolumePlan {
        let (view, input) = (self.view, self.view.input);
        let mut files = BTreeMap::new();
        if let Some(sandbox) = view.sandbox()
            && let Ok(names) = hosts::names(input, view.spec)
        {
            let ips = if view.host_network() { &[][..] } else { &sandbox.ips[..] };
            let data = hosts::file(input, view.spec, &names, ips).into_bytes();
            files
                .insert(paths::HOSTS_FILE.to_owned(), FileContent { data, mode: 0o644, uid: None });
        }
        VolumePlan {
            pod_dir: paths::pod_dir(input.node, input.uid),
            log_dir: paths::log_dir(input.node, input.key, input.uid),
            volumes: self.volumes.clone(),
            files,
            fs_group: view.spec.security_context.as_ref().and_then(|context| context.fs_group),
            log_directories: view.containers().map(|(_, c)| c.name.clone()).collect(),
            termination_files: self.termination_files.clone(),
        }
    }

    /// Containers are created after the files that they mount are there.
    pub fn create(
        &mut self,
        sandbox_id: &str,
        sandbox_attempt: u32,
        container: &Container,
        config: cri::ContainerConfig,
    ) -> Option<Failure> {
        let attempt = config.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        let sandbox_config = crate::pod::translate::sandbox::config(
            self.view.input,
            self.view.spec,
            sandbox_attempt,
        );
        let action = Action::CreateContainer {
            sandbox_id: sandbox_id.into(),
            config: Box::new(config),
            sandbox_config: Box::new(sandbox_config),
        };
        let failure = self.memory.failures.get(&step_of(&action)).cloned();
        match &failure {
            Some(failure) if failure.backoff.ready_at() > self.now() => {
                self.wake(failure.backoff.ready_at());
            }
            _ => {
                self.termination_files.push(paths::termination_file(&container.name, attempt));
                self.creates.push(action);
            }
        }
        failure
    }

    pub fn flush_creates(&mut self) {
        if self.creates.is_empty() {
            return;
        }
        let plan = self.volume_plan();
        // The plan with the new files replaces one that is asked for already.
        self.actions.retain(|action| !matches!(action, Action::EnsureVolumes(_)));
        let creates = std::mem::take(&mut self.creates);
        if !self.push_or_tell(Action::EnsureVolumes(plan), "FailedMount") {
            return;
        }
        for action in creates {
            let name = match &action {
                Action::CreateContainer { config, .. } => {
                    config.metadata.as_ref().map(|metadata| metadata.name.clone())
                }
                _ => None,
            };
            self.actions.push(action);
            let name = name.unwrap_or_default();
            self.event(false, "Created", "Container created".into(), Some(&name));
            // After a crash in between the next decision sees it created, and starts it.
            self.actions.push(Action::StartContainer { id: None, name: name.clone() });
            self.event(false, "Started", "Container started".into(), Some(&name));
        }
    }

    pub fn finish_pod(&mut self) {
        self.facts.ending = true;
        self.actions.push(Action::Finish);
    }

    pub fn finish(self) -> Decision {
        let mut memory = self.memory;
        memory.forget_gone(self.view.input.observed);
        Decision {
            status: status::build(&self.view, &self.facts),
            probes: probes::targets(&self.view, self.facts.ending),
            actions: self.actions,
            memory,
            wake_at: self.wake_at,
            why: self.why,
        }
    }
}
