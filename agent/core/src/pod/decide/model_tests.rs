//! Whole lives of pods against a model of a runtime: every action that a decision asks for is
//! executed, the daemon is killed at every point, any call fails with and without effect, and the
//! invariants I1–I5 and I14 are checked at every step.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodStatus;

use super::*;
use crate::model::{
    ContainerState, ImageState, ObservedContainer, ObservedPod, ObservedSandbox, ProbeKind,
    ProbeVerdict, SandboxState, Time,
};
use crate::pod::Memory;
use crate::pod::action::Action;
use crate::pod::testing::Case;

/// What the process of a container does.
#[derive(Clone, Copy)]
pub enum Process {
    /// Runs until it is told to stop, then ends after the time with the code.
    Server { stops_after_ms: i64, code: i32 },
    /// Ends by itself.
    Task { ends_after_ms: i64, code: i32 },
}

const SERVER: Process = Process::Server { stops_after_ms: 500, code: 0 };

/// How an action goes wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// The daemon is killed after the effect, before it knows.
    Kill,
    /// The daemon is killed before the effect.
    KillBefore,
    /// As `Kill`, and the status that was kept is lost too: the runtime is all there is (A204).
    KillAndForget,
    /// The call fails without effect.
    Fails,
    /// The call fails and has its effect all the same (F15).
    FailsWithEffect,
}

pub struct Sim {
    pub case: Case,
    pub process: fn(&str, u32) -> Process,
    containers: Vec<ObservedContainer>,
    sandboxes: Vec<ObservedSandbox>,
    ends: BTreeMap<String, (Time, i32)>,
    images: BTreeMap<String, ImageState>,
    pub missing_images: BTreeSet<String>,
    cgroup: bool,
    volumes: bool,
    logs: bool,
    pub finished: bool,
    ids: u32,
    pub starts: BTreeMap<String, u32>,
    /// Executed actions, in order, one word each.
    pub log: Vec<String>,
    pub events: Vec<String>,
    /// By number of the executed action.
    pub faults: BTreeMap<usize, Fault>,
    pub status: PodStatus,
    /// Readiness probes say so.
    pub probe_ready: bool,
}

impl Sim {
    pub fn new(spec: &str, process: fn(&str, u32) -> Process) -> Self {
        Self {
            case: Case::spec(spec),
            process,
            containers: Vec::new(),
            sandboxes: Vec::new(),
            ends: BTreeMap::new(),
            images: BTreeMap::new(),
            missing_images: BTreeSet::new(),
            cgroup: false,
            volumes: false,
            logs: false,
            finished: false,
            ids: 0,
            starts: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
            faults: BTreeMap::new(),
            status: PodStatus::default(),
            probe_ready: true,
        }
    }

    fn observe(&self) -> ObservedPod {
        let mut observed = ObservedPod {
            sandboxes: self.sandboxes.clone(),
            containers: self.containers.clone(),
            images: self.images.clone(),
            cgroup_ready: self.cgroup,
            volumes_ready: self.volumes,
            leftovers: self.cgroup || self.volumes,
            network_programmed: self.sandboxes.iter().any(|s| s.state == SandboxState::Ready),
            lost_interfaces: Default::default(),
            network_ready: true,
            probes: BTreeMap::new(),
        };
        for container in &self.containers {
            if matches!(container.state, ContainerState::Running { .. }) {
                let verdict = ProbeVerdict {
                    container_id: container.id.clone(),
                    success: self.probe_ready,
                    message: String::new(),
                };
                let key = (container.name.clone(), ProbeKind::Readiness);
                observed.probes.insert(key, verdict);
            }
        }
        observed.sandboxes.reverse();
        observed.containers.reverse();
        observed
    }

