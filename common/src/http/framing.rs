//! Where the body of a request ends.
//!
//! Whatever two readers could take for two different lengths is refused: what one of them takes
//! for the rest of a body, the other would take for the next request. The same goes for a head that
//! two readers could divide into other lines.

use std::io::Read;

use super::{Request, Response};

/// Refuses a head in which a byte stands that ends a line to another reader: tiny_http ends a line
/// at CR LF only. A folded line is a field of its own to it, which nothing here can tell.
pub(super) fn check_head(head: &Request) -> Result<(), Response> {
    let is_token = |text: &str| {
        let is_sign = |byte| b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || is_sign(byte))
    };
    let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_value = |text: &str| text.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control());
    let wrong =
        if !is_token(&head.method) || ![&head.path, &head.query].iter().all(|it| is_visible(it)) {
            "The request line has a character that it must not have"
        } else if !head.headers.iter().all(|(name, value)| is_token(name) && is_value(value)) {
            "A header field has a character that it must not have"
        } else {
            return Ok(());
        };
    Err(Response::refused(400, wrong))
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

impl Framing {
    /// Of this request, whose body may have `most` bytes.
    pub(super) fn of(request: &Request, most: usize) -> Result<Framing, Response> {
        let ambiguous = |what| Response::refused(400, what);
        let mut codings = request.values("Transfer-Encoding");
        let mut lengths = request.values("Content-Length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(Framing::Length(0)),
            (Some(_), Some(_)) => Err(ambiguous("Content-Length and Transfer-Encoding together")),
            // tiny_http hands out the chunks of an upgrade as they are.
            (Some(_), None) if is_upgrade(request) => {
                Err(ambiguous("Transfer-Encoding and an upgrade together"))
            }
            (Some(coding), None) => match codings.next() {
                None if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
                _ => Err(ambiguous("Transfer-Encoding must be chunked")),
            },
            (None, Some(length)) => {
                let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
                if !digits || lengths.any(|other| other != length) {
                    return Err(ambiguous("Content-Length must be one decimal number"));
                }
                let length = length.parse().unwrap_or(usize::MAX);
                if length > most { Err(too_large(most)) } else { Ok(Framing::Length(length)) }
            }
        }
    }

    /// Reads a body to its end. Of a chunked one that is cut off inside a chunk this is not told:
    /// to the decoder the end of the connection is as good as the last chunk.
    pub(super) fn read(self, body: &mut dyn Read, most: usize) -> Result<Vec<u8>, Response> {
        let expected = match self {
            Framing::Length(length) => length,
            Framing::Chunked => most + 1,
        };
        let mut bytes = Vec::with_capacity(expected.min(64 * 1024));
        let read = body.take(expected as u64).read_to_end(&mut bytes);
        match self {
            Framing::Chunked if bytes.len() > most => Err(too_large(most)),
            Framing::Length(length) if bytes.len() < length => {
                Err(Response::refused(400, "The body is shorter than its Content-Length"))
            }
            _ if read.is_err() => Err(Response::refused(400, "The body could not be read")),
            _ => Ok(bytes),
        }
    }
}

fn too_large(most: usize) -> Response {
    Response::refused(413, &format!("The body is larger than {most} bytes"))
}

fn is_upgrade(request: &Request) -> bool {
    request.values("Connection").any(|value| value.to_ascii_lowercase().contains("upgrade"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(fields: &[(&str, &str)]) -> Result<Framing, u16> {
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        let headers = fields.iter().map(own).collect();
        let request = Request { headers, ..Request::default() };
        Framing::of(&request, 100).map_err(|refusal| refusal.status)
    }

    #[test]
    fn a_length_is_one_decimal_number() {
        assert_eq!(framing(&[]), Ok(Framing::Length(0)));
        assert_eq!(framing(&[("content-length", "100")]), Ok(Framing::Length(100)));
        assert_eq!(framing(&[("Content-Length", "101")]), Err(413));
        assert_eq!(framing(&[("Content-Length", "99999999999999999999999")]), Err(413));
        for bad in ["", "+5", "-5", "5,5", "5 5", "0x5", "five"] {
            assert_eq!(framing(&[("Content-Length", bad)]), Err(400), "{bad:?}");
        }
        let same = ("Content-Length", "5");
        assert_eq!(framing(&[same, same]), Ok(Framing::Length(5)));
        assert_eq!(framing(&[same, ("Content-Length", "6")]), Err(400));
    }

    #[test]
    fn a_coding_is_chunked_alone() {
        let chunked = ("transfer-encoding", "Chunked");
        assert_eq!(framing(&[chunked]), Ok(Framing::Chunked));
        assert_eq!(framing(&[chunked, chunked]), Err(400));
        assert_eq!(framing(&[chunked, ("Content-Length", "5")]), Err(400));
        assert_eq!(framing(&[chunked, ("Connection", "keep-alive, Upgrade")]), Err(400));
        assert_eq!(framing(&[("Transfer-Encoding", "gzip, chunked")]), Err(400));
    }

    #[test]
    fn a_head_has_one_reading() {
        let check = |method: &str, path: &str, query: &str, (name, value): (&str, &str)| {
            let headers = vec![(name.to_string(), value.to_string())];
            let [method, path, query] = [method, path, query].map(str::to_string);
            check_head(&Request { method, path, query, headers, ..Request::default() }).is_ok()
        };
        let field = ("X-Name", "a\tb, \"c\"; d=~");
        assert!(check("GET", "/messages", "from=1&x=%0D", field));
        for bad in ["", "GE T", "GET\n", "G(T"] {
            assert!(!check(bad, "/", "", field), "{bad:?}");
        }
        for bad in ["/\n", "/\r", "/a\tb", "/\0", "/\x7f"] {
            assert!(!check("GET", bad, "", field), "{bad:?}");
            assert!(!check("GET", "/", bad, field), "{bad:?}");
        }
        for bad in [("", "b"), ("a\0", "b"), ("(a)", "b"), ("a", "b\nc"), ("a", "\r"), ("a", "\0")]
        {
            assert!(!check("GET", "/", "", bad), "{bad:?}");
        }
    }

    #[test]
    fn a_body_is_read_up_to_its_length() {
        let read = |framing: Framing, mut body: &[u8]| {
            framing.read(&mut body, 5).map_err(|refusal| refusal.status)
        };
        assert_eq!(read(Framing::Length(3), b"hello"), Ok(b"hel".to_vec()));
        assert_eq!(read(Framing::Length(5), b"hell"), Err(400));
        assert_eq!(read(Framing::Chunked, b"hello"), Ok(b"hello".to_vec()));
        assert_eq!(read(Framing::Chunked, b"hello!"), Err(413));
    }
}
