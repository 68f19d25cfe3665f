//! Debian's `wg(8)` and our own client on devices with a UAPI socket. Needs root, /dev/net/tun and wireguard-tools.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use tunnel::uapi::{Client, socket_path};
use tunnel::{AllowedIpsChange, DeviceChange, DeviceState, Error, PeerChange, PeerSettings};

use common::{End, eventually, key, peer, run, transfer, tunnel_over, unique};

const SECOND_KEY: &str = "AwQAAAMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA0M=";

/// A file for `wg`, removed with this value.
struct Conf(String);

impl Conf {
    fn new(text: &str) -> Self {
        let path = format!("/tmp/{}", unique("kg-tunnel-test-"));
        fs::write(&path, text).expect("a file in /tmp");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our file");
        Self(path)
    }
}

impl Drop for Conf {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("{}: {error}", self.0);
        }
    }
}

/// The lines of `wg show … dump` as fields, without the first line.
fn dump(end: &End) -> Vec<Vec<String>> {
    let text = run(&format!("wg show {} dump", end.interface));
    text.lines().skip(1).map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn reach(from: &End, to: &str) {
    eventually(&format!("an answer from {to}"), || from.namespace.ping(to));
    from.namespace.run(&format!("ping -n -c 3 -i 0.01 -W 2 {to}"));
}

#[test]
fn wg_show_tells_what_the_device_does() {
    let (a, b) = tunnel_over("192.0.2.2", true);
    reach(&a, "10.9.0.2");
    let lines = dump(&a);
    let fields: Vec<&str> = lines[0].iter().map(String::as_str).collect();
    let [public, preshared, endpoint, allowed, handshake, rx, tx, keepalive] = fields[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(public, b.public.to_string());
    assert_eq!((preshared, keepalive), ("(none)", "off"));
    assert_eq!(endpoint, format!("192.0.2.2:{}", b.port()));
    assert_eq!(allowed, "10.9.0.2/32,fd09::2/128");
    for number in [handshake, rx, tx] {
        assert_ne!(number.parse::<u64>().expect("a number"), 0, "{lines:?}");
    }
    let port = run(&format!("wg show {} listen-port", a.interface));
    assert_eq!(port.trim(), a.port().to_string());
}

#[test]
fn wg_set_changes_single_things_and_the_session_goes_on() {
    let (a, b) = tunnel_over("192.0.2.2", true);
    reach(&a, "10.9.0.2");
    let (name, peer) = (&b.interface, a.public);
    let learned = b.device.state().peers[0].endpoint;
    run(&format!(
        "wg set {name} peer {peer} persistent-keepalive 1 allowed-ips 10.9.0.1/32,fd09::1/128,10.50.0.0/16"
    ));
    let state = b.device.state().peers[0].clone();
    assert_eq!((state.keepalive, state.allowed_ips.len()), (1, 3));
    assert_eq!(state.endpoint, learned, "the learned endpoint stays");
    // Keepalives come, under the session there was.
    let before = a.device.state().peers[0].clone();
    let after = eventually("a keepalive", || {
        let now = a.device.state().peers[0].clone();
        if now.rx_bytes >= before.rx_bytes + 32 { Ok(now) } else { Err(format!("{now:?}")) }
    });
    assert_eq!(after.last_handshake, before.last_handshake);
    // A preshared key at both ends takes effect without losing the endpoint.
    let psk = Conf::new("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=\n");
    run(&format!("wg set {name} peer {peer} preshared-key {}", psk.0));
    run(&format!("wg set {} peer {} preshared-key {}", a.interface, b.public, psk.0));
    eventually("a handshake with the new key", || {
        let now = a.device.state().peers[0].clone();
        if now.last_handshake > after.last_handshake { Ok(()) } else { Err(format!("{now:?}")) }
    });
    reach(&a, "10.9.0.2");
    assert_eq!(b.device.state().peers[0].endpoint, learned);
    run(&format!("wg set {name} fwmark 0x20 listen-port 0"));
    assert_eq!(b.device.state().fwmark, 0x20);
    run(&format!("wg set {name} peer {peer} remove"));
    assert!(b.device.state().peers.is_empty());
}

#[test]
fn wg_syncconf_and_setconf_and_showconf_agree() {
    let (a, b) = tunnel_over("192.0.2.2", true);
    reach(&a, "10.9.0.2");
    let shown = run(&format!("wg showconf {}", a.interface));
    let before = a.device.state().peers[0].clone();
    let more = format!("{shown}\n[Peer]\nPublicKey = {SECOND_KEY}\nAllowedIPs = 10.60.0.0/16\n");
    let conf = Conf::new(&more);
    run(&format!("wg syncconf {} {}", a.interface, conf.0));
    let peers = a.device.state().peers;
    assert_eq!(peers.len(), 2);
    let same = peers.iter().find(|peer| peer.key == b.public).expect("the first peer is still there");
    assert_eq!(same.last_handshake, before.last_handshake, "synchronising keeps the session");
    let conf = Conf::new(&shown);
    run(&format!("wg setconf {} {}", a.interface, conf.0));
    assert_eq!(a.device.state().peers.len(), 1);
    assert_eq!(run(&format!("wg showconf {}", a.interface)), shown);
    reach(&a, "10.9.0.2");
}

/// A link-local address means nothing without its interface.
#[test]
fn a_peer_may_be_at_a_link_local_address() {
    let (a, b) = tunnel_over("192.0.2.2", true);
    a.ip("addr add fe80::a1/64 dev ve0 nodad");
    b.ip("addr add fe80::b2/64 dev ve0 nodad");
    b.ip("addr del 192.0.2.2/24 dev ve0");
    let at = |zone: &str| format!("peer {} endpoint [fe80::b2%{zone}]:{}", b.public, b.port());
    a.namespace.run(&format!("wg set {} {}", a.interface, at("ve0")));
    let shown = a.namespace.run(&format!("wg show {} endpoints", a.interface));
    assert!(shown.contains("[fe80::b2%ve0]:"), "{shown}");
    reach(&a, "10.9.0.2");
    let learned = b.namespace.run(&format!("wg show {} endpoints", b.interface));
    assert!(learned.contains("[fe80::") && learned.contains("%ve0]:"), "{learned}");
    reach(&b, "10.9.0.1");
    let seen = Client::new(&a.interface).get().expect("the device answers").peers[0].endpoint;
    assert_eq!(seen, a.device.state().peers[0].endpoint);
    let refused = a.namespace.try_run(&format!("wg set {} {}", a.interface, at("nowhere")));
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn a_port_in_use_is_refused_and_the_old_one_stays() {
    let (a, b) = tunnel_over("192.0.2.2", true);
    reach(&a, "10.9.0.2");
    let (port, interface) = (a.port(), &a.interface);
    let taken = a.namespace.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
    let taken = taken.local_addr().map(|address| (address.port(), taken)).expect("a bound socket");
    let problem = a
        .namespace
        .try_run(&format!("wg set {interface} listen-port {} fwmark 7", taken.0))
        .expect_err("the port is taken");
    assert!(problem.contains("Address already in use"), "{problem}");
    let state = a.device.state();
    assert_eq!((state.listen_port, state.fwmark), (port, 0), "nothing of the request was done");
    reach(&b, "10.9.0.1");
    drop(taken.1);
    a.namespace.run(&format!("wg set {interface} listen-port {}", taken.0));
    assert_eq!(a.port(), taken.0);
    reach(&a, "10.9.0.2");
}

#[test]
fn a_wrong_file_changes_nothing() {
    let (a, _b) = tunnel_over("192.0.2.2", true);
    let before = format!("{:?}", a.device.state());
    for text in [
        "[Peer]\nPublicKey = AAAA\n".to_owned(),
        format!("[Peer]\nPublicKey = {SECOND_KEY}\nAllowedIPs = 10.0.0.0/33\n"),
        format!("[Peer]\nPublicKey = {SECOND_KEY}\n[Interface]\nNonsense = 1\n"),
        "no section".to_owned(),
    ] {
        let conf = Conf::new(&text);
        for command in ["syncconf", "setconf", "addconf"] {
            let result = a.namespace.try_run(&format!("wg {command} {} {}", a.interface, conf.0));
            assert!(result.is_err(), "{command} of {text:?}: {result:?}");
        }
    }
    assert_eq!(format!("{:?}", a.device.state()), before);
}

/// What the device answers to another client, sooner or later: a debug build on a busy machine takes its time.
fn answer(interface: &str) -> DeviceState {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Client::new(interface).get() {
            Ok(state) => return state,
            Err(error) => assert!(Instant::now() < deadline, "no answer within a minute: {error}"),
        }
    }
}

/// As many as may be served at once, and more.
#[test]
fn clients_that_do_not_finish_or_do_not_read_block_nobody() {
    let (a, b) = tunnel_over("192.0.2.2", true);
    let many = (100..2100).map(|number| PeerChange::Set(peer(key(number).public_key(), None, &[])));
    a.device.apply(&many.collect::<Vec<_>>()).expect("the device works");
    let connect = || UnixStream::connect(socket_path(&a.interface)).expect("the socket is served");
    let unfinished: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"set=1\nlisten_p").expect("the server reads");
            stream
        })
        .collect();
    assert_eq!(answer(&a.interface).peers.len(), 2001);
    drop(unfinished);
    let unread: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(&b"get=1\n\n".repeat(50)).expect("the server reads");
            stream
        })
        .collect();
    assert_eq!(answer(&a.interface).peers.len(), 2001);
    // Whoever reads late gets everything, too.
    let mut late = unread.into_iter().next().expect("there are twenty");
    late.shutdown(std::net::Shutdown::Write).expect("a socket");
    let mut answers = String::new();
    late.read_to_string(&mut answers).expect("text");
    assert_eq!(answers.matches("errno=0\n\n").count(), 50);
    reach(&a, "10.9.0.2");
    drop(b);
}

