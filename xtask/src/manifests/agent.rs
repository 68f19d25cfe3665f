//! The agent on every node: account, permissions, CNI configuration, DaemonSet; as the only CNI, or beside another one.

use serde_json::{Value, json};

use super::{Manifest, policies, resources, unprivileged};
use crate::image;

/// A way to install Kubernetes.
pub struct Distribution {
    pub name: &'static str,
    pub api: Api,
    /// The host's directory of CNI configurations.
    pub net_d: &'static str,
}

/// Where an agent finds the API before there is a mesh. Its credentials are always those of its service account.
pub enum Api {
    /// The address of the service `kubernetes`.
    ServiceAddress,
    /// On this node, on a port of the loopback interface.
    Local { port: u16 },
    /// As a kubeconfig in a ConfigMap of kube-system says, which refers to the service account's token.
    ConfigMap { name: &'static str, key: &'static str },
}

/// Which WireGuard is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wireguard {
    Auto,
    Embedded,
}

/// What connects the pods inside of a location.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Kilo,
    Flannel,
    Cilium,
    Calico,
}

impl Network {
    /// What `--compatibility`, and the name of the file, call it; `None`: Kilo itself.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Kilo => None,
            Self::Flannel => Some("flannel"),
            Self::Cilium => Some("cilium"),
            Self::Calico => Some("calico"),
        }
    }

    /// API group and resource of the objects that say which pod subnets a node has, where they are no Nodes.
    fn pod_subnets(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Kilo | Self::Flannel => None,
            Self::Cilium => Some(("cilium.io", "ciliumnodes")),
            Self::Calico => Some(("crd.projectcalico.org", "blockaffinities")),
        }
    }

    /// Arguments of the agent. Where Go Kilo has a manifest for it, they mean what they mean there.
    fn args(self, distribution: &Distribution) -> Vec<&'static str> {
        let mut args = match self {
            Self::Kilo => return Vec::new(),
            Self::Flannel => vec!["--compatibility=flannel"],
            Self::Cilium => {
                vec!["--compatibility=cilium", "--encapsulate=crosssubnet", "--clean-up-interface=true"]
            }
            Self::Calico => vec!["--compatibility=calico"],
        };
        // Unless told otherwise, Cilium gives pods addresses of 10.0.0.0/8, in which Kilo's own subnet lies. Agents of one
        // cluster have to agree, and Go Kilo's manifest for k3s has the default.
        if self == Self::Cilium && distribution.name != "k3s" {
            args.push("--subnet=172.31.254.0/24");
        }
        args.extend(["--cni=false", "--local=false", "--internal-cidr=$(NODE_IP)/32"]);
        args
    }
}

/// What a manifest is for.
#[derive(Clone, Copy)]
pub struct Variant<'a> {
    pub distribution: &'a Distribution,
    pub network: Network,
    pub wireguard: Wireguard,
    /// What the name of the file ends in.
    pub suffix: &'a str,
    /// The label `app.kubernetes.io/name` of the pods.
    pub name: &'a str,
}

/// The manifest of a variant.
pub fn manifest(variant: Variant<'_>) -> Manifest {
    let Variant { distribution, network, wireguard, suffix, name: _ } = variant;
    let mut documents = Vec::new();
    if network == Network::Kilo {
        documents.push(cni_configuration());
    }
    documents.extend(account(network));
    documents.extend(policies::documents());
    documents.extend(preshared_keys());
    documents.push(daemon_set(variant));
    let cluster = format!("a cluster made with {}", distribution.name);
    let mut about = vec![match network.name() {
        None => format!("Kilo as the network of {cluster}."),
        Some(other) => format!("Kilo as an add-on to {}, in {cluster}.", capitalised(other)),
    }];
    about.push(
        "The policies need Kubernetes 1.30. Older API servers refuse them and take everything else."
            .to_owned(),
    );
    if wireguard == Wireguard::Embedded {
        about
            .push("Every node uses the embedded WireGuard device, also where the kernel has one.".to_owned());
    }
    if matches!(distribution.api, Api::ServiceAddress) {
        about.push("Nodes that do not reach the API's address of the service `kubernetes` before there is a mesh need".to_owned());
        about.push(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT in the env of the container kilo."
                .to_owned(),
        );
    }
    let network = network.name().map(|name| format!("-{name}")).unwrap_or_default();
    Manifest { file: format!("kilo-{}{network}{suffix}.yaml", distribution.name), about, documents }
}

