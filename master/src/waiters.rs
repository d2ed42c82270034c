//! Requests that wait for an entry to be acknowledged, and whom to wake when.
//!
//! A settled call wakes the requests whose entry is decided by it, and one more to make the next
//! call if there is something to send: waking all would cost more than the calls.

use std::collections::BTreeMap;
use std::time::Instant;

use common::entries::Seq;

use crate::concern::Concern;
use crate::lines::{Call, Failure, Line, LineId, Lines};

/// One waiting request.
#[derive(Debug)]
struct Waiter<T> {
    thread: T,
    concern: Concern,
    /// Calls with greater numbers were claimed after this request began to wait.
    since_call: u64,
    /// Why each line failed, for those that did.
    failures: Vec<(LineId, String)>,
    failed_at: Option<Instant>,
    /// It has been woken and has not looked yet.
    woken: bool,
    /// Its thread is making a call.
    calling: bool,
    /// It will look by itself at this instant, when the next call may start.
    timed: Option<Instant>,
}

/// What a waiting request learns.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// As many nodes as it asked for hold the entry.
    Satisfied,
    /// Some secondary failed, and each of the others has acknowledged or failed too; or the
    /// master's reign is over.
    Failed,
    /// Some secondary failed at this instant, and of others nothing is known yet.
    Failing(Instant),
    /// Nothing has failed, and something is missing.
    Pending,
}

/// The entry that a request waits for, and a number of its own: several may wait for one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The entry.
    pub seq: Seq,
    ticket: u64,
}

impl Place {
    /// Before every request that waits for this entry.
    fn before(seq: Seq) -> Place {
        Place { seq, ticket: 0 }
    }
}

#[derive(Debug)]
struct Courier<T> {
    thread: T,
    woken: bool,
}

/// All waiting requests, by the entry that they wait for. `T` is what it takes to wake one.
#[derive(Debug)]
pub struct Waiters<T> {
    by_place: BTreeMap<Place, Waiter<T>>,
    last_ticket: u64,
    /// The threads that call a secondary when no request does, one per line.
    couriers: Vec<Courier<T>>,
    /// What each line had acknowledged when it was last looked at who is to be woken.
    seen: Vec<Seq>,
    /// Some waiter may have a failure.
    failing: bool,
}

impl<T> Default for Waiters<T> {
    /// Nobody waits.
    fn default() -> Waiters<T> {
        let (couriers, seen) = (Vec::new(), Vec::new());
        Waiters { by_place: BTreeMap::new(), last_ticket: 0, couriers, seen, failing: false }
    }
}

impl<T: Clone> Waiters<T> {
    /// The threads that call when no request does, in the order of the lines.
    pub fn set_couriers(&mut self, threads: Vec<T>) {
        self.couriers =
            threads.into_iter().map(|thread| Courier { thread, woken: false }).collect();
    }

    /// A courier is looking: it can be woken again. It may call unless a request is going to.
    pub fn courier_looks(&mut self, line: LineId, lines: &Lines) -> bool {
        if let Some(courier) = self.couriers.get_mut(line) {
            courier.woken = false;
        }
        self.next_caller(line, lines).is_none()
    }

    /// This thread waits for this entry from now on.
    pub fn add(&mut self, seq: Seq, concern: Concern, thread: T, lines: &Lines) -> Place {
        let since_call = lines.last_number();
        let (failures, failed_at) = (Vec::new(), None);
        let (woken, calling, timed) = (false, false, None);
        let waiter =
            Waiter { thread, concern, since_call, failures, failed_at, woken, calling, timed };
        self.last_ticket += 1;
        let place = Place { seq, ticket: self.last_ticket };
        self.by_place.insert(place, waiter);
        place
    }

    /// The request goes; returns why each line failed it.
    pub fn remove(&mut self, place: Place) -> Vec<(LineId, String)> {
        self.by_place.remove(&place).map(|waiter| waiter.failures).unwrap_or_default()
    }

    /// How many requests wait for an entry on this call, and are not decided yet.
    pub fn count_waiting(&self, call: &Call, lines: &Lines) -> u32 {
        let carried = Place::before(call.first)..Place::before(call.last.next());
        let waiting = |(place, waiter): &(&Place, &Waiter<T>)| {
            waiter.standing(place.seq, lines) == Standing::Pending
        };
        u32::try_from(self.by_place.range(carried).filter(waiting).count()).unwrap_or(u32::MAX)
    }

