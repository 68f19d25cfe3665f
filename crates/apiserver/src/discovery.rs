//! Discovery: which groups, versions and resources there are, in the classic and the aggregated form.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::Inner;
use crate::resource::{Feature, Kind, group_version};

/// The content type of aggregated discovery.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

const BUILTIN_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const CUSTOM_VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// `/version`: the Kubernetes release whose behaviour this server follows.
pub(crate) fn version() -> Value {
    json!({
        "major": "1", "minor": "36", "emulationMajor": "1", "emulationMinor": "36",
        "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

/// `/api`, and the content type if it is not plain JSON. `host` is how the client reached us.
pub(crate) fn core(server: &Inner, accept: &str, host: &str) -> (Value, Option<&'static str>) {
    if wants_aggregated(accept) {
        return (aggregated(server, |group| group.is_empty()), Some(AGGREGATED));
    }
    let addresses = json!([{ "clientCIDR": "0.0.0.0/0", "serverAddress": host }]);
    (json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses }), None)
}

/// `/apis`, and the content type if it is not plain JSON.
pub(crate) fn groups(server: &Inner, accept: &str) -> (Value, Option<&'static str>) {
    if wants_aggregated(accept) {
        return (aggregated(server, |group| !group.is_empty()), Some(AGGREGATED));
    }
    let groups: Vec<Value> =
        versions(server).iter().filter(|(group, _)| !group.is_empty()).map(|(g, v)| describe(g, v)).collect();
    (json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }), None)
}

/// `/apis/GROUP`.
pub(crate) fn group(server: &Inner, group: &str) -> Option<Value> {
    let versions = versions(server);
    let mut found = describe(group, versions.get(group)?);
    found["kind"] = json!("APIGroup");
    found["apiVersion"] = json!("v1");
    Some(found)
}

/// `/api/v1`, `/apis/GROUP/VERSION`.
pub(crate) fn resources(server: &Inner, group: &str, version: &str) -> Option<Value> {
    let kinds = kinds(server, group, version);
    if kinds.is_empty() {
        return None;
    }
    let resources: Vec<Value> = kinds.iter().flat_map(|kind| resource(kind)).collect();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": group_version(group, version), "resources": resources,
    }))
}

/// The kinds of one group and version, by plural.
pub(crate) fn kinds(server: &Inner, group: &str, version: &str) -> Vec<Arc<Kind>> {
    let state = server.state();
    let mut kinds: Vec<Arc<Kind>> =
        state.kinds.iter().filter(|k| k.group == group && k.version == version).cloned().collect();
    kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
    kinds
}

/// Groups with their versions.
pub(crate) fn versions(server: &Inner) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for kind in &server.state().kinds {
        let versions = found.entry(kind.group.clone()).or_default();
        if !versions.contains(&kind.version) {
            versions.push(kind.version.clone());
        }
    }
    found
}

fn describe(group: &str, versions: &[String]) -> Value {
    let version = |v: &String| json!({ "groupVersion": group_version(group, v), "version": v });
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({ "name": group, "versions": all, "preferredVersion": all.first() })
}

fn verbs(kind: &Kind) -> &'static [&'static str] {
    if kind.custom.is_some() { CUSTOM_VERBS } else { BUILTIN_VERBS }
}

fn resource(kind: &Kind) -> Vec<Value> {
    let mut main = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced(),
        "kind": kind.kind, "verbs": verbs(kind),
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        main["categories"] = json!(kind.categories);
    }
    let mut all = vec![main];
    if kind.has(Feature::Status) {
        all.push(json!({
            "name": format!("{}/status", kind.plural), "singularName": "", "namespaced": kind.namespaced(),
            "kind": kind.kind, "verbs": ["get", "patch", "update"],
        }));
    }
    all
}

fn wants_aggregated(accept: &str) -> bool {
    accept.split(',').any(|media| {
        let has = |wanted: &str| media.split(';').any(|part| part.trim() == wanted);
        has("as=APIGroupDiscoveryList") && has("v=v2") && has("application/json")
    })
}

fn aggregated(server: &Inner, included: impl Fn(&str) -> bool) -> Value {
    let groups = versions(server);
    let items = groups.iter().filter(|(group, _)| included(group)).map(|(group, versions)| {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let kinds = kinds(server, group, version);
                let resources: Vec<Value> = kinds.iter().map(|kind| aggregated_resource(kind)).collect();
                json!({ "version": version, "resources": resources, "freshness": "Current" })
            })
            .collect();
        json!({ "metadata": { "name": group, "creationTimestamp": null }, "versions": versions })
    });
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": items.collect::<Vec<Value>>(),
    })
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
    let mut found = json!({
        "resource": kind.plural, "singularResource": kind.singular, "responseKind": response,
        "scope": if kind.namespaced() { "Namespaced" } else { "Cluster" }, "verbs": verbs(kind),
    });
    if !kind.short_names.is_empty() {
        found["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        found["categories"] = json!(kind.categories);
    }
    if kind.has(Feature::Status) {
        found["subresources"] = json!([{ "subresource": "status", "responseKind": response, "verbs": ["get", "patch", "update"] }]);
    }
    found
}
