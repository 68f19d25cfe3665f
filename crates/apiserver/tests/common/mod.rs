//! What the API tests share: a served cluster and a plain HTTP client.

#![allow(dead_code, reason = "each test uses a part of this")]

pub mod shell;

use std::net::SocketAddr;
use std::time::Duration;

use apiserver::Server;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server on a port of its own, until dropped.
pub struct Cluster {
    pub server: Server,
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    pub async fn start(server: Server) -> Cluster {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = server.clone();
        let task = tokio::spawn(async move { serving.serve(listener).await.unwrap() });
        Cluster { server, address, task }
    }
}

/// The definition of Peers, as an administrator would install it.
pub fn peer_definition() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/data/apiserver/transcript.json");
    let pairs: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let recorded = pairs.iter().find(|pair| pair["title"] == "crd get").unwrap();
    let mut definition = recorded["response"]["body"].clone();
    definition.as_object_mut().unwrap().remove("status");
    definition["metadata"] = json!({ "name": "peers.kilo.squat.ai" });
    definition
}

/// A response, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }

    /// The lines of a watch.
    pub fn lines(&self) -> Vec<Value> {
        self.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Sends a request on a connection of its own; the body is still to be read.
pub async fn open(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<hyper::body::Incoming> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

/// Sends a request and reads the whole response; watches end by their timeout.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let shown = format!("{} {}", request.method(), request.uri());
    let response = open(address, request).await;
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(Duration::from_secs(30), body.collect()).await;
    let body = body.unwrap_or_else(|_| panic!("{shown} did not end within 30 s")).unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// A request with a JSON body, or none for `Null`.
pub fn request(method: &str, path: &str, body: &Value) -> Request<Full<Bytes>> {
    let text = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let builder = Request::builder().method(method).uri(path);
    builder.header("host", "cluster").header("content-type", media).body(Full::from(text)).unwrap()
}