#[test]
fn many_clients_at_once_are_all_served() {
    let (a, _b) = tunnel_over("192.0.2.2", true);
    thread::scope(|scope| {
        for number in 10..410u32 {
            let interface = &a.interface;
            scope.spawn(move || {
                let settings =
                    peer(key(number).public_key(), None, &[&format!("10.{}.0.0/16", number % 200)]);
                let change =
                    DeviceChange { peers: vec![PeerChange::Set(settings)], ..DeviceChange::default() };
                for _ in 0..3 {
                    Client::new(interface).set(&change).expect("the device takes it");
                }
            });
        }
    });
    let peers = a.device.state().peers;
    assert_eq!(peers.len(), 401);
    let prefixes: Vec<_> = peers.iter().flat_map(|peer| &peer.allowed_ips).collect();
    let distinct: std::collections::BTreeSet<_> = prefixes.iter().collect();
    assert_eq!(prefixes.len(), distinct.len(), "no prefix has two owners");
}

#[test]
fn a_request_without_end_is_cut_off() {
    let (a, _b) = tunnel_over("192.0.2.2", true);
    let mut stream = UnixStream::connect(socket_path(&a.interface)).expect("the socket is served");
    let line = b"x".repeat(1 << 20);
    let sent = (0..200).take_while(|_| stream.write_all(&line).is_ok()).count();
    assert!((60..80).contains(&sent), "cut off after {sent} MiB");
    reach(&a, "10.9.0.2");
    answer(&a.interface);
}

