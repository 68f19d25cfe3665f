//! For Prometheus and Grafana.

use serde_json::{Value, json};

use super::Manifest;

/// Title, kind of panel and query. `kg` has a test that it exports these metrics.
const PANELS: [(&str, &str, &str); 8] = [
    ("Healthy agents", "stat", "sum(kilo_healthy)"),
    ("Nodes in the mesh", "stat", "max(kilo_nodes)"),
    ("Segments", "stat", "max(kilo_segments)"),
    ("Peers", "stat", "max(kilo_peers)"),
    ("Leaders", "timeseries", "kilo_leader"),
    ("Errors per second", "timeseries", "sum by (pod, event) (rate(kilo_errors_total[5m]))"),
    ("Reconciles per second", "timeseries", "rate(kilo_reconciles_total[5m])"),
    ("Objects that are wrong", "timeseries", "max by (object, reason) (kilo_problems)"),
];

/// The PodMonitor and the dashboard.
pub fn manifests() -> [Manifest; 2] {
    let labels = json!({ "app.kubernetes.io/name": "kilo", "app.kubernetes.io/part-of": "kilo" });
    let monitor = json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
        "metadata": { "labels": labels, "name": "kilo", "namespace": "kube-system" },
        "spec": {
            "namespaceSelector": { "matchNames": ["kube-system"] },
            "podMetricsEndpoints": [{ "interval": "15s", "port": "metrics", "path": "/metrics" }],
            "selector": { "matchLabels": { "app.kubernetes.io/part-of": "kilo" } },
        },
    });
    let dashboard = format!("{:#}\n", dashboard());
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "name": "kilo-dashboard", "namespace": "kube-system",
            "labels": { "app.kubernetes.io/name": "kilo", "grafana_dashboard": "1" },
        },
        "data": { "kilo.json": dashboard },
    });
    let file = |file: &str, about: &str, document| Manifest {
        file: file.to_owned(),
        about: vec![about.to_owned()],
        documents: vec![document],
    };
    [
        file("podmonitor.yaml", "For the Prometheus operator.", monitor),
        file(
            "grafana-dashboard.yaml",
            "For Grafana's sidecar, which looks for the label grafana_dashboard.",
            map,
        ),
    ]
}

fn dashboard() -> Value {
    let panels: Vec<_> = PANELS
        .iter()
        .enumerate()
        .map(|(index, (title, kind, query))| {
            let (width, height) = if *kind == "stat" { (6, 4) } else { (12, 8) };
            let (x, y) = match index {
                0..4 => (index * 6, 0),
                _ => ((index - 4) % 2 * 12, 4 + (index - 4) / 2 * 8),
            };
            json!({
                "id": index + 1, "title": title, "type": kind,
                "gridPos": { "x": x, "y": y, "w": width, "h": height },
                "datasource": { "type": "prometheus", "uid": "${datasource}" },
                "targets": [{ "expr": query, "refId": "A" }],
            })
        })
        .collect();
    json!({
        "title": "Kilo", "uid": "kilo", "schemaVersion": 39, "refresh": "30s",
        "time": { "from": "now-1h", "to": "now" },
        "templating": { "list": [{ "name": "datasource", "type": "datasource", "query": "prometheus" }] },
        "panels": panels,
    })
}
