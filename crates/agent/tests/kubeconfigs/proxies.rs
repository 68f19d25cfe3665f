//! Proxies that know where the name of the API leads; nobody else does.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// The login that some want: user:pass.
const BASIC: &str = "proxy-authorization: basic dxnlcjpwyxnz";

#[derive(Clone, Copy)]
pub enum Kind {
    Http { login: bool },
    Socks5 { login: bool },
}

/// Serves a proxy on a port of its own.
pub async fn serve(kind: Kind, tls: Option<rustls::ServerConfig>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                match tls {
                    Some(tls) => relay(tls.accept(stream).await?, kind).await,
                    None => relay(stream, kind).await,
                }
            });
        }
    });
    address
}

async fn relay<S: AsyncRead + AsyncWrite + Unpin>(mut client: S, kind: Kind) -> io::Result<()> {
    let server = match kind {
        Kind::Http { login } => http(&mut client, login).await?,
        Kind::Socks5 { login } => socks5(&mut client, login).await?,
    };
    let Some(mut server) = server else { return Ok(()) };
    io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Every name is that of the API, on this host.
async fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", port)).await
}

async fn http<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut S,
    login: bool,
) -> io::Result<Option<TcpStream>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    if login && !text.contains(BASIC) {
        client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await?;
        return Ok(None);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let [method, target, ..] = words[..] else { return Ok(None) };
    let authority = target.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let port = authority.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let mut server = connect(port).await?;
    if method == "connect" {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    } else {
        assert!(target.starts_with("http://"), "{target}");
        server.write_all(&head).await?;
    }
    Ok(Some(server))
}

/// RFC 1928, and 1929 with a login.
async fn socks5<S: AsyncRead + AsyncWrite + Unpin>(
    client: &mut S,
    login: bool,
) -> io::Result<Option<TcpStream>> {
    let (_version, methods) = (client.read_u8().await?, client.read_u8().await?);
    let mut offered = vec![0; methods.into()];
    client.read_exact(&mut offered).await?;
    let method = if login { 2 } else { 0 };
    if !offered.contains(&method) {
        client.write_all(&[5, 0xff]).await?;
        return Ok(None);
    }
    client.write_all(&[5, method]).await?;
    if login {
        let mut given = [0; 11];
        client.read_exact(&mut given).await?;
        client.write_all(&[1, u8::from(&given != b"\x01\x04user\x04pass")]).await?;
    }
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let length = match request[3] {
        1 => 4,
        4 => 16,
        _ => client.read_u8().await?.into(),
    };
    let mut host = vec![0; length];
    client.read_exact(&mut host).await?;
    let server = connect(client.read_u16().await?).await?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    Ok(Some(server))
}