fn capitalised(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    first.to_uppercase() + rest
}

fn cni_configuration() -> Value {
    let list = concat!(
        "{\n  \"cniVersion\": \"0.4.0\",\n  \"name\": \"kilo\",\n  \"plugins\": [\n",
        "    {\n      \"name\": \"kubernetes\",\n      \"type\": \"bridge\",\n      \"bridge\": \"kube-bridge\",\n",
        "      \"isDefaultGateway\": true,\n      \"forceAddress\": true,\n      \"mtu\": 1420,\n",
        "      \"ipam\": {\"type\": \"host-local\"}\n    },\n",
        "    {\"type\": \"portmap\", \"snat\": true, \"capabilities\": {\"portMappings\": true}}\n  ]\n}\n",
    );
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "kilo", "namespace": "kube-system", "labels": { "app.kubernetes.io/name": "kilo" } },
        "data": { "cni-conf.json": list },
    })
}

/// What `crates/kubernetes` asks of the API, and nothing else.
fn account(network: Network) -> [Value; 3] {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    // Where the API servers are.
    let of_api = |group: &str, resource: &str| {
        let mut rule = rule(group, resource, &["get"]);
        rule["resourceNames"] = json!(["kubernetes"]);
        rule
    };
    let mut rules = vec![
        rule("", "nodes", &["get", "list", "patch", "watch"]),
        rule("kilo.squat.ai", "peers", &["get", "list", "watch"]),
        rule("events.k8s.io", "events", &["create"]),
        of_api("discovery.k8s.io", "endpointslices"),
        of_api("", "endpoints"),
        rule("networking.k8s.io", "servicecidrs", &["list"]),
    ];
    rules.extend(
        network.pod_subnets().map(|(group, resource)| rule(group, resource, &["get", "list", "watch"])),
    );
    [
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "kilo", "namespace": "kube-system" },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "kilo" },
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "kilo" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kilo" },
            "subjects": [{ "kind": "ServiceAccount", "name": "kilo", "namespace": "kube-system" }],
        }),
    ]
}

/// Where the preshared keys of Peers that refer to Secrets are, and that agents may get them, by name and one by one. There is
/// nothing else in the namespace, and no Secret of another namespace is for agents.
fn preshared_keys() -> [Value; 3] {
    // A test of the agent holds it against the one that the agent reads.
    const NAMESPACE: &str = "kilo-preshared-keys";
    let named = json!({ "name": "kilo", "namespace": NAMESPACE });
    [
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": NAMESPACE, "labels": { "app.kubernetes.io/part-of": "kilo" } },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": named,
            "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] }],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": named,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "kilo" },
            "subjects": [{ "kind": "ServiceAccount", "name": "kilo", "namespace": "kube-system" }],
        }),
    ]
}

fn daemon_set(variant: Variant<'_>) -> Value {
    let Variant { distribution, network, name, .. } = variant;
    let labels = json!({ "app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "kilo" });
    let mut volumes = Vec::new();
    let mut init_containers = Vec::new();
    if network == Network::Kilo {
        volumes.extend([host("cni-bin-dir", "/opt/cni/bin"), host("cni-conf-dir", distribution.net_d)]);
        init_containers.push(install_cni());
    }
    volumes.extend([
        host("kilo-dir", "/var/lib/kilo"),
        // The directory: a device that is not there would keep the pod from starting, and is not always needed.
        host("dev-net", "/dev/net"),
        host("proc-sys-net", "/proc/sys/net"),
        host("wireguard", "/var/run/wireguard"),
    ]);
    if let Api::ConfigMap { name, key } = distribution.api {
        volumes.push(json!({
            "name": "kubeconfig",
            "configMap": { "name": name, "items": [{ "key": key, "path": "kubeconfig" }] },
        }));
    }
    let mut daemon_set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "kilo", "namespace": "kube-system", "labels": labels },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "serviceAccountName": "kilo",
                    "hostNetwork": true,
                    "priorityClassName": "system-node-critical",
                    // Files of the host carry its SELinux labels; without SELinux this means nothing.
                    "securityContext": { "seLinuxOptions": { "level": "s0", "type": "spc_t" } },
                    "containers": [agent(variant)],
                    "tolerations": [
                        { "effect": "NoSchedule", "operator": "Exists" },
                        { "effect": "NoExecute", "operator": "Exists" },
                    ],
                    "volumes": volumes,
                },
            },
        },
    });
    if !init_containers.is_empty() {
        daemon_set["spec"]["template"]["spec"]["initContainers"] = init_containers.into();
    }
    daemon_set
}

