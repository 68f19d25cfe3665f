//! Network interfaces: reading them all, making, changing and removing one.

use hostnet::{LinkKind, LinkName, VXLAN_PORT};

use crate::{
    error::Error,
    netlink::{Attributes, Received, Refusal, Socket, Writer, constants::*},
};

/// Bytes of `struct ifinfomsg`.
const HEADER: usize = 16;

/// An interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLink {
    pub index: u32,
    pub name: LinkName,
    /// `IFLA_INFO_KIND`; empty for hardware.
    pub kind: String,
    pub mtu: u32,
    pub up: bool,
    pub running: bool,
    /// The index of the bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// Of kind `vxlan`, and set up as we do it; see [`vxlan`].
    pub is_our_vxlan: bool,
}

/// The kernel's name for a kind of interface.
pub fn kind_name(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Wireguard => "wireguard",
        LinkKind::Ipip => "ipip",
        LinkKind::Sit => "sit",
        LinkKind::Vxlan => "vxlan",
    }
}

fn decode(message: &Received<'_>) -> Option<KernelLink> {
    let (index, flags) = (message.word(4), message.word(8));
    let attributes = message.attributes(HEADER);
    let info = attributes.inside(IFLA_LINKINFO);
    Some(KernelLink {
        index,
        name: attributes.text(IFLA_IFNAME).parse().ok()?,
        kind: info.text(IFLA_INFO_KIND).to_owned(),
        mtu: attributes.u32(IFLA_MTU).unwrap_or_default(),
        up: flags & IFF_UP != 0,
        running: flags & IFF_UP != 0 && flags & IFF_LOWER_UP != 0,
        master: attributes.u32(IFLA_MASTER),
        is_our_vxlan: info.text(IFLA_INFO_KIND) == kind_name(LinkKind::Vxlan)
            && is_our_vxlan(info.inside(IFLA_INFO_DATA)),
    })
}

/// A VXLAN interface that carries IP packets without Ethernet headers, and takes the remote of each from its route.
fn vxlan(data: &mut Writer<'_>) {
    data.put_u8(IFLA_VXLAN_COLLECT_METADATA, 1);
    data.put_u8(IFLA_VXLAN_LEARNING, 0);
    data.put(IFLA_VXLAN_GPE, &[]);
    data.put(IFLA_VXLAN_PORT, &VXLAN_PORT.to_be_bytes());
}

fn is_our_vxlan(data: Attributes<'_>) -> bool {
    data.u8(IFLA_VXLAN_COLLECT_METADATA) == Some(1)
        && data.get(IFLA_VXLAN_GPE).is_some()
        && data.get(IFLA_VXLAN_PORT) == Some(&VXLAN_PORT.to_be_bytes())
}

/// `struct ifinfomsg`.
fn header(writer: &mut Writer<'_>, index: u32, flags: u32, change: u32) {
    let mut bytes = [0; HEADER];
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    writer.header(&bytes);
}

/// All interfaces, without their statistics.
pub fn all(socket: &mut Socket) -> Result<Vec<KernelLink>, Error> {
    let ask = |writer: &mut Writer<'_>| {
        header(writer, 0, 0, 0);
        writer.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    };
    socket.dump(RTM_GETLINK, ask, decode).map_err(Error::observing("interfaces"))
}

/// The interface of that name, if there is one.
pub fn find(socket: &mut Socket, name: &LinkName) -> Result<Option<KernelLink>, Error> {
    let ask = |writer: &mut Writer<'_>| {
        header(writer, 0, 0, 0);
        writer.put_text(IFLA_IFNAME, name.as_str());
        writer.put_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    };
    match socket.ask(RTM_GETLINK, ask, decode) {
        Ok(found) => Ok(found.flatten()),
        Err(refusal) if refusal.errno() == libc::ENODEV => Ok(None),
        Err(refusal) => Err(Error::observing("an interface")(refusal)),
    }
}

/// Makes an interface, down.
pub fn create(socket: &mut Socket, name: &LinkName, kind: LinkKind, mtu: Option<u32>) -> Result<(), Refusal> {
    socket.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |writer| {
        header(writer, 0, 0, 0);
        writer.put_text(IFLA_IFNAME, name.as_str());
        if let Some(mtu) = mtu {
            writer.put_u32(IFLA_MTU, mtu);
        }
        writer.nest(IFLA_LINKINFO, |info| {
            info.put_text(IFLA_INFO_KIND, kind_name(kind));
            if kind == LinkKind::Vxlan {
                info.nest(IFLA_INFO_DATA, vxlan);
            }
        });
    })
}

/// Whether the kernel knows a kind of encapsulation. It is asked for an interface whose TTL has no byte: a kernel that
/// knows the kind finds that fault before it makes anything, one that does not says that.
pub fn is_known(socket: &mut Socket, kind: LinkKind) -> Result<bool, Refusal> {
    let result = socket.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |writer| {
        header(writer, 0, 0, 0);
        writer.put_text(IFLA_IFNAME, "kilo-probe");
        writer.nest(IFLA_LINKINFO, |info| {
            info.put_text(IFLA_INFO_KIND, kind_name(kind));
            info.nest(IFLA_INFO_DATA, |data| data.put(IFLA_IPTUN_TTL, &[]));
        });
    });
    match result {
        Err(refusal) if refusal.errno() == libc::EOPNOTSUPP => Ok(false),
        Err(refusal) if matches!(refusal.errno(), libc::ERANGE | libc::EINVAL) => Ok(true),
        Err(refusal) => Err(refusal),
        // The kernel did not mind: it knows the kind, and nobody needs this interface.
        Ok(()) => {
            let name: LinkName = "kilo-probe".parse().map_err(std::io::Error::other)?;
            let made = find(socket, &name).ok().flatten();
            made.map_or(Ok(()), |link| remove(socket, link.index))?;
            Ok(true)
        }
    }
}

/// Sets the MTU in bytes.
pub fn set_mtu(socket: &mut Socket, index: u32, mtu: u32) -> Result<(), Refusal> {
    socket.request(RTM_NEWLINK, 0, |writer| {
        header(writer, index, 0, 0);
        writer.put_u32(IFLA_MTU, mtu);
    })
}

/// Sets the interface up or down.
pub fn set_up(socket: &mut Socket, index: u32, up: bool) -> Result<(), Refusal> {
    socket.request(RTM_NEWLINK, 0, |writer| header(writer, index, if up { IFF_UP } else { 0 }, IFF_UP))
}

/// Removes the interface.
pub fn remove(socket: &mut Socket, index: u32) -> Result<(), Refusal> {
    socket.request(RTM_DELLINK, 0, |writer| header(writer, index, 0, 0))
}
