//! APIs that refuse what an agent writes: a policy that does not know all annotations, and servers that ask to be left alone.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use kube::{Client, client::Body};
use kubernetes::{
    ApiAccess, annotations as name, connect, encode::encode, patch::tell, patch_node, permission::Permission,
};
use mesh::{Granularity, Published};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// What a policy refuses, as a code and the message of a Status.
type Policy = fn(&BTreeMap<String, Value>) -> Option<(u16, String)>;

/// An API with one Node, and a policy for patches of it.
#[derive(Clone)]
struct Api {
    annotations: Arc<Mutex<BTreeMap<String, String>>>,
    policy: Arc<Mutex<Policy>>,
    /// The keys of every patch.
    patches: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Api {
    fn with(policy: Policy) -> Self {
        Self { annotations: Arc::default(), policy: Arc::new(Mutex::new(policy)), patches: Arc::default() }
    }

    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let body = request.into_body().collect_bytes().await.unwrap();
                let (code, text) = api.patch(&serde_json::from_slice(&body).unwrap());
                let answer = Response::builder().status(code).body(Full::<Bytes>::new(text.into())).unwrap();
                Ok::<_, Infallible>(answer)
            }
        });
        Client::new(service, "default")
    }

    fn patch(&self, patch: &Value) -> (u16, String) {
        let changed: BTreeMap<String, Value> =
            serde_json::from_value(patch["metadata"]["annotations"].clone()).unwrap();
        self.patches.lock().unwrap().push(changed.keys().cloned().collect());
        if let Some((code, message)) = self.policy.lock().unwrap()(&changed) {
            let status = json!({ "kind": "Status", "status": "Failure", "code": code, "message": message });
            return (code, status.to_string());
        }
        let mut annotations = self.annotations.lock().unwrap();
        for (key, value) in changed {
            match value.as_str() {
                Some(text) => drop(annotations.insert(key, text.to_owned())),
                None => drop(annotations.remove(&key)),
            }
        }
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "own", "annotations": *annotations },
        });
        (200, node.to_string())
    }

    fn requests(&self) -> usize {
        std::mem::take(&mut *self.patches.lock().unwrap()).len()
    }
}

/// As a ValidatingAdmissionPolicy does it.
fn denied(what: &str) -> Option<(u16, String)> {
    let message = format!(
        "nodes \"own\" is forbidden: ValidatingAdmissionPolicy 'kilo-nodes' with binding 'kilo-nodes' denied request: {what}"
    );
    Some((422, message))
}

fn facts(last_seen: i64) -> Published {
    Published {
        endpoint: "203.0.113.1:51820".parse().ok(),
        internal_ips: vec!["10.1.0.1/24".parse().unwrap(), "fd01::1/64".parse().unwrap()],
        key: common::KEY.parse().unwrap(),
        wireguard_ips: vec!["10.4.0.1/16".parse().unwrap(), "fd04::1/64".parse().unwrap()],
        granularity: Granularity::Location,
        last_seen,
        discovered_endpoints: BTreeMap::new(),
        cni_compatibility_ips: Vec::new(),
        pod_cidr_source: "cilium".to_owned(),
        settings: Default::default(),
    }
}

