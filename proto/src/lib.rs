//! Kubernetes CRI v1 (`k8s.io/cri-api` v0.37.1): messages for everyone, clients behind `grpc`.
//!
//! The `.proto` file is vendored in `proto/cri`. Deliberately absent: any wrapper. Rooms that talk
//! to a runtime do it through `longshore::effects::cri`.

/// Package `runtime.v1`.
#[allow(missing_docs, clippy::all, reason = "generated code")]
pub mod cri {
    include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));

    impl std::fmt::Debug for AuthConfig {
        /// Names the registry, never a credential.
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}

/// Package `containerd.services.containers.v1`: what CRI has not.
#[allow(missing_docs, clippy::all, reason = "generated code")]
pub mod containers {
    include!(concat!(env!("OUT_DIR"), "/containerd.services.containers.v1.rs"));
}

/// Package `containerd.services.tasks.v1`: what CRI has not.
#[allow(missing_docs, clippy::all, reason = "generated code")]
pub mod tasks {
    include!(concat!(env!("OUT_DIR"), "/containerd.services.tasks.v1.rs"));
}
