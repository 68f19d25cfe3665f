//! The webhook that judges Peers, and the Job that makes its certificate.

use serde_json::{Value, json};

use super::{Manifest, resources, unprivileged};
use crate::image;

const CERTGEN: &str = "registry.k8s.io/ingress-nginx/kube-webhook-certgen:v1.4.4";
const RBAC: &str = "rbac.authorization.k8s.io";

/// The names are those of Go Kilo.
pub fn manifest() -> Manifest {
    let mut documents = vec![
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "kilo" } }),
        webhook(),
        deployment(),
        disruption_budget(),
    ];
    documents.push(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "peer-validation", "namespace": "kilo" },
        "spec": {
            "selector": { "app.kubernetes.io/name": "peer-validation-server" },
            "ports": [{ "port": 443, "targetPort": "webhook" }],
        },
    }));
    let watch = ["list", "watch"];
    documents.extend(account(
        "peer-validation-server",
        json!([
            { "apiGroups": [""], "resources": ["nodes"], "verbs": watch },
            { "apiGroups": ["kilo.squat.ai"], "resources": ["peers"], "verbs": watch },
        ]),
    ));
    documents.extend(account(
        "kilo-peer-validation",
        json!([{
            "apiGroups": ["admissionregistration.k8s.io"], "resources": ["validatingwebhookconfigurations"],
            "resourceNames": ["peers.kilo.squat.ai"], "verbs": ["get", "update"],
        }]),
    ));
    documents.extend(secrets());
    documents.push(job());
    let about = vec![
        "The webhook that refuses Peers which agents could not use; docs/peer-validation.md.".to_owned(),
    ];
    Manifest { file: "peer-validation.yaml".to_owned(), about, documents }
}

fn webhook() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "peers.kilo.squat.ai" },
        "webhooks": [{
            "name": "peers.kilo.squat.ai",
            "rules": [{
                "apiGroups": ["kilo.squat.ai"], "apiVersions": ["v1alpha1"], "operations": ["CREATE", "UPDATE"],
                "resources": ["peers"], "scope": "Cluster",
            }],
            "clientConfig": {
                "service": { "namespace": "kilo", "name": "peer-validation", "path": "/validate" },
            },
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "timeoutSeconds": 5,
        }],
    })
}

fn deployment() -> Value {
    let labels = labels();
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "peer-validation-server", "namespace": "kilo", "labels": labels },
        "spec": {
            // Without an answer no Peer can be written: one is left when a node goes, or is drained.
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "serviceAccountName": "peer-validation-server",
                    "securityContext": { "runAsNonRoot": true, "runAsUser": 1000 },
                    // Preferred, not required: a cluster of one node has both on it.
                    "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
                        "weight": 100,
                        "podAffinityTerm": {
                            "labelSelector": { "matchLabels": labels }, "topologyKey": "kubernetes.io/hostname",
                        },
                    }] } },
                    "containers": [{
                        "name": "server",
                        "image": image::NAME,
                        "args": [
                            "webhook", "--cert-file=/run/secrets/tls/tls.crt", "--key-file=/run/secrets/tls/tls.key",
                            "--listen-metrics=:1107", "--listen=:8443",
                        ],
                        "ports": [
                            { "containerPort": 8443, "name": "webhook" }, { "containerPort": 1107, "name": "metrics" },
                        ],
                        "readinessProbe": { "httpGet": { "path": "/health", "port": "metrics" } },
                        // It knows all Nodes and Peers, as an agent does.
                        "resources": resources("32Mi", "512Mi"),
                        "securityContext": unprivileged(),
                        "volumeMounts": [{ "name": "tls", "mountPath": "/run/secrets/tls", "readOnly": true }],
                    }],
                    "volumes": [{ "name": "tls", "secret": { "secretName": "peer-validation-webhook-tls" } }],
                },
            },
        },
    })
}

fn labels() -> Value {
    json!({ "app.kubernetes.io/name": "peer-validation-server" })
}

fn disruption_budget() -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "peer-validation-server", "namespace": "kilo" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": labels() } },
    })
}

/// A service account with a ClusterRole of its name.
fn account(name: &str, rules: Value) -> [Value; 3] {
    [
        json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": "kilo" } }),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": { "name": name }, "rules": rules,
        }),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": { "name": name },
            "roleRef": { "apiGroup": RBAC, "kind": "ClusterRole", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "namespace": "kilo", "name": name }],
        }),
    ]
}

/// The Job keeps the certificate in a Secret.
fn secrets() -> [Value; 2] {
    let metadata = json!({ "name": "kilo-peer-validation", "namespace": "kilo" });
    [
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "Role", "metadata": metadata,
            "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create"] }],
        }),
        json!({
            "apiVersion": format!("{RBAC}/v1"), "kind": "RoleBinding", "metadata": metadata,
            "roleRef": { "apiGroup": RBAC, "kind": "Role", "name": "kilo-peer-validation" },
            "subjects": [{ "kind": "ServiceAccount", "namespace": "kilo", "name": "kilo-peer-validation" }],
        }),
    ]
}

fn job() -> Value {
    let container = |name: &str, args: &[&str]| json!({ "name": name, "image": CERTGEN, "args": args, "resources": resources("16Mi", "128Mi"), "securityContext": unprivileged() });
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "cert-gen", "namespace": "kilo" },
        "spec": {
            "backoffLimit": 4,
            "template": {
                "metadata": {},
                "spec": {
                    "serviceAccountName": "kilo-peer-validation",
                    "restartPolicy": "OnFailure",
                    "securityContext": { "runAsNonRoot": true, "runAsUser": 2000 },
                    "initContainers": [container("create", &[
                        "create", "--namespace=kilo", "--secret-name=peer-validation-webhook-tls",
                        "--host=peer-validation,peer-validation.kilo.svc", "--key-name=tls.key", "--cert-name=tls.crt",
                    ])],
                    "containers": [container("patch", &[
                        "patch", "--webhook-name=peers.kilo.squat.ai", "--secret-name=peer-validation-webhook-tls",
                        "--namespace=kilo", "--patch-mutating=false",
                    ])],
                },
            },
        },
    })
}
