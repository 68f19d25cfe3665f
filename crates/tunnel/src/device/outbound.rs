//! The thread of one queue: packets from the interface, cut, sealed and sent in runs.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use crate::cipher::BATCH;
use crate::clock::Moment;
use crate::drops::Drop;
use crate::ecn::Ecn;
use crate::engine::{Carrier, NoCarrier};
use crate::icmp::Refuser;
use crate::ip::{IpHeader, padded};
use crate::looping::LoopGuard;
use crate::message::{DATA_HEADER_SIZE, DATA_OVERHEAD};
use crate::offload::{HEADER_SIZE, Segments, VirtioHeader};
use crate::peer::Traffic;
use crate::sys;
use crate::sys::tun::{Offload, Queue};

use super::Shared;

/// The largest run the kernel takes: the largest UDP datagram over IPv4 (over IPv6 it may be larger).
const MAX_RUN: usize = 65_507;
/// Datagrams in a run (UDP_MAX_SEGMENTS before Linux 6.9).
const MAX_SEGMENTS: usize = 64;
/// Sealed bytes that are sent even if the interface has more to read: about one large packet, so that the other end can
/// begin with it.
const FLUSH_AT: usize = 60_000;
/// How long nothing is said of further loops.
const SILENCE: Duration = Duration::from_secs(1);
/// The largest packet of the interface with its header, with room for IPv6.
const READ_SIZE: usize = HEADER_SIZE + (1 << 16) + 40;

/// The largest packet of the interface that becomes a single run, with small headers: a remainder of a few datagrams
/// would cost nearly as much as a whole run.
pub(super) fn largest_packet(mtu: usize) -> u32 {
    let segments = (MAX_RUN / (mtu + DATA_OVERHEAD)).min(MAX_SEGMENTS);
    let headers = 40;
    // An MTU is far below 2³², and a run below 65,536.
    (segments * mtu.saturating_sub(headers) + headers).max(mtu) as u32
}

/// Datagrams for one peer: all of the same size, but the last may be shorter.
struct Run {
    carrier: Carrier,
    start: usize,
    end: usize,
    segment: usize,
    count: usize,
    ecn: Ecn,
    /// A shorter one was added: nothing may follow.
    is_full: bool,
}

/// Sealed datagrams, not yet sent.
struct Outgoing<'a> {
    shared: &'a Shared,
    buffer: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
    refuser: Refuser,
    guard: LoopGuard,
    /// When a loop may be told of again.
    tell_again: Moment,
}

