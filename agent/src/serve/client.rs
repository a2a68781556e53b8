//! The other end of the admin socket: blocking, for the command line.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Request, Response, SOCKET};

/// The daemon did not answer.
#[derive(thiserror::Error, Debug)]
pub enum ClientError {
    #[error(
        "no daemon answers at {0}: is it running? Start it with `longshore standalone DIR --state-dir {1}`, \
         or name its directory with --state-dir"
    )]
    Down(PathBuf, PathBuf),
    #[error("{0} may not be opened by this user: run as root")]
    Denied(PathBuf),
    #[error("the daemon at {path} did not answer: {error}")]
    Broken { path: PathBuf, error: std::io::Error },
}

/// Asks the daemon of `state_dir`.
///
/// # Errors
/// Nobody listens there, or the answer is none.
pub fn ask(state_dir: &Path, request: &Request) -> Result<Response, ClientError> {
    let path = state_dir.join(SOCKET);
    let mut stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            ClientError::Down(path.clone(), state_dir.to_owned())
        }
        std::io::ErrorKind::PermissionDenied => ClientError::Denied(path.clone()),
        _ => ClientError::Broken { path: path.clone(), error },
    })?;
    converse(&mut stream, request).map_err(|error| ClientError::Broken { path, error })
}

fn converse(stream: &mut UnixStream, request: &Request) -> std::io::Result<Response> {
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(std::io::Error::other("it closed the connection"));
    }
    Ok(serde_json::from_str(&text)?)
}
