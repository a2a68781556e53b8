//! Calls to the API server: one identity, bounded time, errors by what can be done about them.
//!
//! Deliberately absent: watches (the world has them) and decisions on when to call.

mod connect;
pub mod events;
pub mod node;
mod pace;
pub mod pods;
pub mod reviews;
pub mod tokens;

use std::path::Path;
use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// No answer within this is an error: a hung API server must not hold a pod's worker.
const ANSWER: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which an answer is awaited and that is silent for longer is dead (F27). Longer
/// than the watches that use it last.
const SILENT: Duration = Duration::from_secs(60);
/// As [`SILENT`], for the many watches of single objects, which last five minutes.
const SILENT_LONG: Duration = Duration::from_secs(330);

/// What a call came to, by what can be done about it.
#[derive(thiserror::Error, Debug)]
pub enum ApiError {
    #[error("{0}")]
    NotFound(String),
    /// The object exists already, or is newer than what was read: read again.
    #[error("{0}")]
    Conflict(String),
    /// 401: the credential is missing, expired or unknown.
    #[error(
        "{0}: the API server does not accept this credential; renew it in the kubeconfig and \
         restart longshore (a tokenFile is read again by itself)"
    )]
    Unauthorized(String),
    /// 403: the credential may not do this.
    #[error("{0}")]
    Forbidden(String),
    /// 422, 400: the same call will fail again.
    #[error("{0}")]
    Invalid(String),
    /// 500: this call went wrong, which says nothing of others (a webhook that does not answer).
    #[error("{0}")]
    Failed(String),
    /// No connection, no answer in time, other 5xx, 429: later may work.
    #[error("{0}")]
    Unavailable(String),
}

impl ApiError {
    fn of(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                let text = status.message.clone();
                match status.code {
                    404 | 410 => Self::NotFound(text),
                    409 => Self::Conflict(text),
                    401 => Self::Unauthorized(text),
                    403 => Self::Forbidden(text),
                    400 | 422 => Self::Invalid(text),
                    500 => Self::Failed(text),
                    code => Self::Unavailable(format!("{code}: {text}")),
                }
            }
            other => Self::Unavailable(format!("{:#}", anyhow::Error::new(other))),
        }
    }
}

/// A kubeconfig that cannot be used.
#[derive(thiserror::Error, Debug)]
pub enum ConfigError {
    #[error("cannot read the kubeconfig {path}: {error}")]
    Unreadable { path: String, error: kube::config::KubeconfigError },
    #[error("the kubeconfig {path} cannot be used: {error}")]
    Unusable { path: String, error: kube::Error },
}

/// One identity at the API server; clones share the connections.
#[derive(Clone)]
pub struct Api {
    client: Client,
    patient: Client,
}

impl Api {
    /// Nothing is sent yet: an API server that is away is no error.
    ///
    /// # Errors
    /// The file is missing or names certificates that cannot be read.
    pub async fn from_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let unreadable = |error| ConfigError::Unreadable { path: name.clone(), error };
        let file = Kubeconfig::read_from(path).map_err(unreadable)?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(unreadable)?;
        config.connect_timeout = Some(CONNECT);
        config.write_timeout = Some(ANSWER);
        // From the request on: a pooled connection may have been idle before.
        config.reset_reader_on_write = true;
        let client = |silent| -> Result<Client, ConfigError> {
            let mut config = config.clone();
            config.read_timeout = Some(silent);
            connect::client(config)
                .map_err(|error| ConfigError::Unusable { path: name.clone(), error })
        };
        Ok(Self { client: client(SILENT)?, patient: client(SILENT_LONG)? })
    }

    pub fn new(client: Client) -> Self {
        Self { patient: client.clone(), client }
    }

    /// For watches of up to 50 s, and for calls that this room adds.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// For watches that last as long as the library's.
    pub fn patient_client(&self) -> Client {
        self.patient.clone()
    }

    /// Bounds `call` in time and sorts its error.
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(ANSWER, call).await {
            Ok(answer) => answer.map_err(ApiError::of),
            Err(_) => Err(ApiError::Unavailable(format!("no answer in {} s", ANSWER.as_secs()))),
        }
    }
}
