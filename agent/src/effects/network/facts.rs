//! What the node's own network is: addresses, uplink, MTU, and which pod interfaces exist.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::RouteMessageBuilder;

use super::{Network, NetworkError};

/// The node's network as found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Uplink {
    /// Every address but loopback's and link-local ones, default route's interface first.
    pub addresses: Vec<IpAddr>,
    /// MTU of the interface of the default route, if there is one.
    pub mtu: Option<u32>,
    /// Interface of the default route.
    pub ifindex: Option<u32>,
}

/// An interface and its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    pub mtu: u32,
}

impl Network {
    /// # Errors
    /// A netlink dump failed.
    pub async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let _dump = self.dump.lock().await;
        let mut messages = self.handle.link().get().execute();
        let mut links = Vec::new();
        while let Some(message) =
            messages.try_next().await.map_err(NetworkError::netlink("list interfaces"))?
        {
            let mut link = Link { ifindex: message.header.index, name: String::new(), mtu: 0 };
            for attribute in message.attributes {
                match attribute {
                    LinkAttribute::IfName(name) => link.name = name,
                    LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                    _ => {}
                }
            }
            links.push(link);
        }
        Ok(links)
    }

    /// # Errors
    /// A netlink dump failed.
    pub async fn uplink(&self) -> Result<Uplink, NetworkError> {
        let ifindex = self.default_route_interface().await?;
        let links = self.links().await?;
        let mtu = links.iter().find(|link| Some(link.ifindex) == ifindex).map(|link| link.mtu);
        let mut found = Vec::new();
        let _dump = self.dump.lock().await;
        let mut messages = self.handle.address().get().execute();
        while let Some(message) =
            messages.try_next().await.map_err(NetworkError::netlink("list addresses"))?
        {
            for attribute in &message.attributes {
                let AddressAttribute::Address(address) = attribute else { continue };
                if is_node_address(address) {
                    found.push((Some(message.header.index) != ifindex, *address));
                }
            }
        }
        // Stable: the uplink's own first, the kernel's order after that.
        found.sort_by_key(|(elsewhere, _)| *elsewhere);
        let mut addresses: Vec<IpAddr> = found.into_iter().map(|(_, address)| address).collect();
        addresses.dedup();
        Ok(Uplink { addresses, mtu, ifindex })
    }

    /// Networks that the node has an address on: whoever has one of theirs is reached directly.
    ///
    /// # Errors
    /// A netlink dump failed.
    pub async fn attached(&self) -> Result<Vec<Ipv4Net>, NetworkError> {
        let _dump = self.dump.lock().await;
        let mut messages = self.handle.address().get().execute();
        let mut found = Vec::new();
        while let Some(message) =
            messages.try_next().await.map_err(NetworkError::netlink("list addresses"))?
        {
            let length = message.header.prefix_len;
            let nets = message.attributes.iter().filter_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V4(ip)) if !ip.is_loopback() => {
                    Ipv4Net::new(*ip, length).ok()
                }
                _ => None,
            });
            found.extend(nets.filter(|net| net.prefix_len() < 32));
        }
        Ok(found)
    }

    async fn default_route_interface(&self) -> Result<Option<u32>, NetworkError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let _dump = self.dump.lock().await;
        let mut routes = self.handle.route().get(query).execute();
        while let Some(route) =
            routes.try_next().await.map_err(NetworkError::netlink("list routes"))?
        {
            let to_everywhere = route.header.address_family == AddressFamily::Inet
                && route.header.destination_prefix_length == 0
                && !route.attributes.iter().any(
                    |a| matches!(a, RouteAttribute::Destination(RouteAddress::Inet(d)) if !d.is_unspecified()),
                );
            let interface = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            if let (true, Some(index)) = (to_everywhere, interface) {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}

fn is_node_address(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}
