//! A pod's spec → the messages of the runtime, with the kubelet's labels, annotations and names
//! (A204, A206), so that either can adopt what the other started.
//!
//! Deliberately absent: user namespaces, devices, hostPort (held by `unsupported`).

pub mod container;
pub mod hash;
pub mod resources;
pub mod sandbox;
pub mod security;

/// Keys of labels and annotations (A204).
pub mod keys {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const PORTS: &str = "io.kubernetes.container.ports";
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
}

#[cfg(test)]
mod tests;
