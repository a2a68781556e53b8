//! What a directory says, object by object, and where it says it.

use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::model::{Kind, ObjectKey, Problem};

/// A problem and the place in the user's files that it is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Located {
    /// Name of the file inside the directory.
    pub file: String,
    /// From 1; 0 when it is the file as a whole.
    pub line: u64,
    pub problem: Problem,
}

impl fmt::Display for Located {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.problem.kind == Kind::File {
            write!(f, ": {}", self.problem.message)
        } else {
            write!(f, ": {}", self.problem)
        }
    }
}

/// One object of a file, complete with the API server's defaults.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Object {
    Pod(Arc<Pod>),
    Deployment(Arc<Deployment>),
    Service(Arc<Service>),
    NetworkPolicy(Arc<NetworkPolicy>),
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
    Namespace(Arc<Namespace>),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod,
            Self::Deployment(_) => Kind::Deployment,
            Self::Service(_) => Kind::Service,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::Secret(_) => Kind::Secret,
            Self::Namespace(_) => Kind::Namespace,
        }
    }

    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Pod(object) => &object.metadata,
            Self::Deployment(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::NetworkPolicy(object) => &object.metadata,
            Self::ConfigMap(object) => &object.metadata,
            Self::Secret(object) => &object.metadata,
            Self::Namespace(object) => &object.metadata,
        }
    }

    pub fn key(&self) -> ObjectKey {
        key_of(self.metadata())
    }
}

/// `namespace/name` of a metadata; what is absent is empty.
pub fn key_of(metadata: &ObjectMeta) -> ObjectKey {
    ObjectKey::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

/// An object, where it was read, and what its author wrote.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    pub file: String,
    /// Line at which the object begins.
    pub line: u64,
    /// Hash of the pod spec (of the pod template) as it was written, before defaults: a release
    /// that knows one more default does not replace pods.
    pub content: String,
    pub object: Object,
}

impl Manifest {
    /// A problem of this object, at its first line.
    pub fn problem(&self, problem: Problem) -> Located {
        Located { file: self.file.clone(), line: self.line, problem }
    }
}

/// What one file says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Parsed {
    pub manifests: Vec<Manifest>,
    /// Objects that the file names but that are not usable: their last good version stays. The
    /// kind is `None` where the file's own word for it is not one of ours.
    pub refused: Vec<(Option<Kind>, ObjectKey)>,
    /// False when the file cannot be read to its end, or an object in it has no name: nothing that
    /// came from this file is removed.
    pub complete: bool,
    pub problems: Vec<Located>,
}
