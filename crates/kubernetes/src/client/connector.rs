//! Makes the client's connections: over the underlay where that leads to the other end, through a proxy if there is one,
//! in TLS if the API wants that.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Uri, uri::Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{
        Connected, Connection,
        proxy::{SocksV5, Tunnel},
    },
    rt::TokioIo,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service, ServiceExt as _};
use underlay::Underlay;

use super::{
    CONNECT_TIMEOUT,
    address::host_and_port,
    identity::basic,
    proxy::{Kind, Proxy},
    tls::Tls,
};

/// What the client asks for connections.
#[derive(Clone)]
pub(super) struct Connector {
    pub underlay: Underlay,
    pub proxy: Option<Proxy>,
    /// For servers and proxies that want it.
    pub tls: Option<Tls>,
}

/// Why there is no connection, in the words of the connector that the client has otherwise.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("dns error")]
    Name(#[source] io::Error),
    #[error("tcp connect error")]
    Tcp(#[source] io::Error),
    #[error("tls error")]
    Tls(#[source] io::Error),
    #[error("{0}")]
    ServerName(String),
    #[error("the proxy {url} of {origin} did not connect to {server}; check {origin} and NO_PROXY")]
    Proxy { url: Uri, origin: &'static str, server: String, source: BoxError },
}

/// Bytes in both directions.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Io = TokioIo<Box<dyn Duplex>>;

/// A connection.
pub(super) struct Channel {
    io: Io,
    /// The other end is a proxy that wants to see whole URLs.
    proxied: bool,
}

impl Connector {
    async fn connect(self, url: Uri) -> Result<Channel, ConnectError> {
        let encrypted = url.scheme() == Some(&Scheme::HTTPS);
        let io = match &self.proxy {
            None => tcp(&self.underlay, &url).await?,
            Some(proxy) => {
                self.through(proxy, &url, encrypted).await.map_err(|source| ConnectError::Proxy {
                    url: proxy.url.clone(),
                    origin: proxy.origin,
                    server: url.authority().map(ToString::to_string).unwrap_or_default(),
                    source,
                })?
            }
        };
        match self.tls.filter(|_| encrypted) {
            Some(tls) => Ok(Channel { io: encrypt(io, &tls, &url).await?, proxied: false }),
            None => {
                let proxied = self.proxy.is_some_and(|proxy| proxy.kind == Kind::Http);
                Ok(Channel { io, proxied })
            }
        }
    }

    async fn through(&self, proxy: &Proxy, url: &Uri, encrypted: bool) -> Result<Io, BoxError> {
        let way = ToProxy { underlay: self.underlay.clone(), tls: self.tls.clone() };
        // Without a port the libraries take that of HTTPS, whatever the scheme.
        let target = with_port(url)?;
        match proxy.kind {
            Kind::Http if encrypted => {
                let mut tunnel = Tunnel::new(proxy.url.clone(), way);
                if let Some(login) = &proxy.login {
                    tunnel = tunnel.with_auth(HeaderValue::from_str(&basic(login))?);
                }
                Ok(tunnel.oneshot(target).await?)
            }
            Kind::Http => Ok(way.oneshot(proxy.url.clone()).await?),
            Kind::Socks5 => {
                let mut socks = SocksV5::new(proxy.url.clone(), way);
                if let Some(login) = proxy.login.clone() {
                    socks = socks.with_auth(login.user, login.password);
                }
                Ok(socks.oneshot(target).await?)
            }
        }
    }
}

fn with_port(url: &Uri) -> Result<Uri, http::Error> {
    let (_, port) = host_and_port(url);
    let authority = format!("{}:{port}", url.host().unwrap_or_default());
    Uri::builder().scheme("https").authority(authority).path_and_query("/").build()
}

/// The way to the proxy itself.
#[derive(Clone)]
struct ToProxy {
    underlay: Underlay,
    tls: Option<Tls>,
}

impl Service<Uri> for ToProxy {
    type Response = Io;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Io, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        let way = self.clone();
        Box::pin(async move {
            let io = tcp(&way.underlay, &proxy).await?;
            match way.tls.filter(|_| proxy.scheme() == Some(&Scheme::HTTPS)) {
                Some(tls) => encrypt(io, &tls, &proxy).await,
                None => Ok(io),
            }
        })
    }
}

async fn tcp(underlay: &Underlay, url: &Uri) -> Result<Io, ConnectError> {
    let addresses = addresses(url).await?;
    let stream = underlay.connect_any(&addresses, CONNECT_TIMEOUT).await.map_err(ConnectError::Tcp)?;
    Ok(TokioIo::new(Box::new(stream)))
}

async fn encrypt(io: Io, tls: &Tls, url: &Uri) -> Result<Io, ConnectError> {
    let name = tls.name_of(url).map_err(ConnectError::ServerName)?;
    let stream = TlsConnector::from(Arc::clone(&tls.config)).connect(name, io.into_inner()).await;
    Ok(TokioIo::new(Box::new(stream.map_err(ConnectError::Tls)?)))
}

/// The addresses of a URL's host, in the order in which the system's resolver gives them.
pub(super) async fn addresses(url: &Uri) -> Result<Vec<SocketAddr>, ConnectError> {
    let (host, port) = host_and_port(url);
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await.map_err(ConnectError::Name)?;
    Ok(found.collect())
}

impl Service<Uri> for Connector {
    type Response = Channel;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(self.clone().connect(url))
    }
}

impl Connection for Channel {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }
}
