//! Which kinds the server knows: the table of built-in kinds, and kinds made from custom resource definitions.
//! It knows names, scopes and features; not objects, not paths of requests.

use std::sync::Arc;

use serde_json::{Value, json};

/// A served kind in one version.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) scope: Scope,
    pub(crate) features: Vec<Feature>,
    /// Set for kinds that a custom resource definition made.
    pub(crate) custom: Option<Custom>,
}

/// Where objects of a kind live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    Namespaced,
}

/// What a kind has beyond plain storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// `/status` is written separately.
    Status,
    /// `metadata.generation` counts changes of the desired state.
    Generation,
    /// A PUT of an absent object creates it.
    CreateOnUpdate,
    /// A PUT must name the resourceVersion it replaces.
    ConditionalUpdate,
}

/// What a custom resource definition says about one version.
#[derive(Debug)]
pub(crate) struct Custom {
    /// The structural schema (`openAPIV3Schema`), `Null` when there is none.
    pub(crate) schema: Value,
    /// `additionalPrinterColumns`, as written.
    pub(crate) columns: Vec<Value>,
    /// JSON paths usable in field selectors, without the leading dot.
    pub(crate) selectable: Vec<String>,
}

/// Group and plural: what a collection of objects is stored under, whatever the version.
pub(crate) type CollectionKey = (String, String);

impl Kind {
    pub(crate) fn collection(&self) -> CollectionKey {
        (self.group.clone(), self.plural.clone())
    }

    /// `peers.kilo.squat.ai`, or `nodes` in the core group.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// `kilo.squat.ai/v1alpha1`, or `v1` in the core group.
    pub(crate) fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    pub(crate) fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// True if `word` names this kind as a user would: plural, singular, kind, short name, or `plural.group`.
    pub(crate) fn answers_to(&self, word: &str) -> bool {
        let lower = word.to_ascii_lowercase();
        lower == self.plural
            || lower == self.singular
            || word == self.kind
            || lower == self.qualified()
            || self.short_names.contains(&lower)
    }

    /// Every field that is there even in an empty object of this kind; others are owned once they are set.
    pub(crate) fn empty(&self) -> Value {
        if self.custom.is_some() {
            return json!({ "metadata": {} });
        }
        match (self.group.as_str(), self.kind.as_str()) {
            ("apiextensions.k8s.io", "CustomResourceDefinition") => {
                json!({ "metadata": {}, "spec": { "names": {} },
                    "status": { "conditions": null, "acceptedNames": {}, "storedVersions": null } })
            }
            ("", "Node") => json!({ "metadata": {}, "spec": {}, "status": crate::defaults::node_status() }),
            _ => json!({ "metadata": {}, "spec": {}, "status": {} }),
        }
    }
}

/// `group/version`, or the version alone for the core group.
pub(crate) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

struct Builtin {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    scope: Scope,
    features: &'static [Feature],
}

const fn row(
    api: (&'static str, &'static str),
    names: (&'static str, &'static str),
    short: &'static [&'static str],
    shape: (Scope, &'static [Feature]),
) -> Builtin {
    Builtin {
        group: api.0,
        version: api.1,
        kind: names.0,
        plural: names.1,
        short,
        scope: shape.0,
        features: shape.1,
    }
}

const CORE: (&str, &str) = ("", "v1");
const APPS: (&str, &str) = ("apps", "v1");
const RBAC: (&str, &str) = ("rbac.authorization.k8s.io", "v1");
const ADMISSION: (&str, &str) = ("admissionregistration.k8s.io", "v1");
const PLAIN: &[Feature] = &[];
const WITH_STATUS: &[Feature] = &[Feature::Status];
const WITH_BOTH: &[Feature] = &[Feature::Status, Feature::Generation];
const WITH_GENERATION: &[Feature] = &[Feature::Generation];
const CREATE_ON_UPDATE: &[Feature] = &[Feature::CreateOnUpdate];

#[rustfmt::skip]
const BUILTIN: &[Builtin] = &[
    row(CORE, ("ConfigMap", "configmaps"), &["cm"], (Scope::Namespaced, PLAIN)),
    row(CORE, ("Endpoints", "endpoints"), &["ep"], (Scope::Namespaced, PLAIN)),
    row(CORE, ("Event", "events"), &["ev"], (Scope::Namespaced, CREATE_ON_UPDATE)),
    row(CORE, ("Namespace", "namespaces"), &["ns"], (Scope::Cluster, WITH_STATUS)),
    row(CORE, ("Node", "nodes"), &["no"], (Scope::Cluster, WITH_STATUS)),
    row(CORE, ("Pod", "pods"), &["po"], (Scope::Namespaced, WITH_STATUS)),
    row(CORE, ("Secret", "secrets"), &[], (Scope::Namespaced, PLAIN)),
    row(CORE, ("Service", "services"), &["svc"], (Scope::Namespaced, WITH_STATUS)),
    row(CORE, ("ServiceAccount", "serviceaccounts"), &["sa"], (Scope::Namespaced, PLAIN)),
    row(ADMISSION, ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"), &[], (Scope::Cluster, WITH_GENERATION)),
    row(ADMISSION, ("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"), &[], (Scope::Cluster, WITH_GENERATION)),
    row(("apiextensions.k8s.io", "v1"), ("CustomResourceDefinition", "customresourcedefinitions"), &["crd", "crds"], (Scope::Cluster, WITH_BOTH)),
    row(APPS, ("DaemonSet", "daemonsets"), &["ds"], (Scope::Namespaced, WITH_BOTH)),
    row(APPS, ("Deployment", "deployments"), &["deploy"], (Scope::Namespaced, WITH_BOTH)),
    row(("batch", "v1"), ("Job", "jobs"), &[], (Scope::Namespaced, WITH_BOTH)),
    row(("coordination.k8s.io", "v1"), ("Lease", "leases"), &[], (Scope::Namespaced, CREATE_ON_UPDATE)),
    row(("discovery.k8s.io", "v1"), ("EndpointSlice", "endpointslices"), &[], (Scope::Namespaced, WITH_GENERATION)),
    row(("events.k8s.io", "v1"), ("Event", "events"), &["ev"], (Scope::Namespaced, CREATE_ON_UPDATE)),
    row(("networking.k8s.io", "v1"), ("ServiceCIDR", "servicecidrs"), &[], (Scope::Cluster, WITH_STATUS)),
    row(RBAC, ("ClusterRole", "clusterroles"), &[], (Scope::Cluster, PLAIN)),
    row(RBAC, ("ClusterRoleBinding", "clusterrolebindings"), &[], (Scope::Cluster, PLAIN)),
    row(RBAC, ("Role", "roles"), &[], (Scope::Namespaced, PLAIN)),
    row(RBAC, ("RoleBinding", "rolebindings"), &[], (Scope::Namespaced, PLAIN)),
];

/// All kinds served without any custom resource definition.
pub(crate) fn builtin_kinds() -> Vec<Arc<Kind>> {
    BUILTIN
        .iter()
        .map(|b| {
            Arc::new(Kind {
                group: b.group.to_owned(),
                version: b.version.to_owned(),
                kind: b.kind.to_owned(),
                list_kind: format!("{}List", b.kind),
                plural: b.plural.to_owned(),
                singular: b.kind.to_ascii_lowercase(),
                short_names: b.short.iter().map(|s| (*s).to_owned()).collect(),
                categories: Vec::new(),
                scope: b.scope,
                features: b.features.to_vec(),
                custom: None,
            })
        })
        .collect()
}
