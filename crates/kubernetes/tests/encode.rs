//! What an agent writes: only what changed, in texts that read back as what was meant.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use kubernetes::{
    NodeObject, PeerObject, PodCidrSource, annotations, decode_node, decode_peer,
    encode::{cleared, encode, patch},
};
use mesh::{
    Endpoint, Granularity, Host, PublicKey, Published,
    special::{check_address, check_host},
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn facts() -> Published {
    Published {
        endpoint: Some("203.0.113.1:51820".parse().unwrap()),
        internal_ips: vec!["10.1.0.1/16".parse().unwrap()],
        key: PublicKey::from_bytes([7; 32]).unwrap(),
        wireguard_ips: vec![],
        granularity: Granularity::Location,
        last_seen: 1_700_000_000,
        discovered_endpoints: BTreeMap::new(),
        cni_compatibility_ips: Vec::new(),
        pod_cidr_source: "node".to_owned(),
        settings: Default::default(),
    }
}

fn written(facts: &Published) -> BTreeMap<String, String> {
    encode(facts).into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

fn node_with(annotations: &BTreeMap<String, String>) -> NodeObject {
    let metadata = json!({ "name": "n", "annotations": annotations });
    serde_json::from_value(json!({ "metadata": metadata })).unwrap()
}

fn annotations_of(patch: &Value) -> Value {
    patch["metadata"]["annotations"].clone()
}

#[test]
fn only_what_changed_is_written() {
    let before = written(&facts());
    assert_eq!(patch(&before, &facts()), None);
    let later = Published { last_seen: 1_700_000_030, ..facts() };
    let change = patch(&before, &later).unwrap();
    assert_eq!(annotations_of(&change), json!({ "kilo.squat.ai/last-seen": "1700000030" }));
    let dual = Published {
        internal_ips: vec!["10.1.0.1/16".parse().unwrap(), "fd00::1/64".parse().unwrap()],
        ..facts()
    };
    let change = patch(&before, &dual).unwrap();
    assert_eq!(annotations_of(&change), json!({ "kilo.squat.ai/internal-ips": "10.1.0.1/16,fd00::1/64" }));
    let back = patch(&written(&dual), &facts()).unwrap();
    assert_eq!(annotations_of(&back), json!({ "kilo.squat.ai/internal-ips": null }));
}

#[test]
fn a_bare_node_gets_all_but_the_lists() {
    let change = patch(&BTreeMap::new(), &facts()).unwrap();
    let keys: Vec<_> = annotations_of(&change).as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys.len(), 8, "{keys:?}");
    assert!(!keys.iter().any(|key| key.ends_with("-ips")), "{keys:?}");
}

/// Who takes pod subnets from the Node looks as a Go agent does.
#[test]
fn another_source_of_pod_subnets_is_told() {
    let before = written(&facts());
    let calico = Published { pod_cidr_source: "calico".to_owned(), ..facts() };
    let change = patch(&before, &calico).unwrap();
    assert_eq!(annotations_of(&change), json!({ "kilo.squat.ai/pod-cidr-source": "calico" }));
    let back = patch(&written(&calico), &facts()).unwrap();
    assert_eq!(annotations_of(&back), json!({ "kilo.squat.ai/pod-cidr-source": null }));
}

#[test]
fn clean_up_removes_what_the_agent_wrote_and_nothing_else() {
    let removed = cleared();
    assert!(removed.values().all(Option::is_none));
    for key in encode(&facts()).keys() {
        assert!(removed.contains_key(*key), "{key}");
    }
    assert!(!removed.contains_key(annotations::LOCATION));
}

#[test]
fn discovered_endpoints_are_sorted_as_go_sorts() {
    // In base64 these begin with '+' and 'A': the text sorts one way, the bytes the other.
    let plus = PublicKey::from_bytes([0xfb; 32]).unwrap();
    let letter = PublicKey::from_bytes([1; 32]).unwrap();
    let address: SocketAddr = "192.0.2.5:1005".parse().unwrap();
    let facts = Published { discovered_endpoints: [(plus, address), (letter, address)].into(), ..facts() };
    let text = written(&facts)[annotations::DISCOVERED_ENDPOINTS].clone();
    let entry = r#"{"IP":"192.0.2.5","Port":1005,"Zone":""}"#;
    assert_eq!(text, format!(r#"{{"{plus}":{entry},"{letter}":{entry}}}"#));
}

// An agent writes only what others can use.
fn v4() -> impl Strategy<Value = IpAddr> + Clone {
    let any = any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from_bits(bits)));
    any.prop_filter("of use", |address| check_address(*address).is_ok())
}

/// Not the IPv4-mapped ones, which are IPv4 addresses to everybody who reads them.
fn v6() -> impl Strategy<Value = IpAddr> + Clone {
    let any = any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from_bits(bits)).to_canonical());
    any.prop_filter("of use", |address| check_address(*address).is_ok())
}

fn nets() -> impl Strategy<Value = Vec<IpNet>> + Clone {
    let net4 = (v4(), 0..=32u8).prop_map(|(ip, len)| IpNet::new(ip, len).unwrap());
    let net6 = (v6(), 0..=32u8).prop_map(|(ip, len)| IpNet::new(ip, len).unwrap());
    let both = (net4.clone(), net6.clone()).prop_map(|(a, b)| vec![a, b]);
    prop_oneof![
        Just(vec![]),
        net4.prop_map(|net| vec![net]),
        net6.prop_map(|net| vec![net]),
        both.clone(),
        both.prop_map(|nets| nets.into_iter().rev().collect()),
    ]
    .prop_filter("one per family, and of use", |nets: &Vec<IpNet>| {
        (nets.len() < 2 || nets[0].addr().is_ipv4() != nets[1].addr().is_ipv4())
            && nets.iter().all(|net| check_host(net).is_ok())
    })
}

