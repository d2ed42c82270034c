//! The bodies that a master and its secondaries exchange, field by field.
//!
//! | request | body | answer 200 | answer 409 |
//! |---|---|---|---|
//! | `POST /replicate` | [`Replicate`], written by [`replicate_body`] | [`Ack`] | [`Refusal`] |
//! | `POST /heartbeat` | [`Heartbeat`] | [`Standing`] | |
//! | `POST /promise` | [`Promise`] | [`Standing`] | [`Refusal`] |
//! | `GET /entries` | | [`Replicate`] | |
//! | `GET /health` | | [`SecondaryHealth`] | |
//!
//! A body is checked when it is read: whoever holds a [`Replicate`] holds a call that a master
//! could make.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::entries::{Draft, Epoch, Log, Message, Seq};
use crate::json::{at_most, present, whole};
use crate::reign::{MasterId, Rank, Reign};

/// The error for a body that `POST /messages` or `POST /replicate` does not understand.
pub const EXPECTED_MSG: &str = "Expected JSON with string field 'msg'";

/// Why an entry is refused that has a place in another order than that of a master of ours.
const NO_EPOCH: &str = "an entry with seq needs the epoch of its master; without seq it is appended \
                        at the tail";

/// Bytes of message text in one call at most, unless a single message is longer.
pub const BATCH_BYTES: usize = 1 << 20;

/// Entries in one call at most: as many as the shortest messages with their commas.
const MOST_ENTRIES: usize = BATCH_BYTES / 3;

/// Room for everything in a call that is not message text.
pub const CALL_OVERHEAD_BYTES: usize = 4096;

/// The greatest place and epoch. No log and no clock gets this far; a master that names a greater
/// number is mistaken. How far the clock gets now says [`epochs`](crate::epochs).
const MOST: u64 = 1 << 60;

/// The body of `POST /replicate` to a secondary, and of the answer to `GET /entries`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Fields")]
pub enum Replicate {
    /// The original's form: a message without a place.
    Original(Message),
    /// Entries with places.
    Numbered(Numbered),
}

/// Neighbouring entries of one epoch, with their places.
#[derive(Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The reign of the master that calls; epoch 0 in the answer to `GET /entries`.
    pub reign: Reign,
    /// The last entry of the log that the reign began with. A master of an earlier release does not
    /// give it.
    pub reign_start: Option<Seq>,
    /// The last entry that the secondary has acknowledged to this master: the entries between this
    /// one and `first` are on their way in other calls.
    pub acked: Seq,
    /// The last entry that a quorum has held.
    pub committed: Seq,
    /// The epoch of the entry before the first.
    pub prev_epoch: Epoch,
    /// The epoch that the entries were appended in.
    pub epoch: Epoch,
    /// The place of the first entry, 1 or greater.
    pub first: Seq,
    /// The entries.
    pub drafts: Vec<Draft>,
}

impl Numbered {
    /// The place of the last entry, or the one before `first` if there is none.
    pub fn last(&self) -> Seq {
        Seq(self.first.0 + self.drafts.len() as u64).previous()
    }

    /// The greatest epoch that it names.
    pub fn greatest_epoch(&self) -> Epoch {
        self.reign.epoch.max(self.epoch).max(self.prev_epoch)
    }
}

/// A [`Replicate`] as it is written.
#[derive(Deserialize)]
struct Fields {
    /// The epoch of the master; absent from the original's form.
    #[serde(default)]
    epoch: Option<Epoch>,
    #[serde(default)]
    master: MasterId,
    #[serde(default, deserialize_with = "present")]
    reign_start: Option<Seq>,
    /// The place of the first entry; absent from the original's form.
    #[serde(default, deserialize_with = "present")]
    seq: Option<Seq>,
    #[serde(default)]
    prev_epoch: Epoch,
    #[serde(default)]
    acked_seq: Seq,
    #[serde(default)]
    committed_seq: Seq,
    /// The epoch of the entries, if it is not `epoch`.
    #[serde(default, deserialize_with = "present")]
    entry_epoch: Option<Epoch>,
    /// One entry.
    #[serde(default, deserialize_with = "present")]
    msg: Option<Message>,
    /// Several entries.
    #[serde(default, deserialize_with = "at_most::<MOST_ENTRIES, _, _>")]
    entries: Option<Vec<Message>>,
    /// The idempotency keys of those entries that have one, by place.
    #[serde(default)]
    keys: BTreeMap<u64, Arc<str>>,
}

