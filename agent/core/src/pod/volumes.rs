//! A pod's volumes and the files that the daemon hands to it: what must be on disk (A99–A105).
//!
//! Deliberately absent: subPath, and every volume type that `unsupported` holds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, Pod,
    PodSpec, ProjectedVolumeSource, Secret, ServiceAccountTokenProjection, Volume as ApiVolume,
};
use sha2::{Digest as _, Sha256};

use super::action::{FileContent, HostPathKind, PlannedVolume, Volume, VolumePlan};
use super::{Input, fields, inputs, paths, qos, tokens, visit};
use crate::model::{ObjectKey, Quantity};

/// Mode of files when neither the item nor the volume says (A103).
const DEFAULT_MODE: i32 = 0o644;

type Entries = BTreeMap<String, FileContent>;

/// All volumes by name. `Err` names the volume and what is missing: event FailedMount, retried when
/// it appears (A124). `were_made`: they are on disk already, and those of which it is not known what
/// should be in them now stay as they are.
pub fn plan(input: &Input<'_>, were_made: bool) -> Result<BTreeMap<String, PlannedVolume>, String> {
    let pod_dir = paths::pod_dir(input.node, input.uid);
    let mut planned = BTreeMap::new();
    for volume in volumes(input.pod) {
        let (kind, source) = match were_made && inputs::is_unknown(input, volume) {
            true => (kind_of_files(volume), Volume::Kept),
            false => source(input, volume).map_err(|error| {
                format!("MountVolume.SetUp failed for volume {:?}: {error}", volume.name)
            })?,
        };
        let path = match &source {
            Volume::HostPath { path, .. } => path.clone(),
            _ => paths::volume(&pod_dir, kind, &volume.name),
        };
        planned.insert(volume.name.clone(), PlannedVolume { path, volume: source });
    }
    Ok(planned)
}

fn volumes(pod: &Pod) -> &[ApiVolume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

/// The directory name of a volume that is made from objects or tokens.
fn kind_of_files(volume: &ApiVolume) -> &'static str {
    match (&volume.config_map, &volume.secret) {
        (Some(_), _) => "configmap",
        (_, Some(_)) => "secret",
        _ => "projected",
    }
}

/// The directory name of the volume's kind, and its content.
fn source(input: &Input<'_>, volume: &ApiVolume) -> Result<(&'static str, Volume), String> {
    if let Some(empty) = &volume.empty_dir {
        return Ok(("empty-dir", empty_dir(input, empty)));
    }
    if let Some(host) = &volume.host_path {
        return Ok(("host-path", host_path(host)?));
    }
    let mut files = Files { input, entries: Entries::new() };
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode;
        files.config_map(&source.name, source.items.as_deref(), source.optional, mode)?;
        return Ok(("configmap", Volume::Files { entries: files.entries, tmpfs: false }));
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        files.secret(name, source.items.as_deref(), source.optional, source.default_mode)?;
        return Ok(("secret", Volume::Files { entries: files.entries, tmpfs: true }));
    }
    if let Some(source) = &volume.downward_api {
        files.downward(source.items.as_deref(), source.default_mode)?;
        return Ok(("downward-api", Volume::Files { entries: files.entries, tmpfs: true }));
    }
    if let Some(source) = &volume.projected {
        files.projected(source)?;
        return Ok(("projected", Volume::Files { entries: files.entries, tmpfs: true }));
    }
    Err("its type is not supported".into())
}

/// A99, A100: the size of a tmpfs is the least of what the node, the pod and the volume allow.
fn empty_dir(input: &Input<'_>, source: &EmptyDirVolumeSource) -> Volume {
    if source.medium.as_deref() != Some("Memory") {
        return Volume::EmptyDir;
    }
    let asked = source.size_limit.as_ref().and_then(|q| Quantity::from_api(q).ok());
    let pod = input.pod.spec.as_ref().and_then(|spec| qos::pod_limit(spec, "memory"));
    let bytes = [asked, pod]
        .into_iter()
        .flatten()
        .map(Quantity::units)
        .filter(|bytes| *bytes > 0)
        .chain([input.node.memory_bytes])
        .min();
    Volume::EmptyDirMemory { size_bytes: bytes }
}

fn host_path(source: &HostPathVolumeSource) -> Result<Volume, String> {
    let kind = match source.type_.as_deref().unwrap_or_default() {
        "" => HostPathKind::Unchecked,
        "DirectoryOrCreate" => HostPathKind::DirectoryOrCreate,
        "Directory" => HostPathKind::Directory,
        "FileOrCreate" => HostPathKind::FileOrCreate,
        "File" => HostPathKind::File,
        "Socket" => HostPathKind::Socket,
        "CharDevice" => HostPathKind::CharDevice,
        "BlockDevice" => HostPathKind::BlockDevice,
        other => return Err(format!("hostPath.type {other:?} is unknown")),
    };
    let path = &source.path;
    if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        return Err(format!("hostPath.path {path:?} is not an absolute path without \"..\""));
    }
    Ok(Volume::HostPath { path: path.clone(), kind })
}

/// Collects the files of one volume.
struct Files<'a> {
    input: &'a Input<'a>,
    entries: Entries,
}

