//! The embedded WireGuard device behind the data plane, and the same kind of device of another process.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    os::unix::net::{UnixListener, UnixStream},
    thread,
};

use dataplane::{Backend, Config, DataPlane, WireguardChoice};
use hostnet::{Address, Change, HostState, Wireguard, WireguardPeer, plan, plan::DeviceSettings};
use mesh::{PresharedKey, PrivateKey, PublicKey};
use support::*;

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_random([seed; 32])
}

fn peer(allowed_ips: &[&str]) -> WireguardPeer {
    WireguardPeer {
        allowed_ips: allowed_ips.iter().map(|net| net.parse().unwrap()).collect(),
        ..WireguardPeer::default()
    }
}

const MARK: u32 = 0x10;

fn state(port: u16, peers: BTreeMap<PublicKey, WireguardPeer>) -> HostState {
    let mut state = with_interface();
    state.wireguard = Some(Wireguard { private_key: Some(key(1)), listen_port: port, mark: MARK, peers });
    state
}

#[test]
fn peers_come_change_and_go() {
    in_namespace(async || {
        let mut plane = open().await;
        assert_eq!(plane.backend().to_string(), "embedded");
        let (a, b) = (key(2).public_key(), key(3).public_key());
        let endpoint: Option<SocketAddr> = Some("[2001:db8::1]:51820".parse().unwrap());
        let rich = WireguardPeer {
            endpoint,
            persistent_keepalive: 25,
            preshared_key: PresharedKey::from_bytes([9; 32]),
            ..peer(&["10.2.1.0/24", "fd02::/64"])
        };
        let steps = [
            BTreeMap::from([(a, peer(&["10.2.1.0/24", "10.4.0.2/32"])), (b, peer(&["10.2.2.0/24"]))]),
            // A prefix moves from one peer to the other, and another goes.
            BTreeMap::from([(a, peer(&[])), (b, peer(&["10.2.2.0/24", "10.2.1.0/24"]))]),
            BTreeMap::from([(a, rich.clone()), (b, peer(&["10.2.2.0/24"]))]),
            BTreeMap::from([(a, WireguardPeer { preshared_key: None, persistent_keepalive: 0, ..rich })]),
            BTreeMap::new(),
        ];
        for peers in steps {
            reach(&mut plane, &state(51820, peers.clone())).await;
            let observed = plane.observe().await.unwrap().host.wireguard.unwrap();
            let expected = Wireguard { private_key: Some(key(1)), listen_port: 51820, mark: MARK, peers };
            assert_eq!(observed, expected);
        }
        reach(&mut plane, &state(51999, BTreeMap::new())).await;
    });
}

/// The key file may hold a key whose bits WireGuard changes.
#[test]
fn a_key_that_is_not_clamped_is_set_once() {
    in_namespace(async || {
        let mut plane = open().await;
        let mut desired = state(51820, BTreeMap::new());
        desired.wireguard.as_mut().unwrap().private_key = Some(PrivateKey::from_bytes([0xff; 32]));
        reach(&mut plane, &desired).await;
    });
}

#[test]
fn a_device_whose_interface_was_removed_is_made_again() {
    in_namespace(async || {
        let mut plane = open().await;
        let desired = state(51820, BTreeMap::from([(key(2).public_key(), peer(&["10.2.1.0/24"]))]));
        reach(&mut plane, &desired).await;
        run("ip link del kilo0");
        // Not at once, here and below: a process that another test starts at this very moment holds the old device's
        // interface and port until it runs its program.
        eventually("the device is there again", async || {
            let changes = plan(&plane.observe().await.unwrap().host, &desired);
            if changes.is_empty() { Ok(()) } else { Err(plane.apply(&changes).await) }
        })
        .await;
        drop(plane);
        eventually("the interface is gone with the data plane", async || {
            let output = attempt("ip link show kilo0");
            if output.status.success() { Err(output) } else { Ok(()) }
        })
        .await;
    });
}

