//! What a Go agent left in the tables of iptables-legacy. Its image chooses between iptables-nft and iptables-legacy by
//! itself. The older interface knows whole tables only: two programs that write one lose each other's rules. So it is read
//! here and not written; the operator is told.

use std::{
    ffi::c_void,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use hostnet::LegacyTable;
use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketType, socket};

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` of linux/netfilter_ipv4/ip_tables.h; those of IPv6 have the same numbers
/// and structures.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo`: a name of 32 bytes, which hooks, five entries, five underflows, the number of entries, their size.
const INFO: usize = 84;
/// Where its last field is.
const INFO_SIZE: usize = 80;
/// `struct ipt_get_entries`: a name of 32 bytes, the size of the entries, and, aligned to 8 bytes, the entries.
const ENTRIES: usize = 40;
/// Bytes of a table's name.
const NAME: usize = 32;
/// A table that is larger is not read: no host has a million rules.
const LARGEST: usize = 256 << 20;

/// Texts that only a Go agent writes into a table: the names of its chains, and a comment.
const OF_GO: [&[u8]; 3] = [b"KILO-NAT\0", b"KILO-IPIP\0", b"Kilo: reject other IPIP traffic\0"];

/// The tables that were found, looked for at the start and for as long as there are any.
#[derive(Debug, Default)]
pub struct Legacy {
    looked: bool,
    found: Vec<LegacyTable>,
}

impl Legacy {
    /// The tables of iptables-legacy that hold rules of a Go agent.
    pub fn observe(&mut self) -> Vec<LegacyTable> {
        if !self.looked || !self.found.is_empty() {
            self.looked = true;
            self.found = tables();
        }
        self.found.clone()
    }
}

fn tables() -> Vec<LegacyTable> {
    let families = [
        ("ip", "/proc/thread-self/net/ip_tables_names", AddressFamily::INET, libc::IPPROTO_IP),
        ("ip6", "/proc/thread-self/net/ip6_tables_names", AddressFamily::INET6, libc::IPPROTO_IPV6),
    ];
    let mut found = Vec::new();
    for (family, names, domain, level) in families {
        // Only tables that are there: asking for another would load its module.
        let Ok(names) = fs::read_to_string(names) else { continue };
        for table in ["filter", "nat"] {
            if !names.lines().any(|name| name == table) {
                continue;
            }
            match entries(domain, level, table) {
                Ok(bytes) if holds_rules_of_go(&bytes) => found.push(LegacyTable { family, table }),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(family, table, %error, "a table of iptables-legacy cannot be read")
                }
            }
        }
    }
    found
}

fn holds_rules_of_go(entries: &[u8]) -> bool {
    OF_GO.iter().any(|text| entries.windows(text.len()).any(|window| window == *text))
}

/// The entries of a table, as the kernel keeps them. It grows between the two questions at times; then it is not read.
fn entries(domain: AddressFamily, level: i32, table: &str) -> io::Result<Vec<u8>> {
    let raw = RawProtocol::new(libc::IPPROTO_RAW as u32).map(Protocol::from_raw);
    let socket = socket(domain, SocketType::RAW, raw)?;
    let mut info = named(table, INFO);
    get(&socket, level, GET_INFO, &mut info)?;
    let size: [u8; 4] = info[INFO_SIZE..].try_into().map_err(|_| io::ErrorKind::InvalidData)?;
    let length = u32::from_ne_bytes(size) as usize;
    if length > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut answer = named(table, ENTRIES + length);
    answer[NAME..NAME + 4].copy_from_slice(&size);
    get(&socket, level, GET_ENTRIES, &mut answer)?;
    Ok(answer.split_off(ENTRIES))
}

/// Zeros that begin with the name of a table.
fn named(table: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..table.len()].copy_from_slice(table.as_bytes());
    bytes
}

fn get(socket: &OwnedFd, level: i32, option: i32, bytes: &mut [u8]) -> io::Result<()> {
    let mut length = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is how many there are.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, bytes.as_mut_ptr().cast::<c_void>(), &mut length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
