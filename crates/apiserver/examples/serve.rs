//! Serves an empty cluster on the address given (default 127.0.0.1:8001), for trying things with `kubectl`.

use apiserver::Server;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8001".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("{}", Server::kubeconfig(&listener.local_addr()?.to_string()));
    Server::new().serve(listener).await
}
