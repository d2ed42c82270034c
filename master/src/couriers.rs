//! The threads that work without a client.
//!
//! Two threads for each secondary. The *heartbeat* asks it how it stands, on a connection of its
//! own, so that a secondary which is silent on the others is still noticed, and tells it how far
//! the log goes. It beats out of turn for a confirmed read, and for the followers of a secondary
//! when more is committed and no call has told so. The *courier* sends the entries that no request
//! has sent, whether a client waits for them or not: retries, catch-up, entries that arrived while a
//! call was out. One courier more writes to the master's own disk.

use std::sync::{Arc, MutexGuard, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};
use std::{io, thread};

use common::client::Client;
use common::entries::{Batch, Seq};
use common::follow::GATHER;
use common::reign::MasterId;
use common::store::TRANSACTION_BYTES;
use common::vital;
use common::wire::{Heartbeat, Told};
use log::{info, warn};

use crate::ask::ask;
use crate::health::Health;
use crate::lines::{Call, Found, Line, LineId, When};
use crate::state::{Replication, State};

/// The next work of a courier.
#[derive(Debug)]
pub enum Errand {
    /// A call to make.
    Call(Call),
    /// Entries to write to the disk.
    Write(Batch),
}

/// How long a secondary may take to say how it is.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a sleeping courier looks whether its master is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the heartbeats. They end when nobody else holds the replication.
/// Fails when a thread cannot be started.
pub fn start_heartbeats(replication: &Arc<Replication>) -> io::Result<()> {
    let interval = replication.options.heartbeat;
    let start = |(line, url): (LineId, &String)| {
        let client = replication.options.client(url, HEARTBEAT_TIMEOUT);
        let theirs = Arc::downgrade(replication);
        vital::start("heartbeat", move || beat(&theirs, line, &client, interval))
    };
    let threads = replication.urls().iter().enumerate().map(start).collect::<io::Result<_>>()?;
    replication.rounds.set_threads(threads);
    Ok(())
}

fn beat(replication: &Weak<Replication>, line: LineId, client: &Client, interval: Duration) {
    let mut due = Instant::now();
    while let Some(master) = replication.upgrade() {
        if master.lock().lines.fenced_by().is_some() {
            return;
        }
        let (number, heartbeat) = master.heartbeat(line);
        let wants_count = master.lock().lines.secondaries()[line].wants_count();
        let answer = ask(client, &heartbeat, wants_count);
        let followed = matches!(&answer, Ok(Found::Ours(standing)) if standing.has_followers);
        let is_due = Instant::now() >= due;
        // One that was asked for in between and is not answered says nothing about the health,
        // which counts intervals.
        if is_due || answer.is_ok() {
            master.observe(line, number, answer);
        }
        if is_due {
            due = Instant::now() + interval;
        }
        drop(master);
        rest(replication, number, followed.then_some(heartbeat.committed_seq), due);
    }
}

/// Returns when a heartbeat is due, or a confirmed read asks for one that begins after the one of
/// this number, or more is committed than was `told` to a secondary that somebody follows.
fn rest(replication: &Weak<Replication>, number: u64, told: Option<Seq>, due: Instant) {
    let gathered = Instant::now() + GATHER;
    while let Some(master) = replication.upgrade() {
        let now = Instant::now();
        let more = told.is_some_and(|told| master.bells.of(true).has_reached(told.0 + 1));
        if now >= due || (more && now >= gathered) || master.rounds.wants_after(number) {
            return;
        }
        drop(master);
        let left = due - now;
        thread::park_timeout(if told.is_some() { left.min(GATHER) } else { left });
    }
}

/// Starts the couriers, one for each line and one for the disk if there is one. Returns their
/// threads in that order.
/// Fails when a thread cannot be started.
pub fn start(replication: &Arc<Replication>) -> io::Result<Vec<Thread>> {
    let has_disk = usize::from(replication.store.is_some());
    let start = |line| {
        let replication = Arc::downgrade(replication);
        vital::start("courier", move || carry(&replication, line))
    };
    (0..replication.urls().len() + has_disk).map(start).collect()
}

