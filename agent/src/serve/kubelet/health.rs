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
