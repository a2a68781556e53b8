//! Routes to other nodes' pods: those that carry our protocol number, and no other.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use longshore_core::net::Routes;
use longshore_core::net::routes::difference;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::RouteMessageBuilder;

use super::{Network, NetworkError};

/// Marks a route as ours (`ip route show proto 76`); rtnetlink(7) leaves the number free.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(76);

impl Network {
    /// Makes our routes of the main table exactly `wanted`.
    ///
    /// # Errors
    /// The kernel refused one; the others were written.
    pub async fn set_routes(&self, wanted: &Routes) -> Result<(), NetworkError> {
        let (gone, missing) = difference(&self.routes().await?, wanted);
        let mut refused = None;
        for (net, via) in gone {
            let what = format!("remove the route to {net} via {via}");
            let removed = self.handle.route().del(message(net, via)).execute().await;
            if let Err(error) = removed.map_err(NetworkError::netlink(what))
                && error.errno() != Some(libc::ESRCH)
            {
                refused = Some(error);
            }
        }
        for (net, via) in missing {
            let what = format!("make a route to {net} via {via}");
            let made = self.handle.route().add(message(net, via)).replace().execute().await;
            refused = made.map_err(NetworkError::netlink(what)).err().or(refused);
        }
        refused.map_or(Ok(()), Err)
    }

    async fn routes(&self) -> Result<BTreeSet<(Ipv4Net, Ipv4Addr)>, NetworkError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let _dump = self.dump.lock().await;
        let mut messages = self.handle.route().get(query).execute();
        let mut found = BTreeSet::new();
        while let Some(route) =
            messages.try_next().await.map_err(NetworkError::netlink("list routes"))?
        {
            found.extend(ours(&route));
        }
        Ok(found)
    }
}

fn message(net: Ipv4Net, via: Ipv4Addr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(net.addr(), net.prefix_len())
        .gateway(via)
        .protocol(PROTOCOL)
        .build()
}

fn ours(route: &RouteMessage) -> Option<(Ipv4Net, Ipv4Addr)> {
    let (mut to, mut via) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => to = Some(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
            _ => {}
        }
    }
    let net = Ipv4Net::new(to?, route.header.destination_prefix_length).ok()?;
    (route.header.protocol == PROTOCOL).then_some((net, via?))
}
