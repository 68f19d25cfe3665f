//! The columns of built-in kinds.

use serde_json::{Value, json};

use super::{Cell, Column, age as ages};
use crate::resource::Kind;

pub(super) fn name() -> Column {
    let mut column =
        always("Name", "Name of the object, unique in its namespace.", |o| o["metadata"]["name"].clone());
    column.format = "name".to_owned();
    column
}

pub(super) fn age() -> Column {
    always("Age", "Time since the object was created.", |o| {
        json!(ages::since(o["metadata"]["creationTimestamp"].as_str().unwrap_or_default()))
    })
}

pub(super) fn columns(kind: &Kind) -> Vec<Column> {
    let mut columns = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Node") => return node(),
        ("" | "events.k8s.io", "Event") => return event(),
        ("", "Namespace") => {
            vec![name(), always("Status", "Phase of the namespace.", |o| text(&o["status"]["phase"]))]
        }
        ("", "ConfigMap") => vec![name(), always("Data", "Number of entries.", |o| json!(count(&o["data"])))],
        ("", "Secret") => vec![
            name(),
            always("Type", "Type of the secret.", |o| text(&o["type"])),
            always("Data", "Number of entries.", |o| json!(count(&o["data"]))),
        ],
        ("", "Pod") => pod(),
        ("coordination.k8s.io", "Lease") => {
            vec![name(), always("Holder", "Who holds the lease.", |o| text(&o["spec"]["holderIdentity"]))]
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            return vec![
                name(),
                always("Created At", "When the definition was created.", |o| {
                    text(&o["metadata"]["creationTimestamp"])
                }),
            ];
        }
        _ => vec![name()],
    };
    columns.push(age());
    columns
}

fn always(name: &str, description: &str, cell: fn(&Value) -> Value) -> Column {
    Column {
        name: name.to_owned(),
        kind: "string".to_owned(),
        format: String::new(),
        description: description.to_owned(),
        priority: 0,
        cell: Cell::Computed(cell),
    }
}

fn wide(name: &str, description: &str, cell: fn(&Value) -> Value) -> Column {
    Column { priority: 1, ..always(name, description, cell) }
}

fn text(value: &Value) -> Value {
    json!(value.as_str().unwrap_or_default())
}

fn or_unknown(value: &Value) -> Value {
    match value.as_str() {
        None | Some("") => json!("<unknown>"),
        Some(text) => json!(text),
    }
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn node() -> Vec<Column> {
    vec![
        name(),
        always("Status", "The status of the node", node_status),
        always("Roles", "The roles of the node", node_roles),
        age(),
        always("Version", "Kubelet version reported by the node.", |o| {
            text(&o["status"]["nodeInfo"]["kubeletVersion"])
        }),
        wide("Internal-IP", "Address inside the cluster.", |o| node_address(o, "InternalIP")),
        wide("External-IP", "Address outside the cluster.", |o| node_address(o, "ExternalIP")),
        wide("OS-Image", "Operating system reported by the node.", |o| {
            or_unknown(&o["status"]["nodeInfo"]["osImage"])
        }),
        wide("Kernel-Version", "Kernel reported by the node.", |o| {
            or_unknown(&o["status"]["nodeInfo"]["kernelVersion"])
        }),
        wide("Container-Runtime", "Container runtime reported by the node.", |o| {
            or_unknown(&o["status"]["nodeInfo"]["containerRuntimeVersion"])
        }),
    ]
}

fn node_status(node: &Value) -> Value {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|condition| &condition["status"]) {
        Some(value) if value == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status += ",SchedulingDisabled";
    }
    json!(status)
}

fn node_roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object();
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    json!(if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") })
}

fn node_address(node: &Value, wanted: &str) -> Value {
    let mut addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let found = addresses.find(|address| address["type"] == wanted);
    json!(found.and_then(|address| address["address"].as_str()).unwrap_or("<none>"))
}

fn pod() -> Vec<Column> {
    vec![
        name(),
        always("Ready", "Ready containers.", |o| {
            let all = o["spec"]["containers"].as_array().map_or(0, Vec::len);
            let statuses = o["status"]["containerStatuses"].as_array();
            let ready = statuses.into_iter().flatten().filter(|status| status["ready"] == true).count();
            json!(format!("{ready}/{all}"))
        }),
        always("Status", "Phase of the pod.", |o| text(&o["status"]["phase"])),
    ]
}

/// Events in either version; the second name is that of `events.k8s.io`.
fn either(event: &Value, core: &str, new: &str) -> Value {
    if event.get(core).is_some() { event[core].clone() } else { event[new].clone() }
}

fn event() -> Vec<Column> {
    let mut name = name();
    name.priority = 1;
    vec![
        always("Last Seen", "Time since the event was last seen.", |o| {
            let last = either(o, "lastTimestamp", "deprecatedLastTimestamp");
            let time = last.as_str().or_else(|| o["eventTime"].as_str());
            json!(ages::since(
                time.or_else(|| o["metadata"]["creationTimestamp"].as_str()).unwrap_or_default()
            ))
        }),
        always("Type", "Normal or Warning.", |o| text(&o["type"])),
        always("Reason", "Why the event was sent.", |o| text(&o["reason"])),
        always("Object", "What the event is about.", |o| {
            let about = either(o, "involvedObject", "regarding");
            let kind = about["kind"].as_str().unwrap_or_default().to_lowercase();
            json!(format!("{kind}/{}", about["name"].as_str().unwrap_or_default()))
        }),
        always("Message", "What happened.", |o| text(&either(o, "message", "note"))),
        name,
    ]
}
