//! Requests that wait for an entry to be acknowledged, and which of them an event decides.
//!
//! A settled call wakes the requests that are satisfied, failed or failing by it, and one that can
//! send more if the line's courier is out. Waking all would cost more than the calls.

use std::collections::BTreeMap;
use std::mem;
use std::time::Instant;

use common::entries::Seq;

use crate::concern::Concern;
use crate::lines::{Call, Failure, Line, LineId, Lines};

/// One waiting request.
#[derive(Debug)]
struct Waiter<T> {
    thread: T,
    concern: Concern,
    /// The last call that began before the request waited.
    since_call: u64,
    /// Why lines have failed the request.
    failures: Vec<(LineId, String)>,
    failed_at: Option<Instant>,
    /// The thread has been woken and has not looked yet.
    woken: bool,
    /// The thread makes a call.
    calling: bool,
}

/// The state of a waiting request.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// As many nodes as the client asked for hold the entry.
    Satisfied,
    /// Some secondary failed, and each of the others has acknowledged or failed too; or the
    /// master's reign or its disk is at an end.
    Failed,
    /// Some secondary failed at this instant, and of others nothing is known yet.
    Failing(Instant),
    /// Nothing has failed, and something is missing.
    Pending,
}

/// The entry that a request waits for, and a number of its own: several may wait for one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// The entry.
    pub seq: Seq,
    number: u64,
}

impl Ticket {
    /// Before the tickets of all requests that wait for this entry.
    fn before(seq: Seq) -> Ticket {
        Ticket { seq, number: 0 }
    }
}

/// All waiting requests, by the entry that they wait for. `T` wakes the thread of a request.
#[derive(Debug)]
pub struct Waiters<T> {
    by_ticket: BTreeMap<Ticket, Waiter<T>>,
    last_number: u64,
    /// The last acknowledged entry of each line, the disk included, at the last look.
    seen: Vec<Seq>,
    /// Some waiter may have a failure.
    failing: bool,
}

impl<T> Default for Waiters<T> {
    /// Nobody waits.
    fn default() -> Waiters<T> {
        Waiters { by_ticket: BTreeMap::new(), last_number: 0, seen: Vec::new(), failing: false }
    }
}

impl<T: Clone> Waiters<T> {
    /// The thread waits for this entry from now on.
    pub fn add(&mut self, seq: Seq, concern: Concern, thread: T, lines: &Lines) -> Ticket {
        let since_call = lines.last_number();
        let (failures, failed_at) = (Vec::new(), None);
        let (woken, calling) = (false, false);
        let waiter = Waiter { thread, concern, since_call, failures, failed_at, woken, calling };
        self.last_number += 1;
        let ticket = Ticket { seq, number: self.last_number };
        self.by_ticket.insert(ticket, waiter);
        ticket
    }

    /// The request goes. Returns why lines have failed it.
    pub fn remove(&mut self, ticket: Ticket) -> Vec<(LineId, String)> {
        self.by_ticket.remove(&ticket).map(|waiter| waiter.failures).unwrap_or_default()
    }

    /// The state of a request whose thread looks now: the thread can be woken again.
    pub fn look(&mut self, ticket: Ticket, lines: &Lines) -> Standing {
        let waiter = self.by_ticket.get_mut(&ticket).expect("a request that looks is waiting");
        (waiter.woken, waiter.calling) = (false, false);
        waiter.standing(ticket.seq, lines)
    }

    /// The thread of the request makes a call; until it looks again it makes no other.
    pub fn calls_itself(&mut self, ticket: Ticket) {
        self.by_ticket.get_mut(&ticket).expect("a request that calls is waiting").calling = true;
    }

    /// The thread to wake in place of the line's courier: the first request that lacks something of
    /// the line and can call it, unless it has been woken.
    pub fn stand_in(&mut self, line: LineId, lines: &Lines) -> Option<T> {
        let next = lines.secondaries()[line].next_seq();
        let mut lacking = self.by_ticket.range_mut(Ticket::before(next)..);
        let (_, waiter) = lacking.find(|(_, w)| !w.calling && !w.has_failed(line))?;
        (!mem::replace(&mut waiter.woken, true)).then(|| waiter.thread.clone())
    }

    /// How many requests wait for an entry on this call and are not decided.
    pub fn count_pending(&self, call: &Call, lines: &Lines) -> usize {
        let carried =
            self.by_ticket.range(Ticket::before(call.first)..Ticket::before(call.last.next()));
        let pending = |(ticket, waiter): &(&Ticket, &Waiter<T>)| {
            waiter.standing(ticket.seq, lines) == Standing::Pending
        };
        carried.filter(pending).count()
    }

