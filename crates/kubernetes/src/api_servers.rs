//! The addresses of the API servers themselves, as they publish them in the service `kubernetes`: the address by which a
//! client knows the API may be one that is translated on its own host.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::{core::v1::Endpoints, discovery::v1::EndpointSlice};
use kube::{Api, Client};

use crate::{Error, explain::Resource, patch::request};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Where the API servers of the cluster listen; nothing when the cluster does not say so, or not to us.
///
/// # Errors
/// When the API does not answer.
pub async fn api_servers(client: &Client) -> Result<BTreeSet<SocketAddr>, Error> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    match request("get", Resource::EndpointSlices, NAME, slices.get(NAME)).await {
        Ok(slice) => return Ok(of_slice(&slice)),
        Err(error) if error.is_withheld() => {}
        Err(error) => return Err(error),
    }
    let endpoints: Api<Endpoints> = Api::namespaced(client.clone(), NAMESPACE);
    match request("get", Resource::Endpoints, NAME, endpoints.get(NAME)).await {
        Ok(endpoints) => Ok(of_endpoints(&endpoints)),
        Err(error) if error.is_withheld() => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

fn of_slice(slice: &EndpointSlice) -> BTreeSet<SocketAddr> {
    // Without a word on it, an endpoint is ready.
    let ready = slice.endpoints.iter().filter(|endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    });
    let addresses = ready.flat_map(|endpoint| &endpoint.addresses).map(String::as_str);
    let ports = slice.ports.iter().flatten();
    let ports = ports.filter(|port| is_tcp(port.protocol.as_deref())).filter_map(|port| port.port);
    combined(addresses, &ports.collect::<Vec<_>>()).collect()
}

fn of_endpoints(endpoints: &Endpoints) -> BTreeSet<SocketAddr> {
    let subsets = endpoints.subsets.iter().flatten();
    let sockets = subsets.flat_map(|subset| {
        let addresses = subset.addresses.iter().flatten().map(|address| address.ip.as_str());
        let ports = subset.ports.iter().flatten();
        let ports = ports.filter(|port| is_tcp(port.protocol.as_deref())).map(|port| port.port);
        combined(addresses, &ports.collect::<Vec<_>>()).collect::<Vec<_>>()
    });
    sockets.collect()
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

/// Every address with every port; what is no address is passed over.
fn combined<'a>(addresses: impl Iterator<Item = &'a str>, ports: &[i32]) -> impl Iterator<Item = SocketAddr> {
    let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
    addresses.flat_map(|address| {
        let ports = ports.iter().filter_map(|port| u16::try_from(*port).ok());
        ports.map(move |port| SocketAddr::new(address, port))
    })
}
