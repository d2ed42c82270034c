//! The master's own disk, as one more line: it has what is written, and is sent what it lacks.

use std::time::Instant;

use common::entries::{Batch, Log, Seq};

use super::{LineId, Lines, When};

/// The master's disk.
///
/// Invariant: `acked < next ≤ last + 1`, where `last` is the last entry of the log. Between the two
/// cursors lies the transaction that is being written.
#[derive(Debug)]
pub(super) struct Disk {
    /// The last entry that is on the disk.
    acked: Seq,
    /// The first entry that no transaction carries yet.
    next: Seq,
    /// A write has failed: nothing more is written.
    failed: bool,
}

impl Disk {
    /// A disk that holds the log up to this entry.
    pub(super) fn new(acked: Seq) -> Disk {
        Disk { acked, next: acked.next(), failed: false }
    }

    pub(super) fn acked_seq(&self) -> Seq {
        self.acked
    }

    pub(super) fn next_seq(&self) -> Seq {
        self.next
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) fn is_writing(&self) -> bool {
        self.acked.next() < self.next && !self.failed
    }

    /// When the next transaction may start: one is written at a time.
    pub(super) fn free_at(&self, last: Seq) -> When {
        if self.is_writing() || self.failed || self.next > last { When::Blocked } else { When::Now }
    }

    /// Begins a transaction of about `most_bytes` with the entries from `next` on.
    pub(super) fn begin_write(&mut self, log: &Log, most_bytes: usize) -> Batch {
        let batch = log.batch(self.next, most_bytes);
        self.next = batch.last().next();
        batch
    }

    /// The transaction whose last entry is `last` is on the disk.
    pub(super) fn settle(&mut self, last: Seq) {
        assert_eq!(last.next(), self.next, "one transaction is written at a time");
        self.acked = last;
    }

    pub(super) fn fail(&mut self) {
        self.failed = true;
    }
}

impl Lines {
    /// The last entry that the master itself holds for good: with a disk, the last one on it.
    pub fn stored_seq(&self) -> Seq {
        self.disk.as_ref().map_or(self.last, Disk::acked_seq)
    }

    /// Whether a write to the master's disk has failed.
    pub fn disk_has_failed(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::has_failed)
    }

    /// Whether a transaction is being written.
    pub fn disk_is_writing(&self) -> bool {
        self.disk.as_ref().is_some_and(Disk::is_writing)
    }

    /// The disk's place behind the secondaries.
    pub fn disk_id(&self) -> LineId {
        self.secondaries.len()
    }

    /// Begins a transaction of about `most_bytes`, if one may start; it must then be settled.
    pub fn claim_disk(&mut self, log: &Log, most_bytes: usize, now: Instant) -> Option<Batch> {
        if !self.due(self.disk_id(), false).is_due(now) {
            return None;
        }
        Some(self.disk.as_mut()?.begin_write(log, most_bytes))
    }

    /// The transaction whose last entry is `last` is on the disk.
    pub fn settle_disk(&mut self, last: Seq) {
        self.disk.iter_mut().for_each(|disk| disk.settle(last));
        self.commit();
    }

    /// A write to the disk has failed: nothing more is written.
    pub fn fail_disk(&mut self) {
        self.disk.iter_mut().for_each(Disk::fail);
    }
}
