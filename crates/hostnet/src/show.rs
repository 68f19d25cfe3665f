//! Changes as lines that a person reads: what `kg --dry-run` prints and what is logged. Never holds a key.

use std::fmt;

use ipnet::IpNet;

use crate::{
    Change, Firewall, Leftover, Link, LinkKind, MAIN_TABLE, NextHop, Outer, Route, Rule,
    plan::{DeviceSettings, PeerChange},
};

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::CreateLink(name, link) => write!(f, "+ link {name} {link}"),
            Change::SetMtu(name, mtu) => write!(f, "~ link {name} mtu {mtu}"),
            Change::SetUp(name, up) => write!(f, "~ link {name} {}", if *up { "up" } else { "down" }),
            Change::RemoveLink(name, link) => write!(f, "- link {name} {link}"),
            Change::SetWireguard(name, settings) => write!(f, "~ wireguard {name} {settings}"),
            Change::SetPeer(name, key, change) => {
                write!(f, "{} wireguard {name} peer {key}{change}", if change.new { '+' } else { '~' })
            }
            Change::RemovePeer(name, key) => write!(f, "- wireguard {name} peer {key}"),
            Change::AddAddress(address) => write!(f, "+ address {} dev {}", address.net, address.link),
            Change::RemoveAddress(address) => write!(f, "- address {} dev {}", address.net, address.link),
            Change::SetRoute(route) => write!(f, "+ route {route}"),
            Change::RemoveRoute(route) => write!(f, "- route {route}"),
            Change::AddRule(rule) => write!(f, "+ rule {rule}"),
            Change::RemoveRule(rule) => write!(f, "- rule {rule}"),
            Change::SetFirewall(firewall) => write!(f, "+ firewall {firewall}"),
            Change::UpdateFirewall(before, after) => write!(f, "~ firewall {}", Difference(before, after)),
            Change::RemoveFirewall => f.write_str("- firewall"),
            Change::EnableForwarding(families) => {
                let name = match (families.v4, families.v6) {
                    (true, true) => "IPv4 and IPv6",
                    (true, false) => "IPv4",
                    (false, _) => "IPv6",
                };
                write!(f, "~ forwarding of {name} on")
            }
            Change::RemoveLeftover(leftover) => write!(f, "- leftover {leftover}"),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            LinkKind::Wireguard => "wireguard",
            LinkKind::Ipip => "ipip",
            LinkKind::Sit => "sit",
            LinkKind::Vxlan => "vxlan",
        })?;
        self.mtu.map_or(Ok(()), |mtu| write!(f, " mtu {mtu}"))
    }
}

impl fmt::Display for DeviceSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "private key, port {}, ", self.listen_port)?;
        match self.mark {
            0 => f.write_str("no mark"),
            mark => write!(f, "mark {mark:#x}"),
        }
    }
}

impl fmt::Display for PeerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.preshared_key {
            Some(Some(_)) => f.write_str(" preshared key")?,
            Some(None) => f.write_str(" no preshared key")?,
            None => {}
        }
        if let Some(endpoint) = self.endpoint {
            write!(f, " endpoint {endpoint}")?;
        }
        if let Some(keepalive) = self.persistent_keepalive {
            write!(f, " keepalive {keepalive}s")?;
        }
        prefixes(f, '+', &self.add_allowed_ips)?;
        prefixes(f, '-', &self.remove_allowed_ips)
    }
}

fn prefixes<'a>(
    f: &mut fmt::Formatter<'_>,
    sign: char,
    prefixes: impl IntoIterator<Item = &'a IpNet>,
) -> fmt::Result {
    prefixes.into_iter().try_for_each(|prefix| write!(f, " {sign}{prefix}"))
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        match self.next_hop {
            NextHop::Destination => {}
            NextHop::Gateway(gateway) => write!(f, " via {gateway}")?,
            NextHop::Outer(outer) => write!(f, " encap to {outer}")?,
        }
        write!(f, " dev {}", self.link)?;
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        match self.table {
            MAIN_TABLE => f.write_str(" table main"),
            other => write!(f, " table {other}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        if self.unless.is_some() {
            f.write_str(" not")?;
        }
        match self.from {
            Some(from) => write!(f, " from {from}")?,
            None => f.write_str(" from all")?,
        }
        if let Some(unless) = self.unless {
            write!(f, " fwmark {:#x}/{:#x}", unless.mark, unless.mask)?;
        }
        if let Some(to) = self.to {
            write!(f, " to {to}")?;
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Difference(&Firewall::default(), self))
    }
}

/// What differs between two firewalls.
struct Difference<'a>(&'a Firewall, &'a Firewall);

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference(before, after) = self;
        let sets = [
            ("masquerade from", &before.masquerade_from, &after.masquerade_from),
            ("masquerade to", &before.masquerade_to, &after.masquerade_to),
            ("never masquerade to", &before.never_masquerade, &after.never_masquerade),
            ("forward", &before.forward, &after.forward),
        ];
        let mut separator = "";
        for (name, before, after) in sets {
            if before != after {
                write!(f, "{separator}{name}:")?;
                prefixes(f, '+', after.difference(before))?;
                prefixes(f, '-', before.difference(after))?;
                separator = "; ";
            }
        }
        if before.encapsulation != after.encapsulation {
            match &after.encapsulation {
                Some(filter) => {
                    let outer = match filter.outer {
                        Outer::Ip => "IP",
                        Outer::Vxlan => "VXLAN",
                    };
                    write!(f, "{separator}packets in {outer} from {:?} only", filter.from)?;
                }
                None => write!(f, "{separator}encapsulated packets from anywhere")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Leftover::Route { route, protocol } => write!(f, "route {route} proto {protocol}"),
            Leftover::Rule(rule) => write!(f, "rule {rule}"),
            Leftover::Iptables { family, table } => {
                write!(f, "Kilo's rules in table {family} {table} of iptables")
            }
            Leftover::Firewall => f.write_str("parts of a firewall that is not as it should be"),
        }
    }
}
