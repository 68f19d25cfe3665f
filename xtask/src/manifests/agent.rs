//! The agent on every node: account, permissions, CNI configuration, DaemonSet.

use serde_json::{Value, json};

use super::{Manifest, unprivileged};
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

/// The manifest of Kilo as the only CNI. `name` is the label `app.kubernetes.io/name` of the pods.
pub fn manifest(distribution: &Distribution, wireguard: Wireguard, suffix: &str, name: &str) -> Manifest {
    let mut documents = vec![cni_configuration()];
    documents.extend(account());
    documents.push(daemon_set(distribution, wireguard, name));
    let mut about = vec![format!("Kilo as the network of a cluster made with {}.", distribution.name)];
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
    Manifest { file: format!("kilo-{}{suffix}.yaml", distribution.name), about, documents }
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
fn account() -> [Value; 3] {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({ "apiGroups": [group], "resources": [resource], "verbs": verbs });
    [
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": "kilo", "namespace": "kube-system" },
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": "kilo" },
            "rules": [
                rule("", "nodes", &["get", "list", "patch", "watch"]),
                rule("kilo.squat.ai", "peers", &["get", "list", "watch"]),
                rule("events.k8s.io", "events", &["create"]),
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": "kilo" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kilo" },
            "subjects": [{ "kind": "ServiceAccount", "name": "kilo", "namespace": "kube-system" }],
        }),
    ]
}

fn daemon_set(distribution: &Distribution, wireguard: Wireguard, name: &str) -> Value {
    let labels = json!({ "app.kubernetes.io/name": name, "app.kubernetes.io/part-of": "kilo" });
    let mut volumes = vec![
        host("cni-bin-dir", "/opt/cni/bin"),
        host("cni-conf-dir", distribution.net_d),
        host("kilo-dir", "/var/lib/kilo"),
        // The directory: a device that is not there would keep the pod from starting, and is not always needed.
        host("dev-net", "/dev/net"),
        host("proc-sys-net", "/proc/sys/net"),
        host("wireguard", "/var/run/wireguard"),
    ];
    if let Api::ConfigMap { name, key } = distribution.api {
        volumes.push(json!({
            "name": "kubeconfig",
            "configMap": { "name": name, "items": [{ "key": key, "path": "kubeconfig" }] },
        }));
    }
    json!({
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
                    "initContainers": [install_cni()],
                    "containers": [agent(distribution, wireguard)],
                    "tolerations": [
                        { "effect": "NoSchedule", "operator": "Exists" },
                        { "effect": "NoExecute", "operator": "Exists" },
                    ],
                    "volumes": volumes,
                },
            },
        },
    })
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
        "securityContext": unprivileged(),
        "volumeMounts": [
            { "name": "cni-bin-dir", "mountPath": "/host/opt/cni/bin" },
            { "name": "cni-conf-dir", "mountPath": "/host/etc/cni/net.d" },
        ],
    })
}

fn agent(distribution: &Distribution, wireguard: Wireguard) -> Value {
    let mut args = vec!["--hostname=$(NODE_NAME)"];
    let mut env =
        vec![json!({ "name": "NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } })];
    let mut mounts = vec![
        json!({ "name": "cni-conf-dir", "mountPath": "/etc/cni/net.d" }),
        json!({ "name": "kilo-dir", "mountPath": "/var/lib/kilo" }),
        json!({ "name": "dev-net", "mountPath": "/dev/net" }),
        json!({ "name": "proc-sys-net", "mountPath": "/host/proc/sys/net" }),
        json!({ "name": "wireguard", "mountPath": "/var/run/wireguard" }),
    ];
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
        "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } },
        "securityContext": security,
        "volumeMounts": mounts,
    })
}
