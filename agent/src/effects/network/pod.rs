//! One pod's interface pair: made in its final namespaces, closed before it is up.
//!
//! Order matters: the pair exists (down) → the caller attaches the hooks → [`Network::open_host`]
//! and [`configure_pod`] bring it up. So no packet passes without a hook (C16).

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use futures::TryStreamExt as _;
use longshore_core::net::{InterfacePlan, Neighbour, Route};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
};

use super::{Network, NetworkError, in_netns, sysctl};

/// What the kernel made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostSide {
    pub ifindex: u32,
}

impl Network {
    /// Makes the veth pair of `plan`: host side here, pod side in `netns`, both down. A pair of the
    /// same name is replaced: it is a leftover of a try whose answer was lost.
    ///
    /// # Errors
    /// The kernel refused; nothing is left behind.
    pub async fn create_pair(
        &self,
        plan: &InterfacePlan,
        netns: BorrowedFd<'_>,
    ) -> Result<HostSide, NetworkError> {
        let what = || format!("create the interface pair {}/{}", plan.host_name, plan.pod_name);
        self.delete_link(&plan.host_name).await?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(plan.pod_name.clone())
            .mtu(plan.mtu)
            .address(plan.pod_mac.to_vec())
            .setns_by_fd(netns.as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(&plan.host_name, &plan.pod_name)
            .mtu(plan.mtu)
            .address(plan.host_mac.to_vec())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        self.handle.link().add(pair).execute().await.map_err(NetworkError::netlink(what()))?;
        let ifindex = self.require(&plan.host_name).await?;
        Ok(HostSide { ifindex })
    }

    /// Brings the host side up, with the route and the neighbour of the pod.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn open_host(
        &self,
        plan: &InterfacePlan,
        host: HostSide,
    ) -> Result<(), NetworkError> {
        sysctl::close_ipv6(&plan.host_name)?;
        // Strict: a pod's packets come from its own address, also while no row says which that is.
        sysctl::set(&format!("net/ipv4/conf/{}/rp_filter", plan.host_name), "1")?;
        for (path, value) in &plan.host_sysctls {
            sysctl::set(path, value)?;
        }
        set_up(&self.handle, host.ifindex, &plan.host_name).await?;
        add_neighbour(&self.handle, host.ifindex, &plan.host_neighbour).await?;
        add_route(&self.handle, host.ifindex, &plan.host_route).await
    }

    /// Removes an interface; one that is not there is removed already.
    ///
    /// # Errors
    /// The kernel refused for another reason.
    pub async fn delete_link(&self, name: &str) -> Result<(), NetworkError> {
        let Some(ifindex) = self.ifindex(name).await? else { return Ok(()) };
        match self.handle.link().del(ifindex).execute().await {
            Ok(()) => Ok(()),
            Err(source) => {
                let error = NetworkError::Netlink { what: format!("delete {name}"), source };
                if error.errno() == Some(libc::ENODEV) { Ok(()) } else { Err(error) }
            }
        }
    }

    /// Index of the interface `name`, if it exists.
    ///
    /// # Errors
    /// Netlink failed.
    pub async fn ifindex(&self, name: &str) -> Result<Option<u32>, NetworkError> {
        ifindex(&self.handle, name).await
    }

    async fn require(&self, name: &str) -> Result<u32, NetworkError> {
        self.ifindex(name).await?.ok_or_else(|| NetworkError::NoInterface(name.to_owned()))
    }

    /// Gives `address` to the loopback interface unless the node has it already: the node's own
    /// address towards pods where it has no other (a namespace without uplink).
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn adopt_address(&self, address: IpAddr) -> Result<(), NetworkError> {
        let loopback = self.require("lo").await?;
        set_up(&self.handle, loopback, "lo").await?;
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        self.handle
            .address()
            .add(loopback, address, prefix)
            .replace()
            .execute()
            .await
            .map_err(NetworkError::netlink(format!("give {address} to lo")))
    }
}

