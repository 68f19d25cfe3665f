//! Addresses of interfaces.

use ipnet::IpNet;
use mesh::prefix::Family;

use super::{family_number, octets, prefix};
use crate::{
    error::Error,
    netlink::{Received, Refusal, Socket, Writer, constants::*},
};

/// Bytes of `struct ifaddrmsg`.
const HEADER: usize = 8;

/// An address as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelAddress {
    /// The index of its interface.
    pub link: u32,
    pub net: IpNet,
    /// `IFA_FLAGS`.
    pub flags: u32,
    /// `IFA_PROTO`; 0 before Linux 5.18.
    pub protocol: u8,
}

impl KernelAddress {
    /// Whether packets may come from it now and for some time: the kernel has checked it, and it is not on its way
    /// out.
    pub fn is_usable(&self) -> bool {
        self.flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED | IFA_F_DEPRECATED) == 0
    }

    /// Whether it comes after another one: IPv4's of the same network, or, for a temporary one, IPv6's stable one
    /// (`IFA_F_TEMPORARY` is the same number).
    pub fn is_secondary(&self) -> bool {
        self.flags & IFA_F_SECONDARY != 0
    }

    /// Whether it stays until somebody removes it.
    pub fn is_permanent(&self) -> bool {
        self.flags & IFA_F_PERMANENT != 0
    }
}

fn decode(message: &Received<'_>) -> Option<KernelAddress> {
    let attributes = message.attributes(HEADER);
    // On a point-to-point interface IFA_ADDRESS is the other end, and IFA_LOCAL is ours.
    let own = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS))?;
    Some(KernelAddress {
        link: message.word(4),
        net: prefix(message.byte(0), Some(own), message.byte(1))?,
        flags: attributes.u32(IFA_FLAGS).unwrap_or(u32::from(message.byte(2))),
        protocol: attributes.u8(IFA_PROTO).unwrap_or_default(),
    })
}

/// All addresses of both families.
pub fn all(socket: &mut Socket) -> Result<Vec<KernelAddress>, Error> {
    let ask = |writer: &mut Writer<'_>| writer.header(&[0; HEADER]);
    socket.dump(RTM_GETADDR, ask, decode).map_err(Error::observing("addresses"))
}

fn encode(writer: &mut Writer<'_>, link: u32, net: IpNet) {
    let mut header = [0; HEADER];
    let family = Family::of_prefix(&net);
    header[0] = family_number(family);
    header[1] = net.prefix_len();
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    writer.header(&header);
    writer.put(IFA_LOCAL, &octets(net.addr()));
    writer.put(IFA_ADDRESS, &octets(net.addr()));
}

/// Adds an address: without a broadcast address (nobody broadcasts on our interfaces), and for IPv6 without
/// duplicate address detection, so that it can be used at once.
pub fn add(socket: &mut Socket, link: u32, net: IpNet) -> Result<(), Refusal> {
    socket.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, |writer| {
        encode(writer, link, net);
        if Family::of_prefix(&net) == Family::V6 {
            writer.put_u32(IFA_FLAGS, IFA_F_NODAD);
        }
        writer.put_u8(IFA_PROTO, hostnet::ROUTE_PROTOCOL);
    })
}

/// Removes an address.
pub fn remove(socket: &mut Socket, link: u32, net: IpNet) -> Result<(), Refusal> {
    socket.request(RTM_DELADDR, 0, |writer| encode(writer, link, net))
}