    /// Processes that are due end; pulls that are on their way arrive.
    fn settle(&mut self) {
        let now = self.case.now;
        for container in &mut self.containers {
            let ContainerState::Running { started_at } = container.state else { continue };
            if let Some((at, code)) =
                self.ends.get(&container.id).copied().filter(|(at, _)| *at <= now)
            {
                container.state = ContainerState::Exited {
                    started_at,
                    finished_at: at,
                    exit_code: code,
                    reason: String::new(),
                    message: String::new(),
                };
            }
        }
        for (name, state) in &mut self.images {
            let ImageState::Pulling { since } = *state else { continue };
            if now.since_ms(since) >= 200 {
                *state = match self.missing_images.contains(name) {
                    true => ImageState::Failed {
                        at: now,
                        reason: "ErrImagePull",
                        message: "not found".into(),
                    },
                    false => ImageState::Present {
                        id: format!("sha256:{name}"),
                        uid: None,
                        username: String::new(),
                    },
                };
            }
        }
    }

    fn next_change(&self) -> Option<Time> {
        let ends = self.containers.iter().filter_map(|container| {
            let running = matches!(container.state, ContainerState::Running { .. });
            self.ends.get(&container.id).map(|(at, _)| *at).filter(|_| running)
        });
        let pulls = self.images.values().filter_map(|state| match state {
            ImageState::Pulling { since } => Some(since.plus_ms(200)),
            _ => None,
        });
        ends.chain(pulls).min()
    }

    /// One turn of the worker. True when nothing was asked for.
    pub fn turn(&mut self) -> bool {
        self.settle();
        self.case.observed = self.observe();
        let decision = decide(&self.case.input());
        assert_eq!(decide(&self.case.input()), decision, "I14: same input, same decision");
        self.check(&decision.status);
        // The status is kept before anything is done (F04).
        self.status = decision.status.clone();
        self.case.previous = Some(decision.status);
        self.case.memory = decision.memory;
        let idle = decision.actions.is_empty();
        for action in decision.actions {
            let newest = self.containers.iter().map(|c| (c.name.clone(), c.id.clone()));
            let action = action.with_created(&newest.collect());
            let number = self.log.len();
            let fault = match action {
                Action::Event { .. } => None,
                _ => self.faults.remove(&number),
            };
            if fault == Some(Fault::KillBefore) {
                self.case.memory = Memory::default();
                self.log.push("killed".into());
                return false;
            }
            let result = match fault {
                Some(Fault::Fails) => {
                    self.log.push("failed".into());
                    Err("injected".to_owned())
                }
                _ => self.execute(&action),
            };
            match (fault, result) {
                (Some(Fault::Kill | Fault::KillAndForget), _) => {
                    self.case.memory = Memory::default();
                    if fault == Some(Fault::KillAndForget) {
                        self.case.previous = None;
                    }
                    return false;
                }
                (Some(Fault::FailsWithEffect), _) => {
                    self.case.memory.failed(&action, "deadline exceeded", self.case.now);
                    return false;
                }
                (_, Ok(())) => self.case.memory.done(&action, self.case.now),
                (_, Err(error)) => {
                    self.case.memory.failed(&action, &error, self.case.now);
                    return false;
                }
            }
        }
        if idle {
            let next = [decision.wake_at, self.next_change()].into_iter().flatten().min();
            match next {
                Some(at) => self.case.now = at.max(self.case.now.plus_ms(1)),
                None => return true,
            }
            return false;
        }
        self.case.now = self.case.now.plus_ms(10);
        false
    }

    /// Until nothing is left to do, for at most `seconds` of model time.
    pub fn run(&mut self, seconds: i64) {
        let end = self.case.now.plus_s(seconds);
        for _ in 0..2_000 {
            if self.finished || self.turn() || self.case.now >= end {
                return;
            }
        }
        panic!("no end after 2000 turns: {:?}\n{:?}", self.log, self.status);
    }

    fn word(&mut self, text: &str) {
        self.log.push(text.to_owned());
    }

