//! The TUN interface: several queues, packets with a virtio-net header in front (linux/if_tun.h, linux/virtio_net.h).

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;

use crate::config::Lack;

use super::{check, check_size, socket};

/// Requests of linux/if_tun.h.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2_u32 as libc::Ioctl;

/// `TUN_F_*` of linux/if_tun.h.
const F_CSUM: libc::c_uint = 0x01;
const F_TSO4: libc::c_uint = 0x02;
const F_TSO6: libc::c_uint = 0x04;
const F_USO4: libc::c_uint = 0x20;
const F_USO6: libc::c_uint = 0x40;

/// What the kernel does for us with large packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offload {
    /// No virtio-net header: plain packets.
    None,
    /// A header, but only plain packets.
    Header,
    /// Large TCP packets, and checksums left to the receiver.
    Tcp,
    /// Large TCP and UDP packets (Linux 6.2).
    TcpAndUdp,
}

/// One queue of an interface.
pub(crate) struct Queue {
    file: File,
}

/// An interface with its queues. It disappears with its last queue.
pub(crate) struct Tun {
    pub(crate) queues: Vec<Queue>,
    pub(crate) offload: Offload,
    place: ArcSwap<Place>,
}

/// What is needed of the network namespace that the interface is in.
struct Place {
    /// Which one, as its file tells. None where the kernel does not (before Linux 5.1).
    namespace: Option<u64>,
    /// A socket to ask for the state of interfaces.
    control: OwnedFd,
    /// Told by the kernel when a link changes.
    link_events: Option<OwnedFd>,
}

impl Place {
    /// In the namespace of this thread.
    fn here(namespace: Option<u64>) -> io::Result<Self> {
        let control = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
        Ok(Self { namespace, control, link_events: link_events().ok() })
    }

    /// In another namespace. A thread of its own goes there, and ends there.
    fn inside(namespace: &File) -> io::Result<Self> {
        let inode = namespace.metadata()?.ino();
        thread::scope(|scope| {
            let visitor = thread::Builder::new().spawn_scoped(scope, || {
                // SAFETY: no pointers are passed. Only this thread changes its namespace.
                check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
                Self::here(Some(inode))
            })?;
            visitor.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }
}

/// What may change about an interface from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkState {
    pub(crate) is_up: bool,
    pub(crate) mtu: usize,
}

impl Queue {
    /// Reads one packet with its header; `WouldBlock` when there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one packet with its header.
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        (&self.file).write_vectored(parts).map(drop)
    }

    fn open(name: &str, flags: libc::c_int) -> io::Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        let mut request = request_for(name);
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an `ifreq`, which lives through the call.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
        Ok(Self { file })
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

impl Tun {
    /// Creates the interface, down, with as much offload as the kernel knows. One that exists is not joined.
    pub(crate) fn create(name: &str, queues: usize, lacks: &[Lack]) -> io::Result<Self> {
        let place = ArcSwap::from_pointee(Place::here(None)?);
        let plain = libc::IFF_TUN | libc::IFF_NO_PI;
        let full = plain | libc::IFF_VNET_HDR | if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let first = if lacks.contains(&Lack::VirtioHeader) {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        } else {
            Queue::open(name, full | libc::IFF_TUN_EXCL)
        };
        let (first, flags) = match first {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (Queue::open(name, plain | libc::IFF_TUN_EXCL)?, plain)
            }
            result => (result?, full),
        };
        let mut tun = Self { queues: vec![first], offload: Offload::None, place };
        if flags == full {
            tun.offload = tun.enable_offload(0, lacks);
            for index in 1..queues {
                tun.queues.push(Queue::open(name, flags)?);
                tun.enable_offload(index, lacks);
            }
        }
        if let Ok(namespace) = tun.namespace() {
            let inode = namespace.metadata()?.ino();
            tun.place = ArcSwap::from_pointee(Place::here(Some(inode))?);
        }
        Ok(tun)
    }

