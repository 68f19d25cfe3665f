//! A socket to the kernel. Every request is answered before `send` returns, so waiting here never waits for anybody
//! else; a timeout guards against the kernel being wrong about that.

use std::{io, time::Duration};

use netlink_sys::SocketAddr;
use rustix::net::sockopt;
use zeroize::Zeroize as _;

use super::{Attributes, Batch, Received, Writer, constants::*};

/// Bytes for one datagram of answers. The kernel fills at most 32 KiB while it dumps.
const RECEIVE: usize = 64 << 10;
/// Bytes of the socket's own buffer: room for the acknowledgements of a whole chunk.
const SOCKET_BUFFER: usize = 4 << 20;
/// Bytes of messages in one `send`; measured best for routes.
const CHUNK: usize = 32 << 10;
/// How often a dump is repeated that changes interrupted.
const ATTEMPTS: usize = 10;

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `NETLINK_ROUTE`.
    Route,
    /// `NETLINK_GENERIC`.
    Generic,
    /// `NETLINK_NETFILTER`.
    Netfilter,
}

/// The kernel's answer when it does not do something.
#[derive(Debug)]
pub struct Refusal {
    /// The error number.
    pub error: io::Error,
    /// What the kernel says about it (extended acknowledgement), if it does.
    pub message: Option<String>,
}

