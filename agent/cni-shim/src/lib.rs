//! The messages between the CNI shim and the daemon: one JSON line each way over a unix socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Versions of the CNI specification that the pair speaks.
pub const CNI_VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What the runtime asked the shim for: its environment and its standard input.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// CNI_COMMAND: ADD, DEL, CHECK, GC or STATUS.
    pub command: String,
    /// CNI_CONTAINERID: the sandbox.
    pub container_id: String,
    /// CNI_NETNS; may be empty on DEL.
    pub netns: String,
    /// CNI_IFNAME.
    pub ifname: String,
    /// CNI_ARGS: `K8S_POD_NAMESPACE=…;K8S_POD_NAME=…;K8S_POD_UID=…`.
    pub args: String,
    /// The network configuration from standard input.
    pub config: Value,
}

/// The daemon's answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// Printed as it is; `null` prints nothing (DEL, CHECK, GC, STATUS).
    Result(Value),
    Error(Error),
}

/// A CNI error (specification 1.1, section "Error").
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Error {
    pub code: u32,
    pub msg: String,
    #[serde(default)]
    pub details: String,
}

/// Invalid environment or configuration.
pub const CODE_INVALID: u32 = 4;
/// A file or socket could not be read.
pub const CODE_IO: u32 = 5;
/// Try again later: the daemon is down or not synced.
pub const CODE_TRY_AGAIN: u32 = 11;
/// The plugin is not available (STATUS).
pub const CODE_NOT_AVAILABLE: u32 = 50;
/// First code that a plugin may define: everything else that went wrong.
pub const CODE_FAILED: u32 = 100;
