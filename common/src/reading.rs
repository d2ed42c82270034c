//! Reading the log over HTTP: the same on every node.
//!
//! | request | answer |
//! |---|---|
//! | `GET /messages` | the whole log, the original's answer |
//! | `GET /messages?from=5&limit=100` | at most 100 entries from place 5 on |
//! | `GET /messages?committed=true` | only entries that a quorum holds, as far as this node knows |
//! | `GET /messages?confirmed=true` | all entries that a quorum holds now: the master asks the others |
//! | `GET /messages/7` | one entry |
//!
//! Reads that wait for an entry are in [`follow`](crate::follow); they are of committed entries
//! unless they say `committed=false`.

use std::time::Duration;

use crate::chunk::Chunk;
use crate::entries::{Log, Seq};
use crate::http::{Request, Response};

/// The longest wait for an entry, in milliseconds.
pub const MAX_WAIT_MS: u64 = 60_000;

/// The parameters of a `GET /messages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: Seq,
    pub(crate) limit: u64,
    /// Only, or not only, entries that a quorum is known to hold.
    pub(crate) committed: Option<bool>,
    /// Entries that a quorum holds, and none of them is missing.
    pub(crate) confirmed: bool,
    /// The longest wait for the entry `from`.
    pub(crate) wait: Option<Duration>,
}

/// The answer to a read of `/messages` or below it, from the entries up to `last`. `committed` is
/// the last entry that a quorum is known to hold.
pub fn answer(request: &Request, log: &Log, last: Seq, committed: Seq) -> Response {
    if let Some(seq) = request.path.strip_prefix("/messages/") {
        return one(log, last, seq);
    }
    let chunks = match parse(&request.query) {
        Ok(None) => messages_object(log, Seq(1), last, b"}"),
        Ok(Some(Range { from, limit, committed: asked, wait, .. })) => {
            let only_committed = asked.unwrap_or(wait.is_some());
            let last = if only_committed { committed.min(last) } else { last };
            let until = Seq(last.0.min(from.0.saturating_add(limit - 1)));
            let rest = format!(",\"from\":{from},\"last_seq\":{last}}}");
            messages_object(log, from, until, rest.as_bytes())
        }
        Err(problem) => return Response::error(400, &problem),
    };
    Response::chunks(200, chunks)
}

fn one(log: &Log, last: Seq, seq: &str) -> Response {
    match place("seq", seq).map(Seq) {
        Ok(seq) if seq <= last => {
            let head = format!(r#"{{"seq":{seq},"msg":"#).into_bytes();
            Response::chunks(200, vec![Chunk::Owned([&head, log.json(seq), b"}"].concat())])
        }
        _ => no_entry(),
    }
}

/// The answer to a read of an entry that does not exist.
pub fn no_entry() -> Response {
    Response::error(404, "There is no such entry")
}

/// `{"messages":[…]` with these entries, then `rest`.
pub fn messages_object(log: &Log, from: Seq, until: Seq, rest: &[u8]) -> Vec<Chunk> {
    let mut chunks = vec![Chunk::Owned(br#"{"messages":["#.to_vec())];
    chunks.extend(log.chunks(from..=until));
    chunks.push(Chunk::Owned([b"]", rest].concat()));
    chunks
}

/// The place in a query's `from`. Fails with the problem in words for the client; an absent `from`
/// is one.
pub fn first(query: &str) -> Result<Seq, String> {
    let from = query.rsplit('&').find_map(|pair| pair.strip_prefix("from="));
    place("from", from.unwrap_or_default()).map(Seq)
}

/// The parameters of a query; `None` when there are none, which asks for the whole log.
pub(crate) fn parse(query: &str) -> Result<Option<Range>, String> {
    let (from, limit) = (Seq(1), u64::MAX);
    let mut range = Range { from, limit, committed: None, confirmed: false, wait: None };
    let (mut given, mut has_from) = (false, false);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            "from" => (range.from, has_from) = (Seq(place(name, value)?), true),
            "wait" => match whole(value).filter(|ms| *ms <= MAX_WAIT_MS) {
                Some(ms) => range.wait = Some(Duration::from_millis(ms)),
                None => {
                    return Err(format!(
                        "wait must be a number of milliseconds up to {MAX_WAIT_MS}"
                    ));
                }
            },
            "limit" => range.limit = place(name, value)?,
            "committed" => range.committed = Some(truth(name, value)?),
            "confirmed" => range.confirmed = truth(name, value)?,
            // The original ignores all parameters.
            _ => continue,
        }
        given = true;
    }
    if range.wait.is_some() && !has_from {
        return Err("wait needs from".into());
    }
    if range.confirmed && (range.wait.is_some() || range.committed == Some(false)) {
        return Err("confirmed goes neither with wait nor with committed=false".into());
    }
    Ok(given.then_some(range))
}

fn truth(name: &str, value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| format!("{name} must be true or false"))
}

