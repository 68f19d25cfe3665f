//! UDP sockets that send and receive many datagrams per call: UDP_SEGMENT, UDP_GRO, recvmmsg, and the local address of
//! each datagram (udp(7), ip(7), ipv6(7)).

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::config::Lack;
use crate::ecn::Ecn;
use crate::peer::Endpoint;

use super::{check, check_size, set_option, socket};

/// Large enough for a burst that arrives while this thread does not run.
const SOCKET_BUFFER: libc::c_int = 7 << 20;
/// The largest datagram, or run of datagrams, that one buffer can take.
const SLOT: usize = 1 << 16;
/// Buffers for one call.
const SLOTS: usize = 16;
const CONTROL: usize = 128;

/// Whether a port is ours alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortUse {
    Alone,
    Shared,
}

/// A UDP socket of one address family on all addresses.
pub(crate) struct UdpSocket {
    fd: OwnedFd,
    is_v6: bool,
    /// The kernel cuts runs of datagrams for us. Given up when a route cannot do it.
    segments: AtomicBool,
}

impl UdpSocket {
    /// What behaves like this descriptor.
    #[cfg(test)]
    pub(crate) fn of(fd: OwnedFd) -> Self {
        Self { fd, is_v6: false, segments: AtomicBool::new(false) }
    }

