//! The head of a request, brought into one form and checked. Pure.
//!
//! Whatever two readers could take for two different heads is refused.

use percent_encoding::percent_decode_str;

use super::{Request, Response};

/// The head of a request with this target. One that names its host is read as RFC 9112, 3.2.2 says,
/// and a percent-encoded path as the path that it stands for.
pub(super) fn read(
    method: String,
    mut target: &str,
    mut headers: Vec<(String, String)>,
) -> Request {
    if let Some((host, rest)) = split_absolute(target) {
        let fields = headers.iter_mut().filter(|(name, _)| name.eq_ignore_ascii_case("Host"));
        fields.for_each(|(_, value)| *value = host.into());
        target = rest;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = match path {
        "" => "/".into(),
        path => decode(path).unwrap_or_else(|| path.into()),
    };
    Request { method, path, query: query.into(), headers, ..Request::default() }
}

/// The path of the log that this one stands for. Paths of nodes are taken as they are, for whatever
/// stands in front of a node may look at them, and so is what could be more than a path.
fn decode(path: &str) -> Option<String> {
    if !path.contains('%') || path.to_ascii_lowercase().contains("%2f") {
        return None;
    }
    let decoded = percent_decode_str(path).decode_utf8().ok()?;
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%".contains(&byte);
    let is_log = decoded == "/messages" || decoded.starts_with("/messages/");
    (is_log && decoded.bytes().all(is_plain)).then(|| decoded.into_owned())
}

/// The host, and the path with the query, of a target that begins with `http://`.
fn split_absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_at_checked("http://".len())?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    (end > 0 && scheme.eq_ignore_ascii_case("http://")).then(|| rest.split_at(end))
}

/// Refuses characters that another reader of this head could take for the end of a line, and a head
/// that does not say one host; one of HTTP/1.0, which is `old`, may say none.
pub(super) fn check(request: &Request, old: bool) -> Result<(), Response> {
    let refused = |what: &str| Err(Response::refused(400, what));
    let is_token = |name: &str| !name.is_empty() && name.bytes().all(is_token_char);
    let is_value = |value: &str| value.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    let is_target = |text: &String| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(&request.method) || ![&request.path, &request.query].into_iter().all(is_target) {
        return refused("Bad characters in the request line");
    }
    let is_field = |(name, value): &(String, String)| is_token(name) && is_value(value);
    if !request.headers.iter().all(is_field) {
        return refused("Bad characters in a header field");
    }
    match request.values("Host").count() {
        1 => Ok(()),
        0 if old => Ok(()),
        _ => refused("One Host is needed"),
    }
}

/// RFC 9110, 5.6.2.
fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, fields: &[(&str, &str)]) -> Request {
        let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
        read("GET".into(), target, fields.iter().map(own).collect())
    }

    fn is_taken(request: &Request) -> bool {
        check(request, true).is_ok()
    }

    #[test]
    fn a_target_is_read_in_one_form() {
        let script = [
            ("/messages?from=1", "/messages", "from=1", "a"),
            ("http://b:8000/messages?from=1", "/messages", "from=1", "b:8000"),
            ("HTTP://b", "/", "", "b"),
            ("http://b?x", "/", "x", "b"),
            ("/%6dessages?%31", "/messages", "%31", "a"),
            ("/messages/%31%zz", "/messages/%31%zz", "", "a"),
            ("/%72eplicate", "/%72eplicate", "", "a"),
            ("/messages%2F1", "/messages%2F1", "", "a"),
            ("http:///messages", "http:///messages", "", "a"),
            ("/messages%3Ffrom=1", "/messages%3Ffrom=1", "", "a"),
            ("/%0d%0a%00%ff", "/%0d%0a%00%ff", "", "a"),
        ];
        for (target, path, query, host) in script {
            let read = head(target, &[("host", "a")]);
            let hosts: Vec<&str> = read.values("Host").collect();
            assert_eq!((&*read.path, &*read.query, hosts), (path, query, vec![host]), "{target}");
        }
    }

    #[test]
    fn a_head_says_one_host() {
        let host = ("Host", "a");
        assert!(check(&head("/", &[host]), false).is_ok());
        assert!(check(&head("/", &[]), false).is_err());
        assert!(check(&head("/", &[]), true).is_ok());
        assert!(check(&head("http://b/", &[]), false).is_err());
        assert!(check(&head("http://b/", &[host, host]), false).is_err());
        assert!(check(&head("/", &[host, host]), true).is_err());
    }

    #[test]
    fn hidden_line_ends_and_odd_names_are_refused() {
        assert!(is_taken(&head("/", &[("X-Y_1", "a\tb ~")])));
        for bad in ["a\rb", "a\nb", "a\0b", "\x1b", "\x7f", "ö"] {
            assert!(!is_taken(&head("/", &[("X", bad)])), "{bad:?}");
        }
        for bad in ["a\rb", "a\nb", "a\0b", "\t", "\x7f", "ö", " "] {
            assert!(!is_taken(&head(&format!("/{bad}"), &[])), "{bad:?}");
        }
        for bad in ["a\rb", "a\nb", "a\0b", "\t", "\x7f", "ö", " "] {
            assert!(!is_taken(&head(&format!("/?a={bad}"), &[])), "{bad:?}");
        }
        for bad in ["", "a b", "a(b)", "a\x01", "\"a\""] {
            assert!(!is_taken(&head("/", &[(bad, "x")])), "{bad:?}");
        }
    }
}
