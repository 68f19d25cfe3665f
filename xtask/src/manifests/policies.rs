//! What API servers refuse the agents and the kubelets: `ValidatingAdmissionPolicy` objects, in which the names of
//! annotations come from `kubernetes::annotations`. RBAC grants all of a Node or nothing; the policies grant the
//! agent's annotations of the own Node.

mod expression;

use kubernetes::{annotations, patch};
use serde_json::Value;

use expression::{Policy, Validation, differing, differs, field, joined, list, quoted, text, value};

/// A Node with more annotations is refused unread: an API server's time for one request grows with the square of their
/// number. It was 60 ms for 1,000, and 10 s for 30,000, which fit into a Node.
const MOST_ANNOTATIONS: usize = 1000;

/// How API servers name the agents' service account.
const ACCOUNT: &str = "system:serviceaccount:kube-system:kilo";

/// All of them, with their bindings.
pub fn documents() -> Vec<Value> {
    let policies = [of_agents(), of_events(), of_kubelets(), of_pod_subnets(), of_regions()];
    policies.iter().flat_map(Policy::documents).collect()
}

/// An agent writes its own annotations on the Node on which its Pod runs.
fn of_agents() -> Policy {
    Policy {
        name: "agents.kilo.squat.ai",
        matches: NODES,
        operations: &["CREATE", "UPDATE", "DELETE"],
        conditions: vec![by_the_agent()],
        variables: variables_of_agents(),
        validations: vec![
            Validation::new(
                r#"request.operation == "UPDATE""#,
                [text("an agent of Kilo neither creates nor deletes Nodes")],
            ),
            Validation::new(
                r#"variables.node != "" || variables.pod != """#,
                [text(
                    "the token of the service account kilo is not bound to a Pod: run the agent with the token that \
                     Kubernetes mounts into its Pod, or as another user",
                )],
            ),
            // API servers before Kubernetes 1.30, and those without the feature ServiceAccountTokenPodNodeInfo, do not say
            // on which node a Pod is.
            Validation::new(
                r#"variables.node == "" || variables.node == request.name"#,
                [text("the agent of node "), value("variables.node"), text(" writes only its own Node")],
            ),
            Validation::new(
                "size(variables.fields) == 0",
                [
                    text("an agent of Kilo writes annotations only, and would change "),
                    joined("variables.fields"),
                ],
            ),
            few_annotations(),
            Validation::new(
                "size(variables.foreign) == 0",
                [
                    text("these annotations are not written by an agent of Kilo: "),
                    joined("variables.foreign"),
                ],
            ),
        ],
    }
}

/// The node and the Pod of the token, and what the request changes: `fields` besides annotations, and annotations that are
/// `foreign` to agents.
fn variables_of_agents() -> Vec<(&'static str, String)> {
    let foreign = format!(
        "variables.changed.filter(k, !(k in {}) && !k.startsWith({}))",
        list(&annotations::OF_AGENT),
        quoted(annotations::AGENT_PREFIX),
    );
    let mut variables = vec![
        ("node", claim("node-name")),
        ("pod", claim("pod-name")),
        ("objectNow", "object == null ? {} : dyn(object)".to_owned()),
        ("objectBefore", "oldObject == null ? {} : dyn(oldObject)".to_owned()),
        ("metadataNow", field("variables.objectNow", "metadata")),
        ("metadataBefore", field("variables.objectBefore", "metadata")),
        // The API server writes these itself with every change.
        (
            "fields",
            format!(
                "{} + ({}).map(f, \"metadata.\" + f)",
                differing(
                    "variables.objectNow",
                    "variables.objectBefore",
                    &["apiVersion", "kind", "metadata"]
                ),
                differing(
                    "variables.metadataNow",
                    "variables.metadataBefore",
                    &["annotations", "generation", "managedFields", "resourceVersion"],
                ),
            ),
        ),
    ];
    variables.extend(changed_annotations());
    variables.push(("foreign", foreign));
    variables
}

/// What an agent reports bears its name and is about objects that it reads.
fn of_events() -> Policy {
    Policy {
        name: "agent-events.kilo.squat.ai",
        matches: ("events.k8s.io", "v1", &["events"]),
        operations: &["CREATE", "UPDATE"],
        conditions: vec![by_the_agent()],
        variables: vec![("node", claim("node-name"))],
        validations: vec![
            Validation::new(
                format!(
                    "object.metadata.namespace == {} && has(object.reportingController) && \
                 object.reportingController == {} && has(object.type) && object.type == {} && \
                 has(object.regarding) && has(object.regarding.kind) && object.regarding.kind in {}",
                    quoted(patch::EVENT_NAMESPACE),
                    quoted(patch::CONTROLLER),
                    quoted(patch::EVENT_TYPE),
                    list(&patch::REPORTED_KINDS),
                ),
                [text(&format!(
                    "an agent of Kilo reports Events of type {} in the namespace {}, as {}, about {}",
                    patch::EVENT_TYPE,
                    patch::EVENT_NAMESPACE,
                    patch::CONTROLLER,
                    patch::REPORTED_KINDS.join(", "),
                ))],
            ),
            Validation::new(
                r#"variables.node == "" || (has(object.reportingInstance) && object.reportingInstance == variables.node)"#,
                [
                    text("the agent of node "),
                    value("variables.node"),
                    text(" reports Events in its own name only"),
                ],
            ),
        ],
    }
}

