//! Network interfaces that we make, by name and kind.

use std::{fmt, str::FromStr};

/// The longest name in bytes (`IFNAMSIZ` of linux/if.h, less the byte that ends it).
const MAX_LEN: usize = 15;

/// The name of an interface: 1 to 15 bytes, no '/', no white space (`IFNAMSIZ` and `dev_valid_name` in the kernel).
///
/// Every route has one, so it is held in place: a copy allocates nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName {
    /// Filled up with zeros, which no name holds: the order is that of the texts.
    bytes: [u8; MAX_LEN],
    len: u8,
}

impl LinkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("a name is made of a text")
    }
}

impl FromStr for LinkName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if text.is_empty() || text.len() > MAX_LEN || text == "." || text == ".." || text.contains(bad) {
            return Err(format!(
                "{text:?} is not an interface name: 1 to 15 bytes without '/', ':' and white space"
            ));
        }
        let mut bytes = [0; MAX_LEN];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len: text.len() as u8 })
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LinkName").field(&self.as_str()).finish()
    }
}

/// What kind of interface it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// WireGuard: of the kernel, of the embedded device, or of a process of its own; the data plane knows which.
    Wireguard,
    /// IPv4 in IPv4 (protocol 4) without a fixed remote: the next hop of a route is the outer destination.
    Ipip,
    /// IPv6 in IPv4 (protocol 41) without a fixed remote: the next hop `::a.b.c.d` names the outer destination.
    Sit,
    /// Packets of both families in UDP, without Ethernet headers (VXLAN-GPE, draft-ietf-nvo3-vxlan-gpe) and without a fixed
    /// remote: the route names the outer destination.
    Vxlan,
}

/// An interface as it is or should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Its kind. A link of another kind with this name is not ours and is an error when applied.
    pub kind: LinkKind,
    /// Bytes of the largest packet that goes through it; `None`: whatever it has.
    pub mtu: Option<u32>,
    /// Whether it is up.
    pub up: bool,
    /// Whether we make and remove it. Otherwise (`--create-interface=false`, the kernel's own `tunl0`) it has to exist.
    pub managed: bool,
}