impl Files<'_> {
    fn add(&mut self, path: &str, data: Vec<u8>, mode: Option<i32>) -> Result<(), String> {
        self.add_for(None, path, data, mode)
    }

    fn add_for(
        &mut self,
        uid: Option<u32>,
        path: &str,
        data: Vec<u8>,
        mode: Option<i32>,
    ) -> Result<(), String> {
        if !paths::is_item_path(path) {
            return Err(format!("{path:?} is not a path inside the volume"));
        }
        let mode = u32::try_from(mode.unwrap_or(DEFAULT_MODE)).ok().filter(|mode| *mode <= 0o777);
        let mode = mode.ok_or_else(|| format!("the mode of {path:?} is not between 0 and 0777"))?;
        match self.entries.insert(path.to_owned(), FileContent { data, mode, uid }) {
            None => Ok(()),
            // Two sources that want the same file (A105).
            Some(_) => Err(format!("{path:?} comes from two sources")),
        }
    }

    fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let key = ObjectKey::new(self.input.key.namespace.clone(), name);
        let found = self.input.world.config_maps.get(&key).map(|map| config_map_data(map));
        self.object("configmap", name, found, items, optional, mode)
    }

    fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let key = ObjectKey::new(self.input.key.namespace.clone(), name);
        let found = self.input.world.secrets.get(&key).map(|secret| secret_data(secret));
        self.object("secret", name, found, items, optional, mode)
    }

    fn object(
        &mut self,
        kind: &str,
        name: &str,
        found: Option<BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let optional = optional.unwrap_or(false);
        let Some(data) = found else {
            return if optional { Ok(()) } else { Err(format!("{kind} {name:?} not found")) };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, value) in data {
                self.add(&key, value, mode)?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => self.add(&item.path, value.clone(), item.mode.or(mode))?,
                None if optional => {}
                None => {
                    return Err(format!("{kind} {name:?} has no key {:?}", item.key));
                }
            }
        }
        Ok(())
    }

    fn downward(
        &mut self,
        items: Option<&[DownwardAPIVolumeFile]>,
        mode: Option<i32>,
    ) -> Result<(), String> {
        for item in items.unwrap_or_default() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) if field.field_path.starts_with("metadata.") => {
                    fields::field(self.input, &field.field_path, &[])?
                }
                (Some(field), _) => {
                    return Err(format!("fieldPath {:?} cannot be a file", field.field_path));
                }
                (None, Some(resource)) => fields::resource(self.input, resource, None)?,
                (None, None) => return Err(format!("{:?} has no fieldRef", item.path)),
            };
            self.add(&item.path, text.into_bytes(), item.mode.or(mode))?;
        }
        Ok(())
    }

    /// Only for the pod's group or single user when either is known; else for all (A106).
    fn token(
        &mut self,
        source: &ServiceAccountTokenProjection,
        mode: Option<i32>,
    ) -> Result<(), String> {
        let input = self.input;
        let request = tokens::request(input.pod, input.key, input.uid, source);
        let account = &request.service_account;
        let Some(token) = input.world.tokens.get(&request) else {
            return Err(format!("there is no token of serviceaccount {account:?} yet"));
        };
        let spec = input.pod.spec.as_ref();
        let group = spec.and_then(|s| s.security_context.as_ref()?.fs_group);
        let user = spec.and_then(single_user);
        let mode = if group.is_some() || user.is_some() { Some(0o600) } else { mode };
        self.add_for(user, &source.path, token.text.clone().into_bytes(), mode)
    }

    fn projected(&mut self, source: &ProjectedVolumeSource) -> Result<(), String> {
        let mode = source.default_mode;
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                self.config_map(&map.name, map.items.as_deref(), map.optional, mode)?;
            }
            if let Some(secret) = &part.secret {
                self.secret(&secret.name, secret.items.as_deref(), secret.optional, mode)?;
            }
            if let Some(downward) = &part.downward_api {
                self.downward(downward.items.as_deref(), mode)?;
            }
            if let Some(token) = &part.service_account_token {
                self.token(token, mode)?;
            }
        }
        Ok(())
    }
}

/// The user of every container, if it is one and the spec says so: it alone may read the pod's
/// tokens (A106).
fn single_user(spec: &PodSpec) -> Option<u32> {
    let pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = visit::every(spec).into_iter().map(|(_, container)| {
        container.security_context.and_then(|context| context.run_as_user).or(pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then_some(first).and_then(|user| u32::try_from(user).ok())
}

/// Text and binary keys of a ConfigMap.
pub fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    binary.chain(text).collect()
}

/// Keys of a Secret; `stringData` wins, as the API server has it.
pub fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let data = secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    let text =
        secret.string_data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    data.chain(text).collect()
}

/// Names a plan: equal for plans with the same content. Termination files are left out: they are
/// made before the container that needs them and change nothing that exists.
pub fn digest(plan: &VolumePlan) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    let file = |part: &mut dyn FnMut(&[u8]), name: &str, content: &FileContent| {
        part(name.as_bytes());
        part(&content.data);
        part(&content.mode.to_be_bytes());
        part(format!("{:?}", content.uid).as_bytes());
    };
    part(
        format!("{:?}", (&plan.pod_dir, &plan.log_dir, plan.fs_group, &plan.log_directories))
            .as_bytes(),
    );
    for (name, content) in &plan.files {
        file(&mut part, name, content);
    }
    for (name, planned) in &plan.volumes {
        part(name.as_bytes());
        part(planned.path.as_bytes());
        match &planned.volume {
            Volume::Files { entries, tmpfs } => {
                part(&[u8::from(*tmpfs)]);
                for (name, content) in entries {
                    file(&mut part, name, content);
                }
            }
            other => part(format!("{other:?}").as_bytes()),
        }
    }
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[path = "volumes_tests.rs"]
mod tests;