fn carry(replication: &Weak<Replication>, line: LineId) {
    while let Some(replication) = replication.upgrade() {
        match replication.next_errand(line) {
            Ok(Errand::Call(call)) => replication.make_call(&call),
            Ok(Errand::Write(batch)) => replication.write_batch(&batch),
            Err(until) => {
                drop(replication);
                let until = until.instant().map(|at| at.saturating_duration_since(Instant::now()));
                thread::park_timeout(until.unwrap_or(LOOK_INTERVAL).min(LOOK_INTERVAL));
            }
        }
    }
}

impl Replication {
    /// The next errand of the courier of this line, or the time of its next look.
    pub(crate) fn next_errand(&self, line: LineId) -> Result<Errand, When> {
        let mut state =
            self.let_others_append(self.lock(), |state, now| state.left_over_at(line).is_due(now));
        let now = Instant::now();
        let errand = state.next_errand(line, now);
        if errand.is_ok() {
            // The batch has left: it waits at no other node.
            wake_couriers(state, now);
        }
        errand
    }

    /// Writes a batch to the disk, with the epoch of this reign, and settles it.
    pub(crate) fn write_batch(&self, batch: &Batch) {
        let Some(store) = &self.store else { return };
        let facts = {
            let mut state = self.lock();
            let committed = state.lines.committed_seq().min(batch.last());
            state.facts.committed = committed.max(state.facts.committed);
            state.facts
        };
        let written = store.write(batch, &facts);
        let mut state = self.lock();
        match written {
            Ok(()) => state.lines.settle_disk(batch.last()),
            Err(error) => state.fail_disk(error),
        }
        self.ring(&state.lines);
        wake(state, self.clients.len());
    }

    /// A number for a heartbeat, and what it tells this secondary.
    pub(crate) fn heartbeat(&self, line: LineId) -> (u64, Heartbeat) {
        let mut state = self.lock();
        let State { log, lines, abdicates, disk_failure, .. } = &mut *state;
        let (committed_seq, start) = (lines.committed_seq(), lines.reign_start());
        let silent_after = self.options.heartbeat * self.options.thresholds.unhealthy_after;
        let heartbeat = Heartbeat {
            reign: lines.reign(),
            reign_start: Some(start),
            reign_start_epoch: log.epoch_of(start),
            last_seq: lines.last_seq(),
            committed_seq,
            committed_epoch: log.epoch_of(committed_seq),
            diverged: lines.secondaries()[line].diverged(),
            url: self.options.url.clone(),
            silent_after_ms: silent_after.as_millis() as u64,
            abdicates: *abdicates || disk_failure.is_some(),
            idempotency_keys: self.options.idempotency_keys,
        };
        (lines.next_number(), heartbeat)
    }

    /// Takes note of the answer of a secondary to the heartbeat of this number, or of why there is
    /// none.
    pub(crate) fn observe(&self, line: LineId, number: u64, answer: Result<Found, String>) {
        let (now, secondary) = (Instant::now(), self.clients[line].base());
        let mut state = self.lock();
        let State { log, lines, timeline, successor, told, .. } = &mut *state;
        let was_failing = lines.secondaries()[line].last_error().is_some();
        let changed = lines.beat(line, answer.is_ok());
        match changed {
            None => {}
            Some(Health::Healthy) => info!("became healthy secondary={secondary}"),
            Some(health) => warn!("became {health:?} secondary={secondary}"),
        }
        let observed = match answer {
            Ok(Found::Ours(standing)) => {
                let position = &standing.position;
                told[line] = Told::clone(&standing.told);
                // A secondary that takes the heartbeat of a master names this one in its answer.
                if ![lines.reign().master, MasterId::NONE].contains(&standing.master) {
                    lines.fence(position.epoch);
                }
                let observed = lines.observe(line, number, position, log, now);
                // Both may have ended the reign: a master may give no identity.
                if lines.fenced_by().is_some() {
                    let reigns = standing.hears.as_ref().filter(|heard| !heard.is_candidate);
                    *successor = reigns.cloned().or(successor.take());
                    self.begun.notify_all();
                }
                observed
            }
            Ok(Found::Original(Some(count))) => lines.count(line, number, count, now),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = observed {
            lines.note_error(line, error);
        }
        timeline.acked(lines, now);
        self.ring(lines);
        self.rounds.answered.ring(lines.answered_number());
        self.log_change(lines, line, was_failing);
        let is_back =
            changed == Some(Health::Healthy) && lines.secondaries()[line].recognises_repeats();
        wake(state, line);
        if is_back {
            // Calls from before may hang on connections that lead nowhere; they are made again.
            self.clients[line].reconnect();
        }
    }
}

impl State {
    /// The next errand of the courier of this line, or the time of its next look.
    pub(crate) fn next_errand(&mut self, line: LineId, now: Instant) -> Result<Errand, When> {
        let (due, urgent) = (self.left_over_at(line), self.is_urgent(line));
        let State { log, lines, couriers, .. } = self;
        let errand = if line == lines.disk_id() {
            lines.claim_disk(log, TRANSACTION_BYTES, now).map(Errand::Write)
        } else {
            lines.claim(line, log.last_seq(), urgent, log, now).map(Errand::Call)
        };
        if let Some(own) = couriers.get_mut(line) {
            own.sleeps_until = if errand.is_some() { When::Now } else { due };
            if let Some(Errand::Call(call)) = &errand {
                own.out_with = Some(call.number);
            }
        }
        errand.ok_or(due)
    }

