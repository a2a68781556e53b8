//! Objects whose content a pod shows to its containers or needs to start: what is watched for it
//! (A103, A124), and what wakes its worker.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, Pod, PodSpec, Volume};

use super::visit;
use crate::model::{Kind, ObjectKey};

/// Names in the pod's own namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    /// Those of imagePullSecrets too.
    pub secrets: BTreeSet<String>,
}

impl References {
    pub fn of(pod: &Pod) -> Self {
        let mut references = Self::default();
        if let Some(spec) = &pod.spec {
            references.of_volumes(spec);
            references.of_environment(spec);
            let pull = spec.image_pull_secrets.iter().flatten();
            references.secrets.extend(pull.map(|secret| secret.name.clone()));
        }
        references.config_maps.remove("");
        references.secrets.remove("");
        references
    }

    /// Of one volume.
    pub fn of_volume(volume: &Volume) -> Self {
        let mut references = Self::default();
        references.add_volume(volume);
        references
    }

    /// Of one container's environment.
    pub fn of_container(container: &Container) -> Self {
        let mut references = Self::default();
        references.add_environment(&container.env_from, &container.env);
        references
    }

    /// As objects of `namespace`.
    pub fn keys(&self, namespace: &str) -> impl Iterator<Item = (Kind, ObjectKey)> {
        let maps = self.config_maps.iter().map(|name| (Kind::ConfigMap, name));
        let secrets = self.secrets.iter().map(|name| (Kind::Secret, name));
        maps.chain(secrets)
            .map(move |(kind, name)| (kind, ObjectKey::new(namespace, name.as_str())))
    }

    fn of_volumes(&mut self, spec: &PodSpec) {
        spec.volumes.iter().flatten().for_each(|volume| self.add_volume(volume));
    }

    fn add_volume(&mut self, volume: &Volume) {
        if let Some(source) = &volume.config_map {
            self.config_maps.insert(source.name.clone());
        }
        self.secrets.extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
        let projected = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        for source in projected {
            self.config_maps.extend(source.config_map.iter().map(|s| s.name.clone()));
            self.secrets.extend(source.secret.iter().map(|s| s.name.clone()));
        }
    }

    fn of_environment(&mut self, spec: &PodSpec) {
        for (_, container) in visit::containers(spec) {
            self.add_environment(&container.env_from, &container.env);
        }
    }

    fn add_environment(&mut self, from: &Option<Vec<EnvFromSource>>, env: &Option<Vec<EnvVar>>) {
        for source in from.iter().flatten() {
            self.config_maps.extend(source.config_map_ref.iter().map(|s| s.name.clone()));
            self.secrets.extend(source.secret_ref.iter().map(|s| s.name.clone()));
        }
        for value in env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            self.config_maps.extend(value.config_map_key_ref.iter().map(|s| s.name.clone()));
            self.secrets.extend(value.secret_key_ref.iter().map(|s| s.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::testing;

    #[test]
    fn a124_every_object_that_a_pod_names_is_found() {
        let spec = "{imagePullSecrets: [{name: pull}], initContainers: [{name: i, envFrom: [{secretRef: {name: s1}}]}],
            containers: [{name: a, env: [{name: X, valueFrom: {configMapKeyRef: {name: m1, key: k}}},
              {name: Z, valueFrom: {secretKeyRef: {name: s2, key: k}}}], envFrom: [{configMapRef: {name: m2}}]}],
            volumes: [{name: v, configMap: {name: m3}}, {name: w, secret: {secretName: s3}},
              {name: p, projected: {sources: [{configMap: {name: m4}}, {secret: {name: s4}}]}}]}";
        let found = References::of(&testing::pod(spec));
        let text: Vec<_> = found.keys("ns").map(|(kind, key)| format!("{kind:?} {key}")).collect();
        let maps = ["m1", "m2", "m3", "m4"].map(|name| format!("ConfigMap ns/{name}"));
        let secrets = ["pull", "s1", "s2", "s3", "s4"].map(|name| format!("Secret ns/{name}"));
        assert_eq!(text, [maps.to_vec(), secrets.to_vec()].concat());
    }
}
