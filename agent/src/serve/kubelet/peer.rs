//! When a peer on the other end of a connection counts as gone.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// A peer that vanished without a word is asked after so long, again after each interval, and given
/// up after so many: as Go's HTTP server does, which the kubelet has.
const IDLE_S: u32 = 15;
const INTERVAL_S: u32 = 15;
const PROBES: u32 = 9;
/// A peer that is there but takes nothing (a window of zero) answers those questions; what was sent
/// to it must be taken in this time.
const UNTAKEN: Duration = Duration::from_secs(120);

/// Neither kind of peer may hold a stream, a log or a place for ever.
pub fn watch(socket: &impl AsFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &IDLE_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &INTERVAL_S)?;
    setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?;
    let untaken_ms = u32::try_from(UNTAKEN.as_millis()).unwrap_or(u32::MAX);
    setsockopt(socket, sockopt::TcpUserTimeout, &untaken_ms)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn f64_a_peer_that_vanished_or_takes_nothing_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        watch(&socket).unwrap();
        assert!(getsockopt(&socket, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepIdle).unwrap(), 15);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepInterval).unwrap(), 15);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepCount).unwrap(), 9);
        assert_eq!(getsockopt(&socket, sockopt::TcpUserTimeout).unwrap(), 120_000);
    }
}