    /// Whether this line has failed the request.
    pub fn has_failed(&self, ticket: Ticket, line: LineId) -> bool {
        self.by_ticket.get(&ticket).is_some_and(|waiter| waiter.has_failed(line))
    }

    /// Whether a request that fails fast waits for an entry that no call to this line carries yet.
    pub fn is_urgent(&self, line: LineId, lines: &Lines) -> bool {
        let mut lacking =
            self.by_ticket.range(Ticket::before(lines.secondaries()[line].next_seq())..);
        lacking.any(|(_, waiter)| waiter.is_urgent() && !waiter.has_failed(line))
    }

    /// A call has failed. It fails the fail-fast requests whose entry it carried, and those with a
    /// later entry that waited when the call began.
    pub fn note_failure(&mut self, failure: &Failure, now: Instant) {
        for (ticket, waiter) in self.by_ticket.range_mut(Ticket::before(failure.first)..) {
            let concerned = ticket.seq <= failure.last || failure.call > waiter.since_call;
            if waiter.is_urgent() && concerned && !waiter.has_failed(failure.line) {
                waiter.failures.push((failure.line, failure.detail.clone()));
                waiter.failed_at.get_or_insert(now);
                self.failing = true;
            }
        }
    }

    /// The threads to wake after something has changed: those of requests that are satisfied,
    /// failed or failing.
    pub fn decided(&mut self, lines: &Lines) -> Vec<T> {
        let mut threads = Vec::new();
        let news = self.newly_acknowledged(lines);
        let over = lines.fenced_by().is_some() || lines.disk_has_failed();
        let all = self.failing || over;
        let (from, until) = if all { (Seq::NONE, Seq(u64::MAX)) } else { news };
        let range = Ticket::before(from)..Ticket::before(until);
        for (ticket, waiter) in self.by_ticket.range_mut(range) {
            if !waiter.woken && waiter.standing(ticket.seq, lines) != Standing::Pending {
                waiter.woken = true;
                threads.push(waiter.thread.clone());
            }
        }
        self.failing = self.failing && self.by_ticket.values().any(|w| w.failed_at.is_some());
        threads
    }

    /// The range of places that a line has acknowledged since the last look: its start, and its end
    /// (exclusive). Acknowledgements decide nothing else.
    fn newly_acknowledged(&mut self, lines: &Lines) -> (Seq, Seq) {
        self.seen.resize(lines.secondaries().len() + 1, Seq::NONE);
        let mut news = (Seq(u64::MAX), Seq::NONE);
        let acked = lines.secondaries().iter().map(Line::acked_seq).chain([lines.stored_seq()]);
        for (seen, acked) in self.seen.iter_mut().zip(acked) {
            // It goes back when a secondary has forgotten everything.
            let seen = mem::replace(seen, acked);
            if acked > seen {
                news = (news.0.min(seen.next()), news.1.max(acked.next()));
            }
        }
        (news.0.min(news.1), news.1)
    }
}

impl<T> Waiter<T> {
    fn has_failed(&self, line: LineId) -> bool {
        self.failures.iter().any(|(failed, _)| *failed == line)
    }

    /// Whether the request fails fast, and so does not wait out the pause after a failure.
    fn is_urgent(&self) -> bool {
        self.concern == Concern::AllOrFail
    }

