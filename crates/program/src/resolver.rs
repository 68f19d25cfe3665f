//! Looks up the DNS names of endpoints.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use hickory_resolver::{TokioResolver, config::LookupIpStrategy};

/// A name that is not answered after this time counts as not answered.
const TIMEOUT: Duration = Duration::from_secs(5);

const HOSTS: &str = "/etc/hosts";

/// A resolver with the host's configuration.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

impl Resolver {
    /// Reads `/etc/resolv.conf` and `/etc/hosts`.
    pub fn of_host() -> Result<Self> {
        let mut builder = TokioResolver::builder_tokio().context("cannot read /etc/resolv.conf")?;
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = TIMEOUT / 2;
        options.attempts = 1;
        // The reconciler decides how long an answer is good for.
        options.cache_size = 0;
        Ok(Self(builder.build().context("cannot set up the resolver")?))
    }

    /// The addresses of an endpoint's name, or why there are none. The name is taken for absolute: a search domain of
    /// the host must not decide where a tunnel goes.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let name = name.trim_end_matches('.');
        self.look_up(name, format!("{name}.")).await
    }

    /// The addresses of a host's own name; search domains count.
    pub async fn resolve_host(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        self.look_up(name, name.to_owned()).await
    }

    /// What `/etc/hosts` says is all there is, as for the C library: otherwise a name without an IPv6 address there would
    /// wait for a name server that may not be there.
    async fn look_up(&self, written: &str, name: String) -> Result<Vec<IpAddr>, String> {
        let written = addresses_in(&fs::read_to_string(HOSTS).unwrap_or_default(), written);
        if !written.is_empty() {
            return Ok(written);
        }
        match tokio::time::timeout(TIMEOUT, self.0.lookup_ip(name)).await {
            Ok(Ok(answer)) => Ok(answer.iter().collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_may_name_an_address_of_each_family() {
        let hosts = "127.0.0.1 localhost\n10.0.0.5\tnode-a.example node-a # 10.0.0.6\n\
                     # 10.0.0.7 node-a\nfd00::5 NODE-A\nfe80::1%eth0 node-a\nnode-a\n";
        let expected: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(addresses_in(hosts, "node-a"), expected);
        assert!(addresses_in(hosts, "node").is_empty());
    }
}
