//! The names of Kilo's annotations and labels on Node objects.
//!
//! What their values mean is decided in [`crate::decode`] and [`crate::encode`].

/// The prefix that all annotations share.
pub const PREFIX: &str = "kilo.squat.ai/";

/// By the operator: the location, instead of the topology label.
pub const LOCATION: &str = "kilo.squat.ai/location";
/// By the operator: this node leads its location. The presence counts, not the value.
pub const LEADER: &str = "kilo.squat.ai/leader";
/// By the operator: `host:port`, `[v6]:port` or `name:port`, instead of [`ENDPOINT`].
pub const FORCE_ENDPOINT: &str = "kilo.squat.ai/force-endpoint";
/// By the operator: an address or CIDR; an endpoint with the default port. [`FORCE_ENDPOINT`] wins.
pub const FORCE_EXTERNAL_IP: &str = "kilo.squat.ai/force-external-ip";
/// By the operator: a CIDR, or one per family with a comma between, instead of [`INTERNAL_IP`]; `""` or `-` for none.
pub const FORCE_INTERNAL_IP: &str = "kilo.squat.ai/force-internal-ip";
/// By the operator, on a node behind NAT: seconds between keepalives.
pub const PERSISTENT_KEEPALIVE: &str = "kilo.squat.ai/persistent-keepalive";
/// By the operator: a comma list of CIDRs that are reached through this node's location.
pub const ALLOWED_LOCATION_IPS: &str = "kilo.squat.ai/allowed-location-ips";
/// By the operator, where `--pod-cidr-source=annotation` is set: a comma list of CIDRs, the pod subnets of the node.
pub const POD_CIDRS: &str = "kilo.squat.ai/pod-cidrs";

/// By the agent: where the node's WireGuard listens.
pub const ENDPOINT: &str = "kilo.squat.ai/endpoint";
/// By the agent: the node's private address as a CIDR, or `""`.
pub const INTERNAL_IP: &str = "kilo.squat.ai/internal-ip";
/// By the agent of a node with several private addresses: all of them, a comma list of CIDRs. The Go agent knows
/// only [`INTERNAL_IP`]; the list counts while it holds that one.
pub const INTERNAL_IPS: &str = "kilo.squat.ai/internal-ips";
/// By the agent: the WireGuard public key in base64.
pub const KEY: &str = "kilo.squat.ai/key";
/// By the agent: the WireGuard address with the length of the subnet, or `""`.
pub const WIREGUARD_IP: &str = "kilo.squat.ai/wireguard-ip";
/// By the agent of a node with several WireGuard addresses: all of them, a comma list of CIDRs. It counts while it
/// holds the one of [`WIREGUARD_IP`].
pub const WIREGUARD_IPS: &str = "kilo.squat.ai/wireguard-ips";
/// By the agent: `location` or `full`.
pub const GRANULARITY: &str = "kilo.squat.ai/granularity";
/// By the agent: Unix seconds.
pub const LAST_SEEN: &str = "kilo.squat.ai/last-seen";
/// By the agent: a JSON object from public key to `{"IP", "Port", "Zone"}`, or `""`.
pub const DISCOVERED_ENDPOINTS: &str = "kilo.squat.ai/discovered-endpoints";
/// By the agent: the CIDR of another CNI's device, or `""`.
pub const CNI_COMPATIBILITY_IP: &str = "kilo.squat.ai/cni-compatibility-ip";
/// By the agent of a node on which that device has several addresses: all of them, a comma list of CIDRs. It counts while
/// it holds [`CNI_COMPATIBILITY_IP`].
pub const CNI_COMPATIBILITY_IPS: &str = "kilo.squat.ai/cni-compatibility-ips";
/// By an agent that does not take pod subnets from the Node's specification: where it takes them from, `cilium`, `calico`
/// or `annotation`.
pub const POD_CIDR_SOURCE: &str = "kilo.squat.ai/pod-cidr-source";

/// The annotations that an agent writes on its own node, besides [`SETTINGS`].
pub const OF_AGENT: [&str; 12] = [
    CNI_COMPATIBILITY_IP,
    CNI_COMPATIBILITY_IPS,
    DISCOVERED_ENDPOINTS,
    ENDPOINT,
    GRANULARITY,
    INTERNAL_IP,
    INTERNAL_IPS,
    KEY,
    LAST_SEEN,
    POD_CIDR_SOURCE,
    WIREGUARD_IP,
    WIREGUARD_IPS,
];

/// The annotations that an operator writes. Neither an agent nor a kubelet may: each of them changes what other nodes do.
pub const OF_OPERATOR: [&str; 8] = [
    ALLOWED_LOCATION_IPS,
    FORCE_ENDPOINT,
    FORCE_EXTERNAL_IP,
    FORCE_INTERNAL_IP,
    LEADER,
    LOCATION,
    PERSISTENT_KEEPALIVE,
    POD_CIDRS,
];

/// The prefix of annotations that agents write on their own nodes and Go agents do not know. The policies of the manifests
/// allow all of it, so that a later agent works in a cluster that still has the policies of this version. The names of
/// [`OF_AGENT`] keep [`PREFIX`]: Go agents read them.
pub const AGENT_PREFIX: &str = "agent.kilo.squat.ai/";
/// By the agent: a JSON object with what it was started with, as far as others have to have the same.
pub const SETTINGS: &str = "agent.kilo.squat.ai/settings";
/// The annotations that an agent writes on its own node and that Go agents do not know.
pub const NOT_OF_GO: [&str; 5] =
    [CNI_COMPATIBILITY_IPS, INTERNAL_IPS, POD_CIDR_SOURCE, SETTINGS, WIREGUARD_IPS];

/// Whether an annotation is one of those that are read.
pub fn is_read(key: &str) -> bool {
    key.starts_with(PREFIX) || key == SETTINGS
}

/// The label that gives the location unless told otherwise.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";
/// What [`REGION_LABEL`] was called before Kubernetes 1.17.
pub const OLD_REGION_LABEL: &str = "failure-domain.beta.kubernetes.io/region";
