//! APIs that are old, silent or inconsistent. They are functions, so that the clock can run as fast as nothing happens.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::Reader;
use futures::{StreamExt as _, stream};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use kube::{Client, client::Body};
use kubernetes::{PodCidrSource, WatchConfig, watch};
use serde_json::{Value, json};

/// What the API says to a request.
enum Answer {
    /// Nothing, ever.
    Silence,
    /// A status code and the message of a Status.
    Refused(u16, &'static str),
    /// 429, and after how many seconds to come back.
    Busy(u32),
    /// An object.
    Object(Value),
    /// The events of a watch that stays open.
    Events(Vec<Value>),
    /// The events of a watch that ends.
    Ended(Vec<Value>),
}

type Text = UnsyncBoxBody<Bytes, Infallible>;

/// What was asked for: `list nodes` or `watch nodes` with the position, `stream nodes` for a streaming list, `metadata
/// nodes` with the position for a watch of metadata alone.
type Asked = Arc<Mutex<Vec<String>>>;

/// A watch of an API that answers requests for nodes in this way; of Peers it has none.
fn watch_of(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> (Reader, Asked) {
    let asked = Asked::default();
    let log = asked.clone();
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<Body>| {
        let what = describe(&request);
        let answer = match what.as_str() {
            peers if peers.contains("peers") => peers_answer(peers),
            nodes => {
                log.lock().unwrap().push(nodes.to_owned());
                answer(nodes)
            }
        };
        async move { Ok::<_, Infallible>(respond(answer).await) }
    });
    let client = Client::new(service, "default");
    let config =
        WatchConfig { topology_label: "x".to_owned(), own_node: None, pod_cidr_source: PodCidrSource::Node };
    let mut reader = Reader::of(watch(&client, config));
    // It costs nothing here.
    reader.patience = Duration::from_secs(600);
    (reader, asked)
}

fn describe(request: &Request<Body>) -> String {
    let uri = request.uri();
    let query = uri.query().unwrap_or_default();
    let resource = uri.path().rsplit('/').next().unwrap();
    let value = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
            .unwrap_or_default()
            .to_owned()
    };
    let accepts = request.headers().get("accept").map(|accept| accept.to_str().unwrap()).unwrap_or_default();
    match (value("watch").as_str(), value("sendInitialEvents").as_str()) {
        ("true", "true") => format!("stream {resource}"),
        ("true", _) if accepts.contains("as=PartialObjectMetadata") => {
            assert!(accepts.ends_with(",application/json"), "whole objects will do: {accepts}");
            format!("metadata {resource} {}", value("resourceVersion"))
        }
        ("true", _) => format!("watch {resource} {}", value("resourceVersion")),
        _ => format!("list {resource} {}", value("continue")).trim_end().to_owned(),
    }
}

async fn respond(answer: Answer) -> Response<Text> {
    let (code, text) = match answer {
        Answer::Silence => std::future::pending().await,
        Answer::Refused(code, message) => {
            let status = json!({ "kind": "Status", "status": "Failure", "code": code, "message": message, "reason": "R" });
            (code, status.to_string())
        }
        Answer::Busy(seconds) => {
            let details = json!({ "retryAfterSeconds": seconds });
            let status = json!({ "kind": "Status", "status": "Failure", "code": 429, "message": "busy", "details": details });
            (429, status.to_string())
        }
        Answer::Object(object) => (200, object.to_string()),
        Answer::Ended(events) => (200, lines(&events)),
        Answer::Events(events) => return Response::new(endless(lines(&events))),
    };
    Response::builder().status(code).body(Full::new(text.into()).boxed_unsync()).unwrap()
}

/// A body that gives a text and then nothing more, without an end.
fn endless(text: String) -> Text {
    let first = stream::iter([Ok::<_, Infallible>(Frame::data(text.into()))]);
    StreamBody::new(first.chain(stream::pending())).boxed_unsync()
}

fn lines(events: &[Value]) -> String {
    events.iter().map(|event| format!("{event}\n")).collect()
}

fn peers_answer(what: &str) -> Answer {
    if what.starts_with("stream") { Answer::Events(vec![list_end("1")]) } else { Answer::Events(vec![]) }
}

fn node(name: &str, version: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "resourceVersion": version } })
}

fn added(name: &str, version: &str) -> Value {
    json!({ "type": "ADDED", "object": node(name, version) })
}