/// Configures the pod side inside `netns`: address /32, link-local gateway with a permanent
/// neighbour, default route; loopback up.
///
/// # Errors
/// The namespace could not be entered or the kernel refused.
pub fn configure_pod(netns: BorrowedFd<'_>, plan: &InterfacePlan) -> Result<(), NetworkError> {
    in_netns(netns, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(NetworkError::io("start a netlink client in the pod"))?;
        runtime.block_on(async {
            let (connection, handle, _messages) =
                new_connection().map_err(NetworkError::io("open a netlink socket in the pod"))?;
            tokio::select! {
                biased;
                configured = configure(&handle, plan) => configured,
                () = connection => {
                    let gone = std::io::Error::other("the netlink connection ended");
                    Err(NetworkError::io("configure the pod's interface")(gone))
                }
            }
        })
    })
    .map_err(NetworkError::io("enter the pod's network namespace"))?
}

async fn configure(handle: &Handle, plan: &InterfacePlan) -> Result<(), NetworkError> {
    let loopback = ifindex(handle, "lo").await?;
    if let Some(loopback) = loopback {
        set_up(handle, loopback, "lo").await?;
    }
    let interface = ifindex(handle, &plan.pod_name)
        .await?
        .ok_or_else(|| NetworkError::NoInterface(plan.pod_name.clone()))?;
    handle
        .address()
        .add(interface, IpAddr::V4(plan.pod_addr.addr()), plan.pod_addr.prefix_len())
        .replace()
        .execute()
        .await
        .map_err(NetworkError::netlink(format!("give {} to the pod", plan.pod_addr)))?;
    set_up(handle, interface, &plan.pod_name).await?;
    add_neighbour(handle, interface, &plan.pod_neighbour).await?;
    for route in &plan.pod_routes {
        add_route(handle, interface, route).await?;
    }
    Ok(())
}

async fn add_neighbour(
    handle: &Handle,
    ifindex: u32,
    neighbour: &Neighbour,
) -> Result<(), NetworkError> {
    handle
        .neighbours()
        .add(ifindex, IpAddr::V4(neighbour.ip))
        .link_layer_address(&neighbour.mac)
        .replace()
        .execute()
        .await
        .map_err(NetworkError::netlink(format!("set the neighbour {}", neighbour.ip)))
}

async fn add_route(handle: &Handle, ifindex: u32, route: &Route) -> Result<(), NetworkError> {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.to.network(), route.to.prefix_len())
        .output_interface(ifindex);
    message = match route.via {
        Some(gateway) => message.gateway(gateway),
        None => message.scope(RouteScope::Link),
    };
    if let Some(source) = route.src {
        message = message.pref_source(source);
    }
    handle
        .route()
        .add(message.build())
        .replace()
        .execute()
        .await
        .map_err(NetworkError::netlink(format!("set the route to {}", route.to)))
}

async fn set_up(handle: &Handle, ifindex: u32, name: &str) -> Result<(), NetworkError> {
    let message = LinkMessageBuilder::<LinkUnspec>::new().index(ifindex).up().build();
    handle
        .link()
        .set(message)
        .execute()
        .await
        .map_err(NetworkError::netlink(format!("bring {name} up")))
}

async fn ifindex(handle: &Handle, name: &str) -> Result<Option<u32>, NetworkError> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await {
        Ok(message) => Ok(message.filter(|m| has_name(m, name)).map(|m| m.header.index)),
        Err(source) => {
            let error = NetworkError::Netlink { what: format!("look {name} up"), source };
            if error.errno() == Some(libc::ENODEV) { Ok(None) } else { Err(error) }
        }
    }
}

fn has_name(message: &LinkMessage, name: &str) -> bool {
    message.attributes.iter().any(|a| matches!(a, LinkAttribute::IfName(n) if n == name))
}
