//! The addresses of the API, which must be reached past the tunnels.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use program::Resolver;

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
    match resolver.resolve_host(&host).await {
        Ok(addresses) => addresses.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "the address of the API is not known; it may end up behind a tunnel");
            BTreeSet::new()
        }
    }
}
