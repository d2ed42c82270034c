//! The bodies that nodes and clients exchange, field by field.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Serialize};

use crate::entries::{Epoch, Log, Message, Seq};
use crate::http::{Chunk, Response};

/// What `POST /messages` carries, and `POST /replicate` in the original's form.
pub const EXPECTED_MSG: &str = "Expected JSON with string field 'msg'";

/// Bytes of message text in one call at most, unless a single message is longer.
pub const BATCH_BYTES: usize = 1 << 20;

/// Room for everything in a call that is not message text.
pub const CALL_OVERHEAD_BYTES: usize = 4096;

/// Reads a body that must be a JSON object. An array would do for serde, with the fields in the
/// order of their declaration.
///
/// # Errors
/// When it is none, or not of this kind.
pub fn read_object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(serde_json::Error::custom("not an object"));
    }
    serde_json::from_slice(body)
}

/// `POST /messages` to the master.
#[derive(Debug, Deserialize)]
pub struct PostMessage {
    /// The message.
    pub msg: Message,
}

/// `POST /replicate` to a secondary. `msg` alone is the original's form.
#[derive(Debug, Default, Deserialize)]
pub struct Replicate {
    /// The epoch of the master that calls.
    #[serde(default)]
    pub epoch: Epoch,
    /// The place of the first entry carried; absent in the original's form.
    pub seq: Option<Seq>,
    /// The epoch of the entry before the first.
    #[serde(default)]
    pub prev_epoch: Epoch,
    /// What the master knows to be acknowledged: everything between this and `seq` is on its way
    /// in other calls.
    #[serde(default)]
    pub acked_seq: Seq,
    /// The epoch that the entries were appended in, if it is not `epoch`.
    pub entry_epoch: Option<Epoch>,
    /// One entry.
    pub msg: Option<Message>,
    /// Several entries.
    pub entries: Option<Vec<Message>>,
}

/// Where a secondary stands; part of everything it tells a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// It holds every entry up to and including this one.
    pub last_seq: Seq,
    /// The epoch of that entry.
    pub last_epoch: Epoch,
    /// The greatest epoch it has heard of.
    pub epoch: Epoch,
    /// Changes whenever the secondary starts, so that a master knows what it may have forgotten.
    pub instance: String,
}

/// A secondary's answer to `POST /replicate`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ack {
    /// `ok`
    pub status: String,
    /// The 0-based place of the last entry acknowledged.
    pub idx: u64,
    /// The same, 1-based.
    pub seq: Seq,
    /// Nothing of it was new.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// Where the secondary stands now.
    #[serde(flatten)]
    pub position: Position,
}

/// Why a secondary answers 409.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// Entries before the first are missing.
    Gap,
    /// It has heard of a greater epoch: the caller is no longer the master.
    StaleEpoch,
    /// It holds something else at one of these places.
    Diverged,
}

/// A secondary's answer 409 to `POST /replicate`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    /// The reason in words.
    pub error: String,
    /// The reason.
    pub code: Conflict,
    /// Where the secondary stands.
    #[serde(flatten)]
    pub position: Position,
}

/// A secondary's answer to `GET /health`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SecondaryHealth {
    /// `ok`
    pub status: String,
    /// How many entries it holds.
    pub count: u64,
    /// Its artificial delay in milliseconds.
    pub delay_ms: u64,
    /// Where it stands; absent from an original.
    #[serde(flatten)]
    pub position: Option<Position>,
}

/// A secondary's answer to `POST /replicate` in the original's form.
#[derive(Debug, Serialize)]
pub struct OriginalAck {
    /// `ok`
    pub status: String,
    /// The 0-based place of the entry.
    pub idx: u64,
}

/// One secondary's part in the answer to `POST /messages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckStatus {
    /// Its base URL.
    pub secondary: String,
    /// `ok`, `failed` or `pending`.
    pub ack: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer 201 to `POST /messages`, without the log that the original's has in front of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Created {
    /// Every secondary and what it did.
    pub acks: Vec<AckStatus>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How many nodes hold the entry, the master included.
    pub w: usize,
    /// The place of the entry.
    pub seq: Seq,
}

/// The master's answer to `GET /health`.
#[derive(Debug, Serialize, Deserialize)]
pub struct MasterHealth {
    /// `ok`
    pub status: String,
    /// Base URLs of the secondaries.
    pub secondaries: Vec<String>,
    /// How many entries the log has.
    pub count: u64,
    /// The reign of this master.
    pub epoch: Epoch,
    /// The place of the last entry.
    pub last_seq: Seq,
    /// The greater epoch that has ended this reign, if one has.
    pub fenced_by: Option<Epoch>,
    /// How each secondary stands, by base URL.
    pub secondary_statuses: BTreeMap<String, SecondaryStatus>,
}

/// How a secondary stands, as the master sees it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SecondaryStatus {
    /// It holds everything up to and including this entry.
    pub acked_seq: Seq,
    /// How many entries it lacks.
    pub lag_entries: u64,
    /// Why the last call to it failed, if it did.
    pub last_error: Option<String>,
}

/// The answer 502 to `POST /messages`: the entry is in the log and will reach every secondary.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReplicationFailed {
    /// Which secondary failed.
    pub error: String,
    /// Why.
    pub detail: String,
    /// The place of the entry.
    pub seq: Seq,
    /// `true`: it is in the log.
    pub stored: bool,
    /// Every secondary and what it did.
    pub acks: Vec<AckStatus>,
}