/// The policy is older than the agent: what Go agents read is written all the same, and what is refused is named.
#[tokio::test]
async fn annotations_that_a_policy_does_not_know_are_left_out() {
    let api = Api::with(|changed| {
        let unknown = [name::INTERNAL_IPS, name::POD_CIDR_SOURCE];
        unknown.iter().any(|key| changed.contains_key(*key)).then(|| denied("unknown annotation"))?
    });
    let (client, mut permission) = (api.client(), Permission::new(b"own"));
    let told = tell(&client, "own", &BTreeMap::new(), &facts(1), &mut permission).await.unwrap().annotations;
    let expected = encode(&facts(1)).into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let expected: BTreeMap<String, String> = expected
        .filter(|(key, _)| ![name::INTERNAL_IPS, name::POD_CIDR_SOURCE].contains(&key.as_str()))
        .collect();
    assert_eq!((&told, &*api.annotations.lock().unwrap()), (&expected, &expected));
    let requests = api.requests();
    assert!(requests <= 12, "{requests} requests");
    let problem = permission.problem("own").unwrap();
    assert_eq!((problem.object.to_string().as_str(), problem.reason), ("node own", "PatchRefused"));
    for part in ["internal-ips", "pod-cidr-source", "'kilo-nodes'", "unknown annotation"] {
        assert!(problem.message.contains(part), "{part} is not in {problem}");
    }
    assert!(!problem.message.contains("wireguard-ips"), "{problem}");
    // Every heartbeat from then on is one request.
    for second in 2..20 {
        let told = tell(&client, "own", &told, &facts(second), &mut permission).await.unwrap().annotations;
        assert_eq!(told[name::LAST_SEEN], second.to_string());
        assert_eq!((api.requests(), permission.problem("own")), (1, Some(problem.clone())));
    }
}

#[tokio::test]
async fn a_policy_that_refuses_everything_is_named_and_not_pressed() {
    let api = Api::with(|_| denied("this account may not"));
    let (client, mut permission) = (api.client(), Permission::new(b"own"));
    let error = tell(&client, "own", &BTreeMap::new(), &facts(1), &mut permission).await.unwrap_err();
    assert!(error.to_string().contains("this account may not"), "{error}");
    assert_eq!(api.requests(), 2);
    assert!(permission.problem("own").unwrap().message.contains("even the heartbeat"));
    tell(&client, "own", &BTreeMap::new(), &facts(2), &mut permission).await.unwrap_err();
    assert_eq!(api.requests(), 1, "whether the heartbeat is refused still decides");
    // The policy is corrected.
    *api.policy.lock().unwrap() = |_| None;
    let told = tell(&client, "own", &BTreeMap::new(), &facts(3), &mut permission).await.unwrap().annotations;
    assert_eq!((told.len(), api.requests(), permission.problem("own")), (11, 2, None));
}

/// Without any leave to patch Nodes there is nothing to find out by taking the patch apart.
#[tokio::test]
async fn missing_leave_is_no_refusal_of_annotations() {
    let api = Api::with(|_| {
        let message = "nodes \"own\" is forbidden: User \"system:serviceaccount:kube-system:kilo\" cannot patch resource \
                       \"nodes\" in API group \"\" at the cluster scope";
        Some((403, message.to_owned()))
    });
    let mut permission = Permission::new(b"own");
    let error = tell(&api.client(), "own", &BTreeMap::new(), &facts(1), &mut permission).await.unwrap_err();
    assert!(error.to_string().contains("bind a ClusterRole"), "{error}");
    assert_eq!((api.requests(), permission.problem("own")), (1, None));
}

/// A server answers every request with this.
async fn server_that_says(answer: &'static str) -> ApiAccess {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut read = vec![0; 4096];
            assert!(stream.read(&mut read).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    ApiAccess::from_flags(None, Some(format!("http://{address}")), "kilo-test")
}

/// An overloaded API server sets only the header, with a line of text as the body.
#[tokio::test]
async fn the_header_retry_after_is_read() {
    for (answer, seconds, said) in [
        (
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 18\r\nConnection: close\r\n\r\nToo many requests.",
            Some(7),
            "429",
        ),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", None, "503"),
        (
            "HTTP/1.1 429 Too Many Requests\r\nRetry-After: Fri, 31 Dec 2027 23:59:59 GMT\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n",
            None,
            "429",
        ),
    ] {
        let client = connect(&server_that_says(answer).await).await.unwrap();
        let error = patch_node(&client, "own", &json!({})).await.unwrap_err();
        assert_eq!(error.retry_after(), seconds.map(Duration::from_secs), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}
