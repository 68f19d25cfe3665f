//! What is known of addresses.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::sync::watch;

/// The way on which an address answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It answers on the host's own routes.
    Underlay,
    /// It does not, but it answers on the routes with the mesh.
    Mesh,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// It has not been asked yet.
    #[default]
    Unknown,
    /// It has answered on the routes with the mesh, and whether it does on the host's own is being tried.
    Tried,
    /// It has answered on the host's own routes.
    Underlay,
    /// It has answered on the routes with the mesh, and not on the host's own.
    Mesh,
    /// It has been asked on both ways and has never answered on either.
    Silent,
}

/// What is known of all addresses. Nothing of it is forgotten: what is no longer asked is no longer of interest.
#[derive(Debug, Default)]
pub struct Evidence(watch::Sender<BTreeMap<IpAddr, State>>);

impl Evidence {
    /// What has been proven.
    pub fn proven(&self) -> BTreeMap<IpAddr, Way> {
        let way = |state| match state {
            State::Underlay => Some(Way::Underlay),
            State::Mesh => Some(Way::Mesh),
            State::Unknown | State::Tried | State::Silent => None,
        };
        self.0.borrow().iter().filter_map(|(address, state)| Some((*address, way(*state)?))).collect()
    }

    pub fn state(&self, address: IpAddr) -> State {
        self.0.borrow().get(&address.to_canonical()).copied().unwrap_or_default()
    }

    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<IpAddr, State>> {
        self.0.subscribe()
    }

    /// An address has answered.
    pub fn prove(&self, address: IpAddr, way: Way) {
        let state = match way {
            Way::Underlay => State::Underlay,
            Way::Mesh => State::Mesh,
        };
        self.note(address, |_| state);
    }

    /// An address has answered on the routes with the mesh, and it is not known yet whether it does on the host's own. What
    /// it proved before holds; where it has proven nothing, the way on which it has just answered must not be taken away
    /// meanwhile.
    pub fn note_answer(&self, address: IpAddr) {
        self.note(address, |before| match before {
            State::Unknown | State::Silent => State::Tried,
            State::Tried | State::Underlay | State::Mesh => before,
        });
    }

    /// An address has answered on neither way. What it proved before holds: that it is down now says nothing about the
    /// way to it.
    pub fn note_silence(&self, address: IpAddr) {
        self.note(address, |before| if before == State::Unknown { State::Silent } else { before });
    }

    fn note(&self, address: IpAddr, after: impl Fn(State) -> State) {
        let address = address.to_canonical();
        // The way to ourselves is the same with and without a mesh.
        if address.is_loopback() {
            return;
        }
        self.0.send_if_modified(|known| {
            let before = known.get(&address).copied().unwrap_or_default();
            let after = after(before);
            if before == after {
                return false;
            }
            tracing::debug!(%address, ?before, ?after, "the way to an address");
            known.insert(address, after);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_takes_nothing_back() {
        let evidence = Evidence::default();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut seen = Vec::new();
        evidence.note_silence(address);
        seen.push(evidence.state(address));
        for way in [Way::Mesh, Way::Underlay, Way::Mesh] {
            evidence.prove(address, way);
            evidence.note_silence(address);
            seen.push(evidence.state(address));
        }
        assert_eq!(seen, [State::Silent, State::Mesh, State::Underlay, State::Mesh]);
    }

    #[test]
    fn what_answers_through_the_mesh_is_not_taken_away_while_the_other_way_is_tried() {
        let evidence = Evidence::default();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        evidence.note_answer(address);
        assert_eq!((evidence.state(address), evidence.proven().len()), (State::Tried, 0));
        evidence.prove(address, Way::Underlay);
        evidence.note_answer(address);
        assert_eq!(evidence.state(address), State::Underlay, "one slow connection takes nothing back");
    }

    #[test]
    fn only_changes_are_told() {
        let evidence = Evidence::default();
        let mut told = evidence.subscribe();
        let address: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        evidence.prove(address, Way::Underlay);
        assert!(told.has_changed().unwrap());
        assert_eq!(*told.borrow_and_update(), [("192.0.2.1".parse().unwrap(), State::Underlay)].into());
        evidence.prove(address, Way::Underlay);
        evidence.prove("127.0.0.53".parse().unwrap(), Way::Underlay);
        evidence.note_silence("::1".parse().unwrap());
        assert!(!told.has_changed().unwrap());
    }
}
