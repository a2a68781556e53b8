//! Is there too little of something, measured against the hard thresholds (A160, A161, A163).
//!
//! Deliberately absent: evicting pods.

use k8s_openapi::api::core::v1::NodeStatus;

use crate::config::{NodeConfig, Signal};
use crate::model::{Filesystem, MachineFacts, Time};

/// When each resource was last below its threshold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pressures {
    memory: Option<Time>,
    disk: Option<Time>,
    pid: Option<Time>,
    /// As of the last [`Pressures::observe`].
    now: Signals,
}

/// The three conditions that it makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signals {
    pub memory: bool,
    pub disk: bool,
    pub pid: bool,
}

impl Pressures {
    /// What a daemon that starts knows from the status that its predecessor wrote: a condition does
    /// not end because the daemon was started again (I6).
    pub fn resumed(previous: &NodeStatus) -> Self {
        let since = |kind: &str| {
            let conditions = previous.conditions.as_deref().unwrap_or_default();
            let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "True")?;
            condition.last_heartbeat_time.as_ref().map(Time::from_api)
        };
        let (memory, disk, pid) =
            (since("MemoryPressure"), since("DiskPressure"), since("PIDPressure"));
        let now = Signals { memory: memory.is_some(), disk: disk.is_some(), pid: pid.is_some() };
        Self { memory, disk, pid, now }
    }

    /// The same after one more measurement. What could not be measured is as it was.
    #[must_use]
    pub fn observe(self, machine: &MachineFacts, config: &NodeConfig, now: Time) -> Self {
        let below = |signals: &[Signal]| {
            signals.iter().any(|signal| {
                let limit = config.eviction_hard.get(signal);
                let measured = measure(*signal, machine);
                limit
                    .zip(measured)
                    .is_some_and(|(limit, (capacity, available))| available < limit.of(capacity))
            })
        };
        let seen = |last: Option<Time>, signals: &[Signal]| {
            if below(signals) { Some(now) } else { last }
        };
        let memory = seen(self.memory, &[Signal::MemoryAvailable]);
        let disk = seen(
            self.disk,
            &[
                Signal::NodefsAvailable,
                Signal::NodefsInodesFree,
                Signal::ImagefsAvailable,
                Signal::ImagefsInodesFree,
            ],
        );
        let pid = seen(self.pid, &[Signal::PidAvailable]);
        let holds = |last: Option<Time>| {
            last.is_some_and(|last| {
                last == now || now.since_ms(last) < config.pressure_transition_ms
            })
        };
        let now = Signals { memory: holds(memory), disk: holds(disk), pid: holds(pid) };
        Self { memory, disk, pid, now }
    }

    /// What holds as of the last measurement.
    pub fn signals(&self) -> Signals {
        self.now
    }
}

/// Capacity and what is available of it.
fn measure(signal: Signal, machine: &MachineFacts) -> Option<(i64, i64)> {
    let bytes = |fs: Option<Filesystem>| fs.map(|fs| (fs.capacity_bytes, fs.available_bytes));
    // Filesystems that make inodes as they need them have none to run out of.
    let inodes = |fs: Option<Filesystem>| {
        fs.filter(|fs| fs.inodes > 0).map(|fs| (fs.inodes, fs.inodes_free))
    };
    match signal {
        Signal::MemoryAvailable => machine.memory_bytes.zip(machine.memory_available_bytes),
        Signal::NodefsAvailable => bytes(machine.nodefs),
        Signal::NodefsInodesFree => inodes(machine.nodefs),
        Signal::ImagefsAvailable => bytes(machine.imagefs),
        Signal::ImagefsInodesFree => inodes(machine.imagefs),
        Signal::PidAvailable => {
            let (max, used) = machine.pids_max.zip(machine.pids)?;
            Some((max, max.saturating_sub(used)))
        }
    }
}
