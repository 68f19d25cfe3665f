//! What a host keeps to itself, and how that is said.

use std::fmt;

use ipnet::IpNet;
use mesh::{PublicKey, special::SPECIAL};

use crate::LinkName;

/// An address that programs of the host need whether there is a mesh or not, and that answers without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lifeline {
    /// An API server.
    ApiServer,
    /// A name server.
    NameServer,
}

/// Why a host keeps an address or a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// Nobody routes it, see [`SPECIAL`].
    Unroutable(&'static str),
    /// Where a cloud answers its machines about themselves.
    Metadata,
    /// The tunnel with this key leads there: that of the node that is named.
    Endpoint(PublicKey, String),
    /// The tunnel with this key leads there: that of the Peer that is named.
    PeerEndpoint(PublicKey, String),
    /// The tunnel with this key would lead there if the node that is named led its location.
    Candidate(PublicKey, String),
    /// It answers without the mesh.
    Lifeline(Lifeline),
    /// The host sends packets to it that are for others, through this interface.
    Gateway(LinkName),
    /// An address of the host.
    Own,
    /// The pods of the host.
    OwnPods,
    /// An address of this node of the same location.
    Near(String),
    /// The network of this interface.
    Connected(LinkName),
    /// Addresses of services, which are found before routes are.
    Services,
    /// Somebody else's route, or policy rule, through this interface if it has one.
    Route(Option<LinkName>),
    /// The pods of this node, which are reached in this place and no other.
    Pods(String),
    /// An address of this node.
    Internal(String),
    /// The WireGuard addresses of the mesh.
    Wireguard,
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unroutable(what) => write!(f, "{what}, which nobody routes"),
            Self::Metadata => f.write_str("where a cloud answers its machines"),
            Self::Endpoint(_, node) | Self::Candidate(_, node) => write!(f, "the endpoint of node {node}"),
            Self::PeerEndpoint(_, peer) => write!(f, "the endpoint of peer {peer}"),
            Self::Lifeline(Lifeline::ApiServer) => {
                f.write_str("the API server, which answers without the mesh")
            }
            Self::Lifeline(Lifeline::NameServer) => {
                f.write_str("a name server of this host, which answers without the mesh")
            }
            Self::Gateway(link) => write!(f, "a gateway of this host on {link}"),
            Self::Own => f.write_str("an address of this host"),
            Self::OwnPods => f.write_str("where the pods of this host are"),
            Self::Near(node) => write!(f, "node {node} of this location"),
            Self::Connected(link) => write!(f, "the network of this host's interface {link}"),
            Self::Services => f.write_str("where the services of this cluster are"),
            Self::Route(Some(link)) => write!(f, "a route of this host through {link}"),
            Self::Route(None) => f.write_str("a route or a rule of this host"),
            Self::Pods(node) => write!(f, "where the pods of node {node} are"),
            Self::Internal(node) => write!(f, "an address of node {node}"),
            Self::Wireguard => f.write_str("where the WireGuard addresses of the mesh are"),
        }
    }
}

/// What every host keeps.
pub(super) fn everywhere() -> impl Iterator<Item = (IpNet, Keep)> {
    // Azure, Alibaba; AWS, Google and Oracle by IPv6. All others are link-local.
    const METADATA: [&str; 5] = [
        "168.63.129.16/32",
        "100.100.100.200/32",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
        "fd00:c1::a9fe:a9fe/128",
    ];
    let net = |text: &str| text.parse().expect("the prefix is a valid one");
    let unroutable = SPECIAL.iter().map(|special| (special.range, Keep::Unroutable(special.what)));
    unroutable.chain(METADATA.into_iter().map(move |text| (net(text), Keep::Metadata)))
}
