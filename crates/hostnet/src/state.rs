//! Everything of a host's network that belongs to us.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::{Firewall, Link, LinkName, Route, Rule, Wireguard};

/// An address on an interface of ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The interface.
    pub link: LinkName,
    /// The address with its prefix length.
    pub net: IpNet,
}

/// Something that a Go agent left behind, whose place we take before we remove it; or a damaged part of our own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A route of protocol `static` on the WireGuard interface or `tunl0`, in [`crate::KILO_TABLE`], or by way of another
    /// node; or one of our own protocol in the main table, or a further one to a destination that has one.
    Route {
        /// The route.
        route: Route,
        /// Its `rtm_protocol`.
        protocol: u8,
    },
    /// A rule that looks up [`crate::KILO_TABLE`] and is not marked as ours.
    Rule(Rule),
    /// All that is a Go agent's in a table of iptables-nft: its chain, and its rules in the chains of others.
    Iptables {
        /// `ip` or `ip6`.
        family: &'static str,
        /// The table, for example `nat`.
        table: &'static str,
    },
    /// Parts of a firewall of ours that is not as we make it: a table with foreign rules or chains, or our rules in
    /// the tables of iptables without our table. Setting the firewall repairs it; otherwise it is removed.
    Firewall,
}

/// Everything of a host's network that belongs to us: desired or observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostState {
    /// Interfaces.
    pub links: BTreeMap<LinkName, Link>,
    /// Addresses on our interfaces, without the link-local ones.
    pub addresses: BTreeSet<Address>,
    /// Routes.
    pub routes: BTreeSet<Route>,
    /// Policy rules.
    pub rules: BTreeSet<Rule>,
    /// The firewall; `None`: there is no table of ours, or one that is not as we make it.
    pub firewall: Option<Firewall>,
    /// The WireGuard interface. `None` in a desired state: it is left as it is (a member's `kilo0` is down).
    pub wireguard: Option<Wireguard>,
    /// What a Go agent left behind. Always empty in a desired state.
    pub leftovers: BTreeSet<Leftover>,
    /// Whether the host forwards packets, per family: IPv4, IPv6 (`net.ipv4.ip_forward`,
    /// `net.ipv6.conf.all.forwarding`). A desired `false` means: not our business.
    pub forwarding: Forwarding,
}

/// Which families a host forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}
