//! What is wrong with a user's object: data, never an error that stops anything else.

use std::fmt;

use super::ObjectKey;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Warning,
    Error,
}

/// Kinds of objects that Longshore reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Pod,
    Deployment,
    Service,
    EndpointSlice,
    NetworkPolicy,
    ConfigMap,
    Secret,
    Namespace,
    Node,
    File,
}

/// Becomes an event, a condition or a log line at the edge.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    pub kind: Kind,
    pub key: ObjectKey,
    pub severity: Severity,
    /// The event's reason, in Kubernetes' CamelCase.
    pub reason: &'static str,
    /// Which field, in API notation (`spec.ports[0].targetPort`); empty when it is the object.
    pub field: String,
    /// What is wrong and what to do; no full stop at the end.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}: ", self.kind, self.key)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}", self.message)
    }
}