    fn execute(&mut self, action: &Action) -> Result<(), String> {
        let now = self.case.now;
        match action {
            Action::Event { reason, .. } => {
                self.events.push((*reason).to_owned());
            }
            Action::EnsureCgroup(_) => {
                self.cgroup = true;
                self.word("cgroup");
            }
            Action::EnsureVolumes(_) => {
                self.volumes = true;
                self.logs = true;
                self.word("volumes");
            }
            Action::PullImage { image, .. } => {
                self.word("pull");
                let state = self.images.entry(image.clone()).or_insert(ImageState::Absent);
                if !matches!(state, ImageState::Pulling { .. }) {
                    *state = ImageState::Pulling { since: now };
                }
            }
            Action::RunSandbox { config, .. } => {
                self.word("sandbox");
                let attempt = config.metadata.as_ref().unwrap().attempt;
                if self.sandboxes.iter().any(|s| s.attempt == attempt) {
                    return Err("name is reserved".into());
                }
                self.ids += 1;
                self.sandboxes.push(ObservedSandbox {
                    id: format!("s{}", self.ids),
                    attempt,
                    state: SandboxState::Ready,
                    created_at: now,
                    ips: vec!["10.0.0.5".parse().unwrap()],
                    host_network: false,
                });
            }
            Action::CreateContainer { sandbox_id, config, .. } => {
                let metadata = config.metadata.clone().unwrap();
                self.word(&format!("create {}", metadata.name));
                assert!(self.volumes && self.cgroup, "A40: volumes and cgroup come first");
                let same = |c: &ObservedContainer| {
                    c.name == metadata.name
                        && c.attempt == metadata.attempt
                        && c.sandbox_id == *sandbox_id
                };
                if self.containers.iter().any(same) {
                    return Err("name is reserved".into());
                }
                self.ids += 1;
                self.containers.push(ObservedContainer {
                    user: None,
                    id: format!("c{}", self.ids),
                    name: metadata.name,
                    sandbox_id: sandbox_id.clone(),
                    attempt: metadata.attempt,
                    state: ContainerState::Created,
                    created_at: now,
                    image: config.image.as_ref().unwrap().user_specified_image.clone(),
                    image_ref: config.image.as_ref().unwrap().image.clone(),
                    hash: config.annotations["io.kubernetes.container.hash"].clone(),
                    termination_message: String::new(),
                    grace_s: None,
                });
            }
            Action::StartContainer { id, name } => {
                self.word(&format!("start {name}"));
                self.start(id.as_ref().expect("created before it is started"))?;
            }
            Action::StopContainer { id, name, grace_s, .. } => {
                self.word(&format!("stop {name}"));
                self.stop(id, *grace_s);
            }
            Action::RemoveContainer { id, name } => {
                self.word(&format!("remove {name}"));
                let running =
                    |c: &ObservedContainer| matches!(c.state, ContainerState::Running { .. });
                assert!(
                    !self.containers.iter().any(|c| c.id == *id && running(c)),
                    "removed alive"
                );
                self.containers.retain(|container| container.id != *id);
            }
            Action::StopSandbox { id } => {
                self.word("stop-sandbox");
                let inside: Vec<String> = self
                    .containers
                    .iter()
                    .filter(|c| c.sandbox_id == *id)
                    .map(|c| c.id.clone())
                    .collect();
                for container in inside {
                    self.stop(&container, 0);
                }
                self.settle();
                for sandbox in self.sandboxes.iter_mut().filter(|sandbox| sandbox.id == *id) {
                    sandbox.state = SandboxState::NotReady;
                    sandbox.ips.clear();
                }
            }
            Action::RemoveSandbox { id } => {
                self.word("remove-sandbox");
                self.sandboxes.retain(|sandbox| sandbox.id != *id);
                self.containers.retain(|container| container.sandbox_id != *id);
            }
            Action::RemoveVolumes { .. } => {
                self.volumes = false;
                self.word("remove-volumes");
            }
            Action::RemoveCgroup(_) => {
                self.cgroup = false;
                self.word("remove-cgroup");
            }
            Action::RemoveLogs { .. } => {
                self.logs = false;
                self.word("remove-logs");
            }
            Action::Finish => {
                self.word("finish");
                let empty = self.containers.is_empty() && self.sandboxes.is_empty();
                assert!(
                    empty && !self.volumes && !self.cgroup && !self.logs,
                    "I3: something is left"
                );
                self.finished = true;
            }
        }
        Ok(())
    }

