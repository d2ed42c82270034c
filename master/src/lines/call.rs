//! A call to a secondary, and how it fails.

use std::time::Instant;

use common::entries::Seq;

use super::LineId;

/// A call to make: everything that its thread needs.
#[derive(Debug)]
pub struct Call {
    /// The line that it belongs to.
    pub line: LineId,
    /// The first entry carried.
    pub first: Seq,
    /// The last entry carried.
    pub last: Seq,
    /// The body for `POST /replicate`.
    pub body: Vec<u8>,
    /// When the call began.
    pub since: Instant,
    /// Whether the call carries the log to its end.
    pub is_whole: bool,
    /// An original must count its entries before the call is made: something has failed.
    pub looks_first: bool,
    /// How many entries the original holds, as far as is known.
    pub held: Option<Seq>,
    /// Later calls have greater numbers.
    pub number: u64,
    /// The line's `acked` when the call began.
    pub(super) acked: Seq,
    /// The process that answered for the secondary when the call began.
    pub(super) process: Option<u64>,
}

/// Entries that a secondary did not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which secondary.
    pub line: LineId,
    /// The first entry of the call that failed.
    pub first: Seq,
    /// The last entry of that call.
    pub last: Seq,
    /// The number of that call.
    pub call: u64,
    /// Why, in words.
    pub detail: String,
}
