//! Carrying out changes, in their order. Every change is tried; one that fails does not stop those after it. Neighbours of
//! a kind that the kernel takes many at a time go out together: routes, and WireGuard peers.
//!
//! Removing what is gone already is a success: what counts is that it is not there.

mod addresses;
mod links;

use std::collections::BTreeMap;

use hostnet::{Change, Leftover, LinkName, Route};

use crate::{
    error::{Error, Failure},
    kernel::Kernel,
    netlink::{Refusal, constants::RTPROT_KERNEL},
    nft,
    rtnl::{
        address, link,
        route::{self, Verb},
        rule::{self, Made},
    },
    setting,
    wireguard::PeerEdit,
};

/// Changes that go out together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Together {
    Routes,
    Peers,
}

fn together(change: &Change) -> Option<Together> {
    match change {
        Change::SetRoute(_) | Change::RemoveRoute(_) | Change::RemoveLeftover(Leftover::Route { .. }) => {
            Some(Together::Routes)
        }
        Change::SetPeer(..) | Change::RemovePeer(..) => Some(Together::Peers),
        _ => None,
    }
}

/// One application of changes.
struct Application<'a> {
    kernel: &'a mut Kernel,
    /// The indices of interfaces, looked up when they are needed.
    indices: BTreeMap<LinkName, u32>,
    failures: Vec<Failure>,
}

impl Kernel {
    /// Carries out changes; returns those that failed.
    pub fn apply(&mut self, changes: &[Change]) -> Vec<Failure> {
        let mut application = Application { kernel: self, indices: BTreeMap::new(), failures: Vec::new() };
        for group in changes.chunk_by(|a, b| together(a).is_some() && together(a) == together(b)) {
            match together(&group[0]) {
                Some(Together::Routes) => application.routes(group),
                Some(Together::Peers) => application.peers(group),
                None => application.single(&group[0]),
            }
        }
        application.again();
        application.failures
    }
}