/// A kubelet writes no annotation of an operator. It may write those of an agent, for agents that use its kubeconfig; that
/// it writes them on its own Node only is what NodeRestriction sees to.
fn of_kubelets() -> Policy {
    let mut variables = vec![
        ("metadataNow", "dyn(object.metadata)".to_owned()),
        ("metadataBefore", "oldObject == null ? {} : dyn(oldObject.metadata)".to_owned()),
    ];
    variables.extend(changed_annotations());
    variables.push((
        "foreign",
        format!(
            "variables.changed.filter(k, k.startsWith({}) && !(k in {}))",
            quoted(annotations::PREFIX),
            list(&annotations::OF_AGENT),
        ),
    ));
    Policy {
        name: "kubelets.kilo.squat.ai",
        matches: NODES,
        operations: &["CREATE", "UPDATE"],
        // A heartbeat changes no annotation and costs two comparisons.
        conditions: vec![by_a_kubelet(), ("annotations-change", differs("annotations"))],
        variables,
        validations: vec![
            few_annotations(),
            Validation::new(
                "size(variables.foreign) == 0",
                [
                    text("a kubelet may not write annotations of Kilo: "),
                    joined("variables.foreign"),
                    text("; write them as an operator"),
                ],
            ),
        ],
    }
}

/// A kubelet does not choose the pod subnets of its node: others would send it what is in them.
fn of_pod_subnets() -> Policy {
    let spec = |object: &str| format!("has({object}.spec) ? dyn({object}.spec) : {{}}");
    let same = |field: &str, none: &str| {
        let of = |spec: &str| format!("(has({spec}.{field}) ? {spec}.{field} : {none})");
        format!("{} == {}", of("variables.specNow"), of("variables.specBefore"))
    };
    Policy {
        name: "node-pods.kilo.squat.ai",
        matches: ("", "v1", &["nodes"]),
        operations: &["CREATE", "UPDATE"],
        conditions: vec![by_a_kubelet()],
        variables: vec![
            ("specNow", spec("object")),
            ("specBefore", format!("oldObject == null ? {{}} : ({})", spec("oldObject"))),
        ],
        validations: vec![Validation::new(
            format!("{} && {}", same("podCIDR", r#""""#), same("podCIDRs", "[]")),
            [text(
                "a kubelet may not choose the pod subnets of its node, spec.podCIDR and spec.podCIDRs: the controller \
                 manager of the cluster does",
            )],
        )],
    }
}

/// A kubelet does not move its node to another location.
fn of_regions() -> Policy {
    let labels =
        |object: &str| format!("has({object}.metadata.labels) ? dyn({object}.metadata.labels) : {{}}");
    Policy {
        name: "node-regions.kilo.squat.ai",
        matches: NODES,
        operations: &["UPDATE"],
        conditions: vec![
            by_a_kubelet(),
            ("labels-change", differs("labels")),
            // With this annotation the labels mean nothing.
            (
                "location-is-by-label",
                format!(
                    "!has(oldObject.metadata.annotations) || !({} in oldObject.metadata.annotations)",
                    quoted(annotations::LOCATION)
                ),
            ),
        ],
        variables: vec![
            ("now", labels("object")),
            ("before", labels("oldObject")),
            (
                "changed",
                format!(
                    r#"{}.filter(l, (l in variables.now ? variables.now[l] : "") != (l in variables.before ? variables.before[l] : ""))"#,
                    list(&[annotations::REGION_LABEL, annotations::OLD_REGION_LABEL]),
                ),
            ),
        ],
        validations: vec![Validation::new(
            "size(variables.changed) == 0",
            [
                text("a kubelet may not move a node to another location of Kilo: "),
                joined("variables.changed"),
                text(&format!(
                    "; as an operator write the label, or the annotation {}",
                    annotations::LOCATION
                )),
            ],
        )],
    }
}

/// Annotations can be written through the status, too.
const NODES: (&str, &str, &[&str]) = ("", "v1", &["nodes", "nodes/status"]);

fn by_the_agent() -> (&'static str, String) {
    ("by-the-agent", format!("request.userInfo.username == {}", quoted(ACCOUNT)))
}

fn by_a_kubelet() -> (&'static str, String) {
    (
        "by-a-kubelet",
        r#"has(request.userInfo.groups) && "system:nodes" in request.userInfo.groups"#.to_owned(),
    )
}

/// What the token of a service account says about where it is used; empty when it does not.
fn claim(name: &str) -> String {
    let key = quoted(&format!("authentication.kubernetes.io/{name}"));
    format!(
        r#"has(request.userInfo.extra) && {key} in request.userInfo.extra ? request.userInfo.extra[{key}][0] : """#
    )
}

/// The names of annotations that the request sets, changes or removes, of the variables `metadataNow` and `metadataBefore`.
fn changed_annotations() -> [(&'static str, String); 4] {
    [
        ("now", field("variables.metadataNow", "annotations")),
        ("before", field("variables.metadataBefore", "annotations")),
        (
            "few",
            format!(
                "size(variables.now) <= {MOST_ANNOTATIONS} && size(variables.before) <= {MOST_ANNOTATIONS}"
            ),
        ),
        ("changed", format!("variables.few ? {} : []", differing("variables.now", "variables.before", &[]))),
    ]
}

/// That the variable `changed` tells all.
fn few_annotations() -> Validation {
    Validation::new(
        "variables.few",
        [text(&format!(
            "the Node has more than {MOST_ANNOTATIONS} annotations, so neither its agent nor its kubelet may change one: remove some"
        ))],
    )
}
