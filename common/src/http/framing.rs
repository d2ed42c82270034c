//! Where the body of a request ends.
//!
//! Whatever two readers could take for two different lengths is refused: what one of them takes for
//! the rest of a body, the other would take for the next request.

use std::io::{self, ErrorKind, Read};

use chunked_transfer::Decoder;

use super::{Request, Response};

/// Why a body is not received.
pub(super) const TOO_MANY_BODIES: &str = "Too many bodies are being received";

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    /// The same beside an offer to upgrade the connection, which is ignored: tiny_http hands out
    /// the chunks as they are.
    Raw,
}

impl Framing {
    /// Of this request, whose body may have `most` bytes.
    pub(super) fn of(request: &Request, most: usize) -> Result<Framing, Response> {
        let framing = Framing::read_off(request, most)?;
        if framing != Framing::Length(0) {
            check_coding(request)?;
        }
        Ok(framing)
    }

    fn read_off(request: &Request, most: usize) -> Result<Framing, Response> {
        let ambiguous = |what| Response::refused(400, what);
        let mut codings = request.values("Transfer-Encoding");
        let mut lengths = request.values("Content-Length");
        match (codings.next(), lengths.next()) {
            (None, None) => Ok(Framing::Length(0)),
            (Some(_), Some(_)) => Err(ambiguous("Content-Length and Transfer-Encoding together")),
            (Some(coding), None) => match codings.next() {
                None if coding.eq_ignore_ascii_case("chunked") && is_upgrade(request) => {
                    Ok(Framing::Raw)
                }
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

    /// Reads a body to its end, as long as `may_take` allows so many bytes more. Of a chunked one
    /// that is cut off inside a chunk this is not told: to the decoder the end of the connection is
    /// as good as the last chunk.
    pub(super) fn read(
        self,
        body: &mut dyn Read,
        most: usize,
        may_take: &dyn Fn(usize) -> bool,
    ) -> Result<Vec<u8>, Response> {
        let mut decoder;
        let (body, expected): (&mut dyn Read, usize) = match self {
            Framing::Length(length) => (body, length),
            Framing::Chunked => (body, most + 1),
            Framing::Raw => {
                decoder = Decoder::new(body);
                (&mut decoder, most + 1)
            }
        };
        let mut bytes = Vec::with_capacity(expected.min(64 * 1024));
        let read = Allowed { body, may_take }.take(expected as u64).read_to_end(&mut bytes);
        match (self, read) {
            (_, Err(error)) if error.kind() == ErrorKind::QuotaExceeded => {
                Err(Response::busy(TOO_MANY_BODIES))
            }
            (Framing::Chunked | Framing::Raw, _) if bytes.len() > most => Err(too_large(most)),
            (Framing::Length(length), _) if bytes.len() < length => {
                Err(Response::refused(400, "The body is shorter than its Content-Length"))
            }
            (_, Err(_)) => Err(Response::refused(400, "The body could not be read")),
            _ => Ok(bytes),
        }
    }
}

/// A body of which not more is read than is allowed.
struct Allowed<'a> {
    body: &'a mut dyn Read,
    may_take: &'a dyn Fn(usize) -> bool,
}

impl Read for Allowed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(into)?;
        if count == 0 || (self.may_take)(count) {
            Ok(count)
        } else {
            Err(ErrorKind::QuotaExceeded.into())
        }
    }
}

/// Refuses a body that would have to be decoded.
fn check_coding(request: &Request) -> Result<(), Response> {
    let is_none = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    let Some(coding) = request.values("Content-Encoding").find(|coding| !is_none(coding)) else {
        return Ok(());
    };
    let (error, detail) = ("Content-Encoding must be identity", format!("It is {coding}"));
    let refusal = Response::refused_because(415, error, &detail);
    Err(refusal.with_header("Accept-Encoding", "identity"))
}

fn too_large(most: usize) -> Response {
    Response::refused(413, &format!("The body is larger than {most} bytes"))
}

/// Whether tiny_http takes this for an upgrade, and hands out all that follows the head: it looks at
/// the first `Connection` only.
pub(super) fn is_upgrade(request: &Request) -> bool {
    let wishes = request.header("Connection").unwrap_or_default();
    wishes.to_ascii_lowercase().contains("upgrade")
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
        assert_eq!(framing(&[chunked, ("Connection", "keep-alive, Upgrade")]), Ok(Framing::Raw));
        let (other, upgrade) = (("Connection", "x"), ("Connection", "upgrade"));
        assert_eq!(framing(&[chunked, other, upgrade]), Ok(Framing::Chunked), "as tiny_http");
        assert_eq!(framing(&[chunked, upgrade, other]), Ok(Framing::Raw));
        assert_eq!(framing(&[("Transfer-Encoding", "gzip, chunked")]), Err(400));
    }

    #[test]
    fn a_body_needs_no_decoding() {
        let length = ("Content-Length", "5");
        let gzip = ("content-encoding", "gzip");
        assert_eq!(framing(&[("Content-Encoding", "Identity"), length]), Ok(Framing::Length(5)));
        assert_eq!(framing(&[gzip, length]), Err(415));
        assert_eq!(framing(&[gzip]), Ok(Framing::Length(0)));
    }

    #[test]
    fn no_more_is_read_than_is_allowed() {
        let left = std::cell::Cell::new(3);
        let may_take = |bytes: usize| {
            left.set(left.get() - bytes as i32);
            left.get() >= 0
        };
        let read = |mut body: &[u8]| Framing::Chunked.read(&mut body, 9, &may_take);
        assert_eq!(read(b"ab").map_err(|refusal| refusal.status), Ok(b"ab".to_vec()));
        assert_eq!(read(b"cd").map_err(|refusal| refusal.status), Err(503));
    }

    #[test]
    fn a_body_is_read_up_to_its_length() {
        let read = |framing: Framing, mut body: &[u8]| {
            framing.read(&mut body, 5, &|_| true).map_err(|refusal| refusal.status)
        };
        assert_eq!(read(Framing::Length(3), b"hello"), Ok(b"hel".to_vec()));
        assert_eq!(read(Framing::Length(5), b"hell"), Err(400));
        assert_eq!(read(Framing::Chunked, b"hello"), Ok(b"hello".to_vec()));
        assert_eq!(read(Framing::Chunked, b"hello!"), Err(413));
        assert_eq!(read(Framing::Raw, b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), Ok(b"hello".to_vec()));
        assert_eq!(read(Framing::Raw, b"6\r\nhello!\r\n0\r\n\r\n"), Err(413));
        assert_eq!(read(Framing::Raw, b"x\r\nhello\r\n"), Err(400));
    }
}
