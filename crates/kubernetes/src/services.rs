//! The ranges of the cluster's service addresses.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client, api::ListParams};

use crate::{Error, explain::Resource, patch::request};

/// The ranges of which services get their addresses. `None`: the cluster does not say so, which those before 1.33 do not,
/// or not to us.
///
/// # Errors
/// When the API does not answer.
pub async fn service_ranges(client: &Client) -> Result<Option<Vec<IpNet>>, Error> {
    let api: Api<ServiceCIDR> = Api::all(client.clone());
    let (resource, params) = (Resource::ServiceCidrs, ListParams::default());
    let list = match request("list", resource, resource.name(), api.list(&params)).await {
        Ok(list) => list,
        Err(error) if error.is_withheld() => return Ok(None),
        Err(error) => return Err(error),
    };
    let written = list.items.iter().filter_map(|object| object.spec.as_ref()?.cidrs.as_ref()).flatten();
    let mut ranges: Vec<IpNet> =
        written.filter_map(|range| range.parse().ok()).map(|range: IpNet| range.trunc()).collect();
    ranges.sort();
    ranges.dedup();
    // Every cluster that knows the resource has a range; that there is none only means that it is not there yet.
    Ok((!ranges.is_empty()).then_some(ranges))
}