impl TryFrom<Fields> for Replicate {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Replicate, &'static str> {
        let Fields { prev_epoch, acked_seq: acked, reign_start, mut keys, .. } = fields;
        let committed = fields.committed_seq;
        let reign = Reign { epoch: fields.epoch.unwrap_or_default(), master: fields.master };
        let epoch = fields.entry_epoch.unwrap_or(reign.epoch);
        let (first, start) = (fields.seq.unwrap_or_default(), reign_start.unwrap_or_default());
        if !are_possible(&[first, acked, committed, start], &[reign.epoch, prev_epoch, epoch]) {
            return Err("a number is too great");
        }
        let messages = match (fields.seq, fields.msg, fields.entries) {
            (None, Some(message), None) => return Ok(Replicate::Original(message)),
            // Whoever numbers entries in another way may send them in any order, or from 0 on.
            (Some(_), ..) if fields.epoch.is_none() => return Err(NO_EPOCH),
            (Some(Seq::NONE), ..) => return Err("there is no place 0"),
            (Some(_), Some(message), None) => vec![message],
            (Some(_), None, Some(messages)) => messages,
            _ => return Err("either msg, or seq and entries"),
        };
        let keyed = |(place, message)| Draft { message, key: keys.remove(&place) };
        let drafts = (first.0..).zip(messages).map(keyed).collect();
        let numbered =
            Numbered { reign, reign_start, acked, committed, prev_epoch, epoch, first, drafts };
        Ok(Replicate::Numbered(numbered))
    }
}

/// The body of `POST /heartbeat` to a secondary: where the master stands. One of epoch 0 is a
/// question and changes nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The reign of the master.
    #[serde(flatten)]
    pub reign: Reign,
    /// The last entry of the log that the reign began with. A master of an earlier release does not
    /// give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reign_start: Option<Seq>,
    /// The epoch of that entry.
    #[serde(default)]
    pub reign_start_epoch: Epoch,
    /// The master's last entry.
    pub last_seq: Seq,
    /// The last entry that a quorum has held.
    pub committed_seq: Seq,
    /// The epoch of that entry.
    #[serde(default)]
    pub committed_epoch: Epoch,
    /// The secondary has answered that its log is not a prefix of the master's.
    #[serde(default)]
    pub diverged: bool,
    /// The base URL of the master, for clients that ask somebody else.
    #[serde(default)]
    pub url: String,
    /// After so many milliseconds without a heartbeat the master counts as gone.
    #[serde(default, deserialize_with = "whole")]
    pub silent_after_ms: u64,
    /// The master stops after this: another one may reign at once.
    #[serde(default)]
    pub abdicates: bool,
    /// The number of idempotency keys that the master remembers.
    #[serde(default)]
    pub idempotency_keys: usize,
}

impl Heartbeat {
    /// The greatest epoch that it names.
    pub fn greatest_epoch(&self) -> Epoch {
        self.reign.epoch.max(self.committed_epoch).max(self.reign_start_epoch)
    }

    /// Whether a master could say this.
    pub fn is_possible(&self) -> bool {
        let start = self.reign_start.unwrap_or_default();
        let epochs = [self.reign.epoch, self.committed_epoch, self.reign_start_epoch];
        are_possible(&[self.last_seq, self.committed_seq, start], &epochs)
    }
}

/// The body of `POST /promise` to a secondary: a master asks for the promise to obey no earlier
/// reign any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Promise {
    /// The reign that the master wants to begin.
    #[serde(flatten)]
    pub reign: Reign,
    /// The base URL of the master. Whoever was heard there before is gone.
    #[serde(default)]
    pub url: String,
    /// An operator has told the master to begin, whoever reigns.
    #[serde(default)]
    pub takeover: bool,
}

impl Promise {
    /// Whether a master could ask for this.
    pub fn is_possible(&self) -> bool {
        self.reign.epoch > Epoch::default() && are_possible(&[], &[self.reign.epoch])
    }
}

