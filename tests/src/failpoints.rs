//! The daemon's failpoints by name: one that it does not pass any more is seen by the suites that kill
//! it at each.

/// In every role, of one pod's start, life and end, and of the daemon's own start.
pub const OF_PODS: [&str; 37] = [
    "cni.add.allocated",
    "cni.add.begin",
    "cni.add.hooks",
    "cni.add.pair",
    "cni.add.recorded",
    "cni.del.begin",
    "cni.del.released",
    "dataplane.apply.after",
    "dataplane.apply.before",
    "pod.cgroup.after",
    "pod.cgroup.before",
    "pod.create_container.after",
    "pod.create_container.before",
    "pod.finish.after",
    "pod.finish.before",
    "pod.remove_cgroup.after",
    "pod.remove_cgroup.before",
    "pod.remove_container.after",
    "pod.remove_container.before",
    "pod.remove_logs.after",
    "pod.remove_logs.before",
    "pod.remove_sandbox.after",
    "pod.remove_sandbox.before",
    "pod.remove_volumes.after",
    "pod.remove_volumes.before",
    "pod.run_sandbox.after",
    "pod.run_sandbox.before",
    "pod.start_container.after",
    "pod.start_container.before",
    "pod.status.after",
    "pod.status.before",
    "pod.stop_container.after",
    "pod.stop_container.before",
    "pod.stop_sandbox.after",
    "pod.stop_sandbox.before",
    "pod.volumes.after",
    "pod.volumes.before",
];

/// [`OF_PODS`] and `more`, sorted.
pub fn with(more: &[&'static str]) -> Vec<&'static str> {
    let mut all = [&OF_PODS, more].concat();
    all.sort_unstable();
    all
}
