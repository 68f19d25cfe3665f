//! Whatever objects say, what is shown of them is plain text, and what is markup stays markup.

use std::sync::Arc;

use mesh::{
    Endpoint, Granularity, Host, Node, Object, Peer, Problem, PublicKey, Topology, TopologyConfig,
    text::{Plain, is_plain},
};
use proptest::prelude::*;
use reconciler::View;

use super::{health, svg};
use crate::metrics::{Metrics, Seen, classic};

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32]).unwrap()
}

/// A mesh in which every text that an object can bring is one of these.
fn topology(texts: &[String; 5]) -> Topology {
    let [first, location, second, peer, name] = texts;
    let node = |number: u8, name: &str| {
        Arc::new(Node {
            location: location.clone(),
            endpoint: Some(Endpoint { host: Host::Dns("vpn.example.com".to_owned()), port: 51820 }),
            key: Some(key(number)),
            internal_ips: vec![format!("10.0.0.{number}/24").parse().unwrap()],
            joins_without_pods: true,
            ..Node::named(name)
        })
    };
    let alone = Arc::new(Node { internal_ips: Vec::new(), ..(*node(3, name)).clone() });
    let peer = Peer {
        name: peer.clone(),
        created: 0,
        changed: false,
        key: key(9),
        allowed_ips: vec!["10.0.0.0/16".parse().unwrap()],
        endpoint: None,
        preshared_key: None,
        persistent_keepalive: 0,
    };
    let config = TopologyConfig {
        granularity: Granularity::Location,
        subnets: Default::default(),
        services: Vec::new(),
    };
    Topology::new(config, [node(1, first), node(2, second), alone], [peer])
}

fn view(texts: &[String; 5]) -> View {
    let topology = topology(texts);
    let own = texts.iter().flat_map(|text| {
        let foreign = Object::Foreign { kind: "CiliumNode", name: text.clone() };
        [Object::Node(text.clone()), Object::Peer(text.clone()), foreign]
            .map(|object| Problem::new(object, "Reason", text.clone()))
    });
    View {
        unhealthy: texts.to_vec(),
        problems: own.chain(topology.problems.iter().cloned()).collect(),
        topology: Some(Arc::new(topology)),
        ..View::default()
    }
}

fn assert_plain_lines(text: &str) {
    let odd = text.chars().find(|character| !is_plain(*character) && !matches!(character, '\n' | '\t'));
    assert_eq!(odd, None, "{text:?}");
}

/// Elements are closed in order, and every `&` begins an entity: XML as far as we write it.
fn assert_xml(text: &str) {
    let mut open = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        assert!(["svg", "style", "line", "rect", "text"].contains(&name), "{tag:?} in {text:?}");
        match tag {
            tag if tag.starts_with('/') => assert_eq!(open.pop(), Some(name), "{text:?}"),
            tag if tag.ends_with('/') => {}
            _ => open.push(name),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?} in {text:?}");
    for entity in text.split('&').skip(1) {
        assert!(["amp;", "lt;", "gt;"].iter().any(|known| entity.starts_with(known)), "{text:?}");
    }
}

/// Outside of its strings a graph holds nothing of an object, and they end where they should.
fn assert_dot(text: &str) {
    let mut inside = false;
    let mut outside = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if inside => {
                characters.next();
            }
            '"' => inside = !inside,
            other if !inside => outside.push(other),
            _ => {}
        }
    }
    assert!(!inside, "{text:?}");
    let words = "digraph kilo label labelloc outputorder nodesfirst overlap false dir both style dashed subgraph rank shape \
                 ellipse t 1";
    let words: Vec<&str> = words.split_whitespace().collect();
    for word in outside.split(|character: char| !character.is_alphanumeric()).filter(|word| !word.is_empty())
    {
        assert!(words.contains(&word), "{word:?} in {text:?}");
    }
}

/// Any text, and often one of those that somebody would try.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[\u{0}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}\u{200b}\u{feff}\u{fffe}<>&\"'\\\\]{0,12}",
        Just("\n- healthy\r\n\u{1b}]0;title\u{7}\u{1b}[31m".to_owned()),
        Just("</text><script>\u{0}&amp;".to_owned()),
        Just("\"]; evil -> \\".to_owned()),
    ]
}

proptest! {
    #[test]
    fn all_that_is_shown_is_plain(texts in prop::array::uniform5(text())) {
        let view = view(&texts);
        let topology = view.topology.clone().unwrap();
        let unhealthy = &view.unhealthy;

        let page = health::text(unhealthy, &view);
        assert_plain_lines(&page);
        // Nobody adds a line.
        prop_assert_eq!(page.lines().count(), 2 + unhealthy.len() + view.problems.len());
        let document = health::document(unhealthy, &view).to_string();
        prop_assert!(document.chars().all(is_plain), "{document:?}");

        let dot = topology.to_dot();
        assert_plain_lines(&dot);
        assert_dot(&dot);
        let picture = svg::draw(&topology);
        assert_plain_lines(&picture);
        assert_xml(&picture);

        for problem in view.problems.iter() {
            prop_assert!(problem.to_string().chars().all(is_plain));
            // Events hold the message as it is.
            prop_assert!(problem.message.chars().all(is_plain));
        }
        prop_assert!(Plain(&texts[0]).to_string().chars().all(is_plain));

        let metrics = Metrics::new();
        metrics.update(&view);
        metrics.see(Seen { topology: Some(topology), ..Seen::default() });
        assert_plain_lines(&classic(&metrics.open_metrics()));
    }
}
