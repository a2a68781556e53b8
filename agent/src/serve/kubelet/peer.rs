//! When a peer on the other end of a connection counts as gone.
//!
//! Deliberately absent: a limit for a peer that is there and takes nothing. It may be somebody who
//! reads a log page by page; how many of them there may be is bounded (`limits`).

use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// A peer that vanished without a word is asked after so long, again after each interval, and given
/// up after so many: as Go's HTTP server does, which the kubelet has.
const IDLE_S: u32 = 15;
const INTERVAL_S: u32 = 15;
const PROBES: u32 = 9;

/// Such a peer must not hold a stream, a log or a place for hours.
pub fn watch(socket: &impl AsFd) -> nix::Result<()> {
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &IDLE_S)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &INTERVAL_S)?;
    setsockopt(socket, sockopt::TcpKeepCount, &PROBES)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn f64_a_peer_that_vanished_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        watch(&socket).unwrap();
        assert!(getsockopt(&socket, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepIdle).unwrap(), 15);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepInterval).unwrap(), 15);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepCount).unwrap(), 9);
    }
}
