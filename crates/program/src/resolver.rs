//! Looks up the DNS names of endpoints.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use hickory_resolver::{TokioResolver, config::LookupIpStrategy};

/// A name that is not answered after this time counts as not answered.
const TIMEOUT: Duration = Duration::from_secs(5);

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
        self.look_up(format!("{}.", name.trim_end_matches('.'))).await
    }

    /// The addresses of a host's own name; search domains count.
    pub async fn resolve_host(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        self.look_up(name.to_owned()).await
    }

    async fn look_up(&self, name: String) -> Result<Vec<IpAddr>, String> {
        match tokio::time::timeout(TIMEOUT, self.0.lookup_ip(name)).await {
            Ok(Ok(answer)) => Ok(answer.iter().collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}
