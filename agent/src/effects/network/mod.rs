//! A pod's place on the node: veth, addresses, routes, neighbours, masquerade. What it should be is
//! decided by `core::net`.
//!
//! Deliberately absent: eBPF (`dataplane`) and the question who owns an address (`cni`).

pub mod facts;
pub mod masquerade;
pub mod pod;
pub mod routes;
pub mod sysctl;

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use futures::StreamExt as _;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use thiserror::Error;
use tokio::sync::{Mutex, mpsc};

use crate::supervise::{self, Policy, Scope};
use crate::sys::netns;

/// What went wrong, and what to do.
#[derive(Debug, Error)]
pub enum NetworkError {
    #[error("cannot {what}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("cannot {what}")]
    Io { what: String, source: std::io::Error },
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error(
        "`nft` failed to write table {table}: {detail}; masquerading needs the nftables package \
         and a kernel with nf_tables"
    )]
    Nft { table: String, detail: String },
}

impl NetworkError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Netlink { what, source }
    }

    /// The kernel's answer, where it gave one.
    pub(crate) fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => {
                message.code.map(|code| code.get().abs())
            }
            _ => None,
        }
    }
}

/// One netlink connection in the daemon's own network namespace. Clones share it.
#[derive(Clone)]
pub struct Network {
    handle: Handle,
    /// A socket has one dump at a time: the kernel answers EBUSY to a second one.
    dump: Arc<Mutex<()>>,
}

impl Network {
    /// # Errors
    /// The netlink socket could not be opened.
    pub fn open(scope: &Scope) -> Result<Self, NetworkError> {
        let (connection, handle, _messages) =
            rtnetlink::new_connection().map_err(NetworkError::io("open a netlink socket"))?;
        scope.detach("netlink", Policy::Critical, connection);
        Ok(Self { handle, dump: Arc::default() })
    }
}

/// Indexes of interfaces of the daemon's own network namespace that end, from now on. A hint: after
/// an overrun of the socket some are missing.
///
/// # Errors
/// The netlink socket could not be opened.
pub fn ended_links(scope: &Scope) -> Result<mpsc::UnboundedReceiver<u32>, NetworkError> {
    let (connection, _handle, mut messages) = new_multicast_connection(&[MulticastGroup::Link])
        .map_err(NetworkError::io("follow the interfaces of this node"))?;
    let (tell, told) = mpsc::unbounded_channel();
    scope.detach("netlink-events", Policy::Finite, connection);
    scope.detach("ended-interfaces", Policy::Finite, async move {
        while let Some((message, _)) = messages.next().await {
            if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) =
                message.payload
                && tell.send(link.header.index).is_err()
            {
                return;
            }
        }
    });
    Ok(told)
}

/// Runs `call` inside the network namespace `netns`, on a thread of its own, which ends with it.
///
/// # Errors
/// The thread or the change of namespace failed.
pub fn in_netns<T: Send>(
    netns: BorrowedFd<'_>,
    call: impl FnOnce() -> T + Send,
) -> std::io::Result<T> {
    supervise::thread("in-netns", move || {
        netns::enter(netns)?;
        Ok(call())
    })?
}