#[test]
fn two_hosts_ping_each_other_and_the_handshake_is_seen() {
    in_namespace(async || {
        let other = Namespace::new();
        run(&format!("ip link add eth0 type veth peer name eth0 netns {}", other.0));
        run("ip addr add 192.0.2.1/24 dev eth0; ip link set eth0 up");
        run(&format!("ip -n {0} addr add 192.0.2.2/24 dev eth0; ip -n {0} link set eth0 up", other.0));
        let config =
            Config { interface: name(KILO), wireguard: WireguardChoice::Embedded, serve_uapi: false };
        let mut there = other.inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(DataPlane::open(config)).unwrap()
        });
        let mut here = open().await;
        for (plane, own, far, address) in
            [(&mut here, 1, 2, "10.4.0.1/16"), (&mut there, 2, 1, "10.4.0.2/16")]
        {
            let peer = WireguardPeer {
                endpoint: Some(format!("192.0.2.{far}:51820").parse().unwrap()),
                ..peer(&[&format!("10.4.0.{far}/32")])
            };
            let mut desired = state(51820, BTreeMap::from([(key(far).public_key(), peer)]));
            desired.wireguard.as_mut().unwrap().private_key = Some(key(own));
            desired.addresses = [Address { link: name(KILO), net: address.parse().unwrap() }].into();
            reach(plane, &desired).await;
        }
        run("ping -c 2 -W 5 -i 0.2 10.4.0.2");
        let handshakes = here.observe().await.unwrap().handshakes;
        let handshake = handshakes[&key(2).public_key()];
        assert!(handshake.is_alive() && handshake.received > 0 && handshake.sent > 0, "{handshake:?}");
        assert_eq!(handshake.endpoint, Some("192.0.2.2:51820".parse().unwrap()));
    });
}

/// With `--create-interface=false`: the interface is another program's, here a device that this test makes.
#[test]
fn an_existing_device_is_configured_over_its_socket() {
    in_namespace(async || {
        let interface = format!("wg-{}", std::process::id() % 1_000_000);
        let mut device = tunnel::Config::named(interface.as_str());
        device.uapi = true;
        let device = tunnel::Device::create(device).unwrap();
        let config =
            Config { interface: name(&interface), wireguard: WireguardChoice::Existing, serve_uapi: false };
        let mut plane = DataPlane::open(config).await.unwrap();
        assert_eq!(plane.backend(), Backend::Uapi);
        let (a, b) = (key(2).public_key(), key(3).public_key());
        let mut desired = HostState::default();
        let link = hostnet::Link { managed: false, mtu: None, ..with_interface().links[&name(KILO)].clone() };
        desired.links = [(name(&interface), link)].into();
        for peers in [
            BTreeMap::from([(a, peer(&["10.2.1.0/24", "10.4.0.2/32"])), (b, peer(&["10.2.2.0/24"]))]),
            BTreeMap::from([(a, peer(&["10.4.0.2/32"])), (b, peer(&["10.2.2.0/24", "10.2.3.0/24"]))]),
            BTreeMap::from([(b, peer(&["10.4.0.2/32"]))]),
        ] {
            desired.wireguard =
                Some(Wireguard { private_key: Some(key(1)), listen_port: 51820, mark: MARK, peers });
            reach(&mut plane, &desired).await;
        }
        assert_eq!((device.state().peers.len(), device.state().fwmark), (1, MARK));
        // It is not ours to remove.
        let observed = plane.observe().await.unwrap().host;
        let rest = plan(&observed, &HostState::default());
        assert!(!rest.iter().any(|change| matches!(change, Change::RemoveLink(..))), "{rest:?}");
    });
}

/// Takes the place of a device's socket and refuses every request for a mark, as a device does that knows none.
fn refuse_marks(interface: &str) {
    let path = format!("/var/run/wireguard/{interface}.sock");
    let behind = format!("{path}.behind");
    std::fs::rename(&path, &behind).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut request) = (client.unwrap(), Vec::new());
            while !request.ends_with(b"\n\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            if request.windows(7).any(|window| window == b"fwmark=") {
                client.write_all(b"errno=-22\n\n").unwrap();
                continue;
            }
            let mut device = UnixStream::connect(&behind).unwrap();
            device.write_all(&request).unwrap();
            device.shutdown(Shutdown::Write).unwrap();
            std::io::copy(&mut device, &mut client).unwrap();
        }
    });
}