    fn start(&mut self, id: &str) -> Result<(), String> {
        let now = self.case.now;
        let container =
            self.containers.iter_mut().find(|c| c.id == id).ok_or("no such container")?;
        if container.state != ContainerState::Created {
            return Err("container is not in created state".into());
        }
        container.state = ContainerState::Running { started_at: now };
        let (name, attempt) = (container.name.clone(), container.attempt);
        if let Process::Task { ends_after_ms, code } = (self.process)(&name, attempt) {
            self.ends.insert(id.to_owned(), (now.plus_ms(ends_after_ms), code));
        }
        *self.starts.entry(name.clone()).or_default() += 1;
        let alive = self
            .containers
            .iter()
            .filter(|c| c.name == name && matches!(c.state, ContainerState::Running { .. }))
            .count();
        assert_eq!(alive, 1, "I2: two of {name} run");
        Ok(())
    }

    fn stop(&mut self, id: &str, grace_s: i64) {
        let Some(container) = self.containers.iter().find(|c| c.id == id) else { return };
        let (after_ms, code) = match (self.process)(&container.name, container.attempt) {
            Process::Server { stops_after_ms, code } if stops_after_ms <= grace_s * 1000 => {
                (stops_after_ms, code)
            }
            _ => (grace_s * 1000, 137),
        };
        let at = self.case.now.plus_ms(after_ms);
        let end = self.ends.entry(id.to_owned()).or_insert((at, code));
        if at < end.0 {
            *end = (at, code);
        }
    }

    /// I4, I5: at most one start of Never containers, monotone status, no invented success.
    fn check(&self, next: &PodStatus) {
        let spec = self.case.pod.spec.as_ref().unwrap();
        if spec.restart_policy.as_deref() == Some("Never") {
            for (name, starts) in &self.starts {
                assert!(*starts <= 1, "I4: {name} ran {starts} times: {:?}", self.log);
            }
        }
        let Some(last) = &self.case.previous else { return };
        if let Some("Succeeded" | "Failed") = last.phase.as_deref() {
            assert_eq!(last.phase, next.phase, "I5: a terminal phase changed: {:?}", self.log);
        }
        let counts = |status: &PodStatus| {
            let init = status.init_container_statuses.clone().unwrap_or_default();
            let app = status.container_statuses.clone().unwrap_or_default();
            init.into_iter()
                .chain(app)
                .map(|s| (s.name, s.restart_count))
                .collect::<BTreeMap<_, _>>()
        };
        for (name, count) in counts(last) {
            assert!(
                counts(next)[&name] >= count,
                "I5: restart count of {name} fell: {:?}",
                self.log
            );
        }
        if next.phase.as_deref() == Some("Succeeded") && last.phase.as_deref() != Some("Succeeded")
        {
            for app in &spec.containers {
                let seen = self.containers.iter().filter(|c| c.name == app.name);
                let ended = seen.max_by_key(|c| c.attempt).map(|c| c.state.clone());
                let known = last.container_statuses.iter().flatten().any(|s| {
                    s.name == app.name
                        && s.state
                            .as_ref()
                            .and_then(|s| s.terminated.as_ref())
                            .is_some_and(|t| t.exit_code == 0)
                });
                let well = matches!(ended, Some(ContainerState::Exited { exit_code: 0, .. }));
                assert!(well || known, "I5: success was invented: {:?}", self.log);
            }
        }
    }

    pub fn delete(&mut self, grace_s: i64) {
        let metadata = &mut self.case.pod.metadata;
        metadata.deletion_timestamp = Some(self.case.now.plus_s(grace_s).to_api());
        metadata.deletion_grace_period_seconds = Some(grace_s);
    }

