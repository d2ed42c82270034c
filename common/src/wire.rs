//! The bodies that nodes and clients exchange, field by field.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::entries::{Draft, Epoch, Log, Message, Seq};

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
    /// The write concern; absent in the original. Checked by the master, which knows the range.
    #[serde(default, deserialize_with = "present")]
    pub w: Option<Value>,
    /// How long to wait for it, in milliseconds; 0 for as long as it takes.
    #[serde(default, deserialize_with = "present")]
    pub wtimeout: Option<Value>,
}

/// A field that is there, `null` included: only a field that is not there is absent.
///
/// # Errors
/// When it is not of this kind.
pub fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// `POST /replicate` to a secondary. `msg` alone is the original's form.
#[derive(Debug, Default, Deserialize)]
pub struct Replicate {
    /// The epoch of the master that calls.
    #[serde(default)]
    pub epoch: Epoch,
    /// The place of the first entry carried; absent in the original's form.
    #[serde(default, deserialize_with = "present")]
    pub seq: Option<Seq>,
    /// The epoch of the entry before the first.
    #[serde(default)]
    pub prev_epoch: Epoch,
    /// What the master knows to be acknowledged: everything between this and `seq` is on its way
    /// in other calls.
    #[serde(default)]
    pub acked_seq: Seq,
    /// The epoch that the entries were appended in, if it is not `epoch`.
    #[serde(default, deserialize_with = "present")]
    pub entry_epoch: Option<Epoch>,
    /// One entry.
    #[serde(default, deserialize_with = "present")]
    pub msg: Option<Message>,
    /// Several entries.
    #[serde(default, deserialize_with = "present")]
    pub entries: Option<Vec<Message>>,
    /// The idempotency keys of those entries that have one, by place.
    #[serde(default)]
    pub keys: BTreeMap<u64, Arc<str>>,
}

impl Replicate {
    /// The entries carried, in order; `None` when the call is not one that a master makes.
    pub fn drafts(&mut self) -> Option<Vec<Draft>> {
        let messages = match (self.msg.take(), self.entries.take()) {
            (Some(message), None) => vec![message],
            (None, Some(messages)) if self.seq.is_some() => messages,
            _ => return None,
        };
        let first = self.seq.unwrap_or_default();
        let epochs = [self.epoch, self.prev_epoch, self.entry_epoch.unwrap_or_default()];
        if !are_possible(&[first, self.acked_seq], &epochs) {
            return None;
        }
        let keyed = |(place, message)| Draft { message, key: self.keys.get(&place).cloned() };
        Some((first.0..).zip(messages).map(keyed).collect())
    }
}

/// `POST /heartbeat` to a secondary: how the master stands. The answer is a [`Position`].
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The reign of the master.
    pub epoch: Epoch,
    /// Its last entry.
    pub last_seq: Seq,
    /// The last entry that a quorum has held.
    pub committed_seq: Seq,
    /// The epoch of that entry.
    #[serde(default)]
    pub committed_epoch: Epoch,
    /// The secondary's log is not a prefix of the master's, as it said itself.
    #[serde(default)]
    pub diverged: bool,
}

impl Heartbeat {
    /// Whether a master could say this.
    pub fn is_possible(&self) -> bool {
        are_possible(&[self.last_seq, self.committed_seq], &[self.epoch, self.committed_epoch])
    }
}

fn are_possible(places: &[Seq], epochs: &[Epoch]) -> bool {
    places.iter().all(|seq| *seq <= Seq::MOST) && epochs.iter().all(|epoch| *epoch <= Epoch::MOST)
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
    /// Nothing can be stored now.
    #[serde(default)]
    pub read_only: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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

/// What a secondary did with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AckState {
    /// It holds the entry.
    Ok,
    /// A call with the entry has failed.
    Failed,
    /// Nothing is known yet.
    Pending,
}

/// One secondary's part in the answer to `POST /messages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AckStatus {
    /// Its base URL.
    pub secondary: Arc<str>,
    /// What it did.
    pub ack: AckState,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer 201 to `POST /messages`, without the log that the original's has in front of it.
#[derive(Debug, Serialize)]
pub struct Created {
    /// The secondaries that have acknowledged.
    pub acks: Vec<AckStatus>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How many nodes were waited for, the master included.
    pub w: usize,
    /// The place of the entry.
    pub seq: Seq,
    /// The idempotency key was known: nothing was appended now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
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
    /// The reign of this master; 0 while it recovers.
    pub epoch: Epoch,
    /// The place of the last entry.
    pub last_seq: Seq,
    /// The last entry that a majority of nodes has held.
    pub committed_seq: Seq,
    /// Nothing can be appended now.
    pub read_only: bool,
    /// Why not.
    pub reason: Option<String>,
    /// How each secondary stands, by base URL.
    pub secondary_statuses: BTreeMap<String, SecondaryStatus>,
}

