//! The access to all that is watched, and what of it has been told. What the objects say is not known here.

use mesh::{Object, Problem};

use super::Update;
use crate::explain::Explanation;

/// What is known of the watch of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Synced,
    Broken(Explanation),
}

impl State {
    fn explanation(&self) -> Option<&Explanation> {
        match self {
            State::Broken(why) => Some(why),
            State::Waiting | State::Synced => None,
        }
    }

    fn reason(&self) -> Option<&'static str> {
        self.explanation().map(|why| why.reason)
    }

    /// Whether all objects are known, or none can be for a reason that somebody has to mend first.
    pub fn is_settled(&self) -> bool {
        match self {
            State::Synced => true,
            State::Waiting => false,
            State::Broken(why) => why.is_of_definition() || why.reason == "Forbidden",
        }
    }
}

/// The access to all resources, and what of it has been told.
pub(super) struct Access {
    nodes: State,
    peers: State,
    /// What gives pod subnets besides Nodes; `Synced` from the beginning where nothing does.
    pub grants: State,
    /// Whether the last of [`Update::Synced`] and [`Update::Broken`] was the former.
    synced: bool,
    /// Whether all Peers have been told once, or why they cannot be.
    peers_settled: bool,
    /// The same of what gives pod subnets.
    grants_settled: bool,
    /// Whether what gives pod subnets has been read once.
    grants_read: bool,
    /// The reasons that were told last, of Nodes, Peers and what gives pod subnets.
    told: [Option<&'static str>; 3],
}

impl Access {
    pub fn new(with_grants: bool) -> Self {
        Self {
            nodes: State::Waiting,
            peers: State::Waiting,
            grants: if with_grants { State::Waiting } else { State::Synced },
            synced: false,
            peers_settled: false,
            grants_settled: false,
            grants_read: false,
            told: [None; 3],
        }
    }

    pub fn nodes(&mut self, state: State) -> Vec<Update> {
        let mut updates = Vec::new();
        if let State::Broken(why) = &state
            && self.nodes.reason() != Some(why.reason)
        {
            self.synced = false;
            updates.push(Update::Broken(problem(why)));
        }
        self.nodes = state;
        self.settle(updates)
    }

    pub fn peers(&mut self, state: State) -> Vec<Update> {
        self.peers = state;
        self.settle(Vec::new())
    }

    pub fn grants(&mut self, state: State) -> Vec<Update> {
        self.grants_read |= state == State::Synced;
        self.grants = state;
        self.settle(Vec::new())
    }

    fn settle(&mut self, mut updates: Vec<Update>) -> Vec<Update> {
        let states = [&self.nodes, &self.peers, &self.grants];
        let reasons = states.map(State::reason);
        if reasons != self.told {
            self.told = reasons;
            updates.push(Update::Access(self.problems()));
        }
        self.peers_settled |= self.peers.is_settled();
        self.grants_settled |= self.grants.is_settled();
        let complete = self.peers_settled && self.grants_settled;
        if complete && !self.synced && self.nodes == State::Synced {
            self.synced = true;
            updates.push(Update::Synced);
        }
        updates
    }

    fn problems(&self) -> Vec<Problem> {
        let grants = self.grants.explanation().map(|why| {
            let instead = match self.grants_read {
                true => "what was read before is kept",
                false => "until they are read, pod subnets are those of spec.podCIDRs",
            };
            Problem::new(Object::Host, why.reason, format!("{}; {instead}", why.message))
        });
        let others = [&self.nodes, &self.peers].into_iter().filter_map(State::explanation).map(problem);
        others.chain(grants).collect()
    }
}

fn problem(why: &Explanation) -> Problem {
    Problem::new(Object::Host, why.reason, why.message.clone())
}