    pub fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or_default()
    }

    pub fn condition(&self, kind: &str) -> bool {
        let mut all = self.status.conditions.iter().flatten();
        all.any(|condition| condition.type_ == kind && condition.status == "True")
    }

    /// The sandbox dies under the pod; its processes with it.
    pub fn lose_sandbox(&mut self) {
        for sandbox in &mut self.sandboxes {
            sandbox.state = SandboxState::NotReady;
        }
        let now = self.case.now;
        for container in &mut self.containers {
            if let ContainerState::Running { started_at } = container.state {
                container.state = ContainerState::Exited {
                    started_at,
                    finished_at: now,
                    exit_code: 137,
                    reason: String::new(),
                    message: String::new(),
                };
            }
        }
    }

    pub fn forget_containers(&mut self) {
        self.containers.clear();
    }

    pub fn waiting(&self, name: &str) -> String {
        let mut all = self.status.container_statuses.iter().flatten();
        let status = all.find(|status| status.name == name);
        let state = status.and_then(|status| status.state.as_ref());
        state.and_then(|s| s.waiting.as_ref()).and_then(|w| w.reason.clone()).unwrap_or_default()
    }
}

const SERVICE: &str = "{terminationGracePeriodSeconds: 5,
    initContainers: [{name: init, image: 'x:1'}, {name: side, image: 'x:1', restartPolicy: Always}],
    containers: [{name: app, image: 'x:1', readinessProbe: {tcpSocket: {port: 80}}}, {name: other, image: 'x:2'}]}";

fn service(name: &str, _: u32) -> Process {
    match name {
        "init" => Process::Task { ends_after_ms: 100, code: 0 },
        _ => SERVER,
    }
}

const JOB: &str = "{restartPolicy: Never, initContainers: [{name: init, image: 'x:1'}],
    containers: [{name: app, image: 'x:1'}, {name: other, image: 'x:1'}]}";

fn job(_: &str, _: u32) -> Process {
    Process::Task { ends_after_ms: 3_000, code: 0 }
}

const RETRY: &str = "{restartPolicy: OnFailure, containers: [{name: app, image: 'x:1'}]}";

fn retry(_: &str, attempt: u32) -> Process {
    Process::Task { ends_after_ms: 100, code: if attempt < 2 { 1 } else { 0 } }
}

#[test]
fn a40_a42_a43_a60_a62_a_life_from_start_to_end() {
    let mut sim = Sim::new(SERVICE, service);
    sim.run(60);
    assert_eq!(
        sim.log.join(", "),
        "cgroup, volumes, pull, sandbox, volumes, volumes, create init, start init, volumes, \
         create side, start side, pull, volumes, create app, start app, volumes, create other, \
         start other"
    );
    assert_eq!(sim.phase(), "Running");
    assert!(sim.condition("Ready") && sim.condition("Initialized"));
    assert!(sim.turn(), "I14: nothing to do, no actions");
    sim.log.clear();
    sim.delete(5);
    sim.run(60);
    assert_eq!(
        sim.log.join(", "),
        "stop other, stop app, stop side, stop-sandbox, remove other, remove app, remove side, \
         remove init, remove-sandbox, remove-volumes, remove-cgroup, remove-logs, finish"
    );
    assert_eq!(sim.phase(), "Succeeded");
}

#[test]
fn a48_crash_loop_waits_0_10_20_40_80_160_300() {
    let mut sim = Sim::new("{containers: [{name: app, image: 'x:1'}]}", |_, _| Process::Task {
        ends_after_ms: 1_000,
        code: 1,
    });
    let mut starts = Vec::new();
    let began = sim.case.now;
    while sim.case.now.since_ms(began) < 1_000_000 {
        let before = sim.starts.get("app").copied().unwrap_or(0);
        sim.turn();
        if sim.starts.get("app").copied().unwrap_or(0) > before {
            starts.push(sim.case.now);
        }
        if sim.waiting("app") == "CrashLoopBackOff" {
            assert!(sim.events.contains(&"BackOff".to_owned()));
        }
    }
    let gaps: Vec<_> =
        starts.windows(2).map(|w| (w[1].since_ms(w[0]) - 1_000 + 500) / 1000).collect();
    assert_eq!(gaps[..7], [0, 10, 20, 40, 80, 160, 300]);
    let status = &sim.status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(status.restart_count, i32::try_from(starts.len()).unwrap() - 1);
    assert_eq!(sim.containers.len(), 1, "A170: one dead instance is kept");
}

