//! Removing addresses, without what the kernel removes with them.

use hostnet::{Address, Change, ROUTE_PROTOCOL, Route, TABLES};
use ipnet::IpNet;

use super::{Application, unless};
use crate::{
    error::Error,
    rtnl::{
        address,
        route::{self, KernelRoute, Verb},
    },
    setting,
};

impl Application<'_> {
    /// With the first IPv4 address of a subnet the kernel removes those that came later, and with the last one of an
    /// interface all IPv4 routes through it. It is told to keep the addresses; what goes nevertheless is added again.
    pub(super) fn remove_address(&mut self, change: &Change, removed: &Address) -> Result<(), Error> {
        let index = match self.index(&removed.link) {
            Err(Error::NoLink(_)) => return Ok(()),
            index => index?,
        };
        if !matches!(removed.net, IpNet::V4(_)) {
            return self.remove_just(change, index, removed.net);
        }
        setting::keep_secondary_addresses(removed.link.as_str());
        let others = self.addresses_besides(index, removed.net)?;
        let routes = self.own_routes(index, removed.net)?;
        self.remove_just(change, index, removed.net)?;
        let kept = self.addresses_besides(index, removed.net)?;
        for lost in others.iter().filter(|net| !kept.contains(net)) {
            let attempt = format!("keep the address {lost} while {} is removed", removed.net);
            address::add(&mut self.kernel.route, index, *lost).map_err(Error::refused(attempt))?;
        }
        if kept.is_empty() { self.set_again(change, removed, &routes) } else { Ok(()) }
    }

    fn remove_just(&mut self, change: &Change, index: u32, net: IpNet) -> Result<(), Error> {
        let result = address::remove(&mut self.kernel.route, index, net);
        unless(result, &[libc::EADDRNOTAVAIL]).map_err(Error::refused(change.to_string()))
    }

    /// The other IPv4 addresses of an interface.
    fn addresses_besides(&mut self, index: u32, removed: IpNet) -> Result<Vec<IpNet>, Error> {
        let all = address::all(&mut self.kernel.route)?.into_iter();
        let others = all.filter(|address| address.link == index && address.net != removed);
        Ok(others.map(|address| address.net).filter(|net| matches!(net, IpNet::V4(_))).collect())
    }

    /// Our IPv4 routes through an interface that do not need the address that goes.
    fn own_routes(&mut self, index: u32, removed: IpNet) -> Result<Vec<KernelRoute>, Error> {
        let mut routes = route::all(&mut self.kernel.route)?;
        routes.retain(|route| {
            let v4 = matches!(route.destination, IpNet::V4(_));
            v4 && route.link == index
                && route.protocol == ROUTE_PROTOCOL
                && TABLES.contains(&route.table)
                && route.source != Some(removed.addr())
        });
        Ok(routes)
    }

    fn set_again(&mut self, change: &Change, removed: &Address, routes: &[KernelRoute]) -> Result<(), Error> {
        let mut batch = self.kernel.route.batch();
        for found in routes {
            let route = Route {
                table: found.table,
                destination: found.destination,
                next_hop: found.next_hop,
                link: removed.link.clone(),
                source: found.source,
            };
            route::push(&mut batch, Verb::Set, &route, found.link);
        }
        let refused = self.kernel.route.send(batch).map_err(Error::refused(change.to_string()))?;
        let attempt = format!("{change}, and keep the {} routes through {}", routes.len(), removed.link);
        refused.into_iter().next().map_or(Ok(()), |(_, refusal)| Err(Error::refused(attempt)(refusal)))
    }
}