/// The body of a call that carries the entries from `first` on. One entry goes in the form that
/// an original secondary understands too.
///
/// Returns the body and the last entry it carries. A call never spans two epochs.
pub fn replicate_body(
    log: &Log,
    epoch: Epoch,
    acked_seq: Seq,
    first: Seq,
    until: Seq,
) -> (Vec<u8>, Seq) {
    let until = until.min(log.end_of_epoch_run(first));
    let (prev_epoch, entry_epoch) = (log.epoch_of(first.previous()), log.epoch_of(first));
    let head = format!(
        "{{\"epoch\":{epoch},\"seq\":{first},\"prev_epoch\":{prev_epoch},\
         \"entry_epoch\":{entry_epoch},\"acked_seq\":{acked_seq},"
    );
    let mut body = head.into_bytes();
    if first == until {
        body.extend_from_slice(b"\"msg\":");
        body.extend_from_slice(log.json(first));
        body.push(b'}');
        return (body, first);
    }
    body.extend_from_slice(b"\"entries\":[");
    let last = log.write_batch(first, until, BATCH_BYTES, &mut body);
    body.extend_from_slice(b"]}");
    (body, last)
}

/// The answer to a path that does not exist.
pub fn not_found() -> Response {
    Response::error(404, "Not found")
}

/// The answer to a method that a path does not know; `allow` lists those that it does.
pub fn method_not_allowed(allow: &str) -> Response {
    Response::error(405, "Method not allowed").with_header("Allow", allow)
}

/// The answer to `GET /messages/SEQ`: one entry.
pub fn message(log: &Log, seq: &str) -> Response {
    match seq.parse().map(Seq) {
        Ok(seq) if seq > Seq::NONE && seq <= log.last_seq() => {
            let head = format!(r#"{{"seq":{seq},"msg":"#).into_bytes();
            Response::chunks(200, vec![Chunk::Owned([&head, log.json(seq), b"}"].concat())])
        }
        Ok(_) => Response::error(404, "There is no such entry"),
        Err(_) => not_found(),
    }
}

/// The answer to `GET /messages`: the whole log.
pub fn messages(log: &Log) -> Response {
    Response::chunks(200, messages_object(log, b"}"))
}

/// `{"messages":[…]` with the whole log, then `rest`.
pub fn messages_object(log: &Log, rest: &[u8]) -> Vec<Chunk> {
    let mut chunks = vec![Chunk::Owned(br#"{"messages":["#.to_vec())];
    chunks.extend(log.chunks(Seq(1)..=log.last_seq()));
    chunks.push(Chunk::Owned([b"]", rest].concat()));
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_by_its_place() {
        assert_eq!(message(&log(), "3").into_body(), br#"{"seq":3,"msg":"c"}"#);
        for missing in ["0", "4", "-1", "x", ""] {
            assert_eq!(message(&log(), missing).status, 404, "{missing}");
        }
    }

    fn log() -> Log {
        let mut log = Log::new();
        for (epoch, text) in [(1, "a"), (1, "b"), (2, "c")] {
            log.append(Epoch(epoch), &Message::new(text));
        }
        log
    }

    fn body(first: u64, until: u64) -> (String, u64) {
        let (body, last) = replicate_body(&log(), Epoch(2), Seq(0), Seq(first), Seq(until));
        (String::from_utf8(body).unwrap(), last.0)
    }

    #[test]
    fn one_entry_goes_in_the_form_of_the_original_and_several_as_a_batch_of_one_epoch() {
        let one = r#"{"epoch":2,"seq":3,"prev_epoch":1,"entry_epoch":2,"acked_seq":0,"msg":"c"}"#;
        assert_eq!(body(3, 3), (one.into(), 3));
        let two = concat!(
            r#"{"epoch":2,"seq":1,"prev_epoch":0,"entry_epoch":1,"acked_seq":0,"#,
            r#""entries":["a","b"]}"#
        );
        assert_eq!(body(1, 3), (two.into(), 2));
    }

    #[test]
    fn a_call_reads_back_as_it_was_written_and_the_original_form_has_no_place() {
        let call: Replicate = serde_json::from_str(&body(1, 3).0).unwrap();
        assert_eq!(call.seq, Some(Seq(1)));
        assert_eq!(call.entries, Some(vec![Message::new("a"), Message::new("b")]));
        let seed: Replicate = serde_json::from_str(r#"{"msg":"x"}"#).unwrap();
        assert_eq!((seed.seq, seed.msg), (None, Some(Message::new("x"))));
    }

    #[test]
    fn an_array_is_not_taken_for_an_object() {
        assert!(read_object::<PostMessage>(b" {\"msg\":\"x\"}").is_ok());
        for body in [&b"[\"x\"]"[..], b"\"x\"", b"", b" "] {
            assert!(read_object::<PostMessage>(body).is_err(), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn the_whole_log_is_one_json_object() {
        let body = messages(&log()).into_body();
        assert_eq!(body, br#"{"messages":["a","b","c"]}"#);
        assert_eq!(messages(&Log::new()).into_body(), br#"{"messages":[]}"#);
    }

    #[test]
    fn the_health_of_an_original_has_no_position() {
        let original = r#"{"status":"ok","count":2,"delay_ms":0}"#;
        let health: SecondaryHealth = serde_json::from_str(original).unwrap();
        assert_eq!(health.position, None);
    }
}
