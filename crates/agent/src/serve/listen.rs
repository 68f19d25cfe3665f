//! Where to listen.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use rustix::net::sockopt;
use tokio::net::TcpListener;

/// How much of what a client sends or does not read the kernel keeps, in bytes and each way; it takes twice as much.
const SOCKET_BUFFER: usize = 128 << 10;

/// Listens; `flag` is what to change when that does not work. A host without IPv6 has no `[::]`, so there it is every IPv4
/// address.
///
/// # Errors
/// When the address is not this host's, or the port is taken.
pub async fn listen(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && lacks_address(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    let listener = bound.with_context(|| format!("cannot listen on {address}; see {flag}"))?;
    // Connections inherit it. Otherwise the kernel lets those grow to megabytes that are not read.
    let sized = sockopt::set_socket_send_buffer_size(&listener, SOCKET_BUFFER)
        .and_then(|()| sockopt::set_socket_recv_buffer_size(&listener, SOCKET_BUFFER));
    sized.with_context(|| format!("cannot limit the buffers of connections to {address}"))?;
    Ok(listener)
}

/// Whether nobody can listen because this host does not have the address.
pub fn is_not_there(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(lacks_address)
}

fn lacks_address(error: &io::Error) -> bool {
    let none = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| none.iter().any(|errno| errno.raw_os_error() == code))
}