    /// Binds to the port on all addresses of the family. The port must be free, unless it is shared with sockets that
    /// [`UdpSocket::share`] it.
    pub(crate) fn bind(is_v6: bool, port: u16, port_use: PortUse, lacks: &[Lack]) -> io::Result<Self> {
        if is_v6 && lacks.contains(&Lack::Ipv6) {
            return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT));
        }
        let domain = if is_v6 { libc::AF_INET6 } else { libc::AF_INET };
        let fd = socket(domain, libc::SOCK_DGRAM, libc::IPPROTO_UDP)?;
        let raw = fd.as_raw_fd();
        let one: libc::c_int = 1;
        if port_use == PortUse::Shared {
            set_option(raw, libc::SOL_SOCKET, libc::SO_REUSEPORT, one)?;
        }
        if is_v6 {
            set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, one)?;
            set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, one)?;
            set_option(raw, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, one)?;
        } else {
            set_option(raw, libc::IPPROTO_IP, libc::IP_PKTINFO, one)?;
            set_option(raw, libc::IPPROTO_IP, libc::IP_RECVTOS, one)?;
            // As the kernel's WireGuard: let the network fragment rather than lose what is too large.
            set_option(raw, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        }
        for (forced, polite) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            if set_option(raw, libc::SOL_SOCKET, forced, SOCKET_BUFFER).is_err() {
                set_option(raw, libc::SOL_SOCKET, polite, SOCKET_BUFFER)?;
            }
        }
        // Kernels before 5.0 lack it: then each datagram comes alone.
        if !lacks.contains(&Lack::ReceivedRuns) {
            let _ = set_option(raw, libc::SOL_UDP, libc::UDP_GRO, one);
        }
        let zero: libc::c_int = 0;
        let segments = !lacks.contains(&Lack::SentRuns)
            && set_option(raw, libc::SOL_UDP, libc::UDP_SEGMENT, zero).is_ok();
        let any =
            if is_v6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { IpAddr::from(Ipv4Addr::UNSPECIFIED) };
        let (address, length) = to_sockaddr(SocketAddr::new(any, port));
        // SAFETY: `length` bytes of `address` are initialised.
        check(unsafe { libc::bind(raw, (&raw const address).cast(), length) })?;
        Ok(Self { fd, is_v6, segments: AtomicBool::new(segments) })
    }

    /// Lets other sockets of this user bind to the same port: the kernel gives each peer to one of them. Done after
    /// binding, so that the first socket finds out whether somebody else uses the port.
    pub(crate) fn share(&self) -> io::Result<()> {
        let one: libc::c_int = 1;
        set_option(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, one)
    }

    /// Whether it is for IPv6.
    pub(crate) fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// The port it is bound to.
    pub(crate) fn port(&self) -> io::Result<u16> {
        // SAFETY: a `sockaddr_storage` of zeros is valid.
        let mut address: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        // SAFETY: at most `length` bytes are written to `address`.
        check(unsafe { libc::getsockname(self.as_raw_fd(), (&raw mut address).cast(), &raw mut length) })?;
        Ok(from_sockaddr(&address).map_or(0, |address| address.port()))
    }

    /// Wakes whoever waits for datagrams; there will be no more.
    pub(crate) fn stop_receiving(&self) {
        // SAFETY: no pointers are passed. It wakes the readers although it reports that nobody is connected.
        let _ = unsafe { libc::shutdown(self.as_raw_fd(), libc::SHUT_RD) };
    }

    /// Marks what is sent; 0 is no mark.
    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        set_option(self.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark)
    }

    /// Whether runs of datagrams may be given to [`UdpSocket::send`] in one piece.
    pub(crate) fn can_segment(&self) -> bool {
        self.segments.load(Relaxed)
    }

    /// From now on, each datagram is sent alone.
    pub(crate) fn give_up_segments(&self) {
        self.segments.store(false, Relaxed);
    }

    /// Sends `data` as datagrams of `segment` bytes each (the last may be shorter), or as one, with this mark.
    pub(crate) fn send(&self, to: &Endpoint, data: &[u8], segment: Option<u16>, ecn: Ecn) -> io::Result<()> {
        let (mut address, address_length) = to_sockaddr(to.address);
        let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        let mut control = Control::new();
        if let Some(segment) = segment {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        if ecn != Ecn::NotCapable {
            let class = libc::c_int::from(ecn.class());
            if self.is_v6 {
                control.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, class);
            } else {
                control.push(libc::IPPROTO_IP, libc::IP_TOS, class);
            }
        }
        match to.local {
            Some(IpAddr::V4(local)) if !self.is_v6 => control.push(
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                },
            ),
            Some(IpAddr::V6(local)) if self.is_v6 => control.push(
                libc::IPPROTO_IPV6,
                libc::IPV6_PKTINFO,
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: local.octets() }, ipi6_ifindex: 0 },
            ),
            _ => {}
        }
        // SAFETY: a `msghdr` of zeros is valid; its pointers are set below to values that outlive the call.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = address_length;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        if control.length > 0 {
            message.msg_control = control.bytes.0.as_mut_ptr().cast();
            message.msg_controllen = control.length as _;
        }
        // SAFETY: `message` points to initialised values that live through the call; the data is only read.
        check_size(unsafe { libc::sendmsg(self.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })?;
        Ok(())
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Memory for control messages, aligned as they must be.
#[repr(align(8))]
struct Aligned([u8; CONTROL]);

struct Control {
    bytes: Aligned,
    length: usize,
}

impl Control {
    fn new() -> Self {
        Self { bytes: Aligned([0; CONTROL]), length: 0 }
    }

    /// Appends one control message.
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = mem::size_of::<T>() as libc::c_uint;
        // SAFETY: CMSG_SPACE and CMSG_LEN compute with their argument only.
        let (space, length) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size)) };
        assert!(self.length + space <= CONTROL, "invariant: two small control messages fit");
        // SAFETY: the assertion leaves room for `space` bytes; the start is aligned, since CMSG_SPACE is a multiple of
        // the alignment. CMSG_DATA stays within those bytes; the value may be unaligned there.
        unsafe {
            let header: *mut libc::cmsghdr = self.bytes.0.as_mut_ptr().add(self.length).cast();
            (*header).cmsg_level = level;
            (*header).cmsg_type = kind;
            (*header).cmsg_len = length as _;
            libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        }
        self.length += space;
    }
}

/// One received run of datagrams.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Which buffer.
    pub(crate) slot: usize,
    /// Bytes in it.
    pub(crate) length: usize,
    /// Bytes of each datagram; the last may be shorter.
    pub(crate) segment: usize,
    /// Where from, and to which of our addresses.
    pub(crate) source: Endpoint,
    /// Whether the network marked them.
    pub(crate) ecn: Ecn,
}

