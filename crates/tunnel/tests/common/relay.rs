//! A bad network between two ends.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::{End, eventually};

/// Passes datagrams between two ends, but not all, some twice, and not in order. Ends with this value.
pub struct Relay {
    /// Where the first end has to send to. The second one sees the next port.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Relay {
    /// Starts in the namespace of the first end.
    pub fn start(a: &End, b: &End) -> Self {
        let [to_a, to_b] = a.namespace.enter(|| {
            eventually("two neighbouring free ports", || {
                let first = UdpSocket::bind("192.0.2.1:0").map_err(|error| error.to_string())?;
                let port = first.local_addr().map_err(|error| error.to_string())?.port();
                let second = UdpSocket::bind(("192.0.2.1", port.wrapping_add(1)));
                Ok([first, second.map_err(|error| error.to_string())?])
            })
        });
        let address = to_a.local_addr().expect("a bound socket");
        let ends = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
        let (end_a, end_b) = (SocketAddr::new(ends[0], a.port()), SocketAddr::new(ends[1], b.port()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (from, to, target) in [(&to_a, &to_b, end_b), (&to_b, &to_a, end_a)] {
            let from = from.try_clone().expect("a socket");
            let to = to.try_clone().expect("a socket");
            let stop = stop.clone();
            threads.push(thread::spawn(move || disturb(&from, &to, target, &stop)));
        }
        Self { address, stop, threads }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn disturb(from: &UdpSocket, to: &UdpSocket, target: SocketAddr, stop: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
    let mut buffer = vec![0; 1 << 16];
    let mut held: Option<Vec<u8>> = None;
    let mut count = 0u32;
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = from.recv(&mut buffer) else {
            if let Some(late) = held.take() {
                drop(to.send_to(&late, target));
            }
            continue;
        };
        let datagram = &buffer[..length];
        count += 1;
        match count % 100 {
            13 => continue,
            30 | 60 | 90 => held = Some(datagram.to_vec()),
            50 => drop((to.send_to(datagram, target), to.send_to(datagram, target))),
            _ => {
                drop(to.send_to(datagram, target));
                if let Some(late) = held.take_if(|_| count.is_multiple_of(3)) {
                    drop(to.send_to(&late, target));
                }
            }
        }
    }
}
