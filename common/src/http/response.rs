//! An answer, and the bytes it becomes.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::SystemTime;

use serde::Serialize;

use crate::chunk::Chunk;

/// Bodies up to this size are sent together with the head in one write.
const ONE_WRITE_BYTES: usize = 128 * 1024;

/// Who may use an answer, as browsers see it.
const RESOURCE_POLICY: &str = "Cross-Origin-Resource-Policy";

/// How much of an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The head and the body.
    Whole,
    /// The head; it names the length of the body.
    Head,
    /// The head of an answer without a length: its body comes in chunks, or ends with the connection.
    Beginning { chunked: bool },
}

/// An answer to a request.
pub struct Response {
    /// The status code.
    pub status: u16,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Vec<Chunk>,
}

impl Response {
    /// An answer whose body is JSON text made of these chunks.
    pub fn chunks(status: u16, body: Vec<Chunk>) -> Response {
        let mut headers = Vec::with_capacity(4);
        headers.push(("Content-Type", "application/json".into()));
        Response { status, headers, body }
    }

    /// An answer whose body is this value as JSON.
    pub fn json<T: Serialize>(status: u16, value: &T) -> Response {
        let mut body = Vec::with_capacity(512);
        serde_json::to_writer(&mut body, value).expect("a wire body has only string keys");
        Response::chunks(status, vec![Chunk::Owned(body)])
    }

    /// An answer with a body of this media type.
    pub fn text(status: u16, media_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
        let headers = vec![("Content-Type", media_type.into())];
        Response { status, headers, body: vec![Chunk::Owned(body.into())] }
    }

    /// `{"error": message}` with this status.
    pub fn error(status: u16, message: &str) -> Response {
        Response::json(status, &serde_json::json!({ "error": message }))
    }

    /// `{"error": message, "stored": false}`: the request was refused before anything was done.
    pub fn refused(status: u16, message: &str) -> Response {
        Response::json(status, &serde_json::json!({ "error": message, "stored": false }))
    }

    /// The same, with what is wrong in detail.
    pub fn refused_because(status: u16, message: &str, detail: &str) -> Response {
        let body = serde_json::json!({ "error": message, "detail": detail, "stored": false });
        Response::json(status, &body)
    }

    /// The refusal 503 when too much is going on: the request may be made again soon.
    pub fn busy(why: &str) -> Response {
        Response::refused(503, why).with_header("Retry-After", "1")
    }

    /// The answer 503 of `GET /ready`.
    pub fn not_ready(reason: &str) -> Response {
        Response::json(503, &serde_json::json!({ "status": "not ready", "reason": reason }))
            .with_header("Retry-After", "1")
    }

    /// The answer to a path that does not exist.
    pub fn not_found() -> Response {
        Response::error(404, "Not found")
    }

    /// The answer to a method that the path does not have; `allow` lists the methods it has, but for
    /// OPTIONS, which each path has.
    pub fn method_not_allowed(allow: &str) -> Response {
        Response::error(405, "Method not allowed").with_header("Allow", format!("{allow}, OPTIONS"))
    }

    /// The answer 204 to OPTIONS, made of the answer to a method that the path does not have.
    #[must_use]
    pub fn for_options(mut self) -> Response {
        if self.status == 405 {
            self.headers.retain(|(name, _)| *name != "Content-Type");
            (self.status, self.body) = (204, Vec::new());
        }
        self
    }

    /// The same answer with one header field more. Control characters of the value are left out: no
    /// input adds a field or an answer of its own.
    #[must_use]
    pub fn with_header(
        mut self,
        name: &'static str,
        value: impl Into<Cow<'static, str>>,
    ) -> Response {
        let mut value = value.into();
        if value.contains(char::is_control) {
            value.to_mut().retain(|char| !char.is_control());
        }
        self.headers.push((name, value));
        self
    }

    /// The same answer for pages of any origin, which see no more of it than that it came.
    #[must_use]
    pub fn for_any_origin(self) -> Response {
        self.with_header(RESOURCE_POLICY, "cross-origin")
    }

    /// The length of the body in bytes.
    pub fn body_len(&self) -> usize {
        self.body.iter().map(|chunk| chunk.bytes().len()).sum()
    }

    /// The body's bytes in one piece.
    pub fn into_body(self) -> Vec<u8> {
        self.body.iter().flat_map(|chunk| chunk.bytes()).copied().collect()
    }