    /// How it stands for a request. It is looking now, so it can be woken again.
    pub fn look(&mut self, place: Place, lines: &Lines) -> Standing {
        let waiter = self.by_place.get_mut(&place).expect("a request that looks is waiting");
        (waiter.woken, waiter.calling, waiter.timed) = (false, false, None);
        waiter.standing(place.seq, lines)
    }

    /// The thread of this request makes a call itself; until it looks again it can make no other.
    pub fn calls_itself(&mut self, place: Place) {
        self.by_place.get_mut(&place).expect("a request that calls is waiting").calling = true;
    }

    /// Whether this line has failed the request.
    pub fn has_failed(&self, place: Place, line: LineId) -> bool {
        self.by_place.get(&place).is_some_and(|waiter| waiter.has_failed(line))
    }

    /// A line has failed. Of the requests that fail fast, those whose entry was on that call have
    /// failed with it; so have those whose entry comes after it, if the call was made for them.
    pub fn note_failure(&mut self, failure: &Failure, now: Instant) {
        for (place, waiter) in self.by_place.range_mut(Place::before(failure.first)..) {
            let concerned = place.seq <= failure.last || failure.call > waiter.since_call;
            if waiter.is_urgent() && concerned && !waiter.has_failed(failure.line) {
                waiter.failures.push((failure.line, failure.detail.clone()));
                waiter.failed_at.get_or_insert(now);
                self.failing = true;
            }
        }
    }

    /// When the request must look again, if it is the one that makes the next call to some line.
    /// The others need not look: they ride on that call.
    pub fn set_timer(&mut self, place: Place, lines: &Lines) -> Option<Instant> {
        let due = (0..lines.count()).filter_map(|line| {
            let (first, waiter) = self.next_caller(line, lines)?;
            if first != place {
                return None;
            }
            lines.next_claim_at(line, place.seq, waiter.is_urgent())
        });
        let due = due.min()?;
        self.by_place.get_mut(&place)?.timed = Some(due);
        Some(due)
    }

    /// Chooses whom to wake after something has changed: first those who make the next calls.
    pub fn choose_woken(&mut self, lines: &Lines, now: Instant) -> Vec<T> {
        let mut threads = Vec::new();
        for line in 0..lines.count() {
            threads.extend(self.choose_caller(line, lines, now));
        }
        let news = self.newly_acknowledged(lines);
        let over = lines.fenced_by().is_some() || lines.disk_failed().is_some();
        let all = self.failing || over;
        let (from, until) = if all { (Seq::NONE, Seq(u64::MAX)) } else { news };
        for (place, waiter) in self.by_place.range_mut(Place::before(from)..Place::before(until)) {
            if !waiter.woken && waiter.standing(place.seq, lines) != Standing::Pending {
                waiter.woken = true;
                threads.push(waiter.thread.clone());
            }
        }
        self.failing = self.failing && self.by_place.values().any(|w| w.failed_at.is_some());
        threads
    }

    /// From the first to before the last of these places, some line has acknowledged something
    /// since this was last asked. Nothing else is decided by acknowledgements.
    fn newly_acknowledged(&mut self, lines: &Lines) -> (Seq, Seq) {
        // The master's own disk is one line more.
        self.seen.resize(lines.count() + 1, Seq::NONE);
        let mut news = (Seq(u64::MAX), Seq::NONE);
        let acked = lines.iter().map(Line::acked_seq).chain([lines.stored_seq()]);
        for (seen, acked) in self.seen.iter_mut().zip(acked) {
            if acked > *seen {
                news = (news.0.min(seen.next()), news.1.max(acked.next()));
            }
            // It goes back when a secondary has forgotten everything.
            *seen = acked;
        }
        (news.0.min(news.1), news.1)
    }

    fn choose_caller(&mut self, line: LineId, lines: &Lines, now: Instant) -> Option<T> {
        if let Some((place, waiter)) = self.next_caller(line, lines) {
            let urgent = waiter.is_urgent();
            let ready = lines.is_claimable(line, place.seq, urgent, now);
            let due = lines.next_claim_at(line, place.seq, urgent);
            let unattended = due.is_some_and(|due| waiter.timed.is_none_or(|at| at > due));
            if waiter.woken || !(ready || unattended) {
                return None;
            }
            let waiter = self.by_place.get_mut(&place).expect("it was just found");
            waiter.woken = true;
            return Some(waiter.thread.clone());
        }
        let courier = self.couriers.get_mut(line)?;
        // It waits by itself until a batch that gathers may leave.
        let ready = lines.is_claimable(line, lines.last_seq(), false, now);
        let ready = ready || lines.gathers_until(line).is_some();
        (ready && !std::mem::replace(&mut courier.woken, true)).then(|| courier.thread.clone())
    }