fn with_pods(mut event: Value, subnet: &str) -> Value {
    event["object"]["spec"] = json!({ "podCIDR": subnet, "podCIDRs": [subnet] });
    event
}

fn with_keepalive(mut event: Value, seconds: &str) -> Value {
    event["object"]["metadata"]["annotations"] = json!({ "kilo.squat.ai/persistent-keepalive": seconds });
    event
}

fn bookmark(version: &str) -> Value {
    json!({ "type": "BOOKMARK", "object": {
        "apiVersion": "v1", "kind": "Node", "metadata": { "resourceVersion": version },
    } })
}

fn list_end(version: &str) -> Value {
    let mut event = bookmark(version);
    event["object"]["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    event
}

fn list(names: &[&str], next: &str) -> Value {
    let items: Vec<_> = names.iter().map(|name| node(name, "5")).collect();
    json!({ "apiVersion": "v1", "kind": "NodeList", "metadata": { "resourceVersion": "7", "continue": next }, "items": items })
}

#[tokio::test(start_paused = true)]
async fn an_api_without_streaming_lists_is_listed() {
    let (mut reader, asked) = watch_of(|what| match what {
        "stream nodes" => Answer::Refused(422, "sendInitialEvents is forbidden"),
        "list nodes" => Answer::Object(list(&["a"], "more")),
        "list nodes more" => Answer::Object(list(&["b"], "")),
        "watch nodes 7" => Answer::Events(vec![added("c", "9")]),
        other => panic!("{other}"),
    });
    reader.until("synced").await;
    reader.until("node c").await;
    assert_eq!(reader.node_names(), ["a", "b", "c"]);
    assert_eq!(*asked.lock().unwrap(), ["stream nodes", "list nodes", "list nodes more", "watch nodes 7"]);
}

/// Before streaming lists the API passed over what it did not know: a watch from "any" version, whose end is unknown.
#[tokio::test(start_paused = true)]
async fn an_api_that_never_ends_the_list_is_listed() {
    let (mut reader, _) = watch_of(|what| match what {
        "stream nodes" => Answer::Events(vec![added("a", "3")]),
        "list nodes" => Answer::Object(list(&["a", "b"], "")),
        "watch nodes 7" => Answer::Events(vec![]),
        other => panic!("{other}"),
    });
    assert_eq!(reader.until("synced").await, ["node a", "node b", "synced"]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_is_noticed() {
    let (mut reader, _) = watch_of(|_| Answer::Silence);
    reader.until("broken Unreachable").await;
    reader.until("access [Unreachable]").await;
    assert!(reader.access[0].message.contains("no answer for 15 s"), "{}", reader.access[0]);
}

/// A watch that has died without an end, as behind a NAT router that has forgotten it: it is resumed, and because
/// that works, nothing is broken.
#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_resumed_where_it_was() {
    let (mut reader, asked) = watch_of(|what| match what {
        "stream nodes" => Answer::Events(vec![added("a", "3"), list_end("4"), bookmark("8")]),
        "watch nodes 8" => Answer::Ended(vec![added("b", "9")]),
        "watch nodes 9" => Answer::Events(vec![added("c", "10")]),
        other => panic!("{other}"),
    });
    reader.until("synced").await;
    assert_eq!(reader.until("node c").await, ["node b", "node c"]);
    assert_eq!(*asked.lock().unwrap(), ["stream nodes", "watch nodes 8", "watch nodes 9"]);
}

/// Pod subnets never change, so the annotations suffice, until there is a Node of which no subnet is known.
#[tokio::test(start_paused = true)]
async fn heartbeats_are_watched_without_what_never_changes() {
    let (mut reader, asked) = watch_of(|what| match what {
        "stream nodes" => Answer::Events(vec![with_pods(added("a", "3"), "10.2.1.0/24"), list_end("4")]),
        "metadata nodes 4" => {
            Answer::Events(vec![with_keepalive(added("a", "5"), "10"), with_keepalive(added("b", "7"), "10")])
        }
        "watch nodes 5" => {
            Answer::Ended(vec![with_keepalive(with_pods(added("b", "7"), "10.2.2.0/24"), "10")])
        }
        // One that does not know about metadata alone.
        "metadata nodes 7" => {
            Answer::Ended(vec![with_keepalive(with_pods(added("b", "8"), "10.2.2.0/24"), "20")])
        }
        "metadata nodes 8" => Answer::Events(vec![]),
        other => panic!("{other}"),
    });
    reader.until("synced").await;
    assert_eq!(reader.until("node b").await, ["node a", "node b"]);
    let told = |reader: &Reader, name: &str| {
        let node = &reader.nodes[name].node;
        (node.persistent_keepalive, node.pod_subnets.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(told(&reader, "a"), (10, vec!["10.2.1.0/24".to_owned()]));
    assert_eq!(told(&reader, "b"), (10, vec!["10.2.2.0/24".to_owned()]));
    assert_eq!(reader.until("node b").await, ["node b"]);
    assert_eq!(told(&reader, "b"), (20, vec!["10.2.2.0/24".to_owned()]));
    assert!(tokio::time::timeout(Duration::from_secs(60), reader.updates.next()).await.is_err());
    let asked = asked.lock().unwrap();
    assert_eq!(
        *asked,
        ["stream nodes", "metadata nodes 4", "watch nodes 5", "metadata nodes 7", "metadata nodes 8"]
    );
}

/// As after a restore of the cluster's database: the position is ahead of everything.
#[tokio::test(start_paused = true)]
async fn a_position_that_the_api_refuses_is_given_up() {
    let streams = Mutex::new(0);
    let (mut reader, _) = watch_of(move |what| match what {
        "stream nodes" => {
            let mut streams = streams.lock().unwrap();
            *streams += 1;
            match *streams {
                1 => Answer::Ended(vec![added("a", "90"), added("b", "91"), list_end("99")]),
                _ => Answer::Events(vec![added("b", "3"), list_end("4")]),
            }
        }
        "watch nodes 99" => Answer::Refused(504, "Timeout: Too large resource version: 99, current: 4"),
        other => panic!("{other}"),
    });
    reader.until("synced").await;
    let told = reader.until("synced").await;
    assert_eq!(told, ["broken ApiError", "access [ApiError]", "no node a", "access []", "synced"]);
}

/// A list that breaks off says nothing about what it has not shown.
#[tokio::test(start_paused = true)]
async fn half_a_list_removes_nothing() {
    let streams = Mutex::new(0);
    let (mut reader, _) = watch_of(move |what| match what {
        "stream nodes" => {
            let mut streams = streams.lock().unwrap();
            *streams += 1;
            match *streams {
                1 => Answer::Ended(vec![added("a", "3"), added("b", "3"), list_end("4")]),
                2..5 => Answer::Ended(vec![added("b", "3")]),
                _ => Answer::Events(vec![added("b", "3"), list_end("4")]),
            }
        }
        "watch nodes 4" => Answer::Refused(410, "too old resource version"),
        other => panic!("{other}"),
    });
    reader.until("synced").await;
    let told = reader.until("broken Unreachable").await;
    assert_eq!(told, ["broken Unreachable"]);
    assert_eq!(reader.node_names(), ["a", "b"]);
    assert_eq!(reader.until("synced").await, ["access [Unreachable]", "no node a", "access []", "synced"]);
}

/// One reason is told once, however long it lasts.
#[tokio::test(start_paused = true)]
async fn an_api_that_stays_away_is_told_once() {
    let (mut reader, asked) = watch_of(|_| Answer::Refused(503, "starting"));
    reader.until("broken ApiError").await;
    reader.until("access [ApiError]").await;
    let more = tokio::time::timeout(Duration::from_secs(600), reader.updates.next()).await;
    assert!(more.is_err(), "{more:?}");
    // Not more often than every 15 s, not less often than every 30 s, and sooner at the beginning.
    let attempts = asked.lock().unwrap().len();
    assert!((20..50).contains(&attempts), "{attempts} in ten minutes");
}

/// An API that has too much to do is left alone for as long as it asks for, but whoever stands before it does not keep the
/// cluster's changes away.
#[tokio::test(start_paused = true)]
async fn an_api_that_asks_to_be_left_alone_is() {
    for (asked_for, attempts) in [(25, 32..=40), (100, 26..=34)] {
        let (mut reader, asked) = watch_of(move |_| Answer::Busy(asked_for));
        reader.until("broken ApiError").await;
        reader.until("access [ApiError]").await;
        let more = tokio::time::timeout(Duration::from_secs(1000), reader.updates.next()).await;
        assert!(more.is_err(), "{more:?}");
        // Every 25 or 30 s, or up to a quarter later.
        let asked = asked.lock().unwrap().len();
        assert!(attempts.contains(&asked), "{asked} in 1,000 s");
    }
}
