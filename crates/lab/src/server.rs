//! The process that serves the lab's Kubernetes API. It knows nothing of sites and agents: it gets its
//! objects from a file and serves them on the addresses it is given, until it is ended.

use std::{net::SocketAddr, path::Path};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The port of a second server that refuses everything, for tests of agents that are forbidden to read or
/// write.
pub const FORBIDDEN_PORT: u16 = 6444;

/// Serves the objects of `file`, a JSON array, on all of `addresses`. Returns only with an error.
///
/// # Errors
/// When the file does not hold objects that the API accepts, or an address is taken.
pub async fn run(file: &Path, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the objects in {}", file.display()))?;
    let objects: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("parsing {}", file.display()))?;
    let server = apiserver::Server::new();
    for object in objects {
        let name = object["metadata"]["name"].to_string();
        server.apply_object(object).with_context(|| format!("applying the object {name}"))?;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for address in addresses {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let server = server.clone();
        tasks.spawn(async move { server.serve(listener).await.context("serving") });
        let refusing = SocketAddr::new(address.ip(), FORBIDDEN_PORT);
        let listener =
            TcpListener::bind(refusing).await.with_context(|| format!("listening on {refusing}"))?;
        tasks.spawn(forbid(listener));
    }
    match tasks.join_next().await {
        Some(ended) => ended.context("a server task panicked")?,
        None => anyhow::bail!("no address was given"),
    }
}

/// Answers every request with 403 and closes the connection.
async fn forbid(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("accepting a connection")?;
        tokio::spawn(async move {
            // The client's own fault or end; the next one is not concerned.
            let _ = answer_forbidden(stream).await;
        });
    }
}

async fn answer_forbidden(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => request.extend_from_slice(&buffer[..read]),
        }
        if request.len() > 64 * 1024 {
            return Ok(());
        }
    }
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Forbidden", "code": 403,
        "message": "forbidden: the lab refuses every request",
    })
    .to_string();
    let head = format!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}
