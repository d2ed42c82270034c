//! How a write ends, and the words for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use common::entries::{Epoch, Seq};
use common::store::StoreError;
use common::wire::Heard;

use crate::bodies::AckStatus;

/// How a write ended.
#[derive(Debug)]
pub enum Outcome {
    /// As many nodes as the client asked for hold the entry.
    Acknowledged(Stored),
    /// The entry was appended, and is not held as the client asked.
    Unacknowledged {
        /// The entry.
        stored: Stored,
        /// The node to be named first.
        node: Arc<str>,
        /// What is the matter with it.
        why: Missing,
    },
    /// Nothing was appended.
    NotAppended(NotAppended),
    /// The master's disk failed before the entry was on it: nobody knows whether it is in the log
    /// after a restart.
    DiskFailed(Seq, StoreError),
}

/// Why an acknowledgement is missing.
#[derive(Debug)]
pub enum Missing {
    /// The reign of this master is over.
    Fenced,
    /// A call has failed.
    Failed(String),
    /// The client did not wait for it.
    ClientGone,
    /// It did not come within this time.
    NotWithin(Duration),
}

impl fmt::Display for Missing {
    /// In words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Fenced => {
                f.write_str("fenced: another master reigns, which may not have the entry")
            }
            Missing::Failed(why) => f.write_str(why),
            Missing::ClientGone => f.write_str("the client has ended its connection"),
            Missing::NotWithin(time) => write!(f, "no ack within {} ms", time.as_millis()),
        }
    }
}

/// An entry that is in the log.
#[derive(Debug)]
pub struct Stored {
    /// Its place.
    pub seq: Seq,
    /// The idempotency key was known: the entry was there before.
    pub duplicate: bool,
    /// The entry is on the master's disk, if there is one.
    pub is_saved: bool,
    /// A majority holds the entry.
    pub is_committed: bool,
    /// What every secondary did.
    pub acks: Vec<AckStatus>,
}

/// Why nothing can be appended now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadOnly {
    /// This master does not reign yet, for this reason; another one may.
    Waiting(String, Option<Heard>),
    /// A greater epoch has begun, perhaps of this master.
    Fenced(Epoch, Option<Heard>),
    /// Fewer nodes are reachable than must be.
    NoQuorum {
        /// How many are.
        reachable: usize,
        /// How many must be.
        quorum: usize,
    },
    /// The disk has failed.
    DiskFailed(StoreError),
}

impl fmt::Display for ReadOnly {
    /// In words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadOnly::Waiting(why, None) => f.write_str(why),
            ReadOnly::Waiting(why, Some(master)) => write!(f, "{why}: {} reigns", master.url),
            ReadOnly::Fenced(epoch, None) => {
                write!(f, "epoch {epoch} has begun: another master reigns")
            }
            ReadOnly::Fenced(epoch, Some(master)) => {
                write!(f, "epoch {epoch} has begun: {} reigns", master.url)
            }
            ReadOnly::NoQuorum { reachable, quorum } => {
                write!(f, "no quorum: {reachable} nodes are reachable, {quorum} must be")
            }
            ReadOnly::DiskFailed(error) => write!(f, "the disk has failed: {error}"),
        }
    }
}

impl ReadOnly {
    /// The base URL of the master that reigns instead.
    pub fn master(&self) -> Option<&str> {
        match self {
            ReadOnly::Waiting(_, master) | ReadOnly::Fenced(_, master) => {
                master.as_ref().map(|heard| heard.url.as_str()).filter(|url| !url.is_empty())
            }
            _ => None,
        }
    }
}

/// Why an entry was not appended.
#[derive(Debug)]
pub enum NotAppended {
    /// The idempotency key belongs to this entry, which is another message.
    KeyReused(Seq),
    /// The log has reached its limit.
    LogFull,
    /// Nothing can be appended now.
    ReadOnly(ReadOnly),
}
