//! Making and removing interfaces.

use hostnet::{Change, Link, LinkKind, LinkName};

use super::{Application, unless};
use crate::{error::Error, observe::TUNNELS, rtnl::link};

impl Application<'_> {
    /// Makes an interface, or finds that it is there.
    pub(super) fn create(&mut self, name: &LinkName, wanted: &Link) -> Result<(), Error> {
        let found = link::find(&mut self.kernel.route, name)?;
        let kind = match wanted.kind {
            LinkKind::Wireguard => "WireGuard",
            LinkKind::Ipip | LinkKind::Sit => link::kind_name(wanted.kind),
            LinkKind::Vxlan => "VXLAN-GPE on Kilo's port with metadata",
        };
        let same = found.as_ref().is_some_and(|found| found.kind == link::kind_name(wanted.kind));
        match (found, wanted.kind) {
            // The kernel's own device: it is there, or appears with its module.
            (Some(_), LinkKind::Ipip | LinkKind::Sit) if same => {}
            (Some(found), _) => {
                return Err(Error::WrongKind { link: name.clone(), found: found.kind, wanted: kind });
            }
            (None, LinkKind::Wireguard) if self.kernel.config.interface != *name => {
                return Err(Error::NoLink(name.clone()));
            }
            (None, LinkKind::Wireguard) if !self.kernel.manages_interface() => {
                return Err(Error::NoLink(name.clone()));
            }
            (None, LinkKind::Wireguard) => {
                let kernel = &mut *self.kernel;
                return kernel.wireguard.create(&mut kernel.route, wanted.mtu);
            }
            (None, LinkKind::Ipip | LinkKind::Sit) => self.create_tunnel(name, wanted.kind)?,
            (None, LinkKind::Vxlan) => {
                let result = link::create(&mut self.kernel.route, name, wanted.kind, wanted.mtu);
                return result.map_err(|source| Error::NoVxlan { link: name.clone(), source });
            }
        }
        let index = self.index(name)?;
        let Some(mtu) = wanted.mtu else { return Ok(()) };
        let attempt = format!("set the MTU of {name} to {mtu}");
        link::set_mtu(&mut self.kernel.route, index, mtu).map_err(Error::refused(attempt))
    }

    /// Making any device of this kind loads its module, with which the kernel's own device appears in every network
    /// namespace (unless `net.core.fb_tunnels_only_for_init_net` says otherwise): then it is there although making
    /// it failed.
    fn create_tunnel(&mut self, name: &LinkName, kind: LinkKind) -> Result<(), Error> {
        let result = link::create(&mut self.kernel.route, name, kind, None);
        let source = match result {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        let own = TUNNELS.iter().any(|(own, own_kind)| name.as_str() == *own && kind == *own_kind);
        if own && link::find(&mut self.kernel.route, name)?.is_some() {
            return Ok(());
        }
        Err(Error::NoEncapsulation { kind: link::kind_name(kind), link: name.clone(), source })
    }

    /// Removes an interface, if it is there.
    pub(super) fn remove(&mut self, change: &Change, name: &LinkName, wanted: &Link) -> Result<(), Error> {
        self.indices.remove(name);
        if wanted.kind == LinkKind::Wireguard && *name == self.kernel.config.interface {
            self.kernel.wireguard.close();
        }
        let Some(found) = link::find(&mut self.kernel.route, name)? else { return Ok(()) };
        let result = link::remove(&mut self.kernel.route, found.index);
        unless(result, &[libc::ENODEV]).map_err(Error::refused(change.to_string()))
    }
}