    /// The network namespace that the interface is in now.
    fn namespace(&self) -> io::Result<File> {
        // SAFETY: TUNGETDEVNETNS takes nothing and returns a descriptor, which is checked before it is owned.
        let fd = check(unsafe { libc::ioctl(self.queues[0].as_raw_fd(), TUNGETDEVNETNS, 0) })?;
        // SAFETY: the descriptor was just made and belongs to nobody else.
        Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Goes after the interface when it was moved to another network namespace; true when it was.
    pub(crate) fn follow(&self) -> io::Result<bool> {
        let Some(known) = self.place.load().namespace else { return Ok(false) };
        let namespace = self.namespace()?;
        let is_moved = namespace.metadata()?.ino() != known;
        if is_moved {
            self.place.store(Arc::new(Place::inside(&namespace)?));
        }
        Ok(is_moved)
    }

    fn enable_offload(&self, queue: usize, lacks: &[Lack]) -> Offload {
        let tcp = F_CSUM | F_TSO4 | F_TSO6;
        for (flags, offload, lack) in [
            (tcp | F_USO4 | F_USO6, Offload::TcpAndUdp, Lack::UdpOffload),
            (tcp, Offload::Tcp, Lack::TcpOffload),
        ] {
            if lacks.contains(&lack) {
                continue;
            }
            let fd = self.queues[queue].as_raw_fd();
            // SAFETY: TUNSETOFFLOAD takes its flags by value.
            if unsafe { libc::ioctl(fd, TUNSETOFFLOAD, libc::c_ulong::from(flags)) } == 0 {
                return offload;
            }
        }
        Offload::Header
    }

    /// The name the interface has now; it may have been changed.
    pub(crate) fn name(&self) -> io::Result<String> {
        let request = self.request()?;
        let bytes: Vec<u8> = request.ifr_name.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn request(&self) -> io::Result<libc::ifreq> {
        let mut request = request_for("");
        let fd = self.queues[0].as_raw_fd();
        // SAFETY: TUNGETIFF writes an `ifreq`, which lives through the call.
        check(unsafe { libc::ioctl(fd, TUNGETIFF, &raw mut request) })?;
        Ok(request)
    }

    /// Sets the MTU in bytes.
    pub(crate) fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        let mut request = self.request()?;
        request.ifr_ifru.ifru_mtu = mtu as libc::c_int;
        // SAFETY: SIOCSIFMTU reads an `ifreq`, which lives through the call.
        check(unsafe {
            libc::ioctl(
                self.place.load().control.as_raw_fd(),
                libc::SIOCSIFMTU as libc::Ioctl,
                &raw mut request,
            )
        })?;
        Ok(())
    }

    /// Limits the large packets the kernel hands over, in bytes (`IFLA_GSO_MAX_SIZE`; Linux 4.16).
    pub(crate) fn limit_large_packets(&self, size: u32) -> io::Result<()> {
        const IFLA_GSO_MAX_SIZE: u16 = 41;
        const LENGTH: usize = 40;
        let place = self.place.load();
        let Some(netlink) = &place.link_events else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut request = self.request()?;
        // SAFETY: SIOCGIFINDEX writes an `ifreq`, which lives through the call.
        check(unsafe {
            libc::ioctl(place.control.as_raw_fd(), libc::SIOCGIFINDEX as libc::Ioctl, &raw mut request)
        })?;
        // SAFETY: the kernel has just written this member of the union.
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        // `nlmsghdr`, `ifinfomsg`, one attribute (linux/netlink.h, linux/rtnetlink.h).
        let mut message = Vec::with_capacity(LENGTH);
        message.extend((LENGTH as u32).to_ne_bytes());
        message.extend(libc::RTM_NEWLINK.to_ne_bytes());
        message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message.extend([0; 8]);
        message.extend([0; 4]);
        message.extend(index.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(8u16.to_ne_bytes());
        message.extend(IFLA_GSO_MAX_SIZE.to_ne_bytes());
        message.extend(size.to_ne_bytes());
        debug_assert_eq!(message.len(), LENGTH);
        // SAFETY: `message.len()` bytes are read from `message`.
        check_size(unsafe { libc::send(netlink.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) })?;
        Ok(())
    }

    /// Reads whether the interface is up, and its MTU.
    pub(crate) fn link_state(&self) -> io::Result<LinkState> {
        let mut request = self.request()?;
        let place = self.place.load();
        let control = place.control.as_raw_fd();
        // SAFETY: SIOCGIFFLAGS writes an `ifreq`, which lives through the call.
        check(unsafe { libc::ioctl(control, libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request) })?;
        // SAFETY: the kernel has just written this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        // SAFETY: SIOCGIFMTU writes an `ifreq`, which lives through the call.
        check(unsafe { libc::ioctl(control, libc::SIOCGIFMTU as libc::Ioctl, &raw mut request) })?;
        // SAFETY: the kernel has just written this member of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        let is_up = libc::c_int::from(flags) & libc::IFF_UP != 0;
        Ok(LinkState { is_up, mtu: usize::try_from(mtu).unwrap_or(0) })
    }

    /// A descriptor that is readable when a link of the namespace has changed, or -1. Another one after
    /// [`Tun::follow`].
    pub(crate) fn link_events_fd(&self) -> i32 {
        self.place.load().link_events.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Throws away what was reported: the state is read anew instead.
    pub(crate) fn drain_link_events(&self) {
        let mut buffer = [0u8; 4096];
        let fd = self.link_events_fd();
        // SAFETY: at most `buffer.len()` bytes are written to `buffer`.
        while unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) } > 0 {}
    }
}

fn request_for(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` of zeros is valid: it is made of integers and unions of them.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

/// A netlink socket in the group of link changes.
fn link_events() -> io::Result<OwnedFd> {
    let fd = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    // SAFETY: a `sockaddr_nl` of zeros is valid.
    let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
    address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    address.nl_groups = libc::RTMGRP_LINK as u32;
    let length = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: `length` bytes are read from `address`.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(fd)
}
