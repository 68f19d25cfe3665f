//! The process that serves the lab's Kubernetes API. It knows nothing of sites and agents: it gets its objects from a
//! file and serves them until it is ended. Towards the lab's nodes it can pretend to be away; on its own loopback it
//! always serves.

use std::{net::SocketAddr, path::Path};

use anyhow::Context;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

/// What the nodes get from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The objects.
    Serving,
    /// Nothing: connections are closed, new ones are refused.
    Gone,
    /// 403 to every request.
    Forbidding,
}

impl Mode {
    /// The signal that makes a running server take this mode.
    pub fn signal(self) -> Signal {
        match self {
            Self::Serving => Signal::HUP,
            Self::Gone => Signal::USR1,
            Self::Forbidding => Signal::USR2,
        }
    }
}

/// Serves the objects of `file`, a JSON array, always on `local` and according to the mode on `addresses`. Returns only
/// with an error.
///
/// # Errors
/// When the file does not hold objects that the API accepts, or an address is taken.
pub async fn run(file: &Path, local: SocketAddr, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("reading the objects in {}", file.display()))?;
    let objects: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("parsing {}", file.display()))?;
    let server = apiserver::Server::new();
    for object in objects {
        let name = object["metadata"]["name"].to_string();
        server.apply_object(object).with_context(|| format!("applying the object {name}"))?;
    }
    let listen_to =
        |mode: Mode| signal(SignalKind::from_raw(mode.signal().as_raw())).context("listening to a signal");
    let (mut serving, mut gone, mut forbidding) =
        (listen_to(Mode::Serving)?, listen_to(Mode::Gone)?, listen_to(Mode::Forbidding)?);
    let mut outside = listen(&server, addresses, Mode::Serving).await?;
    let mut inside = listen(&server, &[local], Mode::Serving).await?;
    loop {
        let mode = tokio::select! {
            Some(ended) = inside.join_next() => return ended.context("a server task panicked")?,
            _ = serving.recv() => Mode::Serving,
            _ = gone.recv() => Mode::Gone,
            _ = forbidding.recv() => Mode::Forbidding,
        };
        // That ends the connections, too.
        outside.shutdown().await;
        outside = listen(&server, addresses, mode).await?;
    }
}

async fn listen(
    server: &apiserver::Server,
    addresses: &[SocketAddr],
    mode: Mode,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let mut tasks = JoinSet::new();
    if mode == Mode::Gone {
        return Ok(tasks);
    }
    for address in addresses {
        let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        let server = server.clone();
        tasks.spawn(async move {
            if mode == Mode::Forbidding {
                return forbid(listener).await;
            }
            server.serve(listener).await.context("serving")
        });
    }
    Ok(tasks)
}

/// Answers every request with 403 and closes the connection.
async fn forbid(listener: TcpListener) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.context("accepting a connection")?;
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
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
