//! Routes: reading a table, and writing many at once.

use std::net::IpAddr;

use hostnet::{NextHop, ROUTE_PROTOCOL, Route, TABLES, VXLAN_NETWORK};
use ipnet::IpNet;
use mesh::prefix::Family;

use super::{address, family_number, octets, prefix};
use crate::{
    error::Error,
    netlink::{Attributes, Batch, Received, Socket, Writer, constants::*},
};

/// Bytes of `struct rtmsg`.
const HEADER: usize = 12;

/// A route as the kernel has it: one next hop of it when it has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRoute {
    pub table: u32,
    pub protocol: u8,
    pub destination: IpNet,
    pub next_hop: NextHop,
    /// The index of the interface; 0 when there is none.
    pub link: u32,
    pub source: Option<IpAddr>,
    /// Whether packets are sent on by it; otherwise they are dropped.
    pub sends: bool,
    /// Whether the next hop is taken to be on the link.
    pub onlink: bool,
    /// Lower is better. The metric that the kernel gives to IPv6 routes on its own is 0 here, like IPv4's.
    pub metric: u32,
}

impl KernelRoute {
    /// Whether it is for everything that no other route is for.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

/// The routes that a message is about: nearly always one, which needs no list.
type Decoded = (Option<KernelRoute>, Vec<KernelRoute>);

/// Decodes a route message.
fn decode(message: &Received<'_>) -> Decoded {
    match decode_base(message) {
        Some((base, None)) => (Some(base), Vec::new()),
        Some((base, Some(hops))) => {
            let hops = next_hops(hops).map(|(link, attributes)| {
                let next_hop = gateway(attributes).map_or(NextHop::Destination, NextHop::Gateway);
                KernelRoute { link, next_hop, ..base.clone() }
            });
            (None, hops.collect())
        }
        None => (None, Vec::new()),
    }
}

fn decode_base<'a>(message: &Received<'a>) -> Option<(KernelRoute, Option<&'a [u8]>)> {
    let (family, length, kind) = (message.byte(0), message.byte(1), message.byte(7));
    let matters = matches!(kind, RTN_UNICAST | RTN_BLACKHOLE | RTN_UNREACHABLE | RTN_PROHIBIT);
    if !matters || message.word(8) & RTM_F_CLONED != 0 {
        return None;
    }
    let mut route = KernelRoute {
        table: u32::from(message.byte(4)),
        protocol: message.byte(5),
        destination: prefix(family, None, length)?,
        next_hop: NextHop::Destination,
        link: 0,
        source: None,
        sends: kind == RTN_UNICAST,
        onlink: message.word(8) & RTNH_F_ONLINK != 0,
        metric: 0,
    };
    let (mut hops, mut gateway, mut outer) = (None, None, None);
    for (kind, payload) in message.attributes(HEADER) {
        match kind {
            RTA_DST => route.destination = prefix(family, Some(payload), length)?,
            RTA_TABLE => route.table = number(payload),
            RTA_OIF => route.link = number(payload),
            RTA_GATEWAY => gateway = address(payload),
            RTA_VIA => gateway = payload.get(2..).and_then(address),
            RTA_PREFSRC => route.source = address(payload),
            RTA_PRIORITY => route.metric = number(payload),
            RTA_ENCAP => outer = Attributes::new(payload).get(LWTUNNEL_IP_DST).and_then(address),
            RTA_MULTIPATH => hops = Some(payload),
            _ => {}
        }
    }
    let next_hop = gateway.map(NextHop::Gateway).or(outer.map(NextHop::Outer));
    route.next_hop = next_hop.unwrap_or(NextHop::Destination);
    if family == AF_INET6 && route.metric == IP6_RT_PRIO_USER {
        route.metric = 0;
    }
    Some((route, hops))
}

fn number(payload: &[u8]) -> u32 {
    payload.try_into().map_or(0, u32::from_ne_bytes)
}

fn gateway(attributes: Attributes<'_>) -> Option<IpAddr> {
    let via = || attributes.get(RTA_VIA).and_then(|via| via.get(2..));
    attributes.get(RTA_GATEWAY).or_else(via).and_then(address)
}

/// `struct rtnexthop`: length, flags, hops, index of the interface; then attributes.
fn next_hops(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Attributes<'_>)> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<8>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let hop = bytes.get(8..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u32::from_ne_bytes([header[4], header[5], header[6], header[7]]), Attributes::new(hop)))
    })
}

