//! TCP connections over whichever way leads to the other end.

use std::{future::Future, io, net::SocketAddr, pin::Pin, time::Duration};

use tokio::{net::TcpStream, time::timeout};

use crate::{
    Underlay, Way,
    own::{is_own, leads_home},
    socket,
};

/// How long the underlay is tried alone. Half a second is more than a way around the earth and back, so a plain
/// connection is hardly ever made in vain, and little enough to wait where the mesh is the only way.
const HEAD_START: Duration = Duration::from_millis(500);

/// How long the underlay may still answer after the other way has. The first packet of a connection is sent again after
/// one second (RFC 6298), and with the head start that falls into this time: one lost packet is not taken for a way that
/// is not there.
const FURTHER_CHANCE: Duration = Duration::from_secs(1);

/// How long an answer to a probe may take on each way.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the addresses of one family are tried alone, where a host has both (RFC 8305).
const FAMILY_HEAD_START: Duration = Duration::from_millis(300);

/// A connection that is being made.
type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

impl Underlay {
    /// Connects: over the underlay, or, when that does not lead there soon, over whichever way does first.
    ///
    /// # Errors
    /// When no way leads there. How long that takes is for the caller to limit.
    pub async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let Some(mut marked) = self.marked(address) else { return plain(address)?.await };
        match timeout(HEAD_START, &mut marked).await {
            Ok(Ok(stream)) => Ok(self.proven(stream)),
            Ok(Err(_)) => self.race(address, None).await,
            Err(_) => self.race(address, Some(marked)).await,
        }
    }

    /// Connects to the first of these addresses that answers. Of two families, the one of the first address has a short
    /// head start; one after the other, the addresses of a family share the time.
    ///
    /// # Errors
    /// When none answers within the time.
    pub async fn connect_any(&self, addresses: &[SocketAddr], within: Duration) -> io::Result<TcpStream> {
        let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
        let (preferred, others): (Vec<_>, Vec<_>) =
            addresses.iter().partition(|address| address.is_ipv4() == first_is_v4);
        let mut preferred = Box::pin(self.connect_in_turn(preferred, within));
        if others.is_empty() {
            return preferred.await;
        }
        let first = match timeout(FAMILY_HEAD_START, &mut preferred).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let others = self.connect_in_turn(others, within);
        match first {
            Some(error) => others.await.map_err(|_| error),
            None => first_of(preferred, others).await,
        }
    }

    async fn connect_in_turn(&self, addresses: Vec<SocketAddr>, within: Duration) -> io::Result<TcpStream> {
        let each = within / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
        let mut first = None;
        for address in addresses {
            let connected = match timeout(each, self.connect(address)).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            match connected {
                Ok(stream) => return Ok(stream),
                // The address that comes first is the one that was meant.
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no address")))
    }

    /// Finds out on which way an address answers, by connecting to it.
    pub async fn probe(&self, address: SocketAddr) {
        if !self.measures() || is_own(address.ip()) {
            return;
        }
        let Some(marked) = self.marked(address) else { return };
        if let Ok(Ok(stream)) = timeout(PROBE_TIMEOUT, marked).await {
            self.proven(stream);
            return;
        }
        let Ok(plain) = plain(address) else { return };
        match timeout(PROBE_TIMEOUT, plain).await {
            Ok(Ok(_)) => {
                self.evidence.note_answer(address.ip());
                self.settle(address, None).await;
            }
            Ok(Err(_)) | Err(_) => self.evidence.note_silence(address.ip()),
        }
    }

    /// Whether a host answers at an address on the host's own way, also by refusing the connection. Nothing is remembered.
    pub async fn is_answered(&self, address: SocketAddr, within: Duration) -> bool {
        let Some(connecting) = self.marked(address).or_else(|| plain(address).ok()) else { return false };
        match timeout(within, connecting).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
            Err(_) => false,
        }
    }

    /// Takes whichever way leads there first. `marked`: the underlay, while it may still answer.
    async fn race(&self, address: SocketAddr, marked: Option<Connecting>) -> io::Result<TcpStream> {
        let mut plain = plain(address)?;
        let Some(mut marked) = marked else {
            return plain.await.inspect(|stream| self.settle_later(stream, address, None));
        };
        tokio::select! {
            biased;
            connected = &mut marked => match connected {
                Ok(stream) => Ok(self.proven(stream)),
                Err(_) => plain.await.inspect(|stream| self.settle_later(stream, address, None)),
            },
            connected = &mut plain => match connected {
                Ok(stream) => {
                    self.settle_later(&stream, address, Some(marked));
                    Ok(stream)
                }
                Err(error) => marked.await.map(|stream| self.proven(stream)).map_err(|_| error),
            },
        }
    }

    fn marked(&self, address: SocketAddr) -> Option<Connecting> {
        let socket = self.marked_tcp(address)?;
        Some(Box::pin(socket.connect(address)))
    }

    /// The connection came about over the underlay.
    fn proven(&self, stream: TcpStream) -> TcpStream {
        if let Ok(peer) = stream.peer_addr()
            && !leads_home(&stream)
        {
            self.evidence.prove(peer.ip(), Way::Underlay);
        }
        stream
    }

    /// As [`Self::settle`], while the connection is used.
    fn settle_later(&self, plain: &TcpStream, address: SocketAddr, marked: Option<Connecting>) {
        if !leads_home(plain) {
            self.evidence.note_answer(address.ip());
            let this = self.clone();
            tokio::spawn(async move { this.settle(address, marked).await });
        }
    }

    /// An address has answered without the mark, so it is up. Whether the underlay leads there, too, is found out by
    /// giving it a further chance: it may be slow, or the server may just have come up.
    async fn settle(&self, address: SocketAddr, marked: Option<Connecting>) {
        let Some(marked) = marked.or_else(|| self.marked(address)) else { return };
        let way = match timeout(FURTHER_CHANCE, marked).await {
            Ok(Ok(_)) => Way::Underlay,
            Ok(Err(_)) | Err(_) => Way::Mesh,
        };
        self.evidence.prove(address.ip(), way);
    }
}

fn plain(address: SocketAddr) -> io::Result<Connecting> {
    Ok(Box::pin(socket::tcp(address, None)?.connect(address)))
}

/// The first of two that succeeds, else the error of the first.
async fn first_of<T>(
    mut one: Pin<Box<impl Future<Output = io::Result<T>>>>,
    other: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let mut other = Box::pin(other);
    tokio::select! {
        biased;
        done = &mut one => match done {
            Ok(value) => Ok(value),
            Err(error) => other.await.map_err(|_| error),
        },
        done = &mut other => match done {
            Ok(value) => Ok(value),
            Err(_) => one.await,
        },
    }
}
