use std::collections::BTreeMap;

use longshore_proto::cri;
use longshore_proto::cri::security_profile::ProfileType;

use super::*;
use crate::model::ImageState;
use crate::pod::testing::{self, Case};
use crate::pod::volumes;

fn image(uid: Option<i64>, username: &str) -> ImageState {
    ImageState::Present { id: "sha256:1".into(), uid, username: username.into() }
}

/// The configuration of the first app container.
fn build(case: &Case, image: &ImageState) -> Result<cri::ContainerConfig, String> {
    let spec = case.pod.spec.as_ref().unwrap();
    let volumes = volumes::plan(&case.input(), false).unwrap_or_default();
    let ips = ["10.0.0.5".parse().unwrap()];
    let sources = container::Sources { volumes: &volumes, ips: &ips, image };
    container::config(&case.input(), spec, &spec.containers[0], 2, &sources)
}

fn security(text: &str, image: &ImageState) -> Result<cri::LinuxContainerSecurityContext, String> {
    let case = Case::spec(text);
    build(&case, image).map(|c| c.linux.unwrap().security_context.unwrap())
}

#[test]
fn a204_a206_identity_of_a_container() {
    let case = Case::spec(
        "{terminationGracePeriodSeconds: 5, containers: [{name: app, image: 'x:1',
          ports: [{containerPort: 80}]}]}",
    );
    let config = build(&case, &image(None, "")).unwrap();
    assert_eq!(config.metadata.unwrap(), cri::ContainerMetadata { name: "app".into(), attempt: 2 });
    assert_eq!(config.log_path, "app/2.log");
    let image = config.image.unwrap();
    assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:1", "x:1"));
    let labels = [
        ("io.kubernetes.container.name", "app"),
        ("io.kubernetes.pod.name", "web"),
        ("io.kubernetes.pod.namespace", "default"),
        ("io.kubernetes.pod.uid", "uid-1"),
    ];
    let owned = |(k, v): (&str, &str)| (k.to_owned(), v.to_owned());
    assert_eq!(config.labels, labels.map(owned).into_iter().collect::<BTreeMap<_, _>>());
    let hash = hash::of(&case.pod.spec.as_ref().unwrap().containers[0]);
    for (key, value) in [
        ("io.kubernetes.container.hash", hash.as_str()),
        ("io.kubernetes.container.restartCount", "2"),
        ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
        ("io.kubernetes.container.terminationMessagePolicy", "File"),
        ("io.kubernetes.pod.terminationGracePeriod", "5"),
        ("io.kubernetes.container.ports", "[{\"containerPort\":80}]"),
    ] {
        assert_eq!(config.annotations.get(key).map(String::as_str), Some(value), "{key}");
    }
}

#[test]
fn a199_a71_own_mounts_yield_to_the_containers() {
    let paths = |spec: &str| {
        let config = build(&Case::spec(spec), &image(None, "")).unwrap();
        let mounts = config.mounts.into_iter();
        mounts.map(|m| format!("{}<{}", m.container_path, m.host_path)).collect::<Vec<_>>()
    };
    assert_eq!(
        paths("{containers: [{name: app}]}"),
        [
            "/etc/hosts</state/pods/uid-1/etc-hosts",
            "/dev/termination-log</state/pods/uid-1/containers/app/termination-2"
        ]
    );
    assert_eq!(
        paths(
            "{containers: [{name: app, terminationMessagePath: /m,
               volumeMounts: [{name: v, mountPath: /etc/hosts}, {name: v, mountPath: /m}, {name: v, mountPath: data}]}],
              volumes: [{name: v, hostPath: {path: /srv}}]}"
        ),
        ["/etc/hosts</srv", "/m</srv", "/data</srv"]
    );
}