#[test]
fn a_device_that_refuses_a_mark_is_configured_without_it() {
    in_namespace(async || {
        let interface = format!("wr-{}", std::process::id() % 1_000_000);
        let device = tunnel::Config { uapi: true, ..tunnel::Config::named(interface.as_str()) };
        let device = tunnel::Device::create(device).unwrap();
        refuse_marks(&interface);
        let config =
            Config { interface: name(&interface), wireguard: WireguardChoice::Existing, serve_uapi: false };
        let mut plane = DataPlane::open(config).await.unwrap();
        let link = hostnet::Link { managed: false, mtu: None, ..with_interface().links[&name(KILO)].clone() };
        let mut desired = state(51820, BTreeMap::from([(key(2).public_key(), peer(&["10.2.1.0/24"]))]));
        desired.links = [(name(&interface), link)].into();
        // Nothing fails, and nothing is left to do.
        reach(&mut plane, &desired).await;
        let found = device.state();
        assert_eq!((found.listen_port, found.peers.len(), found.fwmark), (51820, 1, 0));
        // What somebody else sets is seen all the same.
        device.set_fwmark(7).unwrap();
        assert_eq!(plane.observe().await.unwrap().host.wireguard.unwrap().mark, 7);
        std::fs::remove_file(format!("/var/run/wireguard/{interface}.sock.behind")).unwrap();
    });
}

/// A mark that comes and goes leaves sessions and endpoints alone, and stays with a new port.
#[test]
fn a_mark_is_set_changed_and_taken_away() {
    in_namespace(async || {
        let mut plane = open().await;
        for (mark, port) in [(0, 51820), (0x10, 51820), (0x10, 51821), (0x70, 51822), (0, 51822)] {
            let mut desired = state(port, BTreeMap::from([(key(2).public_key(), peer(&["10.2.1.0/24"]))]));
            desired.wireguard.as_mut().unwrap().mark = mark;
            reach(&mut plane, &desired).await;
            let observed = plane.observe().await.unwrap().host.wireguard.unwrap();
            assert_eq!((observed.mark, observed.listen_port), (mark, port));
        }
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    in_namespace(async || {
        let open = async |wireguard| {
            let config = Config { interface: name("absent0"), wireguard, serve_uapi: false };
            DataPlane::open(config).await.map(|plane| plane.backend())
        };
        let error = open(WireguardChoice::Existing).await.unwrap_err().to_string();
        assert_eq!(error, "there is no interface absent0");
        run("ip link add absent0 type bridge");
        let error = open(WireguardChoice::Existing).await.unwrap_err().to_string();
        assert!(error.contains("neither over netlink nor over its UAPI socket"), "{error}");
        match open(WireguardChoice::Kernel).await {
            Ok(backend) => assert_eq!(backend, Backend::Kernel),
            Err(error) => assert!(error.to_string().contains("load the module wireguard"), "{error}"),
        }
    });
}

#[test]
fn secrets_do_not_reach_errors() {
    in_namespace(async || {
        let mut plane = open().await;
        let settings = DeviceSettings { private_key: key(7), listen_port: 51820, mark: MARK };
        let change = Change::SetWireguard(name(KILO), settings);
        let failure = plane.apply(&[change]).await.pop().unwrap();
        let secret = key(7).expose_base64();
        for text in [failure.to_string(), format!("{failure:?}"), format!("{plane:?}")] {
            assert!(!text.contains(secret.as_str()) && !text.contains("7, 7, 7"), "{text}");
        }
        assert!(failure.to_string().contains("there is no interface kilo0"), "{failure}");
    });
}

/// Without CAP_NET_ADMIN the answer says which capability is missing.
#[test]
fn a_missing_capability_is_named() {
    in_namespace(async || {
        underlay();
        let sets = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        // For this thread, and the thread that it starts.
        rustix::thread::set_capabilities(None, sets).unwrap();
        let mut plane = open().await;
        let changes = [
            Change::SetRoute(route("10.7.0.0/24", Some("10.1.0.2"), "eth0")),
            Change::SetFirewall(Box::default()),
            Change::CreateLink(name(KILO), with_interface().links[&name(KILO)].clone()),
        ];
        let failures = plane.apply(&changes).await;
        let text: Vec<String> = failures.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text.iter().all(|text| text.contains("CAP_NET_ADMIN")), "{text:?}");
    });
}
