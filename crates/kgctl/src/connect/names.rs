//! Addresses of names: of endpoints, and of the API, which must be reached past the tunnels.

use std::{collections::BTreeSet, net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result};
use hickory_resolver::{TokioResolver, config::LookupIpStrategy};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};

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
        // Whoever asks decides how long an answer is good for.
        options.cache_size = 0;
        Ok(Self(builder.build().context("cannot set up the resolver")?))
    }

    /// The addresses of an endpoint's name, or why there are none. The name is taken for absolute: a search domain of
    /// the host must not decide where a tunnel goes.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        self.look_up(format!("{}.", name.trim_end_matches('.'))).await
    }

    async fn look_up(&self, name: String) -> Result<Vec<IpAddr>, String> {
        match tokio::time::timeout(TIMEOUT, self.0.lookup_ip(name)).await {
            Ok(Ok(answer)) => Ok(answer.iter().collect()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        }
    }
}

/// The addresses of the API that the kubeconfig names: what is known of them. Whether the kubeconfig can be used is found
/// out by whoever uses it.
pub async fn of_api(kubeconfig: Option<&Path>, resolver: Option<&Resolver>) -> BTreeSet<IpAddr> {
    let read = kubeconfig.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
    let Ok(kubeconfig) = read else { return BTreeSet::new() };
    let Ok(config) = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await else {
        return BTreeSet::new();
    };
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if let Ok(address) = host.parse() {
        return [address].into();
    }
    let Some(resolver) = resolver else { return BTreeSet::new() };
    match resolver.look_up(host).await {
        Ok(addresses) => addresses.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "the address of the API is not known; it may end up behind a tunnel");
            BTreeSet::new()
        }
    }
}
