//! What goes wrong, and how all of it is put right again.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use mesh::{Node, Peer, PrivateKey};

use super::Simulation;

/// How many kinds of trouble there are.
const KINDS: u64 = 17;

impl Simulation {
    /// One thing goes wrong, or changes.
    pub(super) fn trouble(&mut self) {
        let kind = self.random.below(KINDS);
        let index = self.random.below(self.agents.len() as u64) as usize;
        let name = self.agents[index].name.clone();
        let what = match kind {
            0 => format!("node {} joins", self.join()),
            1 => self.leave(index),
            2 | 3 => self.toggle_power(index),
            4 | 5 => self.toggle_agent(index),
            6 => {
                self.agents[index].isolated ^= true;
                format!("{name} reaches the API: {}", !self.agents[index].isolated)
            }
            7 => {
                self.api.away ^= true;
                format!("the API is away: {}", self.api.away)
            }
            8 => self.move_node(index),
            9 => {
                self.api.edit_node(self.time, &name, |node| node.leader ^= true);
                format!("{name} is asked to lead, or no longer")
            }
            10 => {
                let seconds = 25 * self.random.below(2) as u16;
                self.api.edit_node(self.time, &name, |node| node.persistent_keepalive = seconds);
                format!("{name} keeps alive every {seconds} s")
            }
            11 => self.change_peer(),
            12 => self.change_key(index),
            13 => {
                self.agents[index].skew = self.random.below(200_000) as i64 - 100_000;
                format!("the clock of {name} is {} s ahead", self.agents[index].skew)
            }
            14 => self.cut_off(index),
            15 => self.change_location_ips(index),
            _ => self.recreate(index),
        };
        self.log.push(format!("{:?}: {what}", self.time));
    }

    /// Everything works again, and everyone who has not left is there.
    pub(super) fn heal(&mut self) {
        self.log.push(format!("{:?}: healed", self.time));
        self.api.away = false;
        self.cut.clear();
        for index in 0..self.agents.len() {
            let there = self.api.node(&self.agents[index].name).is_some();
            let agent = &mut self.agents[index];
            agent.isolated = false;
            agent.on = there;
            if there && !agent.is_running() {
                agent.start(self.time);
            }
        }
    }

    fn leave(&mut self, index: usize) -> String {
        if self.truth().len() < 4 {
            return "nothing".to_owned();
        }
        self.agents[index].turn_off();
        self.api.delete_node(self.time, &self.agents[index].name);
        format!("{} leaves", self.agents[index].name)
    }

    fn toggle_power(&mut self, index: usize) -> String {
        let agent = &mut self.agents[index];
        if agent.on {
            agent.turn_off();
        } else if self.api.node(&agent.name).is_some() {
            agent.on = true;
            agent.start(self.time);
        }
        format!("{} is on: {}", agent.name, agent.on)
    }

    fn toggle_agent(&mut self, index: usize) -> String {
        let agent = &mut self.agents[index];
        if agent.is_running() {
            agent.stop();
        } else if agent.on {
            agent.start(self.time);
        }
        format!("the agent of {} runs: {}", agent.name, agent.is_running())
    }

    fn move_node(&mut self, index: usize) -> String {
        let location = format!("location-{:04}", self.random.below(self.scenario.locations as u64));
        let agent = &mut self.agents[index];
        agent.site.clone_from(&location);
        self.api.edit_node(self.time, &agent.name, |node| node.location.clone_from(&location));
        format!("{} moves to {location}", agent.name)
    }

    fn change_peer(&mut self) -> String {
        let number = self.random.below(self.peers_made as u64 + 1) as usize;
        let name = format!("peer-{number}");
        if number == self.peers_made {
            self.peers_made += 1;
        } else if self.random.chance(50) {
            self.api.set_peer(self.time, &name, None);
            return format!("{name} is gone");
        }
        let address = Ipv4Addr::from([10, 5, self.random.below(2) as u8, number as u8]);
        let peer = Peer {
            name: name.clone(),
            created: 0,
            changed: false,
            key: PrivateKey::from_random(self.random.bytes()).public_key(),
            allowed_ips: vec![IpNet::from(std::net::IpAddr::from(address))],
            endpoint: None,
            preshared_key: None,
            persistent_keepalive: 0,
        };
        self.api.set_peer(self.time, &name, Some(peer));
        format!("{name} has {address}")
    }

    fn change_key(&mut self, index: usize) -> String {
        let key = PrivateKey::from_random(self.random.bytes());
        let agent = &mut self.agents[index];
        agent.set_key(key);
        if agent.is_running() {
            agent.start(self.time);
        }
        format!("{} gets another key", agent.name)
    }

    fn cut_off(&mut self, index: usize) -> String {
        let other = self.random.below(self.agents.len() as u64) as usize;
        self.cut.insert((index.min(other), index.max(other)));
        format!("{} and {} do not reach each other", self.agents[index].name, self.agents[other].name)
    }

    fn change_location_ips(&mut self, index: usize) -> String {
        // Some are claimed by several locations, some lie in others.
        let nets = ["192.168.0.0/24", "192.168.0.0/16", "192.168.7.0/24", "192.168.9.9/32"];
        let net: Option<IpNet> = self.random.pick(&nets).and_then(|net| net.parse().ok());
        let name = &self.agents[index].name;
        let nets: Vec<IpNet> = net.into_iter().filter(|_| self.random.chance(70)).collect();
        self.api.edit_node(self.time, name, |node| node.allowed_location_ips.clone_from(&nets));
        format!("{name} has the location IPs {nets:?}")
    }

    /// The Node is deleted and registers again, without what the agent wrote.
    fn recreate(&mut self, index: usize) -> String {
        let name = self.agents[index].name.clone();
        if let Some(node) = self.api.node(&name).cloned() {
            self.api.delete_node(self.time, &name);
            let fresh = Node {
                location: node.location.clone(),
                pod_subnets: node.pod_subnets.clone(),
                persistent_keepalive: node.persistent_keepalive,
                ..Node::named(&name)
            };
            self.api.set_node(self.time, fresh);
        }
        format!("{name} is created anew")
    }
}
