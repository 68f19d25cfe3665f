//! What the host's files say: `/etc/hosts`, and the name servers of resolv.conf(5).

use std::{fs, net::IpAddr};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The name servers behind systemd's stub, which is what the host's other file then names.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";

/// The addresses of a name, as far as `/etc/hosts` has it.
pub fn hosts_addresses(name: &str) -> Vec<IpAddr> {
    addresses_in(&fs::read_to_string(HOSTS).unwrap_or_default(), name)
}

/// The name servers of the host, and, where there is only a stub on the host itself, those behind it.
pub fn name_servers() -> Vec<IpAddr> {
    let read = |file| name_servers_in(&fs::read_to_string(file).unwrap_or_default());
    with_those_behind_stub(read(RESOLV_CONF), || read(BEHIND_STUB))
}

fn with_those_behind_stub(mut servers: Vec<IpAddr>, behind: impl FnOnce() -> Vec<IpAddr>) -> Vec<IpAddr> {
    if servers.iter().all(IpAddr::is_loopback) {
        let behind = behind();
        servers.extend(behind);
    }
    servers
}

/// The addresses of a name in a file like `/etc/hosts` (hosts(5)).
fn addresses_in(hosts: &str, name: &str) -> Vec<IpAddr> {
    let lines = hosts.lines().filter_map(|line| line.split('#').next());
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
        })
        .collect()
}

/// The name servers in a file like `/etc/resolv.conf`. One with a zone, `fe80::1%eth0`, is on a link of the host, where no
/// route of a mesh matters, and is passed over.
fn name_servers_in(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter(|line| !line.starts_with(['#', ';']));
    lines
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            words.next().filter(|word| *word == "nameserver")?;
            words.next()?.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
        texts.map(|text| text.parse().unwrap()).into()
    }

    #[test]
    fn a_hosts_file_may_name_an_address_of_each_family() {
        let hosts = "127.0.0.1 localhost\n10.0.0.5\tnode-a.example node-a # 10.0.0.6\n\
                     # 10.0.0.7 node-a\nfd00::5 NODE-A\nfe80::1%eth0 node-a\nnode-a\n";
        assert_eq!(addresses_in(hosts, "node-a"), addresses(["10.0.0.5", "fd00::5"]));
        assert!(addresses_in(hosts, "node").is_empty());
    }

    #[test]
    fn name_servers_are_read_with_those_behind_a_stub() {
        let text = "# nameserver 10.0.0.1\n;nameserver 10.0.0.2\nsearch example.com\nnameserver\t10.0.0.3 # x\n\
                    nameserver fd00::4\nnameserver fe80::1%eth0\nnameserver\noptions ndots:5\n";
        let found = name_servers_in(text);
        assert_eq!(found, addresses(["10.0.0.3", "fd00::4"]));
        let behind = || addresses(["192.0.2.1"]);
        assert_eq!(with_those_behind_stub(found.clone(), behind), found);
        let stub = addresses(["127.0.0.53"]);
        assert_eq!(with_those_behind_stub(stub, behind), addresses(["127.0.0.53", "192.0.2.1"]));
        assert_eq!(with_those_behind_stub(Vec::new(), behind), behind());
    }
}