    /// When the courier of this line has something to send.
    pub(crate) fn left_over_at(&self, line: LineId) -> When {
        self.lines.due(line, self.is_urgent(line))
    }

    fn is_urgent(&self, line: LineId) -> bool {
        let is_paused = self.lines.secondaries().get(line).is_some_and(Line::is_paused);
        is_paused && self.waiters.is_urgent(line, &self.lines)
    }

    /// The threads to wake because more can be sent. Each line with something to send has its
    /// courier woken, which counts as awake from now on; a waiting request is woken in place of a
    /// courier that is out. `changed` is the line to which something has happened.
    fn senders(&mut self, changed: Option<LineId>, now: Instant) -> Vec<Thread> {
        let mut threads = Vec::new();
        for id in 0..self.couriers.len() {
            let due = self.left_over_at(id);
            let State { lines, waiters, couriers, .. } = self;
            // A busy line is looked at again when its call ends.
            let is_idle = lines.secondaries().get(id).is_none_or(Line::is_idle);
            if due == When::Blocked || !(changed == Some(id) || is_idle || due.is_due(now)) {
                continue;
            }
            let courier = &mut couriers[id];
            if courier.out_with.is_some() {
                threads.extend(waiters.stand_in(id, lines));
            } else if due < courier.sleeps_until {
                courier.sleeps_until = When::Now;
                threads.push(courier.thread.clone());
            }
        }
        threads
    }
}

/// Lets go of the state and wakes the threads that a change of this line concerns.
pub(crate) fn wake(mut state: MutexGuard<'_, State>, line: LineId) {
    let State { lines, waiters, .. } = &mut *state;
    let decided = waiters.decided(lines);
    let senders = state.senders(Some(line), Instant::now());
    drop(state);
    senders.iter().chain(&decided).for_each(Thread::unpark);
}

/// Lets go of the state and wakes the couriers that have something to send.
pub(crate) fn wake_couriers(mut state: MutexGuard<'_, State>, now: Instant) {
    let senders = state.senders(None, now);
    drop(state);
    senders.iter().for_each(Thread::unpark);
}

#[cfg(test)]
mod tests {
    use common::entries::{Epoch, Log, Message, Seq};
    use common::reign::{Facts, Reign};
    use common::wire::Position;

    use super::*;
    use crate::concern::Concern;
    use crate::lines::{SPACING, Verdict, WINDOW};
    use crate::state::Options;
    use crate::waiters::{Standing, Ticket};

    const ANY: Concern = Concern::Nodes { w: 2, timeout: None };
    const FAST: Concern = Concern::AllOrFail;
    const MS: Duration = Duration::from_millis(1);

    fn replication(found: Found) -> Replication {
        let options = Options::of_test(vec!["http://a".into()]);
        let replication = Replication::new(Arc::new(options), Log::new(9), Facts::default(), None);
        let reign = Reign { epoch: Epoch(1), ..Reign::default() };
        replication.begin_reign(reign, vec![thread::current()], &[found]);
        replication
    }

