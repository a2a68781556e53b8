//! Why a packet was dropped: index of the `drops` map and word of every text.

/// Index into the `drops` map.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum DropReason {
    /// Too short, bad header length, or a length that lies.
    Malformed = 0,
    /// IPv6: the twins of the IPv4 paths are not built yet.
    Ipv6 = 1,
    /// Neither IPv4 nor IPv6 nor ARP for the gateway (VLAN, LLDP, …).
    NotIp = 2,
    /// The source address is not the pod's own.
    SpoofedSource = 3,
    /// The pod's policy is not in the kernel yet.
    Closed = 4,
    /// The other pod of this node is not open yet.
    PeerClosed = 5,
    /// Egress policy of the source.
    PolicyEgress = 6,
    /// Ingress policy of the destination.
    PolicyIngress = 7,
    /// A later fragment whose first was not seen, where a policy asks for ports.
    Fragment = 8,
    /// Multicast or broadcast from a pod.
    Multicast = 9,
    /// A ClusterIP that no socket hook translated (raw socket, guest kernel).
    UntranslatedService = 10,
    /// A service row changed twice while a socket read it.
    ServiceRace = 11,
    /// internalTrafficPolicy Local without a local endpoint (B24).
    NoLocalEndpoint = 12,
}

impl DropReason {
    /// Rows of the `drops` map.
    pub const COUNT: u32 = 13;

    pub const ALL: [DropReason; Self::COUNT as usize] = [
        DropReason::Malformed,
        DropReason::Ipv6,
        DropReason::NotIp,
        DropReason::SpoofedSource,
        DropReason::Closed,
        DropReason::PeerClosed,
        DropReason::PolicyEgress,
        DropReason::PolicyIngress,
        DropReason::Fragment,
        DropReason::Multicast,
        DropReason::UntranslatedService,
        DropReason::ServiceRace,
        DropReason::NoLocalEndpoint,
    ];

    /// The word of metrics, `longshore status` and `explain`.
    pub const fn word(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::Ipv6 => "ipv6",
            DropReason::NotIp => "not-ip",
            DropReason::SpoofedSource => "spoofed-source",
            DropReason::Closed => "closed",
            DropReason::PeerClosed => "peer-closed",
            DropReason::PolicyEgress => "policy-egress",
            DropReason::PolicyIngress => "policy-ingress",
            DropReason::Fragment => "fragment",
            DropReason::Multicast => "multicast",
            DropReason::UntranslatedService => "untranslated-service",
            DropReason::ServiceRace => "service-race",
            DropReason::NoLocalEndpoint => "no-local-endpoint",
        }
    }
}
