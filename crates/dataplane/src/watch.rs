//! Notices of the kernel that something of ours, or something that decisions depend on, has changed.
//!
//! Our own changes are left out: the kernel writes the address of the socket that asked for a change into the notice.
//! Also left out is what others do all day on a Kubernetes node: link-local addresses, the rules of kube-proxy. Routes of
//! others are a subject of their own, because there may be many and they are seldom urgent. What is left is said once,
//! however many messages it were; the look that follows tells the details.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    task::Poll,
};

use hostnet::{KILO_TABLE, LinkName, NFT_TABLE, ROUTE_PROTOCOL, TABLES};
use tokio::io::unix::AsyncFd;

use crate::{
    error::Error,
    netlink::{Received, constants::*},
};

/// Bytes for one datagram of notices.
const RECEIVE: usize = 64 << 10;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Interfaces.
    Links,
    /// Addresses.
    Addresses,
    /// Our routes, or a default route.
    Routes,
    /// Routes of others.
    HostRoutes,
    /// Policy rules.
    Rules,
    /// Our nftables table, or a chain in which we have rules.
    Firewall,
}

/// Something changed; time to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// These.
    Changed(BTreeSet<Subject>),
    /// Notices were lost: anything may have changed.
    Resync,
}

impl Notice {
    /// Whether nothing has changed but routes of others.
    pub fn is_of_host_routes(&self) -> bool {
        matches!(self, Self::Changed(subjects) if subjects.iter().all(|subject| *subject == Subject::HostRoutes))
    }
}

/// Sockets that listen to notices, opened but not yet waited on.
pub struct Listeners {
    route: netlink_sys::Socket,
    nft: Option<netlink_sys::Socket>,
    own_ports: [u32; 2],
}

impl Listeners {
    /// Listens in the network namespace of the calling thread. Notices count from now on.
    pub fn open(own_ports: [u32; 2]) -> Result<Self, Error> {
        let groups = [
            RTNLGRP_LINK,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_ROUTE,
            RTNLGRP_IPV4_RULE,
            RTNLGRP_IPV6_RULE,
        ];
        let route = listen(netlink_sys::protocols::NETLINK_ROUTE, &groups)
            .map_err(|source| Error::Socket { what: "notices about routes and interfaces", source })?;
        let nft = match listen(netlink_sys::protocols::NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]) {
            Ok(socket) => Some(socket),
            // A kernel without nf_tables has nothing to say about it.
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => None,
            Err(source) => return Err(Error::Socket { what: "notices about nftables", source }),
        };
        Ok(Self { route, nft, own_ports })
    }
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(protocol)?;
    socket.bind_auto()?;
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20);
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Notices, one after the other.
pub struct Watch {
    route: AsyncFd<netlink_sys::Socket>,
    nft: Option<AsyncFd<netlink_sys::Socket>>,
    filter: Filter,
}

impl Watch {
    /// Has to be called inside of a tokio runtime.
    pub(crate) fn new(listeners: Listeners, interface: LinkName) -> Result<Self, Error> {
        let register = |socket| {
            // SAFETY: the descriptor belongs to the socket, which stays open and in the same place until the
            // `AsyncFd` that owns it has deregistered and dropped it.
            let registered = unsafe { AsyncFd::register(socket) };
            registered.map_err(|error| Error::Socket { what: "notices", source: error.into() })
        };
        Ok(Self {
            route: register(listeners.route)?,
            nft: listeners.nft.map(register).transpose()?,
            filter: Filter { own_ports: listeners.own_ports, interface, links: BTreeMap::new() },
        })
    }

    /// Waits for the next notice: everything that happened since the last one. May be dropped and called again.
    ///
    /// # Errors
    /// When a socket fails for good.
    pub async fn next(&mut self) -> Result<Notice, Error> {
        loop {
            self.readable().await.map_err(|source| Error::Socket { what: "notices", source })?;
            let mut changed = BTreeSet::new();
            let filter = &mut self.filter;
            let route = drain(&self.route, |message| changed.extend(filter.route(message)));
            let nft = self.nft.as_ref().map_or(Ok(Lost::Nothing), |nft| {
                drain(nft, |message| changed.extend(self.filter.nft(message)))
            });
            let failed = |source| Error::Socket { what: "notices", source };
            let lost = [route.map_err(failed)?, nft.map_err(failed)?];
            if lost.contains(&Lost::Something) {
                return Ok(Notice::Resync);
            }
            if !changed.is_empty() {
                return Ok(Notice::Changed(changed));
            }
        }
    }

    /// Waits until one of the sockets has something.
    async fn readable(&self) -> io::Result<()> {
        let mut route = std::pin::pin!(self.route.readable());
        let mut nft = std::pin::pin!(async {
            match &self.nft {
                Some(nft) => nft.readable().await,
                None => std::future::pending().await,
            }
        });
        std::future::poll_fn(|context| {
            let ready = match (route.as_mut().poll(context), nft.as_mut().poll(context)) {
                (Poll::Ready(guard), _) | (_, Poll::Ready(guard)) => guard,
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
            };
            // Cleared before the socket is emptied: what comes later makes it ready again.
            Poll::Ready(ready.map(|mut guard| guard.clear_ready()))
        })
        .await
    }
}

