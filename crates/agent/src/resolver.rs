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

    /// The addresses of a name, or why there are none.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        // Absolute: a search domain of the host must not decide where a tunnel goes.
        let absolute = if name.contains('.') { format!("{}.", name.trim_end_matches('.')) } else { name.to_owned() };
        match tokio::time::timeout(TIMEOUT, self.0.lookup_ip(absolute)).await {
            Ok(Ok(answer)) => Ok(answer.iter().collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}
