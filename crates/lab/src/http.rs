//! HTTP/1.1 requests that are sent from inside a namespace: one connection each, no TLS. Enough for the
//! embedded API and an agent's health page; it knows neither of them.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::{LabError, netns};

const TIMEOUT: Duration = Duration::from_secs(5);

/// A request.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The body's media type; unused without a body.
    pub content_type: &'a str,
    /// The body.
    pub body: Option<&'a str>,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl<'a> Request<'a> {
    /// A request without a body.
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, content_type: "", body: None }
    }

    /// Sends the request from a namespace.
    ///
    /// # Errors
    /// When there is no answer within 5 s, or it is not HTTP.
    pub fn send(&self, namespace: &str, to: SocketAddr) -> Result<Response, LabError> {
        let exchange = || -> io::Result<Response> {
            let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.write_all(self.encode(to).as_bytes())?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            parse(&answer)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not complete HTTP"))
        };
        netns::inside(namespace, exchange)?.map_err(|error| LabError::Http {
            method: self.method.into(),
            url: format!("http://{to}{}", self.path),
            place: namespace.into(),
            reason: error.to_string(),
        })
    }

    fn encode(&self, to: SocketAddr) -> String {
        let body = self.body.unwrap_or_default();
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nAccept: application/json, */*\r\n",
            self.method, self.path
        );
        if self.body.is_some() {
            text += &format!("Content-Type: {}\r\nContent-Length: {}\r\n", self.content_type, body.len());
        }
        text + "\r\n" + body
    }
}

/// Splits a response (RFC 9112). The server closed the connection, so a body without a length ends there.
fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?.to_ascii_lowercase();
    let body = &answer[end + 4..];
    let status = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let chunked = head.lines().any(|line| line.starts_with("transfer-encoding:") && line.contains("chunked"));
    let body = if chunked { join_chunks(body)? } else { body.to_vec() };
    Some(Response { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn join_chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = rest.get(line + 2..)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size.checked_add(2)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_with_a_length_in_chunks_or_until_the_end() {
        let check = |answer: &str, expect: Option<(u16, &str)>| {
            let seen = parse(answer.as_bytes()).map(|response| (response.status, response.body));
            assert_eq!(seen, expect.map(|(status, body)| (status, body.to_owned())), "{answer:?}");
        };
        check("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Some((200, "ok")));
        check("HTTP/1.1 503 Unavailable\r\n\r\nreasons\n", Some((503, "reasons\n")));
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            Some((200, "abcde")),
        );
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc", None);
        check("HTTP/1.1 200 OK\r\n", None);
    }
}
