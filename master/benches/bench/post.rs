//! `POST /messages` as the benchmark's clients send it.

use crate::load::Protocol;

/// The append that is measured unless something else is said: 100 bytes, all nodes, a short answer.
pub fn short() -> Post {
    Post::new(100, None, false)
}

/// One kind of append.
#[derive(Debug, Clone)]
pub struct Post {
    request: Vec<u8>,
}

impl Post {
    /// Appends messages of so many bytes; `w` as it stands in the body, or the original's call.
    pub fn new(message_bytes: usize, w: Option<&str>, full_answer: bool) -> Post {
        let w = w.map(|w| format!(",\"w\":{w}")).unwrap_or_default();
        let body = format!("{{\"msg\":\"{}\"{w}}}", "x".repeat(message_bytes));
        let prefer = if full_answer { "" } else { "Prefer: return=minimal\r\n" };
        let length = body.len();
        let request = format!(
            "POST /messages HTTP/1.1\r\nHost: bench\r\n{prefer}Content-Length: {length}\r\n\r\n{body}"
        );
        Post { request: request.into_bytes() }
    }
}

impl Protocol for Post {
    fn request(&self, _: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.request);
    }

    fn answer(&self, bytes: &[u8]) -> Result<Option<usize>, String> {
        let Some((head, length)) = whole(bytes) else { return Ok(None) };
        if head.starts_with("HTTP/1.1 201 ") {
            return Ok((bytes.len() >= length).then_some(length));
        }
        Err(String::from_utf8_lossy(bytes).into_owned())
    }
}

/// The head of an HTTP message, once it is there, and the length of the whole message.
pub fn whole(bytes: &[u8]) -> Option<(&str, usize)> {
    // The head of a short answer is at its beginning; a long body need not be searched for it.
    let beginning = &bytes[..bytes.len().min(1024)];
    let end = beginning.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&beginning[..end]).ok()?;
    let length = head.split("\r\n").find_map(|line| line.strip_prefix("Content-Length: "));
    Some((head, end + 4 + length.map_or(0, |length| length.parse().unwrap_or(0))))
}
