//! What this node announces of its addresses over time: what it announced before, also before the agent started, and how long
//! an address may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use hostnet::HostFacts;
use ipnet::IpNet;
use mesh::{
    Endpoint, Forced, Node,
    prefix::{Family, is_public},
};

use crate::discovery::{Candidates, Discovered, DiscoveryConfig, Memory};

/// How long an address that is gone is still announced. A cable that is plugged in again, a lease that is renewed and a service
/// that is restarted take a few seconds, and another address would end all sessions. Meanwhile others find this node as they do
/// any that roams: by the address that its packets come from.
const GRACE: Duration = Duration::from_secs(10);

/// What is announced, before anything is forced.
#[derive(Debug, Default)]
pub(crate) struct Announced {
    memory: Memory,
    /// Whether an agent before this one has announced something.
    remembered: bool,
    /// Whether this agent has chosen anything: from then on it knows by itself.
    chosen: bool,
    /// What of it is gone, and since when.
    gone: BTreeMap<IpAddr, Instant>,
}

impl Announced {
    /// Takes in what the own Node says that an agent announced before this one. What was forced was not chosen.
    pub fn remember(&mut self, node: &Node, forced: Option<&Forced>) {
        // Without a key no agent has announced anything.
        if self.chosen || node.key.is_none() {
            return;
        }
        self.remembered = true;
        let is_forced = forced.is_some_and(|forced| forced.endpoint.is_some());
        self.memory.endpoint = node.endpoint.as_ref().filter(|_| !is_forced).and_then(Endpoint::ip);
        self.memory.internal_ips = (!node.internal_ips_forced).then(|| node.internal_ips.clone());
    }

    /// Takes in the addresses that the Node's status names. Returns whether they are others than before.
    pub fn set_status(&mut self, addresses: &BTreeSet<IpAddr>) -> bool {
        let changed = self.memory.status != *addresses;
        if changed {
            self.memory.status.clone_from(addresses);
        }
        changed
    }

    /// The addresses of the hostname are known later than others: what was chosen for the first time without them is no reason
    /// to stay with it.
    pub fn reconsider(&mut self) {
        if !self.remembered {
            self.memory = Memory { status: std::mem::take(&mut self.memory.status), ..Memory::default() };
            self.gone.clear();
        }
    }

    /// What to announce now.
    pub fn choose(
        &mut self,
        facts: &HostFacts,
        pod_subnets: &[IpNet],
        config: &DiscoveryConfig,
        now: Instant,
    ) -> Discovered {
        let candidates = Candidates::of(facts, pod_subnets, config, &self.memory);
        let mut found = candidates.choose();
        let lost = |address: IpAddr| {
            // Before this agent chose anything, an address that does not qualify is a wrong choice of another one.
            !candidates.has(address) && (self.chosen || !is_there(facts, address))
        };
        let lost_endpoint = self.memory.endpoint.filter(|address| lost(*address));
        let lost_ips: Vec<IpNet> = self.memory.internal_ips.iter().flatten().copied().collect();
        let lost_ips: Vec<IpNet> = lost_ips.into_iter().filter(|net| lost(net.addr())).collect();
        let all = lost_ips.iter().map(IpNet::addr).chain(lost_endpoint);
        self.gone = all.map(|address| (address, self.gone.get(&address).copied().unwrap_or(now))).collect();
        let patient = |address: IpAddr| self.gone.get(&address).is_some_and(|since| now < *since + GRACE);
        if let Some(address) = lost_endpoint.filter(|address| patient(*address)) {
            found.endpoint = Some(Endpoint::from_ip(address, config.port));
        }
        let of = |list: &[IpNet], family| list.iter().copied().find(|net| Family::of_prefix(net) == family);
        let waiting: Vec<IpNet> = lost_ips.iter().copied().filter(|net| patient(net.addr())).collect();
        let kept = Family::ALL.map(|family| of(&waiting, family).or(of(&found.internal_ips, family)));
        found.internal_ips = kept.into_iter().flatten().collect();
        let chosen = found.addresses();
        self.memory.chosen = chosen
            .filter(|address| candidates.has(*address) || self.memory.chosen.contains(address))
            .collect();
        let is_preferred = |address: IpAddr| is_public(address) != config.prioritise_private;
        let vacant = &mut self.memory.vacant;
        vacant.endpoint |= lost_endpoint.is_some_and(is_preferred);
        vacant.endpoint &= !found.endpoint.as_ref().and_then(Endpoint::ip).is_some_and(is_preferred);
        for (family, vacant) in Family::ALL.into_iter().zip(&mut vacant.internal_ips) {
            *vacant |= of(&lost_ips, family).is_some();
            *vacant &= of(&found.internal_ips, family).is_none();
        }
        self.gone.retain(|_, since| now < *since + GRACE);
        self.memory.endpoint = found.endpoint.as_ref().and_then(Endpoint::ip);
        self.memory.internal_ips = Some(found.internal_ips.clone());
        self.chosen = true;
        found
    }

    /// How long until something that is gone is no longer announced.
    pub fn next_look(&self, now: Instant) -> Option<Duration> {
        Some((*self.gone.values().min()? + GRACE).saturating_duration_since(now))
    }
}

/// Whether a link that is running has an address.
fn is_there(facts: &HostFacts, address: IpAddr) -> bool {
    let mut running = facts.interfaces.values().filter(|interface| interface.running);
    running.any(|interface| interface.addresses.iter().any(|net| net.addr() == address))
}
