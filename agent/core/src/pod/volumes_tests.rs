use super::*;
use crate::pod::testing::Case;

/// `path (mode): text` of the files of volume `v`, or the error.
fn check(case: &Case, volume: &str, expect: &[&str]) {
    let spec = format!("{{containers: [{{name: a}}], volumes: [{volume}]}}");
    let case = Case { pod: crate::pod::testing::pod(&spec), ..case.clone() };
    let found = match plan(&case.input(), false) {
        Err(error) => vec![error],
        Ok(volumes) => volumes.values().flat_map(describe).collect(),
    };
    assert_eq!(found, expect, "{volume}");
}

fn describe(planned: &PlannedVolume) -> Vec<String> {
    match &planned.volume {
        Volume::Files { entries, tmpfs } => {
            let head = format!("{} tmpfs={tmpfs}", planned.path);
            let files = entries.iter().map(|(path, file)| {
                format!("{path} ({:o}): {}", file.mode, String::from_utf8_lossy(&file.data))
            });
            std::iter::once(head).chain(files).collect()
        }
        other => vec![format!("{} {other:?}", planned.path)],
    }
}

fn case() -> Case {
    Case::spec("{containers: []}")
        .config_map("settings", &[("a.conf", "A"), ("b.conf", "B")])
        .secret("keys", &[("key", "K")])
}

const VOLUMES: &str = "/state/pods/uid-1/volumes";

#[test]
fn a99_a100_empty_dirs() {
    check(
        &case(),
        "{name: v, emptyDir: {}}",
        &[&format!("{VOLUMES}/kubernetes.io~empty-dir/v EmptyDir")],
    );
    let memory = format!("{VOLUMES}/kubernetes.io~empty-dir/v EmptyDirMemory");
    check(
        &case(),
        "{name: v, emptyDir: {medium: Memory, sizeLimit: 1Mi}}",
        &[&format!("{memory} {{ size_bytes: Some(1048576) }}")],
    );
    check(
        &case(),
        "{name: v, emptyDir: {medium: Memory}}",
        &[&format!("{memory} {{ size_bytes: Some(8589934592) }}")],
    );
}

#[test]
fn a102_host_paths_have_types_and_no_dots() {
    check(
        &case(),
        "{name: v, hostPath: {path: /srv, type: DirectoryOrCreate}}",
        &["/srv HostPath { path: \"/srv\", kind: DirectoryOrCreate }"],
    );
    for bad in ["{path: srv}", "{path: /a/../b}", "{path: /a, type: Pipe}"] {
        let spec =
            format!("{{containers: [{{name: a}}], volumes: [{{name: v, hostPath: {bad}}}]}}");
        assert!(plan(&Case::spec(&spec).input(), false).is_err(), "{bad}");
    }
}

#[test]
fn a106_a_token_is_a_file_for_the_pods_group_or_single_user() {
    let check = |containers: &str, context: &str, mode: u32, uid: Option<u32>| {
        let spec = format!(
            "{{containers: [{containers}], securityContext: {context}, volumes: [{{name: v, projected: {{defaultMode: 420,
                sources: [{{serviceAccountToken: {{path: token, audience: a}}}}]}}}}]}}"
        );
        let mut case = Case::spec(&spec);
        let error = plan(&case.input(), false).unwrap_err();
        assert!(error.contains("no token"), "{error}");
        let request = tokens::requests(&case.pod, &case.key, &case.uid).into_keys().next().unwrap();
        let token = crate::model::Token {
            text: "secret".into(),
            issued_at: case.now,
            expires_at: case.now.plus_s(3600),
        };
        case.world.tokens.insert(request, std::sync::Arc::new(token));
        let volumes = plan(&case.input(), false).unwrap();
        let Volume::Files { entries, tmpfs: true } = &volumes["v"].volume else { panic!() };
        let expect = FileContent { data: b"secret".to_vec(), mode, uid };
        assert!(
            entries["token"] == expect,
            "{spec}: {:?} {:?}",
            entries["token"],
            entries["token"].uid
        );
    };
    check("{name: a}", "{}", 0o644, None);
    check("{name: a}", "{fsGroup: 7}", 0o600, None);
    check("{name: a}", "{runAsUser: 5}", 0o600, Some(5));
    check("{name: a, securityContext: {runAsUser: 6}}, {name: b}", "{runAsUser: 5}", 0o644, None);
    check("{name: a, securityContext: {runAsUser: 6}}", "{fsGroup: 7}", 0o600, Some(6));
}

