//! Who reaches whom: small UDP packets between sockets that are opened inside the namespaces and driven from
//! one thread outside. A matrix of *n* endpoints costs *n* sockets and no process. The receiver also sees the
//! source address, so a probe notices when the mesh translates addresses that it should not. It knows nothing
//! of nodes, pods or Kubernetes.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::{LabError, netns};

/// How often an unanswered packet of a matrix is repeated.
const REPEAT: Duration = Duration::from_millis(100);
/// How long an answer may take before its packet counts as lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Somewhere a probe can be sent from and to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// What it is called in a report.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// An address that is assigned in the namespace.
    pub address: IpAddr,
    /// Where others send to, if that is not the address itself: that of a Service, which somebody on the way translates.
    pub service: Option<IpAddr>,
}

/// What became of the packets from one endpoint to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// An answer came back.
    Reached {
        /// The round trip time.
        round_trip: Duration,
    },
    /// An answer came back, but the receiver saw another source address than the sender's.
    Translated {
        /// What the receiver saw.
        seen: IpAddr,
    },
    /// No answer came within the time.
    Lost,
}

/// Probes between all pairs until each is answered or the time is over.
///
/// # Errors
/// When a namespace cannot be entered or a socket cannot be opened there.
pub fn probe_pairs(
    endpoints: &[Endpoint],
    within: Duration,
) -> Result<BTreeMap<(usize, usize), Outcome>, LabError> {
    let ports = endpoints.iter().map(Port::open).collect::<Result<Vec<_>, _>>()?;
    let mut outcomes = BTreeMap::new();
    for from in 0..ports.len() {
        outcomes.extend((0..ports.len()).filter(|to| *to != from).map(|to| ((from, to), Outcome::Lost)));
    }
    let begin = Instant::now();
    let mut next = begin;
    let receive = |outcomes: &mut BTreeMap<(usize, usize), Outcome>| {
        exchange(&ports, |pair, sent, outcome| {
            let round_trip = begin.elapsed().saturating_sub(sent);
            outcomes.insert(pair, outcome.unwrap_or(Outcome::Reached { round_trip }));
        });
    };
    let lost = |outcomes: &BTreeMap<(usize, usize), Outcome>| -> Vec<(usize, usize)> {
        let lost = outcomes.iter().filter(|(_, outcome)| **outcome == Outcome::Lost);
        lost.map(|(pair, _)| *pair).collect()
    };
    while !lost(&outcomes).is_empty() && begin.elapsed() < within {
        if Instant::now() >= next {
            for (from, to) in lost(&outcomes) {
                ports[from].send(&ports[to], (from, to), begin.elapsed());
                // What has arrived meanwhile must not seem to have taken as long as the rest of this round.
                receive(&mut outcomes);
            }
            next = Instant::now() + REPEAT;
        }
        wait_readable(&ports, next.min(begin + within));
        receive(&mut outcomes);
    }
    Ok(outcomes)
}

/// Packets that go from one endpoint to another at an interval, until it is stopped.
#[derive(Debug)]
pub struct Stream {
    end: Arc<AtomicBool>,
    sent: Arc<Mutex<BTreeMap<Duration, bool>>>,
    begin: Instant,
    thread: Option<JoinHandle<()>>,
}

/// What became of a [`Stream`].
#[derive(Clone)]
pub struct Report {
    /// When the stream began.
    pub begin: Instant,
    /// For every packet, by when it was sent after the begin: whether it was answered.
    pub packets: BTreeMap<Duration, bool>,
}