    fn standing(&self, seq: Seq, lines: &Lines) -> Standing {
        let settled = |(id, line): (LineId, &Line)| line.acked_seq() >= seq || self.has_failed(id);
        let stored = lines.stored_seq() >= seq;
        match self.failed_at {
            _ if stored
                && lines.acks(seq) >= self.concern.acks_needed(lines.secondaries().len()) =>
            {
                Standing::Satisfied
            }
            _ if !stored && lines.disk_has_failed() => Standing::Failed,
            // Nobody acknowledges anything to a master whose reign is over.
            _ if lines.fenced_by().is_some() => Standing::Failed,
            None => Standing::Pending,
            Some(_) if lines.secondaries().iter().enumerate().all(settled) => Standing::Failed,
            Some(at) => Standing::Failing(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::entries::{Epoch, Log, Message};
    use common::reign::Reign;
    use common::wire::Position;

    use super::*;
    use crate::health::Thresholds;
    use crate::lines::{Found, Verdict};

    /// One secondary that answers heartbeats, and requests named by the entry they wait for.
    struct World {
        log: Log,
        lines: Lines,
        waiters: Waiters<u64>,
        now: Instant,
    }

    impl World {
        fn new() -> World {
            let thresholds = Thresholds { suspected_after: 2, unhealthy_after: 4 };
            let mut lines = Lines::new(&["http://a".into()], thresholds, None, Instant::now());
            let (log, waiters, now) = (Log::new(9), Waiters::default(), Instant::now());
            let reign = Reign { epoch: Epoch(1), ..Reign::default() };
            lines.begin_reign(reign, &log, None, &[Found::Nothing], now);
            let mut world = World { log, lines, waiters, now };
            world.hear(0);
            world
        }

        fn hear(&mut self, last: u64) {
            let number = self.lines.next_number();
            self.lines.observe(0, number, &position(last), &self.log, self.now).unwrap();
        }

        fn post(&mut self) -> Ticket {
            self.post_with(Concern::AllOrFail)
        }

        fn post_with(&mut self, concern: Concern) -> Ticket {
            let seq = self.log.append(Epoch(1), &Message::new("m").into());
            self.lines.appended(seq, self.now);
            self.waiters.add(seq, concern, seq.0, &self.lines)
        }

        fn claim(&mut self, seq: u64) -> Call {
            self.lines.claim(0, Seq(seq), true, &self.log, self.now).expect("the line must be free")
        }

        fn settle(&mut self, call: &Call, verdict: Verdict) -> Vec<u64> {
            if let Some(failure) = self.lines.settle(call, verdict, &self.log, self.now, 0) {
                self.waiters.note_failure(&failure, self.now);
            }
            self.waiters.decided(&self.lines)
        }

        fn look(&mut self, ticket: Ticket) -> Standing {
            self.waiters.look(ticket, &self.lines)
        }
    }

    fn position(last: u64) -> Position {
        let last_epoch = if last == 0 { Epoch(0) } else { Epoch(1) };
        let (epoch, instance) = (Epoch(1), "1".into());
        Position { last_seq: Seq(last), last_epoch, epoch, log_epoch: Some(epoch), instance }
    }

    fn failed() -> Verdict {
        Verdict::Failed("no answer".into())
    }

    #[test]
    fn an_ack_wakes_the_requests_it_decides() {
        let mut world = World::new();
        let (_, second) = (world.post(), world.post());
        let call = world.claim(1);
        let (third, _) = (world.post(), world.post());
        assert_eq!(world.settle(&call, Verdict::Acked(position(2))), [1, 2]);
        assert_eq!(world.look(second), Standing::Satisfied);
        assert_eq!(world.look(third), Standing::Pending);
    }

    #[test]
    fn a_failed_call_fails_those_it_was_made_for() {
        // Goal: the requests whose entries the call carried, and those that waited when it began.
        let mut world = World::new();
        let (first, _) = (world.post(), world.post());
        let call = world.claim(2);
        let third = world.post();
        assert_eq!(world.settle(&call, failed()), [1, 2]);
        assert_eq!(world.look(first), Standing::Failed);
        assert_eq!(world.look(third), Standing::Pending, "its entry was on no call yet");
        // The next call carries the missed entries first; it is made for 3 all the same.
        let mut call = world.claim(3);
        call.last = Seq(2);
        world.settle(&call, failed());
        assert_eq!(world.look(third), Standing::Failed);
        assert_eq!(world.waiters.remove(third), [(0, "no answer".to_string())]);
    }

    #[test]
    fn an_entry_that_arrived_after_all_has_not_failed() {
        let mut world = World::new();
        let first = world.post();
        let call = world.claim(1);
        world.settle(&call, failed());
        world.hear(1);
        assert_eq!(world.look(first), Standing::Satisfied);
    }

    #[test]
    fn a_write_concern_never_fails_before_time() {
        let mut world = World::new();
        let alone = world.post_with(Concern::Nodes { w: 1, timeout: None });
        assert_eq!(world.look(alone), Standing::Satisfied);
        let both = world.post_with(Concern::Nodes { w: 2, timeout: None });
        let call = world.claim(2);
        world.settle(&call, failed());
        assert_eq!(world.look(both), Standing::Pending);
    }

    #[test]
    fn a_request_that_fails_fast_is_urgent() {
        let mut world = World::new();
        let _patient = world.post_with(Concern::Nodes { w: 2, timeout: None });
        let call = world.claim(1);
        world.settle(&call, failed());
        assert!(!world.waiters.is_urgent(0, &world.lines), "nobody fails fast");
        let fast = world.post();
        assert!(world.waiters.is_urgent(0, &world.lines));
        let call = world.claim(2);
        assert!(!world.waiters.is_urgent(0, &world.lines), "its entry is on its way");
        world.settle(&call, failed());
        assert!(!world.waiters.is_urgent(0, &world.lines), "the line has failed it");
        world.waiters.remove(fast);
        assert!(!world.waiters.is_urgent(0, &world.lines));
    }
}
