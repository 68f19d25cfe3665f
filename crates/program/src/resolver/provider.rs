//! The sockets of a resolver: with the mark of the underlay, or plain.

use std::{future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use hickory_resolver::net::runtime::{
    RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use tokio::net::{TcpStream, UdpSocket};
use underlay::Underlay;

/// How long a connection to a name server may take when nothing else is said.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Opened<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

/// Opens the sockets of a resolver.
#[derive(Clone)]
pub struct Provider {
    tokio: TokioRuntimeProvider,
    /// `None`: sockets are plain.
    underlay: Option<Underlay>,
}

impl Provider {
    /// Sockets that follow the routes that everything has.
    pub fn plain() -> Self {
        Self { tokio: TokioRuntimeProvider::default(), underlay: None }
    }

    /// Sockets that follow the host's own routes.
    pub fn marked(underlay: Underlay) -> Self {
        Self { tokio: TokioRuntimeProvider::default(), underlay: Some(underlay) }
    }
}

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opened<Self::Tcp> {
        let Some(underlay) = self.underlay.clone() else {
            return self.tokio.connect_tcp(server, local, timeout);
        };
        Box::pin(async move {
            let socket = underlay.marked_tcp(server).ok_or(io::ErrorKind::Unsupported)?;
            if let Some(local) = local {
                socket.bind(local)?;
            }
            socket.set_nodelay(true)?;
            let connecting = socket.connect(server);
            match tokio::time::timeout(timeout.unwrap_or(CONNECT_TIMEOUT), connecting).await {
                Ok(stream) => stream.map(AsyncIoTokioAsStd),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn bind_udp(&self, local: SocketAddr, server: SocketAddr) -> Opened<UdpSocket> {
        let Some(underlay) = self.underlay.clone() else { return self.tokio.bind_udp(local, server) };
        Box::pin(async move { underlay.marked_udp(local) })
    }
}