fn are_possible(places: &[Seq], epochs: &[Epoch]) -> bool {
    places.iter().all(|seq| seq.0 <= MOST) && epochs.iter().all(|epoch| epoch.0 <= MOST)
}

/// Where a secondary stands; a part of everything that it tells a master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last entry: the secondary holds every entry up to and including this one.
    pub last_seq: Seq,
    /// The epoch of that entry.
    pub last_epoch: Epoch,
    /// The epoch of the greatest reign that the secondary has promised or followed.
    pub epoch: Epoch,
    /// The last reign that the log has followed from its beginning, see
    /// [`Facts::log_epoch`](crate::reign::Facts::log_epoch). A secondary of an earlier release does
    /// not give it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_epoch: Option<Epoch>,
    /// The name of this run of the secondary's process. A new name tells the master that entries
    /// may have been forgotten.
    pub instance: String,
}

impl Position {
    /// The greatest epoch that it names.
    pub fn greatest_epoch(&self) -> Epoch {
        self.epoch.max(self.last_epoch).max(self.log_epoch.unwrap_or_default())
    }

    /// The rank of the log.
    pub fn rank(&self) -> Rank {
        let log_epoch = self.log_epoch.unwrap_or(self.last_epoch);
        Rank { log_epoch, last_seq: self.last_seq }
    }
}

/// Where a secondary stands, and what it knows of masters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Where the log stands.
    #[serde(flatten)]
    pub position: Position,
    /// The master of the greatest reign that was promised or followed.
    #[serde(default)]
    pub master: MasterId,
    /// The master that was followed last, if nothing was promised to another one since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<MasterId>,
    /// The last entry that is known to be held by a quorum.
    #[serde(default)]
    pub committed_seq: Seq,
    /// The master whose heartbeats still come, or are about to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hears: Option<Heard>,
    /// Somebody follows the log there, and waits to hear what is committed.
    #[serde(default)]
    pub has_followers: bool,
    /// What is shown, and decides nothing.
    #[serde(flatten)]
    pub told: Box<Told>,
}

/// What a secondary tells for those who watch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Told {
    /// The base URLs of masters that stand by: they ask the secondary again and again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub standbys: Vec<String>,
    /// Entries dropped since its start, because a new master's log did not have them.
    #[serde(default)]
    pub dropped_entries: u64,
}

impl From<Position> for Standing {
    /// Of a secondary that knows no master.
    fn from(position: Position) -> Standing {
        Standing {
            position,
            master: MasterId::NONE,
            follows: None,
            committed_seq: Seq::NONE,
            hears: None,
            has_followers: false,
            told: Box::default(),
        }
    }
}

/// A master whose heartbeats come, or are about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The master.
    pub master: MasterId,
    /// Its base URL; empty for a master of an earlier release.
    pub url: String,
    /// It was promised a reign and has not begun it yet: others stand by for it, and no client is
    /// led there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_candidate: bool,
}

impl Heard {
    /// Whether it is another master than this one. Where this one answers now, no other does.
    pub fn is_other(&self, master: MasterId, url: &str) -> bool {
        self.master != master && (self.url != url || url.is_empty())
    }
}

/// The answer 200 to `POST /replicate`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ack {
    /// `ok`
    pub status: String,
    /// The 0-based place of the last entry acknowledged.
    pub idx: u64,
    /// The same, 1-based.
    pub seq: Seq,
    /// No entry was new.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// Where the secondary stands now.
    #[serde(flatten)]
    pub position: Position,
}

/// The answer 200 to `POST /replicate` in the original's form.
#[derive(Debug, Serialize)]
pub struct OriginalAck {
    /// `ok`
    pub status: String,
    /// The 0-based place of the entry.
    pub idx: u64,
}

/// Why a secondary answers 409.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// Entries before the first are missing.
    Gap,
    /// The secondary has heard of a greater epoch: the caller is no longer the master.
    StaleEpoch,
    /// The secondary hears another master: it promises nothing.
    LivingMaster,
    /// The secondary holds another entry at one of these places.
    Diverged,
}

