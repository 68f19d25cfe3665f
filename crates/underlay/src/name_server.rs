//! Whether a name server answers, and on which way.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use crate::{Underlay, Way, own::is_own, socket};

/// How long an answer may take on each way.
const TIMEOUT: Duration = Duration::from_secs(2);

/// When a question is asked again: a datagram may get lost.
const AGAIN: Duration = Duration::from_millis(700);

/// What is asked for: the address of `localhost`, which most name servers know without asking others (RFC 6761).
const QUESTION: &[u8] = b"\x09localhost\x00\x00\x01\x00\x01";

impl Underlay {
    /// Finds out on which way a name server answers, whatever its answer is.
    pub async fn probe_name_server(&self, address: SocketAddr) {
        if !self.measures() || is_own(address.ip()) {
            return;
        }
        if self.name_server_answers(address, self.mark).await {
            self.evidence.prove(address.ip(), Way::Underlay);
        } else if !self.name_server_answers(address, None).await {
            self.evidence.note_silence(address.ip());
        } else if self.name_server_answers(address, self.mark).await {
            // It has just come up.
            self.evidence.prove(address.ip(), Way::Underlay);
        } else {
            self.evidence.prove(address.ip(), Way::Mesh);
        }
    }

    async fn name_server_answers(&self, address: SocketAddr, mark: Option<u32>) -> bool {
        matches!(timeout(TIMEOUT, ask(address, mark)).await, Ok(Ok(())))
    }
}

/// Asks until there is an answer.
async fn ask(server: SocketAddr, mark: Option<u32>) -> io::Result<()> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = socket::udp(SocketAddr::new(any, 0), mark)?;
    // The kernel then drops what comes from elsewhere, and tells when nobody listens.
    socket.connect(server).await?;
    let id: u16 = rand::random();
    let question = question(id);
    let mut answer = [0; 512];
    loop {
        socket.send(&question).await?;
        tokio::select! {
            received = socket.recv(&mut answer) => {
                let length = received?;
                if is_answer(&answer[..length], id) {
                    return Ok(());
                }
            }
            () = sleep(AGAIN) => {}
        }
    }
}

/// A question with the header of RFC 1035, 4.1.1: recursion desired, one question.
fn question(id: u16) -> Vec<u8> {
    let mut question = id.to_be_bytes().to_vec();
    question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    question.extend(QUESTION);
    question
}

fn is_answer(datagram: &[u8], id: u16) -> bool {
    /// The bit of the header's third byte that says that this is a response.
    const RESPONSE: u8 = 0x80;
    datagram.len() >= 12 && datagram[..2] == id.to_be_bytes() && datagram[2] & RESPONSE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_response_to_our_question() {
        let mut answer = question(0x1234);
        assert!(!is_answer(&answer, 0x1234));
        answer[2] |= 0x80;
        // NXDOMAIN is an answer.
        answer[3] = 3;
        assert!(is_answer(&answer, 0x1234));
        assert!(!is_answer(&answer, 0x1235));
        assert!(!is_answer(&answer[..11], 0x1234));
    }
}
