//! Requests that wait for an entry to be acknowledged, and whom to wake when.
//!
//! A settled call wakes the requests whose entry is decided by it, and one more to make the next
//! call if there is something to send: waking all would cost more than the calls.

use std::collections::BTreeMap;
use std::time::Instant;

use common::entries::Seq;

use crate::lines::{Failure, Line, LineId, Lines};

/// One waiting request.
#[derive(Debug)]
struct Waiter<T> {
    thread: T,
    /// Calls with greater numbers were claimed after this request began to wait.
    since_call: u64,
    /// Why each line failed, for those that did.
    failures: Vec<(LineId, String)>,
    failed_at: Option<Instant>,
    /// It has been woken and has not looked yet.
    woken: bool,
    /// Its thread is making a call.
    calling: bool,
    /// It will look by itself when the next call may start.
    timed: bool,
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

/// All waiting requests, by the entry that they wait for. `T` is what it takes to wake one.
#[derive(Debug)]
pub struct Waiters<T> {
    by_seq: BTreeMap<Seq, Waiter<T>>,
    /// Some waiter may have a failure.
    failing: bool,
}

impl<T> Default for Waiters<T> {
    fn default() -> Waiters<T> {
        Waiters { by_seq: BTreeMap::new(), failing: false }
    }
}

impl<T: Clone> Waiters<T> {
    /// This thread waits for this entry from now on.
    pub fn add(&mut self, seq: Seq, thread: T, lines: &Lines) {
        let since_call = lines.last_number();
        let (failures, failed_at) = (Vec::new(), None);
        let (woken, calling, timed) = (false, false, false);
        let waiter = Waiter { thread, since_call, failures, failed_at, woken, calling, timed };
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
        (waiter.woken, waiter.calling, waiter.timed) = (false, false, false);
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
                self.failing = true;
            }
        }
    }

    /// When the request that waits for this entry must look again, if it is the one that makes
    /// the next call to some line. The others need not look: they ride on that call.
    pub fn set_timer(&mut self, seq: Seq, lines: &Lines) -> Option<Instant> {
        let due = (0..lines.count()).filter_map(|line| {
            let (first, _) = self.next_caller(line, lines)?;
            if first == seq { lines.next_claim_at(line, seq) } else { None }
        });
        let due = due.min()?;
        self.by_seq.get_mut(&seq)?.timed = true;
        Some(due)
    }

    /// Chooses whom to wake after something has changed: first those who make the next calls.
    pub fn choose_woken(&mut self, lines: &Lines, now: Instant) -> Vec<T> {
        let mut threads = Vec::new();
        for line in 0..lines.count() {
            let Some((seq, waiter)) = self.next_caller(line, lines) else { continue };
            let ready = lines.is_claimable(line, seq, now);
            let unattended = !waiter.timed && lines.next_claim_at(line, seq).is_some();
            if !waiter.woken && (ready || unattended) {
                let waiter = self.by_seq.get_mut(&seq).expect("it was just found");
                waiter.woken = true;
                threads.push(waiter.thread.clone());
            }
        }
        // Beyond what anyone has acknowledged nothing is decided, unless something has failed.
        let most = lines.iter().map(Line::acked_seq).max().unwrap_or_default();
        let end = if self.failing { Seq(u64::MAX) } else { most };
        for (seq, waiter) in self.by_seq.range_mut(..=end) {
            if !waiter.woken && waiter.standing(*seq, lines) != Standing::Pending {
                waiter.woken = true;
                threads.push(waiter.thread.clone());
            }
        }
        self.failing = self.failing && self.by_seq.values().any(|w| w.failed_at.is_some());
        threads
    }

    /// The first request that lacks something of this line and is able to make a call.
    fn next_caller(&self, line: LineId, lines: &Lines) -> Option<(Seq, &Waiter<T>)> {
        let lacking = self.by_seq.range(lines.covered(line).next()..);
        let mut able = lacking.filter(|(_, w)| !w.calling && !w.has_failed(line));
        able.next().map(|(seq, waiter)| (*seq, waiter))
    }
}

impl<T> Waiter<T> {
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
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::entries::{Epoch, Log, Message};
    use common::wire::Position;

    use super::*;
    use crate::lines::{Call, SPACING, Verdict};

    /// One secondary that answers heartbeats, and requests named by the entry they wait for.
    struct World {
        log: Log,
        lines: Lines,
        waiters: Waiters<u64>,
        now: Instant,
    }