impl Refusal {
    /// The error number, as in `errno`.
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or_default()
    }

    /// A message was not sent, because an attribute is longer than one can be.
    fn of_length() -> Self {
        Self {
            error: io::Error::from_raw_os_error(libc::EMSGSIZE),
            message: Some("a list in the request has 64 KiB or more".to_owned()),
        }
    }

    fn decode(payload: &[u8], flags: u16) -> Option<Self> {
        let code = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
        if code == 0 {
            return None;
        }
        // Behind the error: the header of the request (and all of it where the socket option to cap it is unknown).
        let length = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
        let request = if flags & NLM_F_CAPPED != 0 { 16 } else { usize::try_from(length).ok()? };
        let message = (flags & NLM_F_ACK_TLVS != 0)
            .then(|| Attributes::after(payload, 4 + request).text(NLMSGERR_ATTR_MSG))
            .filter(|text| !text.is_empty());
        Some(Self {
            error: io::Error::from_raw_os_error(code.saturating_neg()),
            message: message.map(str::to_owned),
        })
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { error, message: None }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.message {
            Some(message) => write!(f, "{}: {message}", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl std::error::Error for Refusal {}

/// A socket to the kernel, and the buffer for its answers.
pub struct Socket {
    socket: netlink_sys::Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let number = match protocol {
            Protocol::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Protocol::Generic => netlink_sys::protocols::NETLINK_GENERIC,
            Protocol::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
        };
        let mut socket = netlink_sys::Socket::new(number)?;
        let port = socket.bind_auto()?.port_number();
        // All of these only make things better: kernels before 4.12, 4.20 and containers without the capability
        // lack one or the other.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER);
        let _ = sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(Duration::from_secs(10)));
        Ok(Self { socket, port, sequence: 1, buffer: Vec::with_capacity(RECEIVE) })
    }

    /// The socket's address: what the kernel writes into notices about changes that were asked for here.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// A batch whose sequence numbers are this socket's next ones.
    pub fn batch(&self) -> Batch {
        Batch::from_sequence(self.sequence)
    }

    /// One request without an answer but success.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn request(
        &mut self,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), Refusal> {
        let mut batch = self.batch();
        batch.push(kind, NLM_F_REQUEST | flags, body);
        match self.send(batch)?.pop() {
            Some((_, refusal)) => Err(refusal),
            None => Ok(()),
        }
    }

    /// One request with one answer, of which `read` makes something.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn ask<T>(
        &mut self,
        kind: u16,
        body: impl FnOnce(&mut Writer<'_>),
        mut read: impl FnMut(&Received<'_>) -> T,
    ) -> Result<Option<T>, Refusal> {
        let mut batch = self.batch();
        let sequence = batch.push(kind, NLM_F_REQUEST | NLM_F_ACK, body);
        self.sequence = batch.next_sequence();
        batch.too_long.iter().try_for_each(|_| Err(Refusal::of_length()))?;
        self.transmit(&batch.buffer)?;
        let (mut answer, mut refusal, mut done) = (None, None, false);
        while !done {
            self.receive(|message| {
                if message.sequence != sequence {
                } else if message.kind == NLMSG_ERROR {
                    refusal = Refusal::decode(message.payload, message.flags);
                    done = true;
                } else {
                    answer = Some(read(message));
                }
            })?;
        }
        refusal.map_or(Ok(answer), Err)
    }

    /// Everything that the kernel has of something: what `read` makes of each answer. Repeated when changes
    /// interrupted it.
    ///
    /// # Errors
    /// The kernel's refusal, or `EINTR` when it was interrupted too often.
    pub fn dump<T>(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Writer<'_>),
        mut read: impl FnMut(&Received<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Refusal> {
        for _ in 0..ATTEMPTS {
            if let Some(found) = self.dump_once(kind, &body, &mut read)? {
                return Ok(found);
            }
        }
        Err(Refusal {
            error: io::ErrorKind::Interrupted.into(),
            message: Some(format!("what is read changed {ATTEMPTS} times meanwhile")),
        })
    }

    /// `None`: it was interrupted.
    fn dump_once<T>(
        &mut self,
        kind: u16,
        body: &impl Fn(&mut Writer<'_>),
        read: &mut impl FnMut(&Received<'_>) -> Option<T>,
    ) -> Result<Option<Vec<T>>, Refusal> {
        let mut batch = self.batch();
        let sequence = batch.push(kind, NLM_F_REQUEST | NLM_F_DUMP, body);
        self.sequence = batch.next_sequence();
        batch.too_long.iter().try_for_each(|_| Err(Refusal::of_length()))?;
        self.transmit(&batch.buffer)?;
        let mut found = Vec::new();
        let (mut interrupted, mut done, mut refusal) = (false, false, None);
        while !done {
            self.receive(|message| {
                if message.sequence != sequence {
                    return;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    // The end of a dump carries an error number too, and after it the extended acknowledgement.
                    NLMSG_DONE => {
                        done = true;
                        let code = message.word(0).cast_signed();
                        if code < 0 {
                            let text = message.attributes(4).text(NLMSGERR_ATTR_MSG);
                            let said = message.flags & NLM_F_ACK_TLVS != 0 && !text.is_empty();
                            refusal = Some(Refusal {
                                error: io::Error::from_raw_os_error(code.saturating_neg()),
                                message: said.then(|| text.to_owned()),
                            });
                        }
                    }
                    NLMSG_ERROR => {
                        done = true;
                        refusal = Refusal::decode(message.payload, message.flags);
                    }
                    _ => found.extend(read(message)),
                }
            })?;
        }
        match refusal {
            // nf_tables says EINTR itself when the rules changed between two parts of a dump.
            Some(refusal) if refusal.errno() == libc::EINTR => Ok(None),
            Some(refusal) => Err(refusal),
            None => Ok((!interrupted).then_some(found)),
        }
    }

    /// Sends messages in chunks, each message on its own: the refused ones with their sequence numbers.
    ///
    /// # Errors
    /// When the socket itself fails; nothing is known about the messages then.
    pub fn send(&mut self, mut batch: Batch) -> Result<Vec<(u32, Refusal)>, Refusal> {
        self.sequence = batch.next_sequence();
        let mut refused: Vec<_> =
            batch.too_long.iter().map(|sequence| (*sequence, Refusal::of_length())).collect();
        let mut first = 0;
        while first < batch.starts.len() {
            let (begin, _) = batch.starts[first];
            let fits = |(start, _): &(usize, u32)| *start < begin + CHUNK;
            let count = batch.starts[first..].iter().take_while(|start| fits(start)).count();
            let last = batch.starts[first + count - 1];
            // Refusals come without being asked for; the acknowledgement of the last message ends the chunk.
            batch.acknowledge(last.0);
            first += count;
            let end = batch.starts.get(first).map_or(batch.buffer.len(), |(start, _)| *start);
            self.transmit(&batch.buffer[begin..end])?;
            self.collect(None, last.1, &mut refused)?;
        }
        batch.buffer.zeroize();
        Ok(refused)
    }

    /// Sends messages in one piece, which succeed or fail together (an nf_tables transaction). The last message
    /// but one is acknowledged, because kernels before 6.10 do not acknowledge the end of a batch.
    ///
    /// # Errors
    /// The first refusal and the sequence number of its message.
    pub fn transact(&mut self, mut batch: Batch) -> Result<(), (u32, Refusal)> {
        self.sequence = batch.next_sequence();
        if let Some(sequence) = batch.too_long.first() {
            return Err((*sequence, Refusal::of_length()));
        }
        let (first, (start, sequence)) = (batch.starts[0].1, batch.starts[batch.starts.len() - 2]);
        batch.acknowledge(start);
        let _ = sockopt::set_socket_send_buffer_size_force(&self.socket, batch.buffer.len() + 4096);
        let mut refused = Vec::new();
        let result =
            self.transmit(&batch.buffer).and_then(|()| self.collect(Some(first), sequence, &mut refused));
        match (refused.into_iter().next(), result) {
            (Some(refused), _) => Err(refused),
            (None, Err(error)) => Err((sequence, error.into())),
            (None, Ok(())) => Ok(()),
        }
    }

    /// Reads acknowledgements until that of `last`, or of `begin`: a transaction that is refused as a whole names
    /// its first message.
    fn collect(
        &mut self,
        begin: Option<u32>,
        last: u32,
        refused: &mut Vec<(u32, Refusal)>,
    ) -> io::Result<()> {
        let mut done = false;
        while !done {
            self.receive(|message| {
                if message.kind == NLMSG_ERROR {
                    let refusal = Refusal::decode(message.payload, message.flags);
                    done |= message.sequence == last || Some(message.sequence) == begin;
                    refused.extend(refusal.map(|refusal| (message.sequence, refusal)));
                }
            })?;
        }
        Ok(())
    }

    fn transmit(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map(drop)
    }

    /// Reads one datagram of the kernel and shows its messages.
    fn receive(&mut self, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        self.buffer.clear();
        let (length, sender) = self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC)?;
        if length > self.buffer.len() {
            let error = format!("an answer of {length} bytes does not fit into {RECEIVE}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        // Only the kernel is believed.
        if sender.port_number() == 0 {
            Received::all(&self.buffer).for_each(|message| each(&message));
        }
        Ok(())
    }

    /// Overwrites what the last answers left in the buffer; for answers that hold keys.
    pub fn forget(&mut self) {
        self.buffer.zeroize();
    }
}