impl Stream {
    /// Begins to send.
    ///
    /// # Errors
    /// When a namespace cannot be entered or a socket cannot be opened there.
    pub fn start(from: &Endpoint, to: &Endpoint, interval: Duration) -> Result<Self, LabError> {
        let ports = [Port::open(from)?, Port::open(to)?];
        let (end, sent, begin) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())), Instant::now());
        let (end_of_thread, sent_by_thread) = (Arc::clone(&end), Arc::clone(&sent));
        let thread = thread::spawn(move || stream(&ports, begin, interval, &end_of_thread, &sent_by_thread));
        Ok(Self { end, sent, begin, thread: Some(thread) })
    }

    /// What is known by now. Packets sent within the last second may still be answered and are left out.
    pub fn so_far(&self) -> Report {
        let mut packets = self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let settled = self.begin.elapsed().saturating_sub(ANSWER_WITHIN);
        packets.retain(|sent, answered| *answered || *sent < settled);
        Report { begin: self.begin, packets }
    }

    /// Stops sending, waits for answers on their way, and reports.
    pub fn stop(mut self) -> Report {
        self.finish();
        Report {
            begin: self.begin,
            packets: self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn finish(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; what it recorded until then is the report.
            let _ = thread.join();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Report {
    /// How many packets were sent.
    pub fn sent(&self) -> usize {
        self.packets.len()
    }

    /// How many were not answered.
    pub fn lost(&self) -> usize {
        self.packets.values().filter(|answered| !**answered).count()
    }

    /// How many of those sent between two moments were not answered.
    pub fn lost_between(&self, from: Instant, to: Instant) -> usize {
        let moment = |sent: &Duration| self.begin + *sent;
        self.packets
            .iter()
            .filter(|(sent, answered)| !**answered && (from..to).contains(&moment(sent)))
            .count()
    }

    /// The longest time from a lost packet to the next answered one, or to the end.
    pub fn longest_gap(&self) -> Duration {
        self.gaps().into_iter().map(|(from, to)| to - from).max().unwrap_or_default()
    }

    /// When packets were lost: from the first lost one to the next answered one, or to the last.
    fn gaps(&self) -> Vec<(Duration, Duration)> {
        let mut gaps = Vec::new();
        let mut since = None;
        for (sent, answered) in &self.packets {
            match (since, *answered) {
                (None, false) => since = Some(*sent),
                (Some(first), true) => {
                    gaps.push((first, *sent));
                    since = None;
                }
                (None, true) | (Some(_), false) => {}
            }
        }
        let last = self.packets.keys().next_back().copied();
        gaps.extend(since.zip(last));
        gaps
    }
}

/// Thousands of packets are no help; the gaps are.
impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} packets lost", self.lost(), self.sent())?;
        for (from, to) in self.gaps() {
            write!(f, ", from {:.2} s to {:.2} s", from.as_secs_f32(), to.as_secs_f32())?;
        }
        Ok(())
    }
}

fn stream(
    ports: &[Port; 2],
    begin: Instant,
    interval: Duration,
    end: &AtomicBool,
    sent: &Mutex<BTreeMap<Duration, bool>>,
) {
    let mut next = begin;
    let mut last = begin;
    let all_answered =
        || sent.lock().unwrap_or_else(PoisonError::into_inner).values().all(|answered| *answered);
    loop {
        let ending = end.load(Ordering::Relaxed);
        if ending && (last.elapsed() > ANSWER_WITHIN || all_answered()) {
            return;
        }
        if !ending && Instant::now() >= next {
            let now = begin.elapsed();
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert(now, false);
            ports[0].send(&ports[1], (0, 1), now);
            last = Instant::now();
            next = last + interval;
        }
        wait_readable(ports, if ending { Instant::now() + Duration::from_millis(10) } else { next });
        exchange(ports, |_, when, _| {
            if begin.elapsed().saturating_sub(when) <= ANSWER_WITHIN {
                sent.lock().unwrap_or_else(PoisonError::into_inner).insert(when, true);
            }
        });
    }
}

/// A socket of an endpoint.
#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    address: SocketAddr,
    /// Where others send to, and where their answers have to come from.
    reached_at: SocketAddr,
}

impl Port {
    fn open(endpoint: &Endpoint) -> Result<Self, LabError> {
        let open = || {
            let socket = UdpSocket::bind((endpoint.address, 0))?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            let reached_at = SocketAddr::new(endpoint.service.unwrap_or(endpoint.address), address.port());
            Ok(Self { socket, address, reached_at })
        };
        let action = format!("opening a socket on {} in {}", endpoint.address, endpoint.namespace);
        netns::inside(&endpoint.namespace, open)?.map_err(LabError::io(action))
    }

    fn send(&self, to: &Self, pair: (usize, usize), sent: Duration) {
        let packet = Packet { pair, sent, answer: None };
        // That there is no way to the destination is what a probe is for; its outcome is the missing answer.
        let _ = self.socket.send_to(&packet.encode(), to.reached_at);
    }
}