    /// Writes status line, head and, if it is wanted, the body.
    pub(super) fn write_to(
        &self,
        out: &mut dyn Write,
        part: Part,
        connection: Option<&str>,
    ) -> io::Result<()> {
        let length = self.body_len();
        let short = part != Part::Whole || length <= ONE_WRITE_BYTES;
        let mut message = self.head(part, connection, if short { length } else { 0 }).into_bytes();
        let mut body = self.body.iter().map(Chunk::bytes).filter(|_| part == Part::Whole);
        if short {
            body.for_each(|bytes| message.extend_from_slice(bytes));
            out.write_all(&message)?;
        } else {
            out.write_all(&message)?;
            body.try_for_each(|bytes| out.write_all(bytes))?;
        }
        out.flush()
    }

    /// The head, and room for as many bytes more.
    fn head(&self, part: Part, connection: Option<&str>, room: usize) -> String {
        let mut head = String::with_capacity(400 + room);
        let date = httpdate::HttpDate::from(SystemTime::now());
        let status = format!("{} {}", self.status, reason(self.status));
        head.extend(["HTTP/1.1 ", &status, "\r\nServer: replicated-log\r\n"]);
        write!(head, "Date: {date}\r\n").expect("writing to a string cannot fail");
        match part {
            Part::Beginning { chunked: true } => head.push_str("Transfer-Encoding: chunked\r\n"),
            // RFC 9110, 8.6: an answer 204 has no length.
            Part::Whole | Part::Head if self.status != 204 => {
                head.extend(["Content-Length: ", &self.body_len().to_string(), "\r\n"]);
            }
            _ => {}
        }
        // Nothing is what a browser may guess, and nothing is for pages of another origin.
        head.push_str("X-Content-Type-Options: nosniff\r\n");
        if !self.headers.iter().any(|(name, _)| *name == RESOURCE_POLICY) {
            head.extend([RESOURCE_POLICY, ": same-origin\r\n"]);
        }
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if let Some(value) = connection {
            head.extend(["Connection: ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        head
    }
}

/// The reason phrase of RFC 9110 for the statuses that a node uses.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        507 => "Insufficient Storage",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn text(response: &Response, part: Part, connection: Option<&str>) -> String {
        let mut out = Vec::new();
        response.write_to(&mut out, part, connection).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_has_length_type_and_body() {
        let response = Response::error(404, "Not found").with_header("Allow", "GET");
        let text = text(&response, Part::Whole, Some("close"));
        assert!(text.starts_with("HTTP/1.1 404 Not Found\r\n"), "{text}");
        for field in ["Content-Length: 21", "Content-Type: application/json", "Allow: GET"] {
            assert!(text.contains(&format!("\r\n{field}\r\n")), "{field} in {text}");
        }
        assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n{\"error\":\"Not found\"}"), "{text}");
    }

    #[test]
    fn a_value_adds_no_field() {
        let place = "http://a/\r\nSet-Cookie: b=c\n\n\0d";
        let text = text(&Response::error(307, "").with_header("Location", place), Part::Head, None);
        assert!(text.contains("\r\nLocation: http://a/Set-Cookie: b=cd\r\n"), "{text}");
    }

    #[test]
    fn a_head_names_the_length_of_the_body() {
        let text = text(&Response::error(404, "Not found"), Part::Head, None);
        assert!(text.contains("Content-Length: 21\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    }

    #[test]
    fn an_answer_without_end_names_no_length() {
        let response = Response::text(200, "text/event-stream", "");
        for chunked in [true, false] {
            let text = text(&response, Part::Beginning { chunked }, Some("close"));
            assert!(!text.contains("Content-Length"), "{text}");
            assert_eq!(text.contains("\r\nTransfer-Encoding: chunked\r\n"), chunked, "{text}");
            assert!(text.ends_with("Connection: close\r\n\r\n"), "{text}");
        }
        let options = Response::method_not_allowed("GET").for_options();
        let text = text(&options, Part::Whole, None);
        assert!(text.starts_with("HTTP/1.1 204 No Content\r\n"), "{text}");
        assert!(
            text.contains("\r\nAllow: GET, OPTIONS\r\n") && text.ends_with("\r\n\r\n"),
            "{text}"
        );
        assert!(!text.contains("Content-Length") && !text.contains("Content-Type:"), "{text}");
    }

    #[test]
    fn shared_and_owned_chunks_form_one_body() {
        let shared: Arc<Vec<u8>> = Arc::new(b"xx\"a\",\"b\"yy".to_vec());
        let body = vec![
            Chunk::Owned(b"[".to_vec()),
            Chunk::Shared(shared, 2..9),
            Chunk::Owned(b"]".to_vec()),
        ];
        assert_eq!(Response::chunks(200, body).into_body(), b"[\"a\",\"b\"]");
    }
}
