//! The bodies that clients send to the master and read from it, field by field.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use common::entries::{Epoch, Message, Seq};
use common::json::scalar;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::health::Health;
use crate::lines::Line;

/// The body of `POST /messages`.
#[derive(Debug, Deserialize)]
pub struct PostMessage {
    /// The message.
    pub msg: Message,
    /// The write concern; absent in the original. `Concern::parse` checks it.
    #[serde(default, deserialize_with = "scalar")]
    pub w: Option<Value>,
    /// How long to wait for the write concern, in milliseconds; 0 for as long as it takes.
    #[serde(default, deserialize_with = "scalar")]
    pub wtimeout: Option<Value>,
}

/// The answer 201 to `POST /messages`. The original's has the log in front of these fields.
#[derive(Debug, Serialize)]
pub struct Created {
    /// The secondaries that have acknowledged.
    pub acks: Vec<AckStatus>,
    /// The time from the request to the answer, in milliseconds.
    pub duration_ms: u64,
    /// The number of nodes that were waited for, the master included.
    pub w: usize,
    /// The place of the entry.
    pub seq: Seq,
    /// The idempotency key was known: nothing was appended now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// What a secondary did with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AckState {
    /// The secondary holds the entry.
    Ok,
    /// A call with the entry has failed.
    Failed,
    /// Nothing is known yet.
    Pending,
}

/// One secondary's part in the answer to `POST /messages`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AckStatus {
    /// The base URL of the secondary.
    pub secondary: Arc<str>,
    /// What the secondary did.
    pub ack: AckState,
    /// Why the call failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer 502 to `POST /messages`: the entry is in the log and will reach every secondary.
#[derive(Debug, Serialize)]
pub struct ReplicationFailed {
    /// Which secondary failed, or which write concern was not satisfied.
    pub error: String,
    /// The reason.
    pub detail: String,
    /// The place of the entry.
    pub seq: Seq,
    /// `true`: the entry is in the log. `"unknown"`: the entry is going to be in the log, unless
    /// the master is killed or its disk fails before that.
    pub stored: Value,
    /// A majority holds the entry, so it stays in the log whatever happens to the master. Otherwise
    /// another master that takes over may not have it.
    pub committed: bool,
    /// The idempotency key was known: nothing was appended now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
    /// The secondaries that have acknowledged; only with a write concern, the original has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acked_by: Option<Vec<Arc<str>>>,
    /// Every secondary and what it did.
    pub acks: Vec<AckStatus>,
}

/// The master's answer to `GET /health`.
#[derive(Debug, Serialize)]
pub struct MasterHealth {
    /// `ok`
    pub status: String,
    /// Base URLs of the secondaries.
    pub secondaries: Vec<String>,
    /// The number of entries in the log.
    pub count: u64,
    /// The reign of this master; 0 while it recovers. It is not told without the cluster's token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
    /// The place of the last entry.
    pub last_seq: Seq,
    /// The last entry that a majority of nodes has held.
    pub committed_seq: Seq,
    /// The base URL of the master that reigns, as far as is known: this one or another.
    pub master: Option<String>,
    /// The base URLs of masters that stand by.
    pub standbys: Vec<String>,
    /// Entries that this master has dropped since the start, because a better log did not have them.
    pub dropped_entries: u64,
    /// Nothing can be appended now.
    pub read_only: bool,
    /// Why nothing can be appended.
    pub reason: Option<String>,
    /// How each secondary stands, by base URL.
    pub secondary_statuses: BTreeMap<String, SecondaryStatus>,
}

/// How a secondary stands, as the master sees it.
#[derive(Debug, PartialEq, Serialize)]
pub struct SecondaryStatus {
    /// The health of the secondary.
    pub status: Health,
    /// The secondary has promised this reign, or followed it.
    pub follows: bool,
    /// The secondary holds every entry up to and including this one.
    pub acked_seq: Seq,
    /// The number of entries that the secondary lacks.
    pub lag_entries: u64,
    /// The time for which the secondary has lacked entries without progress, in seconds.
    pub lag_seconds: f64,
    /// Calls made to the secondary in this reign; each carries one entry or more.
    pub calls: u64,
    /// The secondary's log is not a prefix of the master's: see `docker/README.md`.
    pub diverged: bool,
    /// Entries that the secondary has dropped since its start.
    pub dropped_entries: u64,
    /// Why the last call failed, if it did.
    pub last_error: Option<String>,
}

impl SecondaryStatus {
    /// The status of the secondary of this line, which has dropped so many entries; the master's log
    /// ends with `last`.
    pub fn of(line: &Line, dropped_entries: u64, last: Seq, now: Instant) -> SecondaryStatus {
        let acked_seq = line.acked_seq();
        SecondaryStatus {
            status: line.health(),
            follows: line.follows(),
            dropped_entries,
            acked_seq,
            lag_entries: last.0 - acked_seq.0,
            lag_seconds: line.lag(now).as_millis() as f64 / 1000.0,
            calls: line.calls_made(),
            diverged: line.diverged(),
            last_error: line.last_error().map(str::to_string),
        }
    }
}