#[test]
fn a113_a114_mount_options() {
    let mount = |text: &str, privileged: bool| {
        let spec = format!(
            "{{containers: [{{name: app, securityContext: {{privileged: {privileged}}},
               volumeMounts: [{{name: v, mountPath: /v, {text}}}]}}],
              volumes: [{{name: v, emptyDir: {{}}}}]}}"
        );
        build(&Case::spec(&spec), &image(None, "")).map(|c| {
            let m = &c.mounts[0];
            (m.readonly, m.recursive_read_only, m.propagation)
        })
    };
    assert_eq!(mount("readOnly: true", false), Ok((true, false, 0)));
    assert_eq!(mount("readOnly: true, recursiveReadOnly: Enabled", false), Ok((true, true, 0)));
    assert_eq!(mount("mountPropagation: HostToContainer", false), Ok((false, false, 1)));
    assert_eq!(mount("mountPropagation: Bidirectional", true), Ok((false, false, 2)));
    assert!(mount("mountPropagation: Bidirectional", false).is_err());
    assert!(mount("recursiveReadOnly: Enabled", false).is_err());
}

#[test]
fn cve3_volumes_that_we_write_are_read_only() {
    let case = Case::spec(
        "{containers: [{name: app, volumeMounts: [{name: v, mountPath: /v}]}],
          volumes: [{name: v, configMap: {name: map}}]}",
    )
    .config_map("map", &[]);
    assert!(build(&case, &image(None, "")).unwrap().mounts[0].readonly);
}

#[test]
fn a121_command_and_args_are_expanded() {
    let case = Case::spec(
        "{containers: [{name: app, env: [{name: A, value: x}], command: [run, $(A)], args: [$(B), $$(A)]}]}",
    );
    let config = build(&case, &image(None, "")).unwrap();
    assert_eq!(
        (config.command, config.args),
        (vec!["run".to_owned(), "x".into()], vec!["$(B)".to_owned(), "$(A)".into()],)
    );
}

#[test]
fn a127_users_and_groups_come_from_container_then_pod_then_image() {
    let ids = |text: &str, image: &ImageState| {
        let c = security(text, image).unwrap();
        (c.run_as_user.map(|v| v.value), c.run_as_group.map(|v| v.value), c.run_as_username)
    };
    let both = "{securityContext: {runAsUser: 1, runAsGroup: 2},
        containers: [{name: app, securityContext: {runAsUser: 3}}]}";
    assert_eq!(ids(both, &image(Some(9), "")), (Some(3), Some(2), String::new()));
    let none = "{containers: [{name: app}]}";
    assert_eq!(ids(none, &image(Some(9), "")), (Some(9), None, String::new()));
    assert_eq!(ids(none, &image(None, "nginx")), (None, None, "nginx".into()));
}

#[test]
fn a128_cve67_run_as_non_root_is_never_evaded() {
    let non_root = |user: &str, image: &ImageState| {
        let spec = format!(
            "{{securityContext: {{runAsNonRoot: true}}, containers: [{{name: app, securityContext: {{{user}}}}}]}}"
        );
        security(&spec, image).is_ok()
    };
    assert!(non_root("runAsUser: 5", &image(Some(0), "")));
    assert!(non_root("", &image(Some(5), "")));
    assert!(!non_root("runAsUser: 0", &image(Some(5), "")));
    assert!(!non_root("", &image(Some(0), "")));
    assert!(!non_root("", &image(None, "nginx")));
    assert!(!non_root("", &image(None, "")));
    for overflow in [-1, 1 << 32, u32::MAX.into(), i64::MAX] {
        assert!(!non_root("", &image(Some(overflow), "")), "{overflow}");
        assert!(!non_root(&format!("runAsUser: {overflow}"), &image(None, "")), "{overflow}");
    }
    assert!(non_root("runAsNonRoot: false, runAsUser: 0", &image(None, "")));
}

#[test]
fn a129_groups_and_their_policy() {
    let c = security(
        "{securityContext: {fsGroup: 7, supplementalGroups: [8], supplementalGroupsPolicy: Strict}, containers: [{name: app}]}",
        &image(None, ""),
    )
    .unwrap();
    assert_eq!((c.supplemental_groups, c.supplemental_groups_policy), (vec![7, 8], 1));
}