fn place(name: &str, value: &str) -> Result<u64, String> {
    let place = whole(value).filter(|place| *place > 0);
    place.ok_or_else(|| format!("{name} must be a whole number from 1"))
}

/// The number that these digits are; nothing else, a sign neither, is taken for one.
pub(crate) fn whole(digits: &str) -> Option<u64> {
    digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::{Epoch, Message};

    fn get(target: &str) -> (u16, String) {
        let mut log = Log::new(0);
        for text in ["a", "b", "c", "d"] {
            log.append(Epoch(1), &Message::new(text).into());
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let request = Request { path: path.into(), query: query.into(), ..Request::default() };
        let response = answer(&request, &log, log.last_seq(), Seq(3));
        (response.status, String::from_utf8(response.into_body()).unwrap())
    }

    #[test]
    fn the_log_is_read_whole_and_in_part() {
        let ok = |body: &str| (200, body.to_string());
        let script = [
            ("/messages", r#"{"messages":["a","b","c","d"]}"#),
            ("/messages?cache=no", r#"{"messages":["a","b","c","d"]}"#),
            ("/messages?from=3", r#"{"messages":["c","d"],"from":3,"last_seq":4}"#),
            ("/messages?from=2&limit=2", r#"{"messages":["b","c"],"from":2,"last_seq":4}"#),
            ("/messages?limit=1", r#"{"messages":["a"],"from":1,"last_seq":4}"#),
            ("/messages?from=9", r#"{"messages":[],"from":9,"last_seq":4}"#),
            ("/messages?committed=true", r#"{"messages":["a","b","c"],"from":1,"last_seq":3}"#),
            ("/messages?committed=true&from=4", r#"{"messages":[],"from":4,"last_seq":3}"#),
            ("/messages?from=3&wait=0", r#"{"messages":["c"],"from":3,"last_seq":3}"#),
            (
                "/messages?from=3&wait=0&committed=false",
                r#"{"messages":["c","d"],"from":3,"last_seq":4}"#,
            ),
            ("/messages/3", r#"{"seq":3,"msg":"c"}"#),
        ];
        for (target, expected) in script {
            assert_eq!(get(target), ok(expected), "{target}");
        }
    }

    #[test]
    fn from_is_found_among_unknown_parameters() {
        assert_eq!(first("from=7"), Ok(Seq(7)));
        assert_eq!(first("cache=no&from=7&x"), Ok(Seq(7)));
        for query in ["", "from", "from=", "from=0", "from=+7", "until=7", "from=7.5"] {
            assert!(first(query).is_err(), "{query}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for query in ["from=0", "from=-1", "from=", "from=x", "limit=0", "limit=+1", "from=1.5"] {
            assert_eq!(get(&format!("/messages?{query}")).0, 400, "{query}");
        }
        for query in ["wait=1", "from=1&wait=", "from=1&wait=60001", "from=1&wait=+1"] {
            assert_eq!(get(&format!("/messages?{query}")).0, 400, "{query}");
        }
        for query in ["committed=yes", "committed", "confirmed=1", "from=99999999999999999999"] {
            assert_eq!(get(&format!("/messages?{query}")).0, 400, "{query}");
        }
        for query in ["from=1&wait=1", "committed=false"] {
            assert_eq!(get(&format!("/messages?{query}")).0, 200, "{query}");
            assert_eq!(get(&format!("/messages?confirmed=true&{query}")).0, 400, "{query}");
        }
        for (path, status) in [("0", 404), ("5", 404), ("x", 404), ("", 404), ("+1", 404)] {
            assert_eq!(get(&format!("/messages/{path}")).0, status, "{path}");
        }
    }
}