/// All routes of all tables and both families, without those to the host's own addresses.
pub fn all(socket: &mut Socket) -> Result<Vec<KernelRoute>, Error> {
    let mut routes = Vec::new();
    for family in Family::ALL {
        let ask = |writer: &mut Writer<'_>| {
            let mut header = [0; HEADER];
            header[0] = family_number(family);
            writer.header(&header);
        };
        let read = |message: &Received<'_>| Some(decode(message));
        match socket.dump(RTM_GETROUTE, ask, read) {
            Ok(found) => {
                let found = found.into_iter().flat_map(|(one, several)| one.into_iter().chain(several));
                routes.extend(found.filter(|route| route.table != RT_TABLE_LOCAL));
            }
            // The kernel has no IPv6.
            Err(refusal)
                if matches!(refusal.errno(), libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::ENOENT) => {}
            Err(refusal) => return Err(Error::observing("routes")(refusal)),
        }
    }
    Ok(routes)
}

/// What is said about a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is added, or replaces the one with the same table and destination.
    Set,
    /// It is removed, if its protocol is the given one.
    Remove(u8),
}

/// Why a route cannot be said to the kernel.
pub fn check(route: &Route) -> Result<(), &'static str> {
    if !TABLES.contains(&route.table) {
        return Err("the table is not one of ours");
    }
    let family = Family::of_prefix(&route.destination);
    if family == Family::V6 && route.next_hop.gateway().is_some_and(|via| via.is_ipv4()) {
        return Err("an IPv6 destination cannot have an IPv4 next hop");
    }
    if route.source.is_some_and(|source| Family::of(source) != family) {
        return Err("the preferred source is not of the destination's family");
    }
    Ok(())
}

/// Adds a message about a route to a batch; returns its sequence number. `link` is the index of its interface.
pub fn push(batch: &mut Batch, verb: Verb, route: &Route, link: u32) -> u32 {
    let (kind, flags, protocol) = match verb {
        Verb::Set => (RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, ROUTE_PROTOCOL),
        Verb::Remove(protocol) => (RTM_DELROUTE, 0, protocol),
    };
    let family = Family::of_prefix(&route.destination);
    let scope = match verb {
        // A wildcard when it is removed.
        Verb::Remove(_) => RT_SCOPE_NOWHERE,
        Verb::Set if route.next_hop.gateway().is_none() && family == Family::V4 => RT_SCOPE_LINK,
        Verb::Set => RT_SCOPE_UNIVERSE,
    };
    let onlink = if route.next_hop.gateway().is_some() && verb == Verb::Set { RTNH_F_ONLINK } else { 0 };
    batch.push(kind, NLM_F_REQUEST | flags, |writer| {
        let mut header = [0; HEADER];
        header[0] = family_number(family);
        header[1] = route.destination.prefix_len();
        header[5] = protocol;
        header[6] = scope;
        header[7] = RTN_UNICAST;
        header[8..12].copy_from_slice(&onlink.to_ne_bytes());
        writer.header(&header);
        writer.put_u32(RTA_TABLE, route.table);
        writer.put(RTA_DST, &octets(route.destination.network()));
        writer.put_u32(RTA_OIF, link);
        if let Some(via) = route.next_hop.gateway() {
            if Family::of(via) == family {
                writer.put(RTA_GATEWAY, &octets(via));
            } else {
                // `struct rtvia`: the family, then the address.
                let mut bytes = u16::from(family_number(Family::of(via))).to_ne_bytes().to_vec();
                bytes.extend(octets(via));
                writer.put(RTA_VIA, &bytes);
            }
        }
        if let Some(source) = route.source {
            writer.put(RTA_PREFSRC, &octets(source));
        }
        if let Some(outer) = route.next_hop.outer() {
            let kind = if outer.is_ipv4() { LWTUNNEL_ENCAP_IP } else { LWTUNNEL_ENCAP_IP6 };
            writer.put_u16(RTA_ENCAP_TYPE, kind);
            writer.nest(RTA_ENCAP, |tunnel| {
                tunnel.put_be64(LWTUNNEL_IP_ID, VXLAN_NETWORK.into());
                tunnel.put(LWTUNNEL_IP_DST, &octets(outer));
                // Over IPv6 a UDP packet without a checksum is refused (RFC 8200, section 8.1).
                if outer.is_ipv6() {
                    tunnel.put(LWTUNNEL_IP6_FLAGS, &TUNNEL_CSUM.to_be_bytes());
                }
            });
        }
    })
}
