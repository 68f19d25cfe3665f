//! Which hosts have a WireGuard session with each other, and the endpoints that they learn by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh::PublicKey;

use super::agent::Agent;

/// Everyone tries a handshake with all peers.
///
/// One reaches another when it sends to where the other is seen from outside, and the other is not behind NAT or
/// sends to it too. The answer goes back the same way, so both then know where the other is.
pub fn update(agents: &mut [Agent], cut: &BTreeSet<(usize, usize)>, time: Duration) {
    let by_key: BTreeMap<PublicKey, usize> =
        agents.iter().enumerate().filter_map(|(index, agent)| Some((agent.kernel_key()?, index))).collect();
    let mut met = Vec::new();
    for (a, agent) in agents.iter().enumerate() {
        for key in agent.tunnels() {
            // Every pair once.
            let Some(&b) = by_key.get(key).filter(|b| **b > a) else { continue };
            let other = &agents[b];
            let together = !cut.contains(&(a, b)) && other.sends_to(agent).is_some();
            if together && (reaches(agent, other) || reaches(other, agent)) {
                met.push((a, b));
            }
        }
    }
    for (a, b) in met {
        let (first, second) = agents.split_at_mut(b);
        let (a, b) = (&mut first[a], &mut second[0]);
        a.meet(b.kernel_key(), b.outside, time);
        b.meet(a.kernel_key(), a.outside, time);
    }
}

fn reaches(from: &Agent, to: &Agent) -> bool {
    from.sends_to(to) == Some(Some(to.outside)) && (!to.nat || to.sends_to(from) == Some(Some(from.outside)))
}
