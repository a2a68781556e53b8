//! `/healthz`, on the node port and on a port of its own without TLS (A178, A189).

use hyper::StatusCode;

use super::body::{Answer, text};

/// One named check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// `ping`, `log`, `syncloop`.
    pub name: &'static str,
    pub state: Result<(), String>,
}

/// The check of this name alone, as [`answer`].
pub fn answer_one(checks: &[Health], name: &str) -> Answer {
    let Some(check) = checks.iter().find(|check| check.name == name) else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    match &check.state {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(error) => {
            tracing::debug!(check = check.name, error, "Unhealthy");
            let message = "internal server error: reason withheld\n";
            text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
    }
}

/// `ok`, or 500 with a line for each check. Why it fails is the log's matter: this port answers
/// anybody.
pub fn answer(checks: &[Health]) -> Answer {
    if checks.iter().all(|check| check.state.is_ok()) {
        return text(StatusCode::OK, "ok");
    }
    let mut lines = String::new();
    for check in checks {
        lines += &match &check.state {
            Ok(()) => format!("[+]{} ok\n", check.name),
            Err(error) => {
                tracing::warn!(check = check.name, error, "Unhealthy");
                format!("[-]{} failed: reason withheld\n", check.name)
            }
        };
    }
    text(StatusCode::INTERNAL_SERVER_ERROR, lines + "healthz check failed\n")
}