#[test]
fn our_client_drives_a_device() {
    let (a, b) = tunnel_over("192.0.2.2", true);
    let client = Client::new(&a.interface);
    let added = key(50).public_key();
    let settings = PeerSettings {
        preshared_key: Some([8; 32].into()),
        keepalive: Some(7),
        ..peer(added, Some("[2001:db8::9]:77".parse().expect("an endpoint")), &["10.70.0.0/16", "fd70::/64"])
    };
    let change =
        DeviceChange { fwmark: Some(5), peers: vec![PeerChange::Set(settings)], ..DeviceChange::default() };
    client.set(&change).expect("the device takes it");
    let (seen, real) = (client.get().expect("the device answers"), a.device.state());
    assert_eq!((seen.fwmark, seen.listen_port), (5, a.port()));
    assert_eq!(format!("{:?}", seen.peers), format!("{:?}", real.peers));
    assert!(
        seen.private_key == real.private_key && seen.peers[1].preshared_key == real.peers[1].preshared_key
    );
    let remove = vec!["10.70.0.0/16".parse().expect("a prefix")];
    let allowed_ips = AllowedIpsChange::Edit { add: Vec::new(), remove };
    let settings = PeerSettings { allowed_ips, ..PeerSettings::new(added) };
    let peers = vec![PeerChange::Set(settings), PeerChange::Remove(b.public)];
    client.set(&DeviceChange { peers, ..DeviceChange::default() }).expect("the device takes it");
    let peers = client.get().expect("the device answers").peers;
    assert_eq!((peers.len(), peers[0].allowed_ips.len()), (1, 1));
    let change = DeviceChange { listen_port: Some(b.port()), ..DeviceChange::default() };
    client.set(&change).expect("the port is free in this namespace");
    reach(&b, "10.9.0.2");
}