/// The health of a secondary, as far as heartbeats tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It answers.
    Healthy,
    /// It has missed some heartbeats.
    Suspected,
    /// It has missed many.
    Unhealthy,
}

/// How a secondary stands, as the master sees it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct SecondaryStatus {
    /// Its health.
    pub status: Health,
    /// It holds everything up to and including this entry.
    pub acked_seq: Seq,
    /// How many entries it lacks.
    pub lag_entries: u64,
    /// For how long it has lacked something without making progress, in seconds.
    pub lag_seconds: f64,
    /// Calls that were made to it in this reign; each carries one entry or more.
    pub calls: u64,
    /// Its log is not a prefix of the master's: see `docker/README.md`.
    pub diverged: bool,
    /// Why the last call to it failed, if it did.
    pub last_error: Option<String>,
}

/// The answer 502 to `POST /messages`: the entry is in the log and will reach every secondary.
#[derive(Debug, Serialize)]
pub struct ReplicationFailed {
    /// Which secondary failed, or which write concern was not satisfied.
    pub error: String,
    /// Why.
    pub detail: String,
    /// The place of the entry.
    pub seq: Seq,
    /// `true`: it is in the log. `"unknown"`: it is going to be, unless the master is killed or its
    /// disk fails before it is written there.
    pub stored: Value,
    /// The idempotency key was known: nothing was appended now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// The secondaries that have acknowledged; only with a write concern, the original has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked_by: Option<Vec<Arc<str>>>,
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
    let last = if first == until {
        body.extend_from_slice(b"\"msg\":");
        body.extend_from_slice(log.json(first));
        first
    } else {
        body.extend_from_slice(b"\"entries\":[");
        let last = log.write_batch(first, until, BATCH_BYTES, &mut body);
        body.push(b']');
        last
    };
    let keys: BTreeMap<u64, &Arc<str>> =
        log.keys(first..=last).map(|(seq, key)| (seq.0, key)).collect();
    if !keys.is_empty() {
        body.extend_from_slice(b",\"keys\":");
        body.extend(serde_json::to_vec(&keys).expect("numbers and strings are JSON"));
    }
    body.push(b'}');
    (body, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> Log {
        let mut log = Log::new(9);
        for (epoch, text) in [(1, "a"), (1, "b"), (2, "c")] {
            log.append(Epoch(epoch), &Message::new(text).into());
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
    fn a_place_that_no_log_reaches_is_none() {
        let call = |seq: u64| Replicate {
            seq: Some(Seq(seq)),
            msg: Some(Message::new("x")),
            ..Replicate::default()
        };
        assert!(call(Seq::MOST.0).drafts().is_some());
        assert_eq!(call(u64::MAX).drafts(), None);
        assert_eq!(Replicate { acked_seq: Seq(u64::MAX), ..call(1) }.drafts(), None);
        assert_eq!(Seq(u64::MAX).next(), Seq(u64::MAX));
    }

    #[test]
    fn an_epoch_that_no_clock_reaches_is_none() {
        let (most, over) = (Epoch::MOST, Epoch(Epoch::MOST.0 + 1));
        let call =
            |epoch| Replicate { epoch, msg: Some(Message::new("x")), ..Replicate::default() };
        assert!(call(most).drafts().is_some());
        assert_eq!(call(over).drafts(), None);
        assert_eq!(Replicate { prev_epoch: over, ..call(most) }.drafts(), None);
        assert_eq!(Replicate { entry_epoch: Some(over), ..call(most) }.drafts(), None);
        let heartbeat = Heartbeat { epoch: most, committed_epoch: most, ..Heartbeat::default() };
        assert!(heartbeat.is_possible());
        assert!(!Heartbeat { committed_epoch: over, ..heartbeat }.is_possible());
        assert!(!Heartbeat { last_seq: Seq(u64::MAX), ..heartbeat }.is_possible());
    }

    #[test]
    fn a_field_that_is_null_is_not_absent() {
        for field in ["seq", "entry_epoch", "entries"] {
            let body = format!(r#"{{"msg":"x","{field}":null}}"#);
            assert!(read_object::<Replicate>(body.as_bytes()).is_err(), "{body}");
        }
        let whole: Replicate = read_object(br#"{"epoch":5.0,"seq":1e0,"msg":"x"}"#).unwrap();
        assert_eq!((whole.epoch, whole.seq), (Epoch(5), Some(Seq(1))));
    }

    #[test]
    fn the_health_of_an_original_has_no_position() {
        let original = r#"{"status":"ok","count":2,"delay_ms":0}"#;
        let health: SecondaryHealth = serde_json::from_str(original).unwrap();
        assert_eq!(health.position, None);
    }
}