    impl World {
        fn new() -> World {
            let lines = Lines::new(&["http://a".into()], Epoch(1));
            let (log, waiters, now) = (Log::new(), Waiters::default(), Instant::now());
            let mut world = World { log, lines, waiters, now };
            let number = world.lines.next_number();
            world.lines.observe(0, number, &position(0), &world.log).unwrap();
            world
        }

        fn post(&mut self) -> u64 {
            let seq = self.log.append(Epoch(1), &Message::new("m"));
            self.waiters.add(seq, seq.0, &self.lines);
            seq.0
        }

        fn claim(&mut self, seq: u64) -> Call {
            self.lines.claim(0, Seq(seq), &self.log, self.now).expect("the line must be free")
        }

        fn settle(&mut self, call: &Call, verdict: Verdict) -> Vec<u64> {
            if let Some(failure) = self.lines.settle(call, verdict, &self.log) {
                self.waiters.note_failure(&failure, self.now);
            }
            self.waiters.choose_woken(&self.lines, self.now)
        }

        fn look(&mut self, seq: u64) -> Standing {
            self.waiters.look(Seq(seq), &self.lines)
        }
    }

    fn position(last: u64) -> Position {
        let last_epoch = if last == 0 { Epoch(0) } else { Epoch(1) };
        Position { last_seq: Seq(last), last_epoch, epoch: Epoch(1), instance: "1".into() }
    }

    fn acked(last: u64) -> Verdict {
        Verdict::Acked(position(last))
    }

    fn failed() -> Verdict {
        Verdict::Failed("no answer".into())
    }

    #[test]
    fn an_ack_wakes_whom_it_decides_and_one_more_to_make_the_next_call() {
        let mut world = World::new();
        (0..2).for_each(|_| _ = world.post());
        let call = world.claim(1);
        (0..3).for_each(|_| _ = world.post());
        assert_eq!(world.settle(&call, acked(2)), [3, 1, 2], "4 and 5 ride on the call of 3");
        assert_eq!(world.look(2), Standing::Satisfied);
        assert_eq!(world.look(4), Standing::Pending);
    }

    #[test]
    fn a_request_that_makes_a_call_itself_is_not_asked_to_make_another() {
        let mut world = World::new();
        world.post();
        let call = world.claim(1);
        (0..2).for_each(|_| _ = world.post());
        world.waiters.calls_itself(Seq(2));
        assert_eq!(world.settle(&call, acked(1)), [3, 1]);
    }

    #[test]
    fn a_failed_call_fails_those_it_carried_and_those_it_was_made_for() {
        let mut world = World::new();
        (0..2).for_each(|_| _ = world.post());
        let call = world.claim(2);
        world.post();
        assert_eq!(world.settle(&call, failed()), [3, 1, 2]);
        assert_eq!(world.look(1), Standing::Failed);
        assert_eq!(world.look(3), Standing::Pending, "its entry was on no call yet");
        // The next call carries the missed entries first; it is made for 3 all the same.
        let mut call = world.claim(3);
        call.last = Seq(2);
        world.settle(&call, failed());
        assert_eq!(world.look(3), Standing::Failed);
        assert_eq!(world.waiters.remove(Seq(3)), [(0, "no answer".to_string())]);
    }

    #[test]
    fn what_was_said_to_have_failed_and_is_there_after_all_has_not_failed() {
        let mut world = World::new();
        world.post();
        let call = world.claim(1);
        world.settle(&call, failed());
        let number = world.lines.next_number();
        world.lines.observe(0, number, &position(1), &world.log).unwrap();
        assert_eq!(world.look(1), Standing::Satisfied);
    }

    #[test]
    fn only_the_next_caller_sets_a_timer_and_another_one_takes_its_place() {
        let mut world = World::new();
        world.post();
        let _out = world.claim(1);
        (0..2).for_each(|_| _ = world.post());
        let due = Some(world.now + SPACING);
        assert_eq!(world.waiters.set_timer(Seq(2), &world.lines), due);
        assert_eq!(world.waiters.set_timer(Seq(3), &world.lines), None);
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [0; 0]);
        world.waiters.remove(Seq(2));
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [3]);
        world.look(3);
        assert_eq!(world.waiters.set_timer(Seq(3), &world.lines), due);
        let later = world.now + 2 * SPACING + Duration::from_millis(1);
        assert_eq!(world.waiters.choose_woken(&world.lines, later), [3], "it may start now");
    }
}