fn host(name: &str, path: &str) -> Value {
    let kind = if path.starts_with("/proc") { "Directory" } else { "DirectoryOrCreate" };
    json!({ "name": name, "hostPath": { "path": path, "type": kind } })
}

fn install_cni() -> Value {
    json!({
        "name": "install-cni",
        "image": image::NAME,
        "args": ["install-cni"],
        "env": [
            { "name": "CNI_CONF_NAME", "value": "10-kilo.conflist" },
            {
                "name": "CNI_NETWORK_CONFIG",
                "valueFrom": { "configMapKeyRef": { "name": "kilo", "key": "cni-conf.json" } },
            },
        ],
        // It copies files; what the kernel keeps of them in memory counts, and is given up at the limit.
        "resources": resources("16Mi", "128Mi"),
        "securityContext": unprivileged(),
        "volumeMounts": [
            { "name": "cni-bin-dir", "mountPath": "/host/opt/cni/bin" },
            { "name": "cni-conf-dir", "mountPath": "/host/etc/cni/net.d" },
        ],
    })
}

fn agent(variant: Variant<'_>) -> Value {
    let Variant { distribution, network, wireguard, .. } = variant;
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut args = vec!["--hostname=$(NODE_NAME)"];
    args.extend(network.args(distribution));
    let mut env = vec![field("NODE_NAME", "spec.nodeName")];
    let mut mounts = Vec::new();
    match network {
        Network::Kilo => mounts.push(json!({ "name": "cni-conf-dir", "mountPath": "/etc/cni/net.d" })),
        // The addresses of the other CNI's devices are private ones too; this is the node's.
        Network::Flannel | Network::Cilium | Network::Calico => env.push(field("NODE_IP", "status.hostIP")),
    }
    mounts.extend([
        json!({ "name": "kilo-dir", "mountPath": "/var/lib/kilo" }),
        json!({ "name": "dev-net", "mountPath": "/dev/net" }),
        json!({ "name": "proc-sys-net", "mountPath": "/host/proc/sys/net" }),
        json!({ "name": "wireguard", "mountPath": "/var/run/wireguard" }),
    ]);
    match distribution.api {
        Api::ServiceAddress => {}
        Api::Local { port } => {
            env.push(json!({ "name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1" }));
            env.push(json!({ "name": "KUBERNETES_SERVICE_PORT", "value": port.to_string() }));
        }
        Api::ConfigMap { .. } => {
            args.push("--kubeconfig=/etc/kubernetes/kubeconfig");
            mounts.push(json!({ "name": "kubeconfig", "mountPath": "/etc/kubernetes", "readOnly": true }));
        }
    }
    if wireguard == Wireguard::Embedded {
        args.push("--wireguard=embedded");
    }
    let mut security = unprivileged();
    security["capabilities"]["add"] = json!(["NET_ADMIN", "NET_RAW"]);
    // Unhealthy means, among other things, that the API is away. A restart would then take the mesh down on this node, so
    // liveness asks only whether the agent answers.
    let probe = |path: &str, failures: u8| {
        json!({
            "httpGet": { "host": "127.0.0.1", "path": path, "port": "metrics" },
            "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": failures,
        })
    };
    json!({
        "name": "kilo",
        "image": image::NAME,
        "args": args,
        "env": env,
        "ports": [{ "containerPort": 1107, "name": "metrics" }],
        "livenessProbe": probe("/metrics", 6),
        "readinessProbe": probe("/health", 3),
        // An agent needs 17 MB in a small cluster and 50 MB in one of 10,000 nodes, the embedded device among it, whose queues are
        // bounded. Routes, nftables sets and socket buffers of the kernel count, too. The kernel ends an agent at its limit, and
        // with it the embedded device, so ten times the most that was seen are left. Beside an old Pod the new one has a limit
        // of its own.
        "resources": resources("32Mi", "512Mi"),
        "securityContext": security,
        "volumeMounts": mounts,
    })
}
