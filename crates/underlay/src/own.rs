//! Addresses of this host.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use tokio::net::TcpStream;

/// Whether an address is one of this host's, in this network namespace: then it is also the one that the kernel would
/// speak to it from. Nothing is sent.
pub fn is_own(address: IpAddr) -> bool {
    let source = || -> io::Result<IpAddr> {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(SocketAddr::new(address, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    address.is_loopback() || source().is_ok_and(|source| source == address)
}

/// Whether a connection leads to this host itself.
pub fn leads_home(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => local.ip() == peer.ip(),
        // It has ended already; nothing can be said of it.
        _ => true,
    }
}