/// Buffers to receive into.
pub(crate) struct Receiver {
    pub(crate) buffers: Vec<u8>,
    pub(crate) arrivals: Vec<Arrival>,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { buffers: vec![0; SLOTS * SLOT], arrivals: Vec::with_capacity(SLOTS) }
    }

    /// Waits for datagrams and takes what has arrived. Nothing has arrived when the socket was closed for reading.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.arrivals.clear();
        // SAFETY: structures of zeros are valid for all of these; the pointers in them are set below.
        let (mut addresses, mut messages, mut parts): (
            [libc::sockaddr_storage; SLOTS],
            [libc::mmsghdr; SLOTS],
            [libc::iovec; SLOTS],
        ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let mut controls = [const { Aligned([0; CONTROL]) }; SLOTS];
        for (i, buffer) in self.buffers.chunks_exact_mut(SLOT).enumerate() {
            parts[i] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut messages[i].msg_hdr;
            header.msg_name = (&raw mut addresses[i]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[i];
            header.msg_iovlen = 1;
            header.msg_control = controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL as _;
        }
        let fd = socket.as_raw_fd();
        // SAFETY: every header points to buffers of the stated lengths that live through the call.
        let count = unsafe {
            libc::recvmmsg(fd, messages.as_mut_ptr(), SLOTS as _, libc::MSG_WAITFORONE as _, ptr::null_mut())
        };
        let count = check(count)?;
        for (slot, message) in messages.iter().take(usize::try_from(count).unwrap_or(0)).enumerate() {
            let Some(address) = from_sockaddr(&addresses[slot]) else { continue };
            let length = message.msg_len as usize;
            let (segment, local, ecn) = read_control(&message.msg_hdr);
            let segment = segment.filter(|size| *size > 0).unwrap_or(length.max(1));
            self.arrivals.push(Arrival { slot, length, segment, source: Endpoint { address, local }, ecn });
        }
        Ok(())
    }

    /// Where a slot begins in `buffers`.
    pub(crate) const fn start(slot: usize) -> usize {
        slot * SLOT
    }
}

/// The size of the datagrams in a run, the address they were sent to, and their mark.
fn read_control(header: &libc::msghdr) -> (Option<usize>, Option<IpAddr>, Ecn) {
    let (mut segment, mut local, mut ecn) = (None, None, Ecn::NotCapable);
    // SAFETY: the kernel has filled the control buffer of this header, which is still alive; the macros walk it, and
    // each value has the type its level and kind say.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        while !next.is_null() {
            let data = libc::CMSG_DATA(next);
            match ((*next).cmsg_level, (*next).cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    segment = usize::try_from(data.cast::<libc::c_int>().read_unaligned()).ok();
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                    local = Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()));
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                    local = Some(IpAddr::from(info.ipi6_addr.s6_addr));
                }
                // A single byte for IPv4, a number for IPv6 (ip(7), ipv6(7)).
                (libc::IPPROTO_IP, libc::IP_TOS) => ecn = Ecn::of_class(*data),
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    ecn = Ecn::of_class(data.cast::<libc::c_int>().read_unaligned() as u8);
                }
                _ => {}
            }
            next = libc::CMSG_NXTHDR(header, next);
        }
    }
    (segment, local, ecn)
}

fn to_sockaddr(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: a `sockaddr_storage` of zeros is valid.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            // SAFETY: the storage is larger than, and aligned for, every kind of address.
            let out = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in>() };
            out.sin_family = libc::AF_INET as libc::sa_family_t;
            out.sin_port = v4.port().to_be();
            out.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            mem::size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            // SAFETY: the storage is larger than, and aligned for, every kind of address.
            let out = unsafe { &mut *(&raw mut storage).cast::<libc::sockaddr_in6>() };
            out.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            out.sin6_port = v6.port().to_be();
            out.sin6_addr.s6_addr = v6.ip().octets();
            out.sin6_scope_id = v6.scope_id();
            mem::size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as libc::socklen_t)
}

fn from_sockaddr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that this is a `sockaddr_in`.
            let v4 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that this is a `sockaddr_in6`.
            let v6 = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}
