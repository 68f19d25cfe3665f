//! The thread of one socket: datagrams received in runs, opened in place, joined and written to the interface.

use std::io::IoSlice;
use std::thread;

use crate::drops::Drop;
use crate::engine::Datagrams;
use crate::offload::{Coalescer, HEADER_SIZE, Joins};
use crate::sys;
use crate::sys::tun::{Offload, Queue};
use crate::sys::udp::{Receiver, UdpSocket};

use super::Shared;
use super::failures::{Advice, Failures};
use super::shared::Sockets;

/// Opened bytes that are written even if more datagrams are waiting: what is in the cache is cheap.
const FLUSH_AT: usize = 48 << 10;

/// Runs until the sockets are replaced or the device stops.
pub(super) fn run(shared: &Shared, sockets: &Sockets, index: usize) {
    let socket = &sockets.list[index];
    let queue = &shared.tun.queues[index % shared.tun.queues.len()];
    let mut receiver = Receiver::new();
    let mut coalescer = Coalescer::new(match shared.tun.offload {
        Offload::None | Offload::Header => Joins::Nothing,
        Offload::Tcp => Joins::Tcp,
        Offload::TcpAndUdp => Joins::TcpAndUdp,
    });
    let mut failures = Failures::default();
    while !sockets.is_stopped() {
        if receive(&mut receiver, socket, &mut failures) {
            take(shared, &mut receiver, &mut coalescer, queue);
        }
    }
}

/// Waits for datagrams. Returns whether any came, after a pause if the socket fails again and again.
fn receive(receiver: &mut Receiver, socket: &UdpSocket, failures: &mut Failures) -> bool {
    let error = match receiver.receive(socket) {
        Ok(()) => {
            if failures.succeed() {
                tracing::info!("the UDP socket can be read again");
            }
            return true;
        }
        Err(error) => error,
    };
    // Usually a pending error of the socket, as after an ICMP message: the next call goes on.
    tracing::trace!(%error, "cannot receive");
    let Advice { pause, is_news } = failures.fail();
    if is_news {
        tracing::error!(%error, "the UDP socket cannot be read; nothing arrives on it, and it is tried again less often");
    }
    if !pause.is_zero() {
        thread::sleep(pause);
    }
    false
}

/// Takes in everything that was received.
fn take(shared: &Shared, receiver: &mut Receiver, coalescer: &mut Coalescer, queue: &Queue) {
    let mut inbound = shared.engine.inbound(sys::moment());
    let mut opened_bytes = 0;
    for arrival in &receiver.arrivals {
        let start = Receiver::start(arrival.slot);
        let datagrams =
            Datagrams { place: start..start + arrival.length, segment: arrival.segment, ecn: arrival.ecn };
        inbound.open_all(&arrival.source, &mut receiver.buffers, &datagrams, |buffer, place| {
            opened_bytes += place.len();
            coalescer.push(buffer, place);
        });
        if opened_bytes >= FLUSH_AT {
            write(shared, &receiver.buffers, coalescer, queue);
            opened_bytes = 0;
        }
    }
    write(shared, &receiver.buffers, coalescer, queue);
}

/// Writes what was joined to the interface.
fn write(shared: &Shared, buffer: &[u8], coalescer: &mut Coalescer, queue: &Queue) {
    let has_header = shared.tun.offload != Offload::None;
    for burst in &mut coalescer.bursts {
        burst.finish();
        let head = if has_header { burst.head() } else { &burst.head()[HEADER_SIZE..] };
        let mut parts = Vec::with_capacity(burst.parts.len() + 1);
        parts.push(IoSlice::new(head));
        parts.extend(burst.parts.iter().map(|part| IoSlice::new(&buffer[part.clone()])));
        if let Err(error) = queue.write(&parts) {
            shared.engine.drops.add(Drop::TunWrite, burst.parts.len() as u64);
            tracing::trace!(%error, "the interface does not take a packet");
        }
    }
    coalescer.clear();
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Reading from what is no socket fails for good.
    #[test]
    fn a_socket_that_fails_for_good_is_tried_less_and_less_often() {
        let broken = UdpSocket::of(std::fs::File::open("/dev/null").unwrap().into());
        let (mut receiver, mut failures) = (Receiver::new(), Failures::default());
        let (start, mut tries) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(500) {
            assert!(!receive(&mut receiver, &broken, &mut failures));
            tries += 1;
        }
        assert!((18..40).contains(&tries), "{tries} tries in half a second");
    }
}