#[test]
fn a130_a133_plain_fields() {
    let c = security(
        "{containers: [{name: app, securityContext: {capabilities: {add: [NET_ADMIN], drop: [ALL]},
           allowPrivilegeEscalation: false, readOnlyRootFilesystem: true}}]}",
        &image(None, ""),
    )
    .unwrap();
    let capabilities = c.capabilities.unwrap();
    assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
    assert_eq!(capabilities.drop_capabilities, ["ALL"]);
    assert!(c.no_new_privs && c.readonly_rootfs && !c.privileged);
    assert!(!c.masked_paths.is_empty() && !c.readonly_paths.is_empty());
    let p = security(
        "{containers: [{name: app, securityContext: {privileged: true}}]}",
        &image(None, ""),
    )
    .unwrap();
    assert!(p.privileged && p.masked_paths.is_empty() && p.readonly_paths.is_empty());
}

#[test]
fn a134_cve8_seccomp_profiles_times_empty_missing_invalid() {
    let seccomp = |text: &str, by_default: bool| {
        let mut case =
            Case::spec(&format!("{{containers: [{{name: app, securityContext: {{{text}}}}}]}}"));
        case.config.seccomp_default = by_default;
        build(&case, &image(None, "")).map(|c| {
            let profile = c.linux.unwrap().security_context.unwrap().seccomp.unwrap();
            (profile.profile_type(), profile.localhost_ref)
        })
    };
    let plain = |kind| Ok((kind, String::new()));
    assert_eq!(seccomp("", false), plain(ProfileType::Unconfined));
    assert_eq!(seccomp("", true), plain(ProfileType::RuntimeDefault));
    assert_eq!(
        seccomp("seccompProfile: {type: RuntimeDefault}", false),
        plain(ProfileType::RuntimeDefault)
    );
    assert_eq!(seccomp("seccompProfile: {type: Unconfined}", true), plain(ProfileType::Unconfined));
    assert_eq!(
        seccomp("seccompProfile: {type: Localhost, localhostProfile: a/b.json}", false),
        Ok((ProfileType::Localhost, "/state/seccomp/a/b.json".into()))
    );
    for bad in ["''", "../x", "/etc/x", "a//b", "'  '"] {
        let text = format!("seccompProfile: {{type: Localhost, localhostProfile: {bad}}}");
        assert!(seccomp(&text, false).is_err(), "{bad}");
    }
    assert!(seccomp("seccompProfile: {type: Localhost}", false).is_err());
    assert!(seccomp("seccompProfile: {type: ''}", false).is_err());
    assert!(seccomp("seccompProfile: {type: Strange}", false).is_err());
}

#[test]
fn a135_a136_a137_apparmor_selinux_and_proc() {
    let c = |text: &str| {
        security(
            &format!("{{containers: [{{name: app, securityContext: {{{text}}}}}]}}"),
            &image(None, ""),
        )
    };
    let profile = c("appArmorProfile: {type: Localhost, localhostProfile: p}").unwrap().apparmor;
    assert_eq!(profile.unwrap().localhost_ref, "p");
    assert!(c("appArmorProfile: {type: Localhost}").is_err());
    assert!(c("appArmorProfile: {type: X}").is_err());
    assert_eq!(c("seLinuxOptions: {level: s0}").unwrap().selinux_options.unwrap().level, "s0");
    assert!(c("procMount: Unmasked").is_err());
}

