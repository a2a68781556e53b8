//! The admin socket's language: one JSON line asks, one JSON line answers.

use serde::{Deserialize, Serialize};

use super::status::Status;

/// Name of the socket in the state directory.
pub const SOCKET: &str = "longshore.sock";
/// Longest request.
pub const REQUEST_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    Status,
    /// The logical image, or the kernel's rows in the same form.
    Maps {
        kernel: bool,
    },
    /// `namespace/name`.
    ExplainPod {
        pod: String,
    },
    ExplainService {
        service: String,
    },
    ExplainFlow(FlowQuery),
    Events {
        count: usize,
    },
}

/// Which packet to follow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowQuery {
    /// `namespace/name` of a pod, or an address.
    pub from: String,
    /// `address:port`, or `namespace/name:port` of a Service or a pod.
    pub to: String,
    /// `tcp` or `udp`.
    pub protocol: String,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    Status(Box<Status>),
    Text(String),
    Events(Vec<EventRow>),
    /// What was asked for does not exist or cannot be shown; says what to do.
    Error(String),
}

/// One event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRow {
    pub at_unix_ms: i64,
    pub warning: bool,
    pub reason: String,
    /// `Pod demo/web-1`.
    pub object: String,
    pub message: String,
    pub count: u32,
}