fn keys() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_filter_map("no key", |bytes| PublicKey::from_bytes(bytes).ok())
}

fn sources() -> impl Strategy<Value = PodCidrSource> {
    use PodCidrSource::{Annotation, Calico, Cilium, Node};
    proptest::sample::select(vec![Node, Cilium, Calico, Annotation])
}

fn endpoints() -> impl Strategy<Value = Endpoint> {
    let name = "[a-z][a-z0-9]{0,9}(-[a-z0-9]{1,5})?(\\.[a-z]{1,8}){0,3}".prop_map(Host::Dns);
    let host = prop_oneof![v4().prop_map(Host::Ip), v6().prop_map(Host::Ip), name];
    (host, 1..=u16::MAX).prop_map(|(host, port)| Endpoint { host, port })
}

prop_compose! {
    fn any_facts()(
        endpoint in proptest::option::of(endpoints()),
        internal_ips in nets(),
        key in keys(),
        wireguard_ips in nets(),
        full in any::<bool>(),
        last_seen in any::<i64>(),
        discovered_endpoints in proptest::collection::btree_map(
            keys(),
            (prop_oneof![v4(), v6()], 1..=u16::MAX).prop_map(SocketAddr::from),
            0..4,
        ),
        cni in nets(),
        pod_cidr_source in sources(),
    ) -> Published {
        Published {
            endpoint,
            internal_ips,
            key,
            wireguard_ips,
            granularity: if full { Granularity::Full } else { Granularity::Location },
            last_seen,
            discovered_endpoints,
            cni_compatibility_ips: cni,
            settings: Default::default(),
            pod_cidr_source: pod_cidr_source.to_string(),
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_reads_back(facts in any_facts(), before in any_facts()) {
        // Over the annotations of before, as a merge patch would leave them.
        let mut annotations = written(&before);
        for (key, value) in encode(&facts) {
            match value {
                Some(value) => annotations.insert(key.to_owned(), value),
                None => annotations.remove(key),
            };
        }
        let object = node_with(&annotations);
        let (node, problems) = decode_node(&object, annotations::REGION_LABEL, facts.pod_cidr_source.parse().unwrap());
        prop_assert_eq!(problems, vec![]);
        prop_assert_eq!(Published::of(&node), Some(facts));
    }

    #[test]
    fn no_annotation_makes_decoding_panic(
        values in proptest::collection::btree_map(
            proptest::sample::select(ALL.to_vec()).prop_map(str::to_owned),
            prop_oneof![any::<String>(), "[0-9a-f:./,\\[\\]{}\" -]{0,60}"],
            0..20,
        ),
        pod_cidr in any::<String>(),
        source in sources(),
    ) {
        let metadata = json!({ "name": "n", "annotations": values });
        let object = json!({ "metadata": metadata, "spec": { "podCIDR": pod_cidr } });
        let object: NodeObject = serde_json::from_value(object).unwrap();
        let (node, problems) = decode_node(&object, annotations::REGION_LABEL, source);
        prop_assert_eq!(node.name, "n");
        for problem in problems {
            prop_assert!(problem.message.len() < 2000, "{}", problem);
        }
    }

    #[test]
    fn no_peer_makes_decoding_panic(
        texts in proptest::collection::vec(prop_oneof![any::<String>(), "[0-9a-f:./]{0,40}"], 5),
        numbers in any::<(i64, i64)>(),
        endpoint in any::<bool>(),
    ) {
        let mut spec = json!({
            "allowedIPs": [texts[0]], "publicKey": texts[1], "presharedKey": texts[2], "persistentKeepalive": numbers.0,
        });
        if endpoint {
            spec["endpoint"] = json!({ "dnsOrIP": { "dns": texts[3], "ip": texts[4] }, "port": numbers.1 });
        }
        let object = json!({ "metadata": { "name": "p" }, "spec": spec });
        let object: PeerObject = serde_json::from_value(object).unwrap();
        let (peer, problems) = decode_peer(&object);
        prop_assert!(peer.is_some() || !problems.is_empty());
    }
}

const ALL: [&str; 20] = [
    annotations::LOCATION,
    annotations::LEADER,
    annotations::FORCE_ENDPOINT,
    annotations::FORCE_EXTERNAL_IP,
    annotations::FORCE_INTERNAL_IP,
    annotations::PERSISTENT_KEEPALIVE,
    annotations::ALLOWED_LOCATION_IPS,
    annotations::ENDPOINT,
    annotations::INTERNAL_IP,
    annotations::INTERNAL_IPS,
    annotations::KEY,
    annotations::WIREGUARD_IP,
    annotations::WIREGUARD_IPS,
    annotations::GRANULARITY,
    annotations::LAST_SEEN,
    annotations::DISCOVERED_ENDPOINTS,
    annotations::CNI_COMPATIBILITY_IP,
    annotations::POD_CIDRS,
    annotations::POD_CIDR_SOURCE,
    "kilo.squat.ai/unknown",
];
