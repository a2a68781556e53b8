//! One walk over all containers of a pod: no check sees some lists and forgets others (CVE row 9).

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec};

use super::qos;

/// What a container is to its pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Runs to its end before the next one (A42).
    Init,
    /// Init container that keeps running (A43).
    Sidecar,
    App,
}

/// Init containers and sidecars in order, then app containers.
pub fn containers(spec: &PodSpec) -> impl DoubleEndedIterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        (if qos::is_sidecar(container) { Role::Sidecar } else { Role::Init }, container)
    });
    init.chain(spec.containers.iter().map(|container| (Role::App, container)))
}

/// Every container, ephemeral ones as plain containers, with its place in API notation.
pub fn every(spec: &PodSpec) -> Vec<(String, Container)> {
    let list = |field: &'static str, containers: &[Container]| {
        let named = containers.iter().cloned().enumerate();
        named.map(move |(i, c)| (format!("spec.{field}[{i}]"), c)).collect::<Vec<_>>()
    };
    let mut all = list("initContainers", spec.init_containers.as_deref().unwrap_or_default());
    all.extend(list("containers", &spec.containers));
    let ephemeral = spec.ephemeral_containers.iter().flatten().enumerate();
    all.extend(ephemeral.map(|(i, c)| (format!("spec.ephemeralContainers[{i}]"), plain(c))));
    all
}

fn plain(container: &EphemeralContainer) -> Container {
    let c = container.clone();
    Container {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    }
}