#[test]
fn a140_a141_a142_a148_container_resources() {
    let resources = |text: &str| {
        let case = Case::spec(&format!("{{containers: [{{name: app, resources: {{{text}}}}}]}}"));
        build(&case, &image(None, "")).unwrap().linux.unwrap().resources.unwrap()
    };
    let r = resources("limits: {cpu: 500m, memory: 64Mi}");
    assert_eq!((r.cpu_shares, r.cpu_quota, r.cpu_period), (512, 50_000, 100_000));
    assert_eq!((r.memory_limit_in_bytes, r.oom_score_adj), (64 << 20, -997));
    assert_eq!(r.unified.get("memory.oom.group").map(String::as_str), Some("1"));
    for (cgroup_v2, single, group) in
        [(true, false, true), (true, true, false), (false, false, false), (false, true, false)]
    {
        let mut case = Case::spec("{containers: [{name: app}]}");
        case.node.cgroup_v2 = cgroup_v2;
        case.config.single_process_oom_kill = single;
        let linux = build(&case, &image(None, "")).unwrap().linux.unwrap();
        let has = linux.resources.unwrap().unified.contains_key("memory.oom.group");
        assert_eq!(has, group, "v2 {cgroup_v2}, singleProcessOOMKill {single}");
    }
    let none = resources("");
    assert_eq!((none.cpu_shares, none.cpu_quota, none.memory_limit_in_bytes), (2, 0, 0));
    assert_eq!(none.oom_score_adj, 1000);
}

fn sandbox_of(case: &Case) -> cri::PodSandboxConfig {
    sandbox::config(&case.input(), case.pod.spec.as_ref().unwrap(), 1)
}

#[test]
fn a204_a206_a200_identity_of_a_sandbox() {
    let config = sandbox_of(&Case::spec("{containers: [{name: app}]}"));
    assert_eq!(config.hostname, "web");
    assert_eq!(config.log_directory, "/var/log/pods/default_web_uid-1");
    assert_eq!(config.labels.get("app").map(String::as_str), Some("web"));
    assert_eq!(config.labels.get("io.kubernetes.pod.uid").map(String::as_str), Some("uid-1"));
    let metadata = config.metadata.unwrap();
    assert_eq!((metadata.attempt, metadata.name.as_str()), (1, "web"));
    let linux = config.linux.unwrap();
    assert_eq!(linux.cgroup_parent, "/kubepods/besteffort/poduid-1");
    let seccomp = linux.security_context.unwrap().seccomp.unwrap();
    assert_eq!(seccomp.profile_type(), ProfileType::RuntimeDefault);
}

#[test]
fn a80_namespaces() {
    use cri::NamespaceMode::{Container, Node, Pod};
    let check = |text: &str, network, pid, ipc| {
        let config = sandbox_of(&Case::spec(&format!("{{{text} containers: []}}")));
        let options = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!(
            (options.network(), options.pid(), options.ipc()),
            (network, pid, ipc),
            "{text}"
        );
    };
    check("", Pod, Container, Pod);
    check("hostNetwork: true,", Node, Container, Pod);
    check("hostPID: true,", Pod, Node, Pod);
    check("hostIPC: true,", Pod, Container, Node);
    check("shareProcessNamespace: true,", Pod, Pod, Pod);
}

#[test]
fn a131_a138_privileged_and_sysctls_reach_the_sandbox() {
    let config = sandbox_of(&Case::spec(
        "{securityContext: {sysctls: [{name: net/ipv4/tcp_syncookies, value: '1'}]},
          initContainers: [{name: i, securityContext: {privileged: true}}], containers: []}",
    ));
    let linux = config.linux.unwrap();
    assert!(linux.security_context.unwrap().privileged);
    assert_eq!(linux.sysctls.get("net.ipv4.tcp_syncookies").map(String::as_str), Some("1"));
}

#[test]
fn cve68_cve70_annotations_for_runtimes_are_not_passed_on() {
    let pod = testing::pod_with(
        "{containers: []}",
        serde_json::json!({"name": "web", "namespace": "default", "uid": "uid-1", "annotations": {
            "example.org/note": "kept", "cdi.k8s.io/vendor": "x", "io.kubernetes.cri-o.Devices": "x",
            "io.kubernetes.cri/x": "x", "io.containerd.x/y": "x", "run.oci.keep_original_groups": "1"}}),
    );
    let annotations = sandbox_of(&Case::new(pod)).annotations;
    assert_eq!(annotations.keys().collect::<Vec<_>>(), ["example.org/note"]);
}
