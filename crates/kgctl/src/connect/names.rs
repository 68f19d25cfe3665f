//! The addresses of the API, which must be reached past the tunnels.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use hostnet::Lifeline;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use program::Resolver;

/// The addresses of the API that the kubeconfig names: what is known of them. Whether the kubeconfig can be used is found
/// out by whoever uses it.
pub async fn of_api(kubeconfig: Option<&Path>, resolver: Option<&Resolver>) -> BTreeMap<IpAddr, Lifeline> {
    let read = kubeconfig.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
    let Ok(kubeconfig) = read else { return BTreeMap::new() };
    let Ok(config) = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await else {
        return BTreeMap::new();
    };
    let host = config.cluster_url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    if let Ok(address) = host.parse() {
        return [(address, Lifeline::ApiServer)].into();
    }
    let Some(resolver) = resolver else { return BTreeMap::new() };
    match resolver.resolve_host(&host).await {
        Ok(addresses) => addresses.into_iter().map(|address| (address, Lifeline::ApiServer)).collect(),
        Err(error) => {
            tracing::warn!(%error, "the address of the API is not known; it may end up behind a tunnel");
            BTreeMap::new()
        }
    }
}