/// Runs until the device stops.
pub(super) fn run(shared: &Shared, queue: usize) {
    let queue = &shared.tun.queues[queue];
    let header_size = if shared.tun.offload == Offload::None { 0 } else { HEADER_SIZE };
    let mut packet = vec![0; READ_SIZE];
    let mut outgoing = Outgoing {
        shared,
        buffer: vec![0; 4 * MAX_RUN],
        used: 0,
        runs: Vec::new(),
        refuser: Refuser::default(),
        guard: LoopGuard::default(),
        tell_again: Moment::default(),
    };
    loop {
        match queue.read(&mut packet) {
            Ok(length) => {
                let now = sys::moment();
                if let Err(reason) = outgoing.take(&mut packet[..length], header_size, now) {
                    shared.engine.drops.count(reason);
                    match reason {
                        Drop::NoPeer | Drop::NoEndpoint => {
                            outgoing.refuse(queue, &packet[header_size..length], now);
                        }
                        Drop::Looped => outgoing.tell_of_loop(&packet[header_size..length], now),
                        _ => {}
                    }
                }
                if outgoing.used >= FLUSH_AT {
                    outgoing.flush(now);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                outgoing.flush(sys::moment());
                match sys::wait([shared.stop.as_raw_fd(), queue.as_raw_fd()], None) {
                    Ok([true, _]) => return,
                    Ok(_) => {}
                    Err(_) => return shared.interface_is_gone(),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::debug!(%error, "cannot read from the interface");
                return shared.interface_is_gone();
            }
        }
    }
}

impl Outgoing<'_> {
    /// Takes a packet with its header from the interface.
    fn take(&mut self, bytes: &mut [u8], header_size: usize, now: Moment) -> Result<(), Drop> {
        let (header, packet) = bytes.split_at_mut_checked(header_size).ok_or(Drop::NotIp)?;
        let header = match <&[u8; HEADER_SIZE]>::try_from(&*header) {
            Ok(header) => VirtioHeader::decode(header).ok_or(Drop::NotIp)?,
            Err(_) => VirtioHeader::PLAIN,
        };
        let ip = IpHeader::parse(packet).ok_or(Drop::NotIp)?;
        if self.guard.catches(&ip, packet, |from, to| self.shared.engine.sends(from, to)) {
            return Err(Drop::Looped);
        }
        let ecn = Ecn::of_packet(packet);
        let segments = Segments::new(&header, packet).ok_or(Drop::NotIp)?;
        match self.shared.engine.carrier(ip.destination, now) {
            Ok(carrier) => self.seal(&carrier, &segments, ecn, now),
            Err(NoCarrier::Drop(reason)) => return Err(reason),
            Err(NoCarrier::Stage(peer)) => {
                for index in 0..segments.count() {
                    let mut packet = vec![0; segments.length(index)];
                    segments.write(index, &mut packet);
                    self.shared.engine.stage(&peer, &packet);
                }
            }
        }
        Ok(())
    }

    /// Tells the sender that nobody takes its packet.
    fn refuse(&mut self, queue: &Queue, packet: &[u8], now: Moment) {
        let Some(answer) = self.refuser.refuse(packet, now) else { return };
        let plain = VirtioHeader::PLAIN.encode();
        let header: &[u8] = if self.shared.tun.offload == Offload::None { &[] } else { &plain };
        if let Err(error) = queue.write(&[IoSlice::new(header), IoSlice::new(&answer)]) {
            self.shared.engine.drops.count(Drop::TunWrite);
            tracing::trace!(%error, "the interface does not take a packet");
        }
    }

    /// Tells that a route is wrong, but not for every packet that took it.
    fn tell_of_loop(&mut self, packet: &[u8], now: Moment) {
        if now < self.tell_again {
            return;
        }
        self.tell_again = now.plus(SILENCE);
        if let Some(ip) = IpHeader::parse(packet) {
            tracing::debug!(endpoint = %ip.destination, "the route to an endpoint leads into its own interface");
        }
    }

    /// Cuts the packet into datagrams, as many at once as the cipher takes.
    fn seal(&mut self, carrier: &Carrier, segments: &Segments<'_>, ecn: Ecn, now: Moment) {
        let mtu = self.shared.engine.mtu();
        for first in (0..segments.count()).step_by(BATCH) {
            let many = BATCH.min(segments.count() - first);
            let most = padded(segments.length(first), mtu) + DATA_OVERHEAD;
            if self.used + many * most > self.buffer.len() {
                self.flush(now);
            }
            let mut places = [const { 0..0 }; BATCH];
            let mut end = self.used;
            for (place, index) in places[..many].iter_mut().zip(first..) {
                let length = segments.length(index);
                *place = end..end + padded(length, mtu) + DATA_OVERHEAD;
                end = place.end;
                let inside = place.start + DATA_HEADER_SIZE..place.end - (DATA_OVERHEAD - DATA_HEADER_SIZE);
                let (packet, padding) = self.buffer[inside].split_at_mut(length);
                segments.write(index, packet);
                padding.fill(0);
            }
            if !carrier.session.seal(&mut self.buffer, &places[..many]) {
                self.shared.engine.drops.add(Drop::NoSession, (segments.count() - first) as u64);
                return;
            }
            places[..many].iter().for_each(|place| self.append(carrier, place.len(), ecn));
        }
    }

    /// Adds the datagram just sealed to the last run, or begins a new one.
    fn append(&mut self, carrier: &Carrier, size: usize, ecn: Ecn) {
        let start = self.used;
        self.used += size;
        if let Some(run) = self.runs.last_mut()
            && run.ecn == ecn
            && run.fits(carrier, size)
        {
            run.end += size;
            run.count += 1;
            run.is_full = size < run.segment;
            return;
        }
        let carrier = Carrier {
            peer: carrier.peer.clone(),
            session: carrier.session.clone(),
            endpoint: carrier.endpoint.clone(),
        };
        self.runs.push(Run { carrier, start, end: self.used, segment: size, count: 1, ecn, is_full: false });
    }

    /// Sends everything.
    fn flush(&mut self, now: Moment) {
        for run in self.runs.drain(..) {
            let data = &self.buffer[run.start..run.end];
            if let Err(error) = self.shared.send(&run.carrier.endpoint, data, run.segment, run.ecn) {
                self.shared.engine.drops.add(Drop::UdpSend, run.count as u64);
                tracing::trace!(endpoint = %run.carrier.endpoint.address, %error, "cannot send");
            }
            let traffic = Traffic { bytes: data.len() as u64, has_data: true };
            self.shared.engine.sent(&run.carrier, traffic, now);
        }
        self.used = 0;
    }
}

impl Run {
    fn fits(&self, carrier: &Carrier, size: usize) -> bool {
        !self.is_full
            && size <= self.segment
            && self.count < MAX_SEGMENTS
            && self.end - self.start + size <= MAX_RUN
            && Arc::ptr_eq(&self.carrier.session, &carrier.session)
            && Arc::ptr_eq(&self.carrier.endpoint, &carrier.endpoint)
    }
}
