//! securityContext of pod and container → the CRI's fields (A80, A127–A137).

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, PodSecurityContext, PodSpec, SELinuxOptions, SeccompProfile,
    SecurityContext,
};
use longshore_proto::cri;
use longshore_proto::cri::security_profile::ProfileType;

use crate::model::ImageState;
use crate::pod::{Input, paths};

/// `Err` is the message of CreateContainerConfigError.
pub fn context(
    input: &Input<'_>,
    spec: &PodSpec,
    container: &Container,
    image: &ImageState,
) -> Result<cri::LinuxContainerSecurityContext, String> {
    let pod_default = PodSecurityContext::default();
    let own_default = SecurityContext::default();
    let pod = spec.security_context.as_ref().unwrap_or(&pod_default);
    let own = container.security_context.as_ref().unwrap_or(&own_default);
    let privileged = own.privileged.unwrap_or(false);
    let run_as_user = checked_id(own.run_as_user.or(pod.run_as_user), "runAsUser")?;
    let run_as_group = checked_id(own.run_as_group.or(pod.run_as_group), "runAsGroup")?;
    let (uid, username) = match image {
        ImageState::Present { uid, username, .. } => (*uid, username.as_str()),
        _ => (None, ""),
    };
    if own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false) {
        non_root(run_as_user, uid, username)?;
    }
    // The image's own user, spelt out: the runtime never has to parse it again (CVE row 67).
    let image_user = match run_as_user {
        Some(_) => None,
        None => checked_id(uid, "the image's user")?,
    };
    let by_name = run_as_user.is_none() && image_user.is_none();
    let user = run_as_user.or(image_user);
    let (masked_paths, readonly_paths) = proc_paths(privileged, own.proc_mount.as_deref())?;
    Ok(cri::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|capabilities| cri::Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            ..cri::Capability::default()
        }),
        privileged,
        namespace_options: Some(namespaces(spec)),
        selinux_options: selinux(own.se_linux_options.as_ref().or(pod.se_linux_options.as_ref())),
        run_as_user: user.map(|value| cri::Int64Value { value }),
        run_as_group: run_as_group.map(|value| cri::Int64Value { value }),
        run_as_username: if by_name { username.to_owned() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(spec),
        supplemental_groups_policy: groups_policy(spec),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths,
        readonly_paths,
        seccomp: seccomp(
            input,
            privileged,
            own.seccomp_profile.as_ref().or(pod.seccomp_profile.as_ref()),
        )?,
        apparmor: apparmor(own.app_armor_profile.as_ref().or(pod.app_armor_profile.as_ref()))?,
        ..cri::LinuxContainerSecurityContext::default()
    })
}

/// Linux IDs only: a number that wraps is another user (CVE row 67).
fn checked_id(id: Option<i64>, field: &str) -> Result<Option<i64>, String> {
    match id {
        Some(id) if !(0..i64::from(u32::MAX)).contains(&id) => {
            Err(format!("{field} {id} is not an ID between 0 and 4294967294"))
        }
        other => Ok(other),
    }
}

/// A128: a root user or a user that is only a name is refused.
fn non_root(run_as_user: Option<i64>, uid: Option<i64>, username: &str) -> Result<(), String> {
    match (run_as_user, uid) {
        (Some(0), _) => Err("container's runAsUser breaks non-root policy".into()),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => {
            Err("container has runAsNonRoot and image will run as root: set runAsUser".into())
        }
        (None, Some(_)) => Ok(()),
        (None, None) if !username.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({username}), cannot verify user is non-root: set runAsUser"
        )),
        (None, None) => {
            Err("container has runAsNonRoot and image will run as root: set runAsUser".into())
        }
    }
}

/// fsGroup and the pod's groups (A129).
pub fn supplemental_groups(spec: &PodSpec) -> Vec<i64> {
    let Some(pod) = &spec.security_context else { return Vec::new() };
    pod.fs_group.into_iter().chain(pod.supplemental_groups.iter().flatten().copied()).collect()
}

