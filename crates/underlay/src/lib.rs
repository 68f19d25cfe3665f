//! What the host reaches without the mesh, found out by reaching it.
//!
//! A socket with the mark of the underlay follows the host's own routes, as if there were no mesh. Whatever answers it
//! has to stay reachable on that way, because the host depends on it: the API server and the name servers. Whatever
//! answers only without the mark is reached through the mesh, and has to stay in it. Nothing else is taken for proof; in
//! particular silence proves nothing, because a server that is down is silent on both ways.
//!
//! This crate knows sockets and addresses. What they are for, and what follows from it, is known to others.

mod connect;
mod evidence;
mod lifelines;
mod name_server;
mod own;
mod socket;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use evidence::Evidence;
pub use evidence::{State, Way};
pub use lifelines::Lifelines;
pub use own::is_own;
use tokio::{
    net::{TcpSocket, UdpSocket},
    sync::watch,
};

/// Makes connections over the underlay where it leads to the other end, and else as the host does, and remembers which
/// it was. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Underlay {
    /// `None`: sockets are plain, and nothing is found out.
    mark: Option<u32>,
    evidence: Arc<Evidence>,
}

impl Underlay {
    /// With the mark of the underlay; without one, all sockets are plain and nothing is found out. That is so too when
    /// this process may not set marks.
    #[must_use]
    pub fn new(mark: Option<u32>) -> Self {
        let mark = mark.filter(|mark| match socket::may_set(*mark) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "firewall marks cannot be set, so it cannot be found out what is reached without the mesh; \
                     CAP_NET_ADMIN is needed"
                );
                false
            }
        });
        Self { mark, evidence: Arc::default() }
    }

    /// Plain sockets.
    #[must_use]
    pub fn plain() -> Self {
        Self::new(None)
    }

    /// Whether anything is found out.
    #[must_use]
    pub fn measures(&self) -> bool {
        self.mark.is_some()
    }

    /// What has been proven of addresses.
    #[must_use]
    pub fn evidence(&self) -> BTreeMap<IpAddr, Way> {
        self.evidence.proven()
    }

    /// What is known of an address.
    #[must_use]
    pub fn state(&self, address: IpAddr) -> State {
        self.evidence.state(address)
    }

    /// Tells what is known of addresses, whenever that changes. Addresses of which nothing is known are not in it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<IpAddr, State>> {
        self.evidence.subscribe()
    }

    /// A socket for a connection over the underlay. `None`: there is none, so a plain one has to do.
    #[must_use]
    pub fn marked_tcp(&self, remote: SocketAddr) -> Option<TcpSocket> {
        let socket = socket::tcp(remote, Some(self.mark?));
        socket.inspect_err(|error| tracing::debug!(%error, "no socket with a mark")).ok()
    }

    /// A socket for datagrams over the underlay.
    ///
    /// # Errors
    /// When there are no marks, or the address cannot be used.
    pub fn marked_udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        let mark = self.mark.ok_or(io::ErrorKind::Unsupported)?;
        socket::udp(local, Some(mark))
    }
}