#[test]
fn a45_a64_jobs_end() {
    let mut sim = Sim::new(JOB, job);
    sim.run(60);
    assert_eq!(sim.phase(), "Succeeded");
    assert_eq!(sim.log.last().map(String::as_str), Some("remove-cgroup"));
    assert_eq!(sim.containers.len(), 3, "records stay for status and logs");
    let mut sim = Sim::new(RETRY, retry);
    sim.run(120);
    assert_eq!((sim.phase(), sim.starts["app"]), ("Succeeded", 3));
    let mut sim = Sim::new(JOB, |name, _| Process::Task {
        ends_after_ms: 10,
        code: i32::from(name == "init"),
    });
    sim.run(60);
    assert_eq!((sim.phase(), sim.starts.len()), ("Failed", 1));
}

#[test]
fn a52_a_missing_image_backs_off_and_says_so() {
    let mut sim = Sim::new("{containers: [{name: app, image: 'x:1'}]}", |_, _| SERVER);
    sim.missing_images.insert("x:1".into());
    let mut seen = BTreeSet::new();
    let began = sim.case.now;
    while sim.case.now.since_ms(began) < 100_000 {
        sim.turn();
        seen.insert(sim.waiting("app"));
    }
    let expect = ["ContainerCreating", "ErrImagePull", "ImagePullBackOff"].map(String::from);
    assert_eq!(seen, expect.into());
    let pulls = sim.log.iter().filter(|word| *word == "pull").count();
    assert_eq!(pulls, 4, "at 0, 10, 30 and 70 s");
    sim.missing_images.clear();
    sim.run(400);
    assert_eq!(sim.phase(), "Running");
}

#[test]
fn a39_a_lost_sandbox_is_made_again_and_init_containers_rerun() {
    let mut sim = Sim::new(SERVICE, service);
    sim.run(60);
    sim.lose_sandbox();
    sim.run(60);
    assert_eq!((sim.starts["init"], sim.starts["app"], sim.phase()), (2, 2, "Running"));
    assert_eq!(sim.sandboxes.iter().map(|s| s.attempt).max(), Some(1));
    assert!(sim.condition("Ready"));
}

#[test]
fn i4_a_never_pod_does_not_survive_its_sandbox() {
    let mut sim = Sim::new(JOB, job);
    while !sim.starts.contains_key("app") {
        sim.turn();
    }
    sim.lose_sandbox();
    sim.run(60);
    assert_eq!((sim.phase(), sim.starts["app"], sim.starts["init"]), ("Failed", 1, 1));
}

#[test]
fn i4_a_never_pod_whose_sandbox_goes_between_two_containers_fails_instead_of_rerunning() {
    let mut sim = killed_before("start app");
    sim.lose_sandbox();
    sim.run(60);
    assert_eq!((sim.phase(), sim.starts.len(), sim.starts["init"]), ("Failed", 1, 1));
    assert_eq!(sim.status.reason.as_deref(), Some("SandboxLost"));
    // Before anything ran the same loss only costs a sandbox (no pod is stuck Pending).
    let mut sim = killed_before("start init");
    sim.lose_sandbox();
    sim.run(60);
    assert_eq!(sim.phase(), "Succeeded");
}

/// A job's pod whose daemon was just killed, with this as the next thing to do.
fn killed_before(step: &str) -> Sim {
    let mut whole = Sim::new(JOB, job);
    whole.run(60);
    let number = whole.log.iter().position(|word| word == step).unwrap();
    let mut sim = Sim::new(JOB, job);
    sim.faults.insert(number, Fault::KillBefore);
    while !sim.log.iter().any(|word| word == "killed") {
        sim.turn();
    }
    sim
}

#[test]
fn i5_f04_a_record_that_is_gone_is_a_failure_and_runs_nothing_again() {
    let mut sim = Sim::new(JOB, job);
    while sim.starts.len() < 3 {
        sim.turn();
    }
    sim.turn();
    sim.forget_containers();
    sim.run(60);
    assert_eq!(sim.phase(), "Failed");
    let status = &sim.status.container_statuses.as_ref().unwrap()[0];
    let terminated = status.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!(terminated.exit_code, 137);
    assert_eq!(terminated.reason.as_deref(), Some("ContainerStatusUnknown"));
}

