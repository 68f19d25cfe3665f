//! The Kubernetes objects that a lab starts with: a Node per node, as a kubelet and a cloud would have
//! written it, what an API server writes of itself, and the Peer definition. It does not know how they reach the API.

use serde_json::{Value, json};

use crate::{
    LabError,
    layout::{API_PORT, Layout, NodeLayout},
    spec::Spec,
};

/// The definition of the Peer resource, as it is applied to a real cluster.
const DEFINITIONS: &str = include_str!("../../../manifests/crds.yaml");

/// All objects of a lab, definitions first.
///
/// # Errors
/// When the definitions in the binary are not YAML.
pub fn all(spec: &Spec, layout: &Layout) -> Result<Vec<Value>, LabError> {
    let mut objects = definitions()?;
    objects.extend(of_api_server(layout));
    let described = spec.sites.iter().flat_map(|site| &site.nodes);
    for (node, described) in layout.nodes.iter().zip(described) {
        objects.push(self::node(layout, node, &json!(described.annotations)));
    }
    Ok(objects)
}

/// What an API server writes when it starts: where it listens, in both forms, and the ranges of services.
fn of_api_server(layout: &Layout) -> [Value; 3] {
    let address = layout.api_address().v4;
    let ports = json!([{ "name": "https", "port": API_PORT, "protocol": "TCP" }]);
    let (v4, v6) = layout.services();
    [
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "kubernetes" },
            },
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
            "ports": ports,
        }),
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
            },
            "subsets": [{ "addresses": [{ "ip": address }], "ports": ports }],
        }),
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" },
            "spec": { "cidrs": [v4, v6] },
        }),
    ]
}

/// A Node object.
pub fn node(layout: &Layout, node: &NodeLayout, annotations: &Value) -> Value {
    let site = &layout.sites[node.site].name;
    let (v4, v6) = (node.pods_v4().to_string(), node.pods_v6().to_string());
    let mut addresses = vec![
        json!({"type": "InternalIP", "address": node.lan.v4}),
        json!({"type": "InternalIP", "address": node.lan.v6}),
        json!({"type": "Hostname", "address": node.name}),
    ];
    if let Some(public) = node.public {
        addresses.push(json!({"type": "ExternalIP", "address": public.v4}));
        addresses.push(json!({"type": "ExternalIP", "address": public.v6}));
    }
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": node.name,
            "labels": {
                "beta.kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
                "topology.kubernetes.io/region": site,
            },
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "0",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
        },
        "spec": {
            "podCIDR": v4,
            "podCIDRs": [v4, v6],
            "providerID": format!("lab://{}/{}", site, node.name),
        },
        "status": status(&addresses),
    });
    if let (Some(all), Some(further)) =
        (object["metadata"]["annotations"].as_object_mut(), annotations.as_object())
    {
        all.extend(further.clone());
    }
    object
}

fn status(addresses: &[Value]) -> Value {
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    let resources = json!({
        "cpu": "4", "memory": "8148560Ki", "ephemeral-storage": "61611820Ki",
        "hugepages-1Gi": "0", "hugepages-2Mi": "0", "pods": "110",
    });
    json!({
        "addresses": addresses,
        "allocatable": resources,
        "capacity": resources,
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": "amd64",
            "bootID": "00000000-0000-0000-0000-000000000000",
            "containerRuntimeVersion": "containerd://2.1.4",
            "kernelVersion": "6.1.0",
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.34.0",
            "machineID": "00000000000000000000000000000000",
            "operatingSystem": "linux",
            "osImage": "kilo-lab",
            "systemUUID": "00000000-0000-0000-0000-000000000000",
        },
    })
}

pub(crate) fn definitions() -> Result<Vec<Value>, LabError> {
    use serde::Deserialize;
    serde_norway::Deserializer::from_str(DEFINITIONS)
        .map(|document| {
            Value::deserialize(document)
                .map_err(|error| LabError::Spec(format!("manifests/crds.yaml: {error}")))
        })
        .filter(|object| !matches!(object, Ok(Value::Null)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_dual_stack_and_carry_their_region_and_annotations() {
        let spec = Spec::demo();
        let objects = all(&spec, &Layout::of(&spec)).expect("the definitions are YAML");
        assert_eq!(objects[0]["metadata"]["name"], "peers.kilo.squat.ai");
        let node = |name: &str| objects.iter().find(|object| object["metadata"]["name"] == name).expect(name);
        assert_eq!(node("b1")["spec"]["podCIDRs"], json!(["10.42.3.0/24", "fd42:3::/64"]));
        assert_eq!(node("b1")["metadata"]["labels"]["topology.kubernetes.io/region"], "b");
        assert_eq!(node("c1")["metadata"]["annotations"]["kilo.squat.ai/persistent-keepalive"], "10");
        assert_eq!(
            node("c1")["status"]["addresses"].as_array().map(Vec::len),
            Some(3),
            "no external address behind NAT"
        );
    }
}