/// Whether notices were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Nothing,
    Something,
}

/// Reads all messages that are there.
fn drain(socket: &AsyncFd<netlink_sys::Socket>, mut each: impl FnMut(&Received<'_>)) -> io::Result<Lost> {
    let mut lost = Lost::Nothing;
    let mut buffer: Vec<u8> = Vec::with_capacity(RECEIVE);
    loop {
        buffer.clear();
        let result = socket.get_ref().recv_from(&mut buffer, libc::MSG_TRUNC | libc::MSG_DONTWAIT);
        match result {
            Ok((length, sender)) => {
                if length > buffer.len() {
                    lost = Lost::Something;
                }
                if sender.port_number() == 0 {
                    Received::all(&buffer).for_each(|message| each(&message));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The socket's buffer was full.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => lost = Lost::Something,
            Err(error) => return Err(error),
        }
    }
    Ok(lost)
}

/// Tells what matters.
struct Filter {
    own_ports: [u32; 2],
    interface: LinkName,
    /// What was last heard of each interface: of the messages about them most repeat it.
    links: BTreeMap<u32, (String, u32, Option<u32>)>,
}

impl Filter {
    fn is_own(&self, message: &Received<'_>) -> bool {
        message.port != 0 && self.own_ports.contains(&message.port)
    }

    fn route(&mut self, message: &Received<'_>) -> Option<Subject> {
        match message.kind {
            RTM_NEWLINK | RTM_DELLINK => self.link(message),
            _ if self.is_own(message) => None,
            RTM_NEWADDR | RTM_DELADDR => {
                // A pod that starts brings a link-local address; nobody decides by those.
                let local = message.byte(0) == AF_INET6 && message.byte(3) == RT_SCOPE_LINK;
                (!local).then_some(Subject::Addresses)
            }
            RTM_NEWROUTE | RTM_DELROUTE => route_subject(message),
            RTM_NEWRULE | RTM_DELRULE => {
                let attributes = message.attributes(12);
                let ours = attributes.u8(FRA_PROTOCOL) == Some(ROUTE_PROTOCOL);
                let table = attributes.u32(FRA_TABLE);
                // Rules for certain sources are made for pods, all day.
                let wide = message.byte(2) == 0;
                (ours || wide || table == Some(KILO_TABLE)).then_some(Subject::Rules)
            }
            _ => None,
        }
    }

    /// Also our own changes are remembered, so that the next message of somebody else is compared with them.
    fn link(&mut self, message: &Received<'_>) -> Option<Subject> {
        let attributes = message.attributes(16);
        let (index, name) = (message.word(4), attributes.text(IFLA_IFNAME).to_owned());
        let now = (name.clone(), message.word(8) & (IFF_UP | IFF_LOWER_UP), attributes.u32(IFLA_MTU));
        let known = match message.kind {
            RTM_DELLINK => self.links.remove(&index).filter(|_| false),
            _ => self.links.insert(index, now.clone()),
        };
        // The embedded device is made by another socket of this process; a notice more about our own interface is
        // cheap, one less is not.
        let repeats = known.is_some_and(|known| known == now);
        let own = self.is_own(message) && name == self.interface.as_str();
        (!repeats && !own).then_some(Subject::Links)
    }

    fn nft(&self, message: &Received<'_>) -> Option<Subject> {
        if message.kind >> 8 != NFNL_SUBSYS_NFTABLES || self.is_own(message) {
            return None;
        }
        // In every message the first attribute is the table's name, which rules, chains, sets and elements follow.
        let attributes = message.attributes(4);
        let (family, table) = (message.byte(0), attributes.text(1));
        let matters = match (family, table, message.kind & 0xff) {
            (_, _, NFT_MSG_NEWGEN) => false,
            (NFPROTO_INET, NFT_TABLE, _) => true,
            (NFPROTO_IPV4 | NFPROTO_IPV6, "filter", NFT_MSG_NEWRULE | NFT_MSG_DELRULE) => {
                attributes.text(NFTA_RULE_CHAIN) == "FORWARD"
            }
            (NFPROTO_IPV4 | NFPROTO_IPV6, "filter", NFT_MSG_NEWCHAIN | NFT_MSG_DELCHAIN) => {
                attributes.text(NFTA_CHAIN_NAME) == "FORWARD"
            }
            _ => false,
        };
        matters.then_some(Subject::Firewall)
    }
}

/// Whose route it is.
fn route_subject(message: &Received<'_>) -> Option<Subject> {
    let (length, protocol, flags) = (message.byte(1), message.byte(5), message.word(8));
    let attributes = message.attributes(12);
    let table = attributes.u32(RTA_TABLE).unwrap_or(u32::from(message.byte(4)));
    // Addresses come with routes of the kernel, and have events of their own.
    let of_address = table == RT_TABLE_LOCAL || protocol == RTPROT_KERNEL;
    let link_local = message.byte(0) == AF_INET6
        && attributes
            .get(RTA_DST)
            .is_some_and(|to| matches!(to, [0xfe, second, ..] if second & 0xc0 == 0x80));
    if of_address || link_local || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let ours = TABLES.contains(&table) || protocol == ROUTE_PROTOCOL;
    Some(if ours || length == 0 { Subject::Routes } else { Subject::HostRoutes })
}