#[test]
fn f03_a_restart_in_the_middle_of_an_end_has_the_remaining_grace() {
    let stubborn = |_: &str, _: u32| Process::Server { stops_after_ms: 1_000_000, code: 0 };
    let mut sim = Sim::new("{containers: [{name: app, image: 'x:1'}]}", stubborn);
    sim.run(10);
    let deleted_at = sim.case.now;
    sim.delete(30);
    sim.turn();
    sim.case.now = sim.case.now.plus_s(10);
    sim.case.memory = Memory::default();
    sim.run(60);
    assert!(sim.finished);
    let took = sim.case.now.since_ms(deleted_at);
    assert!((29_000..33_000).contains(&took), "{took}");
}

/// Runs `spec` with `faults` and deletes it at the end; returns how many actions it took.
fn life(spec: &str, process: fn(&str, u32) -> Process, faults: &[(usize, Fault)]) -> usize {
    let mut sim = Sim::new(spec, process);
    sim.faults = faults.iter().copied().collect();
    sim.run(400);
    let phase = sim.phase().to_owned();
    let never = sim.case.pod.spec.as_ref().unwrap().restart_policy.as_deref() == Some("Never");
    match sim.case.pod.spec.as_ref().unwrap().restart_policy.as_deref() {
        None => {
            assert_eq!(phase, "Running", "I1 {faults:?} {:?}", sim.log);
            assert!(sim.condition("Ready"), "I1 {faults:?} {:?}", sim.log);
            let extra = sim.starts.iter().filter(|(_, starts)| **starts > 1).count();
            assert_eq!(extra, 0, "I2 {faults:?}: a fault restarted something: {:?}", sim.log);
        }
        Some(_) => assert_eq!(phase, "Succeeded", "{faults:?} {:?}", sim.log),
    }
    if never {
        assert!(sim.starts.values().all(|starts| *starts == 1), "I4 {faults:?}");
    }
    sim.delete(5);
    sim.run(400);
    assert!(sim.finished, "I3 {faults:?}: {:?}", sim.log);
    sim.log.len()
}

const FAULTS: [Fault; 5] =
    [Fault::Kill, Fault::KillBefore, Fault::KillAndForget, Fault::Fails, Fault::FailsWithEffect];

#[test]
fn i1_i2_i3_i4_f01_f15_every_action_may_be_the_last_or_fail() {
    for (spec, process) in
        [(SERVICE, service as fn(&str, u32) -> Process), (JOB, job), (RETRY, retry)]
    {
        let length = life(spec, process, &[]);
        for at in 0..length {
            for fault in FAULTS {
                life(spec, process, &[(at, fault)]);
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: 96, failure_persistence: None, ..proptest::test_runner::Config::default()
    })]
    #[test]
    fn i1_i2_i3_i4_any_mix_of_faults_converges(
        which in 0usize..3,
        faults in proptest::collection::vec((0usize..40, 0usize..5), 0..8),
    ) {
        let (spec, process) =
            [(SERVICE, service as fn(&str, u32) -> Process), (JOB, job), (RETRY, retry)][which];
        let faults: Vec<_> = faults.into_iter().map(|(at, kind)| (at, FAULTS[kind])).collect();
        life(spec, process, &faults);
    }

    #[test]
    fn i3_a_pod_that_is_deleted_at_any_point_leaves_nothing(
        which in 0usize..3,
        turns in 0usize..40,
        faults in proptest::collection::vec((0usize..60, 0usize..5), 0..4),
    ) {
        let (spec, process) =
            [(SERVICE, service as fn(&str, u32) -> Process), (JOB, job), (RETRY, retry)][which];
        let mut sim = Sim::new(spec, process);
        sim.faults = faults.into_iter().map(|(at, kind)| (at, FAULTS[kind])).collect();
        for _ in 0..turns {
            sim.turn();
        }
        sim.delete(5);
        sim.run(400);
        assert!(sim.finished, "{:?}", sim.log);
    }
}