pub fn groups_policy(spec: &PodSpec) -> i32 {
    let policy = spec.security_context.as_ref();
    match policy.and_then(|context| context.supplemental_groups_policy.as_deref()) {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict.into(),
        _ => cri::SupplementalGroupsPolicy::Merge.into(),
    }
}

/// A80.
pub fn namespaces(spec: &PodSpec) -> cri::NamespaceOption {
    use cri::NamespaceMode::{Container, Node, Pod};
    let host = |flag: Option<bool>| flag.unwrap_or(false);
    cri::NamespaceOption {
        network: (if host(spec.host_network) { Node } else { Pod }).into(),
        ipc: (if host(spec.host_ipc) { Node } else { Pod }).into(),
        pid: match (host(spec.host_pid), host(spec.share_process_namespace)) {
            (true, _) => Node.into(),
            (false, true) => Pod.into(),
            (false, false) => Container.into(),
        },
        ..cri::NamespaceOption::default()
    }
}

pub fn selinux(options: Option<&SELinuxOptions>) -> Option<cri::SeLinuxOption> {
    options.map(|options| cri::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    })
}

pub fn runtime_default() -> cri::SecurityProfile {
    profile(ProfileType::RuntimeDefault, String::new())
}

fn profile(kind: ProfileType, localhost_ref: String) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref }
}

/// A134. A Localhost profile without a file is refused, never unconfined (CVE row 8).
fn seccomp(
    input: &Input<'_>,
    privileged: bool,
    wanted: Option<&SeccompProfile>,
) -> Result<Option<cri::SecurityProfile>, String> {
    if privileged {
        return Ok(Some(profile(ProfileType::Unconfined, String::new())));
    }
    let Some(wanted) = wanted else {
        return Ok(Some(match input.config.seccomp_default {
            true => runtime_default(),
            false => profile(ProfileType::Unconfined, String::new()),
        }));
    };
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(Some(runtime_default())),
        "Unconfined" => Ok(Some(profile(ProfileType::Unconfined, String::new()))),
        "Localhost" => {
            let file = wanted.localhost_profile.as_deref().unwrap_or_default();
            match paths::seccomp_profile(input.node, file) {
                Some(path) => Ok(Some(profile(ProfileType::Localhost, path))),
                None => Err(format!(
                    "seccompProfile.localhostProfile {file:?} is not a file below the seccomp directory"
                )),
            }
        }
        other => Err(format!("seccompProfile.type {other:?} is unknown")),
    }
}

/// A135. Absent: the runtime's default.
fn apparmor(wanted: Option<&AppArmorProfile>) -> Result<Option<cri::SecurityProfile>, String> {
    let Some(wanted) = wanted else { return Ok(None) };
    match wanted.type_.as_str() {
        "RuntimeDefault" => Ok(Some(runtime_default())),
        "Unconfined" => Ok(Some(profile(ProfileType::Unconfined, String::new()))),
        "Localhost" => {
            let name = wanted.localhost_profile.clone().unwrap_or_default();
            if name.trim().is_empty() || name.contains(char::is_control) {
                return Err("appArmorProfile.localhostProfile is empty".into());
            }
            Ok(Some(profile(ProfileType::Localhost, name)))
        }
        other => Err(format!("appArmorProfile.type {other:?} is unknown")),
    }
}

const MASKED: [&str; 13] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
];
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A137: masked and read-only paths. Unmasked needs a user namespace, which is held.
fn proc_paths(
    privileged: bool,
    proc_mount: Option<&str>,
) -> Result<(Vec<String>, Vec<String>), String> {
    match proc_mount {
        _ if privileged => Ok((Vec::new(), Vec::new())),
        None | Some("" | "Default") => {
            Ok((MASKED.map(String::from).to_vec(), READONLY.map(String::from).to_vec()))
        }
        Some(other) => {
            Err(format!("procMount {other:?} needs hostUsers: false, which is not supported yet"))
        }
    }
}
