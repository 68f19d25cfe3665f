//! A `ValidatingAdmissionPolicy` as an API server evaluates it.
//!
//! The language and Kubernetes' functions come from crates; here is how a policy is put together from them. An
//! expression that fails is a refusal: the policies say `failurePolicy: Fail`.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    core::v1::ConfigMap,
};
use kube_cel::{
    KubeCelExt,
    cel::{Context, ExecutionError, Program, Value as Cel},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

/// Where manifests are.
pub const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests");

/// What is in a manifest of policies.
pub struct Manifest {
    pub params: Vec<ConfigMap>,
    pub policies: Vec<ValidatingAdmissionPolicy>,
    pub bindings: Vec<ValidatingAdmissionPolicyBinding>,
}

impl Manifest {
    pub fn read(file: &str) -> Self {
        let text = std::fs::read_to_string(format!("{DIRECTORY}/{file}")).unwrap();
        let documents: Vec<Value> = serde_norway::Deserializer::from_str(&text)
            .map(|document| Value::deserialize(document).unwrap())
            .collect();
        Self {
            params: of_kind("ConfigMap", &documents),
            policies: of_kind("ValidatingAdmissionPolicy", &documents),
            bindings: of_kind("ValidatingAdmissionPolicyBinding", &documents),
        }
    }
}

/// The objects of one kind; what is in them goes into the type without a rest.
fn of_kind<T: DeserializeOwned + serde::Serialize>(kind: &str, documents: &[Value]) -> Vec<T> {
    let chosen = documents.iter().filter(|document| document["kind"] == kind);
    chosen
        .map(|document| {
            let typed: T = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(
                serde_json::to_value(&typed).unwrap(),
                *document,
                "a field of this {kind} does not exist"
            );
            typed
        })
        .collect()
}

thread_local! {
    /// All functions. There are hundreds, so they are put together once.
    static FUNCTIONS: Context<'static> = {
        let mut context = Context::default().with_all();
        context.add_function("isCIDR", |text: Arc<String>| is_cidr(&text));
        // Types are checked by no program here.
        context.add_function("dyn", |value: Cel| Ok::<_, ExecutionError>(value));
        context
    };
}

/// A policy, compiled.
pub struct Policy {
    name: String,
    conditions: Vec<Program>,
    variables: Vec<(String, Program)>,
    validations: Vec<Validation>,
}

struct Validation {
    expression: String,
    program: Program,
    message: Result<String, Program>,
}

/// What an API server knows of a request.
#[derive(Clone, Copy, Default)]
pub struct Request<'a> {
    /// `None`: a deletion.
    pub object: Option<&'a Value>,
    /// `None`: a creation.
    pub old: Option<&'a Value>,
    pub params: Option<&'a Value>,
    /// The field `userInfo` of the request.
    pub user: Option<&'a Value>,
}

impl Request<'_> {
    /// The variable `request`.
    fn attributes(&self) -> Value {
        let operation = match (self.object, self.old) {
            (Some(_), Some(_)) => "UPDATE",
            (None, _) => "DELETE",
            (_, None) => "CREATE",
        };
        let name = &self.object.or(self.old).unwrap()["metadata"]["name"];
        let user = self.user.cloned().unwrap_or_else(|| serde_json::json!({}));
        serde_json::json!({ "operation": operation, "name": name, "userInfo": user })
    }
}

impl Policy {
    pub fn compile(policy: &ValidatingAdmissionPolicy) -> Self {
        let name = policy.metadata.name.clone().unwrap();
        let program =
            |text: &str| Program::compile(text).unwrap_or_else(|error| panic!("{name}: {text}: {error}"));
        let spec = policy.spec.as_ref().unwrap();
        assert_eq!(spec.failure_policy.as_deref(), Some("Fail"));
        let conditions =
            spec.match_conditions.iter().flatten().map(|condition| program(&condition.expression));
        let variables = spec
            .variables
            .iter()
            .flatten()
            .map(|variable| (variable.name.clone(), program(&variable.expression)));
        let validations = spec.validations.iter().flatten().map(|validation| Validation {
            expression: validation.expression.clone(),
            program: program(&validation.expression),
            message: match (&validation.message, &validation.message_expression) {
                (Some(message), None) => Ok(message.clone()),
                (None, Some(expression)) => Err(program(expression)),
                _ => panic!("{name}: {} has no message, or two", validation.expression),
            },
        });
        Self {
            conditions: conditions.collect(),
            variables: variables.collect(),
            validations: validations.collect(),
            name: name.clone(),
        }
    }

    /// The name of the object.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why the request is refused, the reason that the API server names first; empty: it is not.
    pub fn refusals(&self, request: &Request<'_>) -> Vec<String> {
        FUNCTIONS.with(|functions| self.refusals_in(functions.new_inner_scope(), request))
    }

    fn refusals_in(&self, mut context: Context<'_>, request: &Request<'_>) -> Vec<String> {
        context.add_variable_from_value("object", request.object.map_or(Cel::Null, cel));
        context.add_variable_from_value("oldObject", request.old.map_or(Cel::Null, cel));
        context.add_variable_from_value("params", request.params.map_or(Cel::Null, cel));
        context.add_variable_from_value("request", cel(&request.attributes()));
        for condition in &self.conditions {
            match condition.execute(&context) {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => return Vec::new(),
                other => return vec![format!("{}: a condition gives {other:?}", self.name)],
            }
        }
        // An API server computes a variable when it is used, and may use those before it.
        let mut variables = HashMap::new();
        for (name, program) in &self.variables {
            if let Ok(value) = program.execute(&context) {
                variables.insert(name.clone(), value);
            }
            context.add_variable_from_value("variables", variables.clone());
        }
        self.validations.iter().filter_map(|validation| validation.refusal(&context)).collect()
    }
}

impl Validation {
    fn refusal(&self, context: &Context<'_>) -> Option<String> {
        match self.program.execute(context) {
            Ok(Cel::Bool(true)) => None,
            Ok(Cel::Bool(false)) => Some(match &self.message {
                Ok(message) => message.clone(),
                Err(program) => match program.execute(context) {
                    Ok(Cel::String(message)) => message.to_string(),
                    other => panic!("the message of {} is {other:?}", self.expression),
                },
            }),
            other => Some(format!("{} gives {other:?}", self.expression)),
        }
    }
}

/// The function of Kubernetes reads by `netip.ParsePrefix`, which takes no leading zeros; that of the crate does.
fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_none() => 128,
        _ => return false,
    };
    length.parse().is_ok_and(|number: u8| number <= most && number.to_string() == length)
}

/// Whole numbers are signed, as in an API server.
fn cel(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(truth) => Cel::Bool(*truth),
        Value::Number(number) => {
            number.as_i64().map_or_else(|| Cel::Float(number.as_f64().unwrap()), Cel::Int)
        }
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => Cel::List(Arc::new(items.iter().map(cel).collect())),
        Value::Object(fields) => {
            let fields: HashMap<String, Cel> =
                fields.iter().map(|(name, field)| (name.clone(), cel(field))).collect();
            Cel::Map(fields.into())
        }
    }
}
