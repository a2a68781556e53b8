//! ContainerConfig (A112–A114, A121, A204, A206).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, PodSpec, VolumeMount};
use longshore_proto::cri;

use super::{hash, keys, resources, sandbox, security};
use crate::model::ImageState;
use crate::pod::action::PlannedVolume;
use crate::pod::{Input, env, paths};

/// Where the runtime finds what the container mounts.
pub struct Sources<'a> {
    pub volumes: &'a BTreeMap<String, PlannedVolume>,
    pub ips: &'a [IpAddr],
    pub image: &'a ImageState,
}

/// Default of `terminationMessagePath` (A71).
pub const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// The configuration of one instance. `Err` is the message of CreateContainerConfigError.
pub fn config(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
    attempt: u32,
    sources: &Sources<'_>,
) -> Result<cri::ContainerConfig, String> {
    let ImageState::Present { id, .. } = sources.image else {
        return Err("the image is not there".into());
    };
    let variables = env::variables(input, container, sources.ips)?;
    let security_context = security::context(input, spec, container, sources.image)?;
    Ok(cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: container.name.clone(), attempt }),
        image: Some(cri::ImageSpec {
            image: id.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..cri::ImageSpec::default()
        }),
        command: env::command_line(container.command.as_deref(), &variables),
        args: env::command_line(container.args.as_deref(), &variables),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: mounts(input, spec, container, attempt, sources)?,
        envs: variables
            .into_iter()
            .map(|(key, value)| cri::KeyValue { key, value: value.into_bytes() })
            .collect(),
        labels: labels(input, container),
        annotations: annotations(input, spec, container, attempt),
        log_path: paths::log_path(&container.name, attempt),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::of_container(input, spec, container)),
            security_context: Some(security_context),
        }),
        ..cri::ContainerConfig::default()
    })
}

fn labels(input: &Input<'_>, container: &Container) -> BTreeMap<String, String> {
    let mut labels = sandbox::pod_labels(input, false);
    labels.insert(keys::CONTAINER_NAME.into(), container.name.clone());
    labels
}

/// What a restarted daemon reads back (A204).
fn annotations(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
    attempt: u32,
) -> BTreeMap<String, String> {
    let message_policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let mut annotations = BTreeMap::from([
        (keys::HASH.to_owned(), hash::of(container)),
        (keys::RESTART_COUNT.to_owned(), attempt.to_string()),
        (keys::MESSAGE_PATH.to_owned(), message_path(container).to_owned()),
        (keys::MESSAGE_POLICY.to_owned(), message_policy.to_owned()),
    ]);
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    annotations.insert(keys::GRACE.into(), grace.to_string());
    if let Some(grace) = input.pod.metadata.deletion_grace_period_seconds {
        annotations.insert(keys::DELETION_GRACE.into(), grace.to_string());
    }
    if let Some(ports) = container.ports.as_ref().filter(|ports| !ports.is_empty())
        && let Ok(json) = serde_json::to_string(ports)
    {
        annotations.insert(keys::PORTS.into(), json);
    }
    annotations
}

fn message_path(container: &Container) -> &str {
    let path = container.termination_message_path.as_deref();
    path.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_MESSAGE_PATH)
}

fn mounts(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
    attempt: u32,
    sources: &Sources<'_>,
) -> Result<Vec<cri::Mount>, String> {
    let pod_dir = paths::pod_dir(input.node, input.uid);
    let selinux = |volume: &PlannedVolume| {
        // The host's own files keep their labels.
        !matches!(volume.volume, crate::pod::action::Volume::HostPath { .. })
            && has_selinux(spec, container)
    };
    let mut mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = sources
            .volumes
            .get(&mount.name)
            .ok_or_else(|| format!("volume {:?} is not there", mount.name))?;
        mounts.push(cri::Mount {
            container_path: absolute(&mount.mount_path),
            host_path: volume.path.clone(),
            selinux_relabel: selinux(volume),
            ..access(mount, container, read_only_kind(volume))?
        });
    }
    let mounted =
        |path: &str| mounts.iter().any(|m| m.container_path.trim_end_matches('/') == path);
    let hosts = !mounted("/etc/hosts");
    let message = message_path(container);
    if !message.starts_with('/') || !paths::is_mount_path(message) {
        return Err(format!("terminationMessagePath {message:?} is not an absolute path"));
    }
    let message_file = !mounted(message);
    let own = |container_path: &str, host_path: String| cri::Mount {
        container_path: container_path.into(),
        host_path,
        selinux_relabel: has_selinux(spec, container),
        ..cri::Mount::default()
    };
    if hosts {
        mounts.push(own("/etc/hosts", format!("{pod_dir}/{}", paths::HOSTS_FILE)));
    }
    if message_file {
        let file = paths::termination_file(&container.name, attempt);
        mounts.push(own(message, format!("{pod_dir}/{file}")));
    }
    Ok(mounts)
}

fn has_selinux(spec: &PodSpec, container: &Container) -> bool {
    let pod = spec.security_context.as_ref().is_some_and(|c| c.se_linux_options.is_some());
    let own = container.security_context.as_ref().is_some_and(|c| c.se_linux_options.is_some());
    pod || own
}

/// configMap, secret, downwardAPI and projected volumes are never writable (CVE row 3).
fn read_only_kind(volume: &PlannedVolume) -> bool {
    use crate::pod::action::Volume;
    matches!(volume.volume, Volume::Files { .. } | Volume::Kept)
}

/// `mountPath: data` means `/data`.
fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// A113, A114.
fn access(mount: &VolumeMount, container: &Container, forced: bool) -> Result<cri::Mount, String> {
    use cri::MountPropagation::{
        PropagationBidirectional, PropagationHostToContainer, PropagationPrivate,
    };
    let privileged = container
        .security_context
        .as_ref()
        .is_some_and(|context| context.privileged.unwrap_or(false));
    let propagation = match mount.mount_propagation.as_deref().unwrap_or("None") {
        "HostToContainer" => PropagationHostToContainer,
        "Bidirectional" if privileged => PropagationBidirectional,
        "Bidirectional" => {
            return Err("mountPropagation Bidirectional needs a privileged container".into());
        }
        _ => PropagationPrivate,
    };
    let asked = mount.read_only.unwrap_or(false);
    let recursive = match mount.recursive_read_only.as_deref().unwrap_or("Disabled") {
        "Enabled" if !asked || propagation != PropagationPrivate => {
            return Err("recursiveReadOnly needs readOnly and no mountPropagation".into());
        }
        "Enabled" => true,
        // Whether the runtime can is not known here; not asking is always possible.
        _ => false,
    };
    Ok(cri::Mount {
        readonly: asked || forced,
        recursive_read_only: recursive,
        propagation: propagation.into(),
        ..cri::Mount::default()
    })
}