    /// The first request that lacks something of this line and is able to make a call; during the
    /// pause after a failure the first one that does not wait it out, if there is one.
    fn next_caller(&self, line: LineId, lines: &Lines) -> Option<(Place, &Waiter<T>)> {
        let lacking = self.by_place.range(Place::before(lines.covered(line).next())..);
        let mut able = lacking.filter(|(_, w)| !w.calling && !w.has_failed(line));
        let first = able.next()?;
        let hurried = match lines.is_paused(line) && !first.1.is_urgent() {
            true => able.find(|(_, waiter)| waiter.is_urgent()),
            false => None,
        };
        let (place, waiter) = hurried.unwrap_or(first);
        Some((*place, waiter))
    }
}

impl<T> Waiter<T> {
    fn has_failed(&self, line: LineId) -> bool {
        self.failures.iter().any(|(failed, _)| *failed == line)
    }

    /// It fails fast, and so does not wait out the pause after a failure.
    fn is_urgent(&self) -> bool {
        self.concern == Concern::AllOrFail
    }

    fn standing(&self, seq: Seq, lines: &Lines) -> Standing {
        let settled = |(id, line): (LineId, &Line)| line.acked_seq() >= seq || self.has_failed(id);
        let stored = lines.stored_seq() >= seq;
        match self.failed_at {
            _ if stored && lines.acks(seq) >= self.concern.acks_needed(lines.count()) => {
                Standing::Satisfied
            }
            _ if !stored && lines.disk_failed().is_some() => Standing::Failed,
            // Nobody will acknowledge anything to this master any more.
            _ if lines.fenced_by().is_some() => Standing::Failed,
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
    use crate::health::Thresholds;
    use crate::lines::{Call, Found, SPACING, Verdict};

    /// The thread that calls when no request does.
    const COURIER: u64 = 100;

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
            let mut lines = Lines::new(&["http://a".into()], thresholds);
            lines.begin_reign(Epoch(1), Seq::NONE, &[Found::Ours]);
            let (log, mut waiters, now) = (Log::new(9), Waiters::default(), Instant::now());
            waiters.set_couriers(vec![COURIER]);
            let mut world = World { log, lines, waiters, now };
            let number = world.lines.next_number();
            world.lines.observe(0, number, &position(0), &world.log, world.now).unwrap();
            world
        }

        fn post(&mut self) -> Place {
            self.post_with(Concern::AllOrFail)
        }

        fn post_with(&mut self, concern: Concern) -> Place {
            let seq = self.log.append(Epoch(1), &Message::new("m").into());
            self.lines.appended(seq, self.now);
            self.waiters.add(seq, concern, seq.0, &self.lines)
        }

        fn claim(&mut self, seq: u64) -> Call {
            self.lines.claim(0, Seq(seq), true, &self.log, self.now).expect("the line must be free")
        }

        fn settle(&mut self, call: &Call, verdict: Verdict) -> Vec<u64> {
            let awaited = self.waiters.count_waiting(call, &self.lines);
            let settled = self.lines.settle(call, verdict, awaited, &self.log, self.now, 0);
            if let Some(failure) = settled {
                self.waiters.note_failure(&failure, self.now);
            }
            self.waiters.choose_woken(&self.lines, self.now)
        }

        fn look(&mut self, place: Place) -> Standing {
            self.waiters.look(place, &self.lines)
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
        let (_, second) = (world.post(), world.post());
        let call = world.claim(1);
        let (_, fourth, _) = (world.post(), world.post(), world.post());
        assert_eq!(world.settle(&call, acked(2)), [3, 1, 2], "4 and 5 ride on the call of 3");
        assert_eq!(world.look(second), Standing::Satisfied);
        assert_eq!(world.look(fourth), Standing::Pending);
    }

    #[test]
    fn a_request_that_makes_a_call_itself_is_not_asked_to_make_another() {
        let mut world = World::new();
        world.post();
        let call = world.claim(1);
        let (second, _) = (world.post(), world.post());
        world.waiters.calls_itself(second);
        assert_eq!(world.settle(&call, acked(1)), [3, 1]);
    }

    #[test]
    fn a_failed_call_fails_those_it_carried_and_those_it_was_made_for() {
        let mut world = World::new();
        let (first, _) = (world.post(), world.post());
        let call = world.claim(2);
        let third = world.post();
        assert_eq!(world.settle(&call, failed()), [3, 1, 2]);
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
    fn what_was_said_to_have_failed_and_is_there_after_all_has_not_failed() {
        let mut world = World::new();
        let first = world.post();
        let call = world.claim(1);
        world.settle(&call, failed());
        let number = world.lines.next_number();
        world.lines.observe(0, number, &position(1), &world.log, world.now).unwrap();
        assert_eq!(world.look(first), Standing::Satisfied);
    }

    #[test]
    fn only_the_next_caller_sets_a_timer_and_another_one_takes_its_place() {
        let mut world = World::new();
        world.post();
        let _out = world.claim(1);
        let (second, third) = (world.post(), world.post());
        let due = Some(world.now + SPACING);
        assert_eq!(world.waiters.set_timer(second, &world.lines), due);
        assert_eq!(world.waiters.set_timer(third, &world.lines), None);
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [0; 0]);
        world.waiters.remove(second);
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [3]);
        world.look(third);
        assert_eq!(world.waiters.set_timer(third, &world.lines), due);
        let later = world.now + 2 * SPACING + Duration::from_millis(1);
        assert_eq!(world.waiters.choose_woken(&world.lines, later), [3], "it may start now");
    }

