//! Links, addresses, routes and rules as rtnetlink says them: encoding, decoding, and the questions that read them. What
//! belongs to us is decided in `observe`.

pub mod address;
pub mod link;
pub mod route;
pub mod rule;

use std::net::IpAddr;

use ipnet::IpNet;
use mesh::prefix::Family;

use crate::netlink::constants::{AF_INET, AF_INET6};

/// `AF_INET` or `AF_INET6`.
pub fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// The bytes of an address in network byte order.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An address from 4 or 16 bytes.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// A prefix from the bytes of an address, which may be missing when the length is 0.
pub fn prefix(family: u8, bytes: Option<&[u8]>, length: u8) -> Option<IpNet> {
    let address = match bytes {
        Some(bytes) => address(bytes)?,
        None if family == AF_INET6 => IpAddr::from([0u8; 16]),
        None => IpAddr::from([0u8; 4]),
    };
    IpNet::new(address, length).ok()
}
