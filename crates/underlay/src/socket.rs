//! Sockets with and without a mark.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};

/// Whether this process may set the mark.
pub fn may_set(mark: u32) -> io::Result<()> {
    make(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), Type::DGRAM, Protocol::UDP, Some(mark)).map(drop)
}

/// A socket for a connection to an address. Its options are those of the system, as for the HTTP client of the
/// Kubernetes API: neither `TCP_NODELAY` nor keepalives. A dead connection shows in the silence of a watch.
pub fn tcp(remote: SocketAddr, mark: Option<u32>) -> io::Result<TcpSocket> {
    let socket = make(remote, Type::STREAM, Protocol::TCP, mark)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// A socket for datagrams, bound to an address.
pub fn udp(local: SocketAddr, mark: Option<u32>) -> io::Result<UdpSocket> {
    let socket = make(local, Type::DGRAM, Protocol::UDP, mark)?;
    socket.bind(&local.into())?;
    UdpSocket::from_std(socket.into())
}

fn make(of_family: SocketAddr, kind: Type, protocol: Protocol, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(of_family), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}