/// The answer 409 to `POST /replicate` and `POST /promise`.
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
    /// The number of entries.
    pub count: u64,
    /// The artificial delay in milliseconds.
    pub delay_ms: u64,
    /// Nothing can be stored now.
    #[serde(default)]
    pub read_only: bool,
    /// Why nothing can be stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where the secondary stands; absent from an original.
    #[serde(flatten)]
    pub standing: Option<Standing>,
}

/// The master that makes a call; without one, of epoch 0, it is an answer to `GET /entries`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// Its reign.
    pub reign: Reign,
    /// The last entry of the log that the reign began with.
    pub reign_start: Seq,
    /// The last entry that the secondary has acknowledged.
    pub acked: Seq,
    /// The last entry that a quorum has held.
    pub committed: Seq,
}

/// The body of a call that carries entries of one epoch, from `first` on and not beyond `until`.
/// One entry goes in the form that an original secondary understands too.
///
/// Returns the body and the last entry that it carries.
pub fn replicate_body(log: &Log, caller: Caller, first: Seq, until: Seq) -> (Vec<u8>, Seq) {
    let last = log.end_of_call(first, until.min(log.end_of_epoch_run(first)), BATCH_BYTES);
    let (prev_epoch, entry_epoch) = (log.epoch_of(first.previous()), log.epoch_of(first));
    let (field, end) = if first == last { ("\"msg\":", "") } else { ("\"entries\":[", "]") };
    let Caller { reign: Reign { epoch, master }, reign_start, acked, committed } = caller;
    let head = format!(
        "{{\"epoch\":{epoch},\"master\":\"{master}\",\"reign_start\":{reign_start},\
         \"seq\":{first},\"prev_epoch\":{prev_epoch},\"entry_epoch\":{entry_epoch},\
         \"acked_seq\":{acked},\"committed_seq\":{committed},{field}"
    );
    let mut body = head.into_bytes();
    for chunk in log.chunks(first..=last) {
        body.extend_from_slice(chunk.bytes());
    }
    body.extend_from_slice(end.as_bytes());
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
    use crate::json::read_object;

    const CALLER: Caller = Caller {
        reign: Reign { epoch: Epoch(2), master: MasterId(15) },
        reign_start: Seq(2),
        acked: Seq(0),
        committed: Seq(1),
    };

    fn log() -> Log {
        let mut log = Log::new(9);
        for (epoch, text) in [(1, "a"), (1, "b"), (2, "c")] {
            log.append(Epoch(epoch), &Message::new(text).into());
        }
        log
    }

    fn body(first: u64, until: u64) -> (String, u64) {
        let (body, last) = replicate_body(&log(), CALLER, Seq(first), Seq(until));
        (String::from_utf8(body).unwrap(), last.0)
    }

    fn read(json: &str) -> Result<Replicate, String> {
        read_object(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_call_carries_one_entry_or_one_epochs() {
        // Goal: one entry goes in the form of the original, several as a batch of one epoch.
        let head = r#"{"epoch":2,"master":"0000000000000000000000000000000f","reign_start":2,"#;
        let one =
            r#""seq":3,"prev_epoch":1,"entry_epoch":2,"acked_seq":0,"committed_seq":1,"msg":"c"}"#;
        assert_eq!(body(3, 3), (head.to_string() + one, 3));
        let two = concat!(
            r#""seq":1,"prev_epoch":0,"entry_epoch":1,"acked_seq":0,"#,
            r#""committed_seq":1,"entries":["a","b"]}"#
        );
        assert_eq!(body(1, 3), (head.to_string() + two, 2));
    }

    #[test]
    fn a_call_reads_back_as_it_was_written() {
        let expected = Numbered {
            reign: CALLER.reign,
            reign_start: Some(Seq(2)),
            acked: Seq(0),
            committed: Seq(1),
            prev_epoch: Epoch(0),
            epoch: Epoch(1),
            first: Seq(1),
            drafts: vec![Message::new("a").into(), Message::new("b").into()],
        };
        assert_eq!(expected.last(), Seq(2));
        assert_eq!(read(&body(1, 3).0), Ok(Replicate::Numbered(expected)));
        assert_eq!(read(r#"{"msg":"x"}"#), Ok(Replicate::Original(Message::new("x"))));
        let keyed = r#"{"epoch":1,"seq":4,"entries":["d","e"],"keys":{"5":"k","6":"l"}}"#;
        let Ok(Replicate::Numbered(call)) = read(keyed) else { panic!("{keyed}") };
        let keys: Vec<_> = call.drafts.iter().map(|draft| draft.key.as_deref()).collect();
        assert_eq!((call.epoch, keys), (Epoch(1), vec![None, Some("k")]));
    }

    #[test]
    fn numbers_that_no_master_names_are_refused() {
        let call = |field: &str, number: u64| {
            let base = concat!(
                r#"{"epoch":1,"seq":1,"entry_epoch":1,"prev_epoch":0,"acked_seq":0,"#,
                r#""committed_seq":0,"#
            );
            let (from, to) = (format!("\"{field}\":"), format!("\"{field}\":{number},\"_\":"));
            read(&(base.replacen(&from, &to, 1) + "\"msg\":\"x\"}"))
        };
        let places = ["seq", "acked_seq", "committed_seq"];
        for field in places.into_iter().chain(["epoch", "entry_epoch", "prev_epoch"]) {
            assert!(call(field, MOST).is_ok(), "{field}");
            assert!(call(field, MOST + 1).is_err(), "{field}");
            assert!(call(field, u64::MAX).is_err(), "{field}");
        }
        let most = Epoch(MOST);
        let reign = Reign { epoch: most, ..Reign::default() };
        let heartbeat = Heartbeat { reign, committed_epoch: most, ..Heartbeat::default() };
        assert!(heartbeat.is_possible());
        let wrong = Heartbeat { committed_epoch: Epoch(MOST + 1), ..heartbeat.clone() };
        assert!(!wrong.is_possible());
        assert!(!Heartbeat { last_seq: Seq(u64::MAX), ..heartbeat }.is_possible());
        assert_eq!(Seq(u64::MAX).next(), Seq(u64::MAX));
    }

    #[test]
    fn a_field_that_is_null_is_not_absent() {
        for field in ["seq", "entry_epoch", "entries"] {
            let body = format!(r#"{{"msg":"x","{field}":null}}"#);
            assert!(read(&body).is_err(), "{body}");
        }
        let whole = read(r#"{"epoch":5.0,"seq":1e0,"msg":"x"}"#);
        let Ok(Replicate::Numbered(whole)) = whole else { panic!("{whole:?}") };
        assert_eq!((whole.reign.epoch, whole.first), (Epoch(5), Seq(1)));
        let whole = r#"{"epoch":5.0,"last_seq":1e0,"committed_seq":0,"silent_after_ms":9.0}"#;
        let whole: Heartbeat = read_object(whole.as_bytes()).unwrap();
        assert_eq!((whole.reign.epoch, whole.silent_after_ms), (Epoch(5), 9));
    }

    #[test]
    fn a_body_that_no_master_sends_is_refused() {
        let none = [
            r#"{"epoch":1,"seq":0,"msg":"x"}"#,
            r#"{"epoch":1,"seq":7}"#,
            r#"{"epoch":1,"seq":7,"msg":"x","entries":[]}"#,
            r#"{"seq":7,"msg":"x"}"#,
            r#"{"seq":7,"entries":["x"]}"#,
            r#"{"entries":["x"]}"#,
            r#"{}"#,
        ];
        for body in none {
            assert!(read(body).is_err(), "{body}");
        }
    }

    #[test]
    fn more_entries_than_a_call_has_are_refused() {
        let call = |count: usize| {
            let entries = r#""","#.repeat(count);
            read(&format!(r#"{{"epoch":1,"seq":1,"entries":[{}]}}"#, entries.trim_end_matches(',')))
        };
        assert!(
            matches!(call(MOST_ENTRIES), Ok(Replicate::Numbered(it)) if it.drafts.len() == MOST_ENTRIES)
        );
        let refused = call(MOST_ENTRIES + 1).unwrap_err();
        assert!(refused.contains("at most 349525 elements"), "{refused}");
    }

    #[test]
    fn the_health_of_an_original_has_no_position() {
        let original = r#"{"status":"ok","count":2,"delay_ms":0}"#;
        let health: SecondaryHealth = serde_json::from_str(original).unwrap();
        assert_eq!(health.standing, None);
    }
}
