//! The topology of every golden cluster against what the Go `kgctl` printed for it: configurations and the graph,
//! byte for byte, and a refusal where it refused. (The binary itself is tested elsewhere, against an API server.)

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeSet, fs};

use mesh::{
    Perspective, Role, Topology,
    conf::{Conf, ConfPeer},
};

mod support;
use support::{Golden, goldens};

/// How many golden clusters there are.
const CLUSTERS: usize = 22;

/// What a golden file holds: the text, or the last line on stderr and the exit code.
#[derive(Debug, PartialEq)]
enum Printed {
    Text(String),
    Refused(String, i32),
}

impl Golden {
    fn printed(&self, file: &str) -> Printed {
        let read = |file: String| fs::read_to_string(self.folder.join("expected").join(file));
        match read(format!("{file}.err")) {
            Ok(error) => {
                let (message, code) = error.trim_end().split_once("\nrc=").unwrap_or((error.trim_end(), "0"));
                Printed::Refused(message.to_owned(), code.parse().unwrap())
            }
            Err(_) => Printed::Text(read(file.to_owned()).unwrap()),
        }
    }

    /// The texts in `expected/` that the pure level can say, with what it says.
    fn check(&self, topology: &Topology) -> BTreeSet<String> {
        let mut said = vec![("graph.dot".to_owned(), Printed::Text(topology.to_dot()))];
        for name in self.node_names() {
            let (conf, as_peer) = of_node(topology, &name);
            said.push((format!("node-{name}.conf"), conf));
            said.push((format!("node-{name}.as-peer.conf"), as_peer));
        }
        for name in self.peer_names() {
            let (conf, as_peer) = self.of_peer(topology, &name);
            said.push((format!("peer-{name}.conf"), conf));
            said.push((format!("peer-{name}.as-peer.conf"), as_peer));
        }
        for (file, text) in &said {
            assert_eq!(*text, self.printed(file), "{}: {file}", self.name);
        }
        said.into_iter().map(|(file, _)| file).collect()
    }

    /// A Peer's configuration is what the last node, by name, sees; as a peer it is what its object says, with all
    /// allowed IPs, also those that another peer claims.
    fn of_peer(&self, topology: &Topology, name: &str) -> (Printed, Printed) {
        let last = topology.nodes().map(|node| node.name.as_str()).max().unwrap();
        let Some(conf) = Perspective::of(topology, last).unwrap().peer_conf(name, &Default::default()) else {
            return refused(format!("did not find any peer named {name:?} in the cluster"), 1);
        };
        let peers = self.valid_peers();
        let peer = peers.iter().find(|peer| peer.name == name).unwrap();
        (
            Printed::Text(conf.to_string()),
            Printed::Text(ConfPeer::of_peer(peer, &Default::default()).unwrap().to_string()),
        )
    }
}

fn of_node(topology: &Topology, name: &str) -> (Printed, Printed) {
    match Perspective::of(topology, name) {
        None => refused(format!("did not find any node named {name:?} in the cluster"), 1),
        // The reference says so and ends well.
        Some(node) if node.role == Role::Member => refused(format!("Node {name:?} is not a leader node"), 0),
        Some(node) => {
            let conf =
                Conf { listen_port: Some(mesh::DEFAULT_PORT), peers: node.conf_peers(&Default::default()) };
            (Printed::Text(conf.to_string()), Printed::Text(node.as_peer().to_string()))
        }
    }
}

fn refused(message: String, code: i32) -> (Printed, Printed) {
    (Printed::Refused(message.clone(), code), Printed::Refused(message, code))
}

#[test]
fn what_kgctl_printed() {
    let goldens = goldens();
    assert_eq!(goldens.len(), CLUSTERS);
    for golden in goldens {
        let said = golden.check(&golden.topology());
        // Every text that is there was compared; JSON and YAML are forms of the same, made elsewhere.
        let files = fs::read_dir(golden.folder.join("expected")).unwrap();
        let there: BTreeSet<_> = files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|file| file.ends_with(".conf") || file.ends_with(".dot"))
            .collect();
        assert_eq!(said, there, "{}", golden.name);
    }
}
