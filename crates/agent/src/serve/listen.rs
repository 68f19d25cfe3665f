//! Where to listen.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use tokio::net::TcpListener;

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
    bound.with_context(|| format!("cannot listen on {address}; see {flag}"))
}

/// Whether nobody can listen because this host does not have the address.
pub fn is_not_there(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(lacks_address)
}

fn lacks_address(error: &io::Error) -> bool {
    let none = [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| none.iter().any(|errno| errno.raw_os_error() == code))
}