impl Application<'_> {
    fn fail(&mut self, change: &Change, error: Error) {
        self.failures.push(Failure { change: change.clone(), error });
    }

    /// Tries routes again that failed: what stood in their way may be gone by now. When WireGuard addresses are handed
    /// out anew, a next hop is often an address that this host had until a moment ago, and the kernel takes no own
    /// address as a next hop.
    fn again(&mut self) {
        let refused = |failure: &Failure| {
            matches!((&failure.change, &failure.error), (Change::SetRoute(_), Error::Refused { .. }))
        };
        let (routes, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.failures).into_iter().partition(refused);
        self.failures = others;
        let routes: Vec<Change> = routes.into_iter().map(|failure| failure.change).collect();
        if !routes.is_empty() {
            self.routes(&routes);
        }
    }

    fn index(&mut self, name: &LinkName) -> Result<u32, Error> {
        if let Some(index) = self.indices.get(name) {
            return Ok(*index);
        }
        let found = link::find(&mut self.kernel.route, name)?.ok_or_else(|| Error::NoLink(name.clone()))?;
        self.indices.insert(name.clone(), found.index);
        Ok(found.index)
    }

    fn routes(&mut self, changes: &[Change]) {
        let mut batch = self.kernel.route.batch();
        let mut sent: BTreeMap<u32, &Change> = BTreeMap::new();
        for change in changes {
            let (verb, route) = match change {
                Change::SetRoute(route) => (Verb::Set, route),
                Change::RemoveRoute(route) => (Verb::Remove(hostnet::ROUTE_PROTOCOL), route),
                Change::RemoveLeftover(Leftover::Route { route, protocol }) => {
                    (Verb::Remove(*protocol), route)
                }
                _ => continue,
            };
            match self.route_index(change, verb, route) {
                Ok(Some(index)) => {
                    sent.insert(route::push(&mut batch, verb, route, index), change);
                }
                Ok(None) => {}
                Err(error) => self.fail(change, error),
            }
        }
        match self.kernel.route.send(batch) {
            Ok(refused) => {
                for (sequence, refusal) in refused {
                    let Some(change) = sent.get(&sequence) else { continue };
                    let setting = matches!(change, Change::SetRoute(_));
                    if setting || !matches!(refusal.errno(), libc::ESRCH | libc::ENODEV) {
                        self.fail(change, Error::refused(change.to_string())(refusal));
                    }
                }
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                for change in sent.into_values() {
                    let error = Error::Device { attempt: change.to_string(), reason: reason.clone() };
                    self.fail(change, error);
                }
            }
        }
    }

    /// The interface of a route; `None` when there is nothing to remove.
    fn route_index(&mut self, change: &Change, verb: Verb, route: &Route) -> Result<Option<u32>, Error> {
        if verb == Verb::Set {
            route::check(route).map_err(|reason| Error::Invalid { attempt: change.to_string(), reason })?;
        }
        match self.index(&route.link) {
            // Its routes have gone with it.
            Err(Error::NoLink(_)) if verb != Verb::Set => Ok(None),
            result => result.map(Some),
        }
    }

    fn peers(&mut self, changes: &[Change]) {
        let interface = self.kernel.config.interface.clone();
        let mut edits = Vec::new();
        let mut edited = Vec::new();
        for change in changes {
            let (name, edit) = match change {
                Change::SetPeer(name, key, peer) => (name, PeerEdit::Set(key, peer)),
                Change::RemovePeer(name, key) => (name, PeerEdit::Remove(key)),
                _ => continue,
            };
            if *name == interface {
                edits.push(edit);
                edited.push(change);
            } else {
                self.fail(change, Error::NoLink(name.clone()));
            }
        }
        let results = self.kernel.wireguard.set_peers(&edits);
        for (change, result) in edited.into_iter().zip(results) {
            if let Err(error) = result {
                self.fail(change, error);
            }
        }
    }

    fn single(&mut self, change: &Change) {
        let refused = |result: Result<(), Refusal>| result.map_err(Error::refused(change.to_string()));
        let result = match change {
            Change::CreateLink(name, link) => self.create(name, link),
            Change::SetMtu(name, mtu) => {
                self.index(name).and_then(|index| refused(link::set_mtu(&mut self.kernel.route, index, *mtu)))
            }
            Change::SetUp(name, up) => {
                self.index(name).and_then(|index| refused(link::set_up(&mut self.kernel.route, index, *up)))
            }
            Change::RemoveLink(name, link) => self.remove(change, name, link),
            Change::SetWireguard(_, settings) => self.kernel.wireguard.set_device(settings).map(|()| {
                self.kernel.known_key = Some(settings.private_key.clone());
            }),
            Change::AddAddress(address) => self
                .index(&address.link)
                .and_then(|index| refused(address::add(&mut self.kernel.route, index, address.net))),
            Change::RemoveAddress(address) => self.remove_address(change, address),
            Change::AddRule(rule) => rule::add(&mut self.kernel.route, rule),
            Change::RemoveRule(rule) => rule::remove(&mut self.kernel.route, rule, Made::ByUs),
            Change::RemoveLeftover(Leftover::Rule(rule)) => {
                rule::remove(&mut self.kernel.route, rule, Made::ByOthers)
            }
            Change::SetFirewall(_)
            | Change::UpdateFirewall(..)
            | Change::RemoveFirewall
            | Change::RemoveLeftover(Leftover::Firewall | Leftover::Iptables { .. }) => self.firewall(change),
            Change::EnableForwarding(families) => {
                self.advertised().and_then(|advertised| setting::enable(*families, &advertised))
            }
            // These go out together.
            Change::SetRoute(_)
            | Change::RemoveRoute(_)
            | Change::SetPeer(..)
            | Change::RemovePeer(..)
            | Change::RemoveLeftover(Leftover::Route { .. }) => Ok(()),
        };
        if let Err(error) = result {
            self.fail(change, error);
        }
    }

    fn firewall(&mut self, change: &Change) -> Result<(), Error> {
        let nft = match &mut self.kernel.nft {
            Ok(nft) => nft,
            Err(reason) => return Err(Error::Device { attempt: change.to_string(), reason: reason.clone() }),
        };
        let result = match change {
            Change::SetFirewall(firewall) => nft.set(firewall),
            Change::UpdateFirewall(_, firewall) => nft.update(firewall),
            Change::RemoveLeftover(Leftover::Iptables { family, table }) => {
                unless(nft::remove_leftovers(&mut nft.socket, family, table), &[libc::ENOENT])
            }
            _ => nft.remove(),
        };
        result.map_err(Error::refused(change.to_string()))
    }

    /// The interfaces with an IPv6 default route that a router advertised.
    fn advertised(&mut self) -> Result<Vec<String>, Error> {
        const RTPROT_RA: u8 = 9;
        let routes = route::all(&mut self.kernel.route)?;
        let advertised = |route: &&route::KernelRoute| {
            route.is_default()
                && route.table == hostnet::MAIN_TABLE
                && matches!(route.destination, ipnet::IpNet::V6(_))
                && matches!(route.protocol, RTPROT_RA | RTPROT_KERNEL)
        };
        let indices: Vec<u32> = routes.iter().filter(advertised).map(|route| route.link).collect();
        let links = link::all(&mut self.kernel.route)?.into_iter();
        Ok(links.filter(|link| indices.contains(&link.index)).map(|link| link.name.to_string()).collect())
    }
}

/// A success when the refusal is one of these.
fn unless(result: Result<(), Refusal>, errors: &[i32]) -> Result<(), Refusal> {
    match result {
        Err(refusal) if errors.contains(&refusal.errno()) => Ok(()),
        result => result,
    }
}
