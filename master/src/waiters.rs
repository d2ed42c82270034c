//! Requests that wait for an entry to be acknowledged, and whom to wake when.
//!
//! A settled call wakes the requests whose entry is decided by it, and one more to make the next
//! call if there is something to send: waking all would cost more than the calls.

use std::collections::BTreeMap;
use std::thread::Thread;
use std::time::Instant;

use common::entries::Seq;

use crate::lines::{Failure, Line, LineId, Lines};

/// One waiting request.
#[derive(Debug)]
struct Waiter {
    thread: Thread,
    /// Calls with greater numbers were claimed after this request began to wait.
    since_call: u64,
    /// Why each line failed, for those that did.
    failures: Vec<(LineId, String)>,
    failed_at: Option<Instant>,
    /// It has been woken and has not looked yet.
    woken: bool,
    /// Its thread is making a call.
    calling: bool,
}

/// What a request that waits for all acknowledgements learns.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// Every secondary holds the entry.
    Satisfied,
    /// Some secondary failed, and each of the others has acknowledged or failed too.
    Failed,
    /// Some secondary failed at this instant, and of others nothing is known yet.
    Failing(Instant),
    /// Nothing has failed, and something is missing.
    Pending,
}

/// All waiting requests, by the entry that they wait for.
#[derive(Debug, Default)]
pub struct Waiters {
    by_seq: BTreeMap<Seq, Waiter>,
}

impl Waiters {
    /// This thread waits for this entry from now on.
    pub fn add(&mut self, seq: Seq, thread: Thread, lines: &Lines) {
        let since_call = lines.last_number();
        let (failures, failed_at) = (Vec::new(), None);
        let waiter =
            Waiter { thread, since_call, failures, failed_at, woken: false, calling: false };
        let before = self.by_seq.insert(seq, waiter);
        assert!(before.is_none(), "two requests wait for entry {seq}");
    }

    /// The request that waited for this entry goes; returns why each line failed.
    pub fn remove(&mut self, seq: Seq) -> Vec<(LineId, String)> {
        self.by_seq.remove(&seq).map(|waiter| waiter.failures).unwrap_or_default()
    }

    /// How it stands for the request that waits for this entry. It is looking now, so it can be
    /// woken again.
    pub fn look(&mut self, seq: Seq, lines: &Lines) -> Standing {
        let waiter = self.by_seq.get_mut(&seq).expect("a request that looks is waiting");
        (waiter.woken, waiter.calling) = (false, false);
        waiter.standing(seq, lines)
    }

    /// The thread of the request that waits for this entry makes a call itself; until it looks
    /// again it can make no other.
    pub fn calls_itself(&mut self, seq: Seq) {
        self.by_seq.get_mut(&seq).expect("a request that calls is waiting").calling = true;
    }

    /// Whether this line has failed the request that waits for this entry.
    pub fn has_failed(&self, seq: Seq, line: LineId) -> bool {
        self.by_seq.get(&seq).is_some_and(|waiter| waiter.has_failed(line))
    }

    /// A line has failed. Whoever's entry was on that call has failed with it; so has everyone
    /// whose entry comes after it, if the call was made on their behalf.
    pub fn note_failure(&mut self, failure: &Failure, now: Instant) {
        for (seq, waiter) in self.by_seq.range_mut(failure.first..) {
            let concerned = *seq <= failure.last || failure.call > waiter.since_call;
            if concerned && !waiter.has_failed(failure.line) {
                waiter.failures.push((failure.line, failure.detail.clone()));
                waiter.failed_at.get_or_insert(now);
            }
        }
    }

    /// Chooses whom to wake after something has changed.
    pub fn choose_woken(&mut self, lines: &Lines, now: Instant) -> Vec<Thread> {
        let mut threads = Vec::new();
        for (seq, waiter) in &mut self.by_seq {
            if !waiter.woken && waiter.is_decided(*seq, lines) {
                waiter.woken = true;
                threads.push(waiter.thread.clone());
            }
        }
        for line in 0..lines.count() {
            let lacking = self.by_seq.range_mut(lines.covered(line).next()..);
            // The first that lacks something makes the call, unless one has been woken already.
            let mut able = lacking.filter(|(_, w)| !w.calling && !w.has_failed(line));
            if let Some((seq, waiter)) = able.next()
                && !waiter.woken
                && lines.is_claimable(line, *seq, now)
            {
                waiter.woken = true;
                threads.push(waiter.thread.clone());
            }
        }
        threads
    }
}

impl Waiter {
    fn has_failed(&self, line: LineId) -> bool {
        self.failures.iter().any(|(failed, _)| *failed == line)
    }

    fn standing(&self, seq: Seq, lines: &Lines) -> Standing {
        let settled = |(id, line): (LineId, &Line)| line.acked_seq() >= seq || self.has_failed(id);
        match self.failed_at {
            _ if lines.all_acked(seq) => Standing::Satisfied,
            None => Standing::Pending,
            Some(_) if lines.iter().enumerate().all(settled) => Standing::Failed,
            Some(at) => Standing::Failing(at),
        }
    }

    fn is_decided(&self, seq: Seq, lines: &Lines) -> bool {
        self.standing(seq, lines) != Standing::Pending
    }
}