    #[test]
    fn who_asked_for_fewer_acks_is_content_with_fewer_and_never_fails_before_time() {
        let mut world = World::new();
        let alone = world.post_with(Concern::Nodes { w: 1, timeout: None });
        assert_eq!(world.look(alone), Standing::Satisfied);
        let both = world.post_with(Concern::Nodes { w: 2, timeout: None });
        let call = world.claim(2);
        world.settle(&call, failed());
        assert_eq!(world.look(both), Standing::Pending);
    }

    #[test]
    fn when_no_request_is_left_while_a_batch_gathers_the_courier_waits_for_it() {
        let mut world = World::new();
        world.lines.keep_on_disk(Seq::NONE);
        // Two batches of eight, whose clients come back in 1 ms: it pays to wait for them.
        for last in [8, 16] {
            world.now += Duration::from_millis(1);
            let places: Vec<Place> = (0..8).map(|_| world.post()).collect();
            let call = world.claim(last);
            world.now += Duration::from_millis(3);
            world.settle(&call, acked(last));
            places.into_iter().for_each(|place| _ = world.waiters.remove(place));
            world.lines.store(Seq(last));
        }
        let place = world.post_with(Concern::Nodes { w: 2, timeout: None });
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [17], "to set its timer");
        world.waiters.remove(place);
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [COURIER]);
        assert!(world.lines.next_claim_at(0, Seq(17), false).is_some_and(|at| at > world.now));
    }

    #[test]
    fn when_no_request_is_left_to_call_the_courier_does() {
        let mut world = World::new();
        let first = world.post();
        let call = world.claim(1);
        let second = world.post_with(Concern::Nodes { w: 1, timeout: None });
        world.waiters.remove(second);
        assert_eq!(world.settle(&call, acked(1)), [COURIER, 1]);
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [0; 0], "once");
        world.waiters.remove(first);
        assert!(world.waiters.courier_looks(0, &world.lines));
        world.post();
        assert!(!world.waiters.courier_looks(0, &world.lines), "a request is going to call");
    }

    #[test]
    fn in_the_pause_after_a_failure_one_who_fails_fast_calls_before_one_who_waits() {
        let mut world = World::new();
        let patient = world.post_with(Concern::Nodes { w: 2, timeout: None });
        let call = world.claim(1);
        world.settle(&call, failed());
        world.look(patient);
        assert!(world.waiters.set_timer(patient, &world.lines) > Some(world.now));
        let fast = world.post();
        assert_eq!(world.waiters.set_timer(patient, &world.lines), None, "not its turn any more");
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [2], "at once");
        world.waiters.remove(fast);
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [0; 0], "it has a timer");
    }

    #[test]
    fn a_timer_that_would_go_off_too_late_is_replaced() {
        let mut world = World::new();
        let patient = world.post_with(Concern::Nodes { w: 2, timeout: None });
        let call = world.claim(1);
        world.settle(&call, failed());
        world.look(patient);
        let late = world.waiters.set_timer(patient, &world.lines).expect("the pause ends");
        let second = world.claim(1);
        world.post();
        world.lines.beat(0, false);
        world.lines.beat(0, false);
        world.lines.beat(0, true);
        assert!(late > world.now + SPACING, "the pause is longer than the spacing");
        assert_eq!(second.last, Seq(1));
        let due = world.lines.next_claim_at(0, Seq(2), false);
        assert_eq!(due, Some(world.now + SPACING));
        assert_eq!(world.waiters.choose_woken(&world.lines, world.now), [2], "it minds the timer");
    }
}
