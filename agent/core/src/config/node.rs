//! What the configuration says of the node itself: its object, its reservations, its thresholds.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;

use crate::model::Quantity;

/// The part that only the node role reads.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeConfig {
    /// False: the Node object is somebody else's to create (A5).
    pub register: bool,
    /// Given to the Node when it is created, never again (A1, A4).
    pub taints: Vec<Taint>,
    /// `spec.providerID`; empty: none (A5).
    pub provider_id: String,
    pub max_pods: i64,
    /// 0: no limit by cores (A6).
    pub pods_per_core: i64,
    /// Used where no control plane gives one.
    pub pod_cidr: Option<IpNet>,
    /// By resource: `cpu`, `memory`, `ephemeral-storage`, `pid` (A7).
    pub system_reserved: BTreeMap<String, Quantity>,
    /// By resource, as [`NodeConfig::system_reserved`].
    pub kube_reserved: BTreeMap<String, Quantity>,
    /// `pods` of `enforceNodeAllocatable`: reservations bind all pods together (A150).
    pub enforce_pods: bool,
    /// What must stay free, by signal (A160).
    pub eviction_hard: BTreeMap<Signal, Threshold>,
    /// How long a pressure condition outlives its cause (A163).
    pub pressure_transition_ms: i64,
    /// How often the status is computed (A12).
    pub status_update_frequency_ms: i64,
    /// How often a status without a change is written (A12).
    pub status_report_frequency_ms: i64,
    /// A13.
    pub lease_duration_s: i32,
    /// `None` is `-1`: all (A14).
    pub status_max_images: Option<usize>,
    /// Directory of static pods; empty: none (A29).
    pub static_pod_path: String,
    pub file_check_frequency_ms: i64,
    pub server: ServerConfig,
}

impl NodeConfig {
    /// What `systemReserved` and `kubeReserved` keep of a resource together (A7).
    pub fn reserved(&self, resource: &str) -> Quantity {
        let lists = [&self.system_reserved, &self.kube_reserved];
        let amounts = lists.into_iter().filter_map(|list| list.get(resource));
        Quantity::from_milli(amounts.map(|amount| amount.milli).sum())
    }

    /// What the hard threshold of a resource keeps free of the whole, in units (A7).
    pub fn kept_free(&self, resource: &str, whole: Quantity) -> i64 {
        let signal = match resource {
            "memory" => Signal::MemoryAvailable,
            "ephemeral-storage" => Signal::NodefsAvailable,
            _ => return 0,
        };
        self.eviction_hard.get(&signal).map_or(0, |limit| limit.of(whole.units()))
    }
}

/// Where and for whom the node's HTTP API answers (A178–A180).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    pub address: IpAddr,
    pub port: u16,
    pub healthz_address: IpAddr,
    /// `None` is 0: no such server.
    pub healthz_port: Option<u16>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    /// Empty: a certificate of our own (A22).
    pub tls_cert_file: String,
    pub tls_private_key_file: String,
    /// Go's names, all of them known here; empty: the TLS library's choice.
    pub tls_cipher_suites: Vec<String>,
    pub tls_min_version: TlsVersion,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authentication {
    /// Empty: no client certificates.
    pub client_ca_file: String,
    /// Bearer tokens are asked about by TokenReview.
    pub webhook: bool,
    pub webhook_cache_ttl_ms: i64,
    pub anonymous: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authorization {
    pub mode: AuthorizationMode,
    pub authorized_ttl_ms: i64,
    pub unauthorized_ttl_ms: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthorizationMode {
    /// Whoever is authenticated may do everything.
    AlwaysAllow,
    /// SubjectAccessReview decides.
    Webhook,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// What is measured against a threshold (A161).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Signal {
    MemoryAvailable,
    NodefsAvailable,
    NodefsInodesFree,
    ImagefsAvailable,
    ImagefsInodesFree,
    PidAvailable,
}

impl Signal {
    pub const ALL: [Self; 6] = [
        Self::MemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::PidAvailable,
    ];

    /// The configuration's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }
}

/// How much must stay free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Threshold {
    /// Bytes, inodes or PIDs.
    Units(i64),
    /// Millionths of the capacity (`10%` is 100 000).
    Share(i64),
}

impl Threshold {
    /// In the units of `capacity`, rounded down.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Units(units) => units,
            Self::Share(share) => {
                let part = i128::from(capacity) * i128::from(share) / 1_000_000;
                i64::try_from(part).unwrap_or(i64::MAX)
            }
        }
    }
}

/// The hard thresholds of a configuration that names none (A160).
pub fn default_eviction_hard() -> BTreeMap<Signal, Threshold> {
    BTreeMap::from([
        (Signal::MemoryAvailable, Threshold::Units(100 << 20)),
        (Signal::NodefsAvailable, Threshold::Share(100_000)),
        (Signal::NodefsInodesFree, Threshold::Share(50_000)),
        (Signal::ImagefsAvailable, Threshold::Share(150_000)),
        (Signal::ImagefsInodesFree, Threshold::Share(50_000)),
    ])
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            register: true,
            taints: Vec::new(),
            provider_id: String::new(),
            max_pods: 110,
            pods_per_core: 0,
            pod_cidr: None,
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            enforce_pods: true,
            eviction_hard: default_eviction_hard(),
            pressure_transition_ms: 300_000,
            status_update_frequency_ms: 10_000,
            status_report_frequency_ms: 300_000,
            lease_duration_s: 40,
            status_max_images: Some(50),
            static_pod_path: String::new(),
            file_check_frequency_ms: 20_000,
            server: ServerConfig::default(),
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 10250,
            healthz_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            healthz_port: Some(10248),
            authentication: Authentication {
                client_ca_file: String::new(),
                webhook: true,
                webhook_cache_ttl_ms: 120_000,
                anonymous: false,
            },
            authorization: Authorization {
                mode: AuthorizationMode::Webhook,
                authorized_ttl_ms: 300_000,
                unauthorized_ttl_ms: 30_000,
            },
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            tls_cipher_suites: Vec::new(),
            tls_min_version: TlsVersion::Tls12,
        }
    }
}