#[test]
fn wrong_requests_are_refused_and_harm_nothing() {
    let (a, _b) = tunnel_over("192.0.2.2", true);
    let ask = |request: &[u8]| {
        let mut stream = UnixStream::connect(socket_path(&a.interface)).expect("the socket is served");
        stream.write_all(request).expect("the server reads");
        stream.shutdown(std::net::Shutdown::Write).expect("a socket");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers with text");
        answer
    };
    let key = "00".repeat(31);
    for wrong in [
        "hello\n\n".to_owned(),
        "set=1\nlisten_port=70000\n\n".to_owned(),
        "set=1\nprivate_key=12\n\n".to_owned(),
        "set=1\nnonsense=1\n\n".to_owned(),
        "set=1\nallowed_ip=10.0.0.0/8\n\n".to_owned(),
        format!("set=1\npublic_key={key}05\nallowed_ip=10.0.0.0/33\n\n"),
        format!("set=1\npublic_key={key}05\nendpoint=nowhere:1\n\n"),
        format!("set=1\npublic_key={key}05\nremove=maybe\n\n"),
        "set=1\nno equals sign\n\n".to_owned(),
    ] {
        assert_eq!(ask(wrong.as_bytes()), format!("errno=-{}\n\n", libc::EINVAL), "{wrong:?}");
    }
    assert_eq!(ask(b"\xff\xfe\n\n"), format!("errno=-{}\n\n", libc::EINVAL));
    assert_eq!(ask(b"get=1\n"), "", "an unfinished request gets no answer");
    assert_eq!(a.device.state().peers.len(), 1, "nothing was changed");
    let two = ask(b"get=1\n\nget=1\n\n");
    assert_eq!(two.matches("errno=0\n\n").count(), 2, "several requests on one connection: {two}");
    let other =
        tunnel::Device::create(tunnel::Config { uapi: true, ..tunnel::Config::named(a.interface.clone()) });
    let error = other.map(drop).expect_err("the socket is served by the first device");
    assert!(matches!(error, Error::SocketInUse { .. } | Error::Tun { .. }), "{error}");
    transfer(&a.namespace, &_b.namespace, "10.9.0.2", 1 << 16);
}