#[test]
fn a103_config_maps_and_secrets_with_items_modes_and_optional() {
    let dir = format!("{VOLUMES}/kubernetes.io~configmap/v tmpfs=false");
    check(
        &case(),
        "{name: v, configMap: {name: settings}}",
        &[&dir, "a.conf (644): A", "b.conf (644): B"],
    );
    check(
        &case(),
        "{name: v, configMap: {name: settings, defaultMode: 256, items: [{key: a.conf, path: x/y}, {key: b.conf, path: z, mode: 420}]}}",
        &[&dir, "x/y (400): A", "z (644): B"],
    );
    check(&case(), "{name: v, configMap: {name: none, optional: true}}", &[&dir]);
    check(
        &case(),
        "{name: v, configMap: {name: none}}",
        &["MountVolume.SetUp failed for volume \"v\": configmap \"none\" not found"],
    );
    check(
        &case(),
        "{name: v, configMap: {name: settings, items: [{key: c, path: c}]}}",
        &["MountVolume.SetUp failed for volume \"v\": configmap \"settings\" has no key \"c\""],
    );
    check(
        &case(),
        "{name: v, configMap: {name: settings, items: [{key: a.conf, path: ../c}]}}",
        &["MountVolume.SetUp failed for volume \"v\": \"../c\" is not a path inside the volume"],
    );
    check(
        &case(),
        "{name: v, secret: {secretName: keys, defaultMode: 256}}",
        &[&format!("{VOLUMES}/kubernetes.io~secret/v tmpfs=true"), "key (400): K"],
    );
}

#[test]
fn a104_downward_files() {
    check(
        &case(),
        "{name: v, downwardAPI: {items: [
            {path: labels, fieldRef: {fieldPath: metadata.labels}},
            {path: cpu, resourceFieldRef: {containerName: a, resource: limits.cpu}}]}}",
        &[
            &format!("{VOLUMES}/kubernetes.io~downward-api/v tmpfs=true"),
            "cpu (644): 4",
            "labels (644): app=\"web\"",
        ],
    );
}

#[test]
fn a105_projected_sources_share_a_directory_and_never_a_path() {
    let dir = format!("{VOLUMES}/kubernetes.io~projected/v tmpfs=true");
    check(
        &case(),
        "{name: v, projected: {sources: [{configMap: {name: settings, items: [{key: a.conf, path: a}]}}, {secret: {name: keys}}, {downwardAPI: {items: [{path: pod, fieldRef: {fieldPath: metadata.name}}]}}]}}",
        &[&dir, "a (644): A", "key (644): K", "pod (644): web"],
    );
    check(
        &case(),
        "{name: v, projected: {sources: [{configMap: {name: settings}}, {secret: {name: keys, items: [{key: key, path: a.conf}]}}]}}",
        &["MountVolume.SetUp failed for volume \"v\": \"a.conf\" comes from two sources"],
    );
}

#[test]
fn i14_a_digest_names_the_content() {
    let plan_of = |data: &str| VolumePlan {
        files: BTreeMap::from([(
            "etc-hosts".into(),
            FileContent { data: data.into(), mode: 0o644, uid: None },
        )]),
        ..VolumePlan::default()
    };
    assert_eq!(digest(&plan_of("a")), digest(&plan_of("a")));
    assert_ne!(digest(&plan_of("a")), digest(&plan_of("b")));
    let with_file = VolumePlan { termination_files: vec!["x".into()], ..plan_of("a") };
    assert_eq!(digest(&with_file), digest(&plan_of("a")));
}
