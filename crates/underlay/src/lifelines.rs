//! What the host depends on, with what is known of the way to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{State, Underlay, own::is_own};

/// The addresses that the host depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifelines {
    /// Those of the API servers.
    pub api: BTreeMap<IpAddr, State>,
    /// Those of the name servers.
    pub name_servers: BTreeMap<IpAddr, State>,
}

impl Lifelines {
    /// These addresses, as far as the way to them can depend on the mesh: without those of this host.
    pub fn of(
        underlay: &Underlay,
        api: impl IntoIterator<Item = IpAddr>,
        name_servers: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let known = |address: IpAddr| {
            let address = address.to_canonical();
            (!is_own(address)).then(|| (address, underlay.state(address)))
        };
        Self {
            api: api.into_iter().filter_map(known).collect(),
            name_servers: name_servers.into_iter().filter_map(known).collect(),
        }
    }

    /// Whether every address has been asked.
    #[must_use]
    pub fn are_known(&self) -> bool {
        self.api.values().chain(self.name_servers.values()).all(|state| *state != State::Unknown)
    }

    /// The addresses that the mesh must not route: those that answer without it. Of the others nothing is proven, and the
    /// mesh may be the way on which they are reached.
    #[must_use]
    pub fn protected(&self) -> BTreeSet<IpAddr> {
        let depends = |state: &State| *state == State::Underlay;
        let all = self.api.iter().chain(&self.name_servers);
        all.filter(|(_, state)| depends(state)).map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_answers_without_the_mesh_is_protected() {
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let lifelines = Lifelines {
            api: [(address(1), State::Underlay), (address(2), State::Mesh)].into(),
            name_servers: [(address(3), State::Unknown), (address(4), State::Silent)].into(),
        };
        assert_eq!(lifelines.protected(), [address(1)].into());
    }

    #[test]
    fn the_host_does_not_depend_on_itself() {
        let addresses = ["127.0.0.1", "::1", "::ffff:192.0.2.1"].map(|text| text.parse().unwrap());
        let lifelines = Lifelines::of(&Underlay::plain(), addresses, ["127.0.0.53".parse().unwrap()]);
        assert_eq!(lifelines.api, [("192.0.2.1".parse().unwrap(), State::Unknown)].into());
        assert!(lifelines.name_servers.is_empty());
    }
}