    fn level() -> Replication {
        let replication = replication(Found::Original(None));
        replication.observe(0, 1, Ok(Found::Ours(position(0).into())));
        replication
    }

    fn position(last: u64) -> Position {
        let last_epoch = if last == 0 { Epoch(0) } else { Epoch(1) };
        let (epoch, instance) = (Epoch(1), "1".into());
        Position { last_seq: Seq(last), last_epoch, epoch, log_epoch: Some(epoch), instance }
    }

    fn failed() -> Verdict {
        Verdict::Failed("no answer".into())
    }

    impl State {
        fn post(&mut self, concern: Concern, now: Instant) -> Ticket {
            let (seq, _) = self.append(&Message::new("m").into(), now).unwrap();
            self.waiters.add(seq, concern, thread::current(), &self.lines)
        }

        fn claim(&mut self, ticket: Ticket, concern: Concern, now: Instant) -> Call {
            self.claim_free(ticket, concern, now).remove(0)
        }

        fn courier_goes_out(&mut self, now: Instant) -> Call {
            let errand = self.next_errand(0, now);
            let Ok(Errand::Call(call)) = errand else { panic!("nothing to send: {errand:?}") };
            call
        }

        /// Settles a call. Returns how many are woken to send more.
        fn end(&mut self, call: &Call, verdict: Verdict, now: Instant) -> usize {
            let State { lines, waiters, log, couriers, .. } = self;
            couriers[0].out_with.take_if(|out| *out == call.number);
            if let Some(failure) = lines.settle(call, verdict, log, now, 0) {
                waiters.note_failure(&failure, now);
            }
            waiters.decided(lines);
            self.senders(Some(0), now).len()
        }

        fn hear(&mut self, last: u64, now: Instant) -> usize {
            let number = self.lines.next_number();
            self.lines.observe(0, number, &position(last), &self.log, now).unwrap();
            self.senders(Some(0), now).len()
        }

        fn appended(&mut self, now: Instant) -> usize {
            self.senders(None, now).len()
        }
    }

    #[test]
    fn a_courier_sends_what_requests_left_over() {
        let (replication, now) = (level(), Instant::now());
        let mut state = replication.lock();
        let first = state.post(ANY, now);
        let call = state.claim(first, ANY, now);
        let second = state.post(ANY, now);
        assert!(state.claim_free(second, ANY, now).is_empty(), "the line is busy");
        assert_eq!(state.appended(now), 0, "the end of the call will wake it");
        assert_eq!(state.end(&call, Verdict::Acked(position(1)), now), 1);
        assert_eq!(state.appended(now), 0, "it is awake");
        let call = state.courier_goes_out(now);
        assert_eq!((call.first, call.last), (Seq(2), Seq(2)));
        assert_eq!(state.end(&call, Verdict::Acked(position(2)), now), 0);
        assert_eq!(state.next_errand(0, now).unwrap_err(), When::Blocked);
    }

    #[test]
    fn a_request_looks_again_at_a_busy_line() {
        let (replication, now) = (level(), Instant::now());
        let mut state = replication.lock();
        let first = state.post(ANY, now);
        state.claim(first, ANY, now);
        assert_eq!(state.room_at(first, ANY), None, "its entry is on its way");
        let second = state.post(ANY, now);
        assert_eq!(state.room_at(second, ANY), Some(now + SPACING));
        assert_eq!(state.claim_free(second, ANY, now + SPACING).len(), 1);
    }

    #[test]
    fn a_courier_pauses_unless_someone_is_urgent() {
        let (replication, now) = (replication(Found::Nothing), Instant::now());
        let mut state = replication.lock();
        let patient = state.post(ANY, now);
        let call = state.claim(patient, ANY, now);
        let fast = state.post(FAST, now);
        assert_eq!(state.end(&call, failed(), now), 1);
        assert_eq!(state.left_over_at(0), When::Now, "the second request fails fast");
        state.waiters.remove(fast);
        let due = state.next_errand(0, now).unwrap_err();
        assert!(due > When::At(now), "{due:?}");
        assert_eq!(state.appended(now), 0, "it will look by itself");
    }

