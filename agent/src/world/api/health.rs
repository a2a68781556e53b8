//! What is wrong with the watches now: said once when it comes and once when it goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::runtime::watcher;
use longshore_core::model::{Kind, ObjectKey, Problem, Severity};
use longshore_core::standalone::Located;

/// Whose credential a watch has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identity {
    /// `--kubeconfig`: system:node:NAME.
    Node,
    /// `--dataplane-kubeconfig`.
    Dataplane,
}

/// Clones share it.
#[derive(Clone, Default)]
pub struct Health {
    /// By what is watched.
    ills: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Health {
    pub fn ill(&self, what: &str, identity: Identity, error: &watcher::Error) {
        self.say(what, &text(identity, error));
    }

    pub fn say(&self, what: &str, text: &str) {
        let old = self.lock().insert(what.to_owned(), text.to_owned());
        if old.as_deref() != Some(text) {
            tracing::warn!(
                what,
                "Watching the API server: {text}; trying again, what is known stays"
            );
        }
    }

    pub fn well(&self, what: &str) {
        if self.lock().remove(what).is_some() {
            tracing::info!(what, "Watching the API server again");
        }
    }

    /// Nobody watches it any more.
    pub fn forget(&self, what: &str) {
        self.lock().remove(what);
    }

    /// For `status`.
    pub fn problems(&self) -> Vec<Located> {
        let ills = self.lock();
        let located = |(what, text): (&String, &String)| Located {
            file: "API server".into(),
            line: 0,
            problem: Problem {
                kind: Kind::File,
                key: ObjectKey::new("", what.as_str()),
                severity: Severity::Warning,
                reason: "WatchFailed",
                field: String::new(),
                message: format!("{what}: {text}"),
            },
        };
        ills.iter().map(located).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.ills.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn text(identity: Identity, error: &watcher::Error) -> String {
    use watcher::Error::{
        InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed,
    };
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => match error {
            kube::Error::Api(status) => refused(identity, status.code, &status.message),
            kube::Error::SerdeError(error) => {
                // serde's text may quote a value.
                format!(
                    "the answer cannot be read ({:?} at column {})",
                    error.classify(),
                    error.column()
                )
            }
            other => causes(other),
        },
        WatchError(status) => refused(identity, status.code, &status.message),
        NoResourceVersion => "the answer has no resource version".into(),
    }
}

fn refused(identity: Identity, code: u16, message: &str) -> String {
    let flag = match identity {
        Identity::Node => "--kubeconfig",
        Identity::Dataplane => "--dataplane-kubeconfig",
    };
    match (code, identity) {
        (0, _) => "the answer cannot be read".into(),
        (401, _) => format!(
            "the credential of {flag} is not accepted: renew it; a token of tokenFile is read \
             again by itself, after any other change restart longshore ({message})"
        ),
        (403, _) if message.contains("\"system:anonymous\"") => {
            format!(
                "{flag} names no credential: give its user a token or a client certificate ({message})"
            )
        }
        (403, Identity::Dataplane) => {
            format!("the credential of {flag} may not do this: apply deploy/rbac.yaml ({message})")
        }
        (403, Identity::Node) => format!("the credential of {flag} may not do this ({message})"),
        _ => format!("{code}: {message}"),
    }
}

/// The error and what caused it, each once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}
