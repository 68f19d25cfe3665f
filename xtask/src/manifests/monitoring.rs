//! For Prometheus and Grafana.

use serde_json::{Value, json};

use super::Manifest;

/// Title, kind of panel and query. `kg` has a test that it exports these metrics.
const PANELS: [(&str, &str, &str); 12] = [
    ("Healthy agents", "stat", "sum(kilo_healthy)"),
    ("Nodes in the mesh", "stat", "max(kilo_nodes)"),
    ("Segments", "stat", "max(kilo_segments)"),
    ("Peers", "stat", "max(kilo_peers)"),
    ("Leaders", "timeseries", "kilo_leader"),
    ("Errors per second", "timeseries", "sum by (pod, event) (rate(kilo_errors_total[5m]))"),
    ("Reconciles per second", "timeseries", "rate(kilo_reconciles_total[5m])"),
    ("Objects that are wrong", "timeseries", "max by (object, reason) (kilo_problems)"),
    ("WireGuard peers by state", "timeseries", "sum by (state) (kilo_wireguard_peers)"),
    ("Seconds since the last handshake", "timeseries", "time() - kilo_wireguard_last_handshake_seconds"),
    ("Bytes received per second", "timeseries", "rate(kilo_wireguard_received_bytes_total[5m])"),
    ("Bytes sent per second", "timeseries", "rate(kilo_wireguard_sent_bytes_total[5m])"),
];

/// What to be woken for, or told about in the morning.
struct Alert {
    name: &'static str,
    expression: &'static str,
    /// How long it has to hold, in minutes.
    minutes: u8,
    severity: &'static str,
    summary: &'static str,
}

/// `kg` has a test that it exports these metrics.
const ALERTS: [Alert; 7] = [
    Alert {
        name: "KiloAgentDown",
        expression: "up{job=\"kube-system/kilo\"} == 0",
        minutes: 5,
        severity: "critical",
        summary: "The agent {{ $labels.pod }} does not answer.",
    },
    Alert {
        name: "KiloUnhealthy",
        expression: "kilo_healthy == 0",
        minutes: 5,
        severity: "critical",
        summary: "The agent {{ $labels.pod }} is not healthy; /health on its node says why.",
    },
    Alert {
        name: "KiloSegmentWithoutLeader",
        expression: "sum(kilo_leader) < max(kilo_segments)",
        minutes: 5,
        severity: "critical",
        summary: "Fewer nodes lead than there are segments: a location may be cut off.",
    },
    Alert {
        name: "KiloPeerDoesNotAnswer",
        expression: "time() - kilo_wireguard_last_handshake_seconds > 300 and rate(kilo_wireguard_sent_bytes_total[5m]) > 0",
        minutes: 5,
        severity: "warning",
        summary: "{{ $labels.pod }} sends to {{ $labels.peer }}, with which there was no handshake for five minutes.",
    },
    Alert {
        name: "KiloAgentsDisagree",
        expression: "max(kilo_nodes) != min(kilo_nodes)",
        minutes: 15,
        severity: "warning",
        summary: "Agents see meshes of different sizes.",
    },
    Alert {
        name: "KiloObjectLeftOut",
        expression: "max by (object, reason) (kilo_problems) > 0",
        minutes: 15,
        severity: "warning",
        summary: "{{ $labels.object }} is wrong and left out, or part of it: {{ $labels.reason }}.",
    },
    Alert {
        name: "KiloErrors",
        expression: "sum by (pod, event) (increase(kilo_errors_total[15m])) > 5",
        minutes: 15,
        severity: "warning",
        summary: "{{ $labels.pod }} has errors again and again when it tries to {{ $labels.event }}.",
    },
];

/// The PodMonitor, the alerts and the dashboard.
pub fn manifests() -> [Manifest; 3] {
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
    let rules = json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule",
        "metadata": { "labels": labels, "name": "kilo", "namespace": "kube-system" },
        "spec": { "groups": [{ "name": "kilo", "rules": ALERTS.iter().map(rule).collect::<Vec<_>>() }] },
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
            "prometheusrule.yaml",
            "For the Prometheus operator; docs/monitoring.md says what to do.",
            rules,
        ),
        file(
            "grafana-dashboard.yaml",
            "For Grafana's sidecar, which looks for the label grafana_dashboard.",
            map,
        ),
    ]
}

fn rule(alert: &Alert) -> Value {
    json!({
        "alert": alert.name,
        "expr": alert.expression,
        "for": format!("{}m", alert.minutes),
        "labels": { "severity": alert.severity },
        "annotations": { "summary": alert.summary },
    })
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