    #[test]
    fn a_failure_beside_a_hanging_call_wakes_the_courier() {
        let (replication, now) = (level(), Instant::now());
        let mut state = replication.lock();
        let first = state.post(ANY, now);
        let _hanging = state.claim(first, ANY, now);
        assert_eq!(state.next_errand(0, now).unwrap_err(), When::Blocked);
        let second = state.post(ANY, now);
        let call = state.claim(second, ANY, now + SPACING);
        assert_eq!(state.end(&call, failed(), now + SPACING), 1);
        let due = state.next_errand(0, now + SPACING).unwrap_err();
        assert!(due.instant().is_some(), "it sleeps until {due:?}");
    }

    #[test]
    fn a_request_stands_in_for_a_courier_that_hangs() {
        let (replication, now) = (level(), Instant::now());
        let mut state = replication.lock();
        let first = state.post(ANY, now);
        let _hanging = state.courier_goes_out(now);
        let second = state.post(ANY, now);
        let call = state.claim(second, ANY, now + SPACING);
        assert_eq!(state.end(&call, Verdict::Gap(position(0)), now + 2 * SPACING), 1);
        assert_eq!(state.appended(now + 2 * SPACING), 0, "it has been woken");
        assert_eq!(state.claim(first, ANY, now + 2 * SPACING).last, Seq(2));
    }

    #[test]
    fn a_request_waits_out_a_hanging_couriers_pause() {
        let (replication, now) = (level(), Instant::now());
        let mut state = replication.lock();
        state.post(ANY, now);
        let _hanging = state.courier_goes_out(now);
        let second = state.post(ANY, now);
        let call = state.claim(second, ANY, now + SPACING);
        assert_eq!(state.end(&call, failed(), now + SPACING), 1);
        let due = state.left_over_at(0).instant();
        assert!(due > Some(now + SPACING));
        assert_eq!(state.room_at(second, ANY), due, "not before");
    }

    #[test]
    fn a_request_calls_a_secondary_known_at_last() {
        let (replication, now) = (replication(Found::Nothing), Instant::now());
        let mut state = replication.lock();
        let first = state.post(ANY, now);
        state.waiters.remove(first);
        let _hanging = state.courier_goes_out(now);
        let second = state.post(ANY, now);
        assert!(state.claim_free(second, ANY, now).is_empty(), "it may be an original");
        assert_eq!(state.hear(0, now + 20 * MS), 1);
        assert_eq!(state.claim_free(second, ANY, now + 20 * MS).len(), 1);
    }

    #[test]
    fn room_in_a_full_window_wakes_a_request() {
        let (replication, mut now) = (level(), Instant::now());
        let mut state = replication.lock();
        state.post(ANY, now);
        let _hanging = state.courier_goes_out(now);
        let mut calls = Vec::new();
        for _ in 1..WINDOW {
            now += 200 * MS;
            let ticket = state.post(ANY, now);
            calls.push(state.claim(ticket, ANY, now));
        }
        let more = state.post(ANY, now);
        assert_eq!(state.room_at(more, ANY), None, "the window is full");
        assert_eq!(state.end(&calls[0], Verdict::Acked(position(2)), now + 200 * MS), 1);
    }

    #[test]
    fn an_old_call_that_fails_fails_no_younger_one() {
        let (replication, now) = (level(), Instant::now());
        let mut state = replication.lock();
        let first = state.post(ANY, now);
        let old = state.claim(first, ANY, now);
        let second = state.post(ANY, now);
        let older = state.claim(second, ANY, now + SPACING);
        state.end(&old, failed(), now + SPACING);
        let third = state.post(FAST, now + 100 * MS);
        let young = state.claim(third, FAST, now + 100 * MS);
        assert_eq!((young.first, young.last), (Seq(1), Seq(3)), "it carries everything");
        assert_eq!(state.end(&older, failed(), now + 101 * MS), 0, "nothing is to be sent");
        let State { lines, waiters, .. } = &mut *state;
        assert_eq!(waiters.look(third, lines), Standing::Pending);
    }

    #[test]
    fn a_level_secondary_is_not_called_at_the_start() {
        let replication = level();
        let mut state = replication.lock();
        assert_eq!(state.next_errand(0, Instant::now()).unwrap_err(), When::Blocked);
    }
}
