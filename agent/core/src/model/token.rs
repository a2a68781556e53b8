//! Service account tokens: what a pod asks for, and what it got (A105, A106).

use super::{ObjectKey, PodUid, Time};

/// One serviceAccountToken source of one pod. Tokens are bound to the pod: another pod's is no use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TokenRequest {
    pub pod_uid: PodUid,
    pub pod: ObjectKey,
    pub service_account: String,
    /// Empty: the API server's own.
    pub audience: String,
    /// As the pod asks, at least 600.
    pub expiration_s: i64,
}

/// An issued token. Never printed, never written to a checkpoint.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub text: String,
    pub issued_at: Time,
    pub expires_at: Time,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a token until {}", self.expires_at)
    }
}