/// Requests carry the pair and the time; answers add whether the source was as expected.
#[derive(Debug, Clone, Copy)]
struct Packet {
    pair: (usize, usize),
    sent: Duration,
    answer: Option<IpAddr>,
}

/// What a packet begins with; then, in network byte order: both indices (4 bytes each), the time in
/// nanoseconds (8), whether it is an answer (1), and the source address that the receiver saw (16, IPv4
/// mapped).
const MARK: &[u8; 8] = b"kilo-lab";
const LENGTH: usize = 41;

impl Packet {
    fn encode(&self) -> Vec<u8> {
        let seen = match self.answer {
            Some(IpAddr::V4(address)) => address.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(address)) => address.octets(),
            None => [0; 16],
        };
        let mut bytes = MARK.to_vec();
        bytes.extend((self.pair.0 as u32).to_be_bytes());
        bytes.extend((self.pair.1 as u32).to_be_bytes());
        bytes.extend((self.sent.as_nanos() as u64).to_be_bytes());
        bytes.push(u8::from(self.answer.is_some()));
        bytes.extend(seen);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let index = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
        if bytes.len() != LENGTH || !bytes.starts_with(MARK) {
            return None;
        }
        let sent = u64::from_be_bytes(bytes[16..24].try_into().ok()?);
        let seen: [u8; 16] = bytes[25..41].try_into().ok()?;
        Some(Self {
            pair: (index(8)?, index(12)?),
            sent: Duration::from_nanos(sent),
            answer: (bytes[24] == 1).then(|| IpAddr::from(seen).to_canonical()),
        })
    }
}

fn wait_readable(ports: &[Port], until: Instant) {
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    let mut waited: Vec<PollFd<'_>> =
        ports.iter().map(|port| PollFd::from_borrowed_fd(port.socket.as_fd(), PollFlags::IN)).collect();
    match poll(&mut waited, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        // Only possible when memory is short; do not spin.
        Err(_) => thread::sleep(Duration::from_millis(1)),
    }
}

/// Answers requests, and hands answers on: the pair, when its request was sent, and an outcome if it is not
/// simply reached.
fn exchange(ports: &[Port], mut answered: impl FnMut((usize, usize), Duration, Option<Outcome>)) {
    for (own, port) in ports.iter().enumerate() {
        let mut buffer = [0; 128];
        loop {
            let (length, source) = match port.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let Some(packet) = Packet::decode(&buffer[..length]) else { continue };
            let (from, to) = packet.pair;
            match packet.answer {
                None if to == own => {
                    let answer = Packet { answer: Some(source.ip()), ..packet };
                    let _ = port.socket.send_to(&answer.encode(), source);
                }
                // What comes from elsewhere is no answer: a client would not take it for one.
                Some(seen) if from == own && ports.get(to).is_some_and(|to| to.reached_at == source) => {
                    let expected = port.address.ip();
                    answered(
                        packet.pair,
                        packet.sent,
                        (seen != expected).then_some(Outcome::Translated { seen }),
                    );
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_survive_the_wire() {
        let packet = Packet {
            pair: (3, 200),
            sent: Duration::new(7, 123_456_789),
            answer: Some("fd42:1::11".parse().expect("an address")),
        };
        let again = Packet::decode(&packet.encode()).expect("it is complete");
        assert_eq!((again.pair, again.sent, again.answer), (packet.pair, packet.sent, packet.answer));
        assert!(Packet::decode(b"kilo-lab").is_none());
    }

    #[test]
    fn losses_and_gaps_are_counted() {
        let check = |answered: &[bool], lost: usize, gap: u64| {
            let packets = answered
                .iter()
                .enumerate()
                .map(|(at, answered)| (Duration::from_secs(at as u64), *answered))
                .collect();
            let report = Report { begin: Instant::now(), packets };
            assert_eq!(
                (report.lost(), report.longest_gap()),
                (lost, Duration::from_secs(gap)),
                "{answered:?}"
            );
        };
        check(&[true, true, true], 0, 0);
        check(&[true, false, true], 1, 1);
        check(&[false, false, true, false, true, true], 3, 2);
        check(&[true, false, false, false], 3, 2);
    }
}
