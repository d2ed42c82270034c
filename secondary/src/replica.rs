//! The copy of the log, shared by all threads and kept on the disk, and what a master's call does to
//! it. The rules are those of [`Copy`](struct@Copy).
//!
//! A call that comes before its predecessor waits for it, so several calls in flight are stored in
//! the order of `seq`. A call is acknowledged when its entries are on the disk, and only if nothing
//! was promised to another master meanwhile.
//!
//! # What is on the disk when
//!
//! An entry goes through three states, in this order:
//!
//! | state | until where | on the disk | acknowledged and shown |
//! |---|---|---|---|
//! | accepted | `log.last_seq()` | perhaps | no |
//! | stored | `stored` | yes: its transaction is synced | yes |
//! | committed | `facts.committed`, at most `stored` | yes | yes: a quorum holds the entry |
//!
//! The [`Facts`] are stored in the same way: a promise, a reign that is followed and the reach of
//! the log are on the disk before a call is acknowledged or a promise or heartbeat answered. A
//! secondary that was restarted still refuses a former master.
//!
//! One thread writes at a time, without the lock. Its transaction has the entries after `stored`,
//! [`TRANSACTION_BYTES`] at most; calls that arrive meanwhile share the next one (group commit).
//! The thread that writes waits as long as the disk takes. Every other call waits [`DISK_TIMEOUT`]
//! at most and then answers with an error, because a disk that hangs must not hold every thread. A
//! failed write makes the copy read-only until the process is started again: entries after `stored`
//! are never acknowledged and never shown.
//!
//! Entries that are dropped are set aside in a file first. Without a disk an entry is stored as soon
//! as it is in memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::entries::{Log, Message, NotAccepted, Seq};
use common::follow::{Bells, Source};
use common::locked::locked;
use common::logging::excerpt;
use common::random::random;
use common::reign::Facts;
use common::store::{Opened, Store, StoreError, TRANSACTION_BYTES};
use common::wire::{Ack, Conflict, Numbered, Refusal, Replicate};
use log::{debug, error, info, warn};

use crate::copy::{Contradiction, Copy};

/// How long a call waits for its predecessor.
pub const PREDECESSOR_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a call waits for another thread that writes.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to a call.
#[derive(Debug)]
pub enum Outcome {
    /// Every entry up to the last one of the call is held. Answers 200.
    Acknowledged(Ack),
    /// An entry without a place was appended. Answers 200 in the original's form.
    AppendedUnnumbered {
        /// The 0-based place of the entry.
        idx: u64,
    },
    /// Nothing was stored. Answers 409.
    Refused(Refusal),
    /// There is no room for the entries. Answers 507.
    Full,
    /// The disk has failed: nothing is acknowledged any more. Answers 507 or 500.
    DiskFailed(StoreError),
    /// No master makes such a call. Answers 400.
    Malformed,
}

/// A secondary's copy of the log. Shared by all handler threads.
#[derive(Debug)]
pub struct Replica {
    state: Mutex<State>,
    /// Notified when entries were accepted.
    grown: Condvar,
    /// Notified when a transaction is over.
    written: Condvar,
    store: Option<Store>,
    /// Rung when there is more to be read.
    bells: Bells,
    /// The most bytes that the messages may take.
    max_log_bytes: u64,
}

/// What the lock protects: the copy, and how much of it is stored.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) copy: Copy,
    /// The last entry that is on the disk.
    pub(crate) stored: Seq,
    /// The facts that are on the disk.
    pub(crate) noted: Facts,
    /// A thread is writing to the disk.
    writing: bool,
    /// The last entry that was left by a drop since the last write began.
    cut: Option<Seq>,
    /// Why nothing can be written any more.
    disk_failed: Option<StoreError>,
    /// The last call with new entries found no room.
    full: bool,
    /// The name of this run of the process.
    pub(crate) instance: String,
    /// Entries accepted since the start.
    accepted: u64,
}

pub(crate) type Guard<'a> = MutexGuard<'a, State>;

/// Why a call was not obeyed.
pub(crate) enum Failed {
    Refused(Refusal),
    Disk(StoreError),
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Failed {
        Failed::Disk(error)
    }
}

impl Replica {
    /// A copy that begins with the log on a disk and is kept there, or else an empty one in memory
    /// that keeps `most_keys` idempotency keys. The messages may take `max_log_bytes`.
    pub fn new(disk: Option<Opened>, most_keys: usize, max_log_bytes: u64) -> Replica {
        let (store, log, facts) = match disk {
            Some(Opened { store, log, facts }) => (Some(store), log, facts),
            None => (None, Log::new(most_keys), Facts::default()),
        };
        let (stored, instance) = (log.last_seq(), format!("{:016x}", random()));
        let copy = Copy::new(log, facts, Instant::now());
        let state = State { copy, stored, noted: facts, instance, ..State::default() };
        let bells = Bells::default();
        bells.ring(stored, facts.committed);
        let (state, grown, written) = (Mutex::new(state), Condvar::new(), Condvar::new());
        Replica { state, grown, written, store, bells, max_log_bytes }
    }

    /// The most bytes that the messages may take.
    pub fn max_log_bytes(&self) -> u64 {
        self.max_log_bytes
    }

    /// The bytes that the messages take, and the numbers of entries accepted and dropped since the
    /// start.
    pub fn figures(&self) -> (u64, u64, u64) {
        let state = self.lock();
        (state.copy.log.bytes(), state.accepted, state.copy.dropped)
    }

    /// Why nothing can be stored any more, in words.
    pub fn read_only(&self) -> Option<String> {
        self.lock().read_only()
    }

    /// The number of entries.
    pub fn count(&self) -> u64 {
        self.lock().stored.0
    }

    /// Does what a master's call asks for.
    pub fn receive(&self, call: Replicate) -> Outcome {
        let outcome = match call {
            Replicate::Original(message) => self.append_unnumbered(message).map_err(Failed::Disk),
            // No master holds an entry of a reign after its own.
            Replicate::Numbered(call) if call.epoch > call.reign.epoch => Ok(Outcome::Malformed),
            Replicate::Numbered(call) => self.accept(&call),
        };
        outcome.unwrap_or_else(|failed| match failed {
            Failed::Refused(refusal) => Outcome::Refused(refusal),
            Failed::Disk(error) => Outcome::DiskFailed(error),
        })
    }

    fn append_unnumbered(&self, message: Message) -> Result<Outcome, StoreError> {
        let mut state = self.lock();
        state.check_disk()?;
        if state.copy.log.bytes() + message.bytes_in_log() > self.max_log_bytes {
            return Ok(Outcome::Full);
        }
        let text = excerpt(&message);
        let seq = state.copy.append(message);
        state.accepted += 1;
        self.grown.notify_all();
        drop(self.persist(state, seq)?);
        info!("accepted seq={seq} numbered=false msg={text}");
        Ok(Outcome::AppendedUnnumbered { idx: seq.previous().0 })
    }

    fn accept(&self, call: &Numbered) -> Result<Outcome, Failed> {
        let early = |state: &mut State| state.copy.is_early(call);
        let waited = self.grown.wait_timeout_while(self.lock(), PREDECESSOR_TIMEOUT, early);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.check_disk()?;
        state.check_reign(call.reign)?;
        state.copy.follow(call.reign);
        if let Some(found) = state.copy.contradiction(call) {
            self.resolve(&mut state, found)?;
        }
        state.full = !state.copy.has_room(call, self.max_log_bytes);
        if state.full {
            return Ok(Outcome::Full);
        }
        let new = state.accept(call)?;
        match call.reign_start {
            Some(start) => self.reach(&mut state, start)?,
            None => state.copy.follow_unnamed(),
        }
        state.accepted += new;
        self.grown.notify_all();
        let seq = call.last();
        let state = self.persist(state, seq)?;
        self.ring(&state);
        // Another master may have been promised something while this call waited for the disk.
        state.check_reign(call.reign)?;
        let duplicate = new == 0 && !call.drafts.is_empty();
        debug!("acknowledged seq={seq} duplicate={duplicate}");
        let (status, idx, position) = ("ok".into(), seq.previous().0, state.position());
        Ok(Outcome::Acknowledged(Ack { status, idx, seq, duplicate, position }))
    }

    /// Drops what contradicts the master's log. Fails when it must be kept.
    pub(crate) fn resolve(&self, state: &mut State, found: Contradiction) -> Result<(), Failed> {
        let first = match found {
            Contradiction::Droppable(first) => first,
            Contradiction::Final(seq) => return Err(Failed::Refused(state.refuse_diverged(seq))),
        };
        let (last, reign) = (state.copy.log.last_seq(), state.copy.facts.promised);
        if let Some(store) = &self.store {
            let dropped = state.copy.log.batch(first, usize::MAX);
            store.set_aside(&dropped, reign.epoch).inspect_err(|error| state.fail_disk(error))?;
        }
        warn!("dropped entries that epoch {reign} does not have first_seq={first} last_seq={last}");
        state.copy.drop_from(first);
        let left = first.previous();
        state.stored = state.stored.min(left);
        state.cut = Some(state.cut.map_or(left, |cut| cut.min(left)));
        self.ring(state);
        Ok(())
    }

    /// The copy may have reached the beginning of the reign: then nothing older remains beyond it.
    pub(crate) fn reach(&self, state: &mut State, start: Seq) -> Result<(), Failed> {
        if let Some(found) = state.copy.remains(start) {
            self.resolve(state, found)?;
        }
        state.copy.reach(start);
        Ok(())
    }

    /// Returns when every entry up to this one, as far as it is still in the log, and the facts are
    /// on the disk.
    pub(crate) fn persist<'a>(
        &'a self,
        mut state: Guard<'a>,
        until: Seq,
    ) -> Result<Guard<'a>, StoreError> {
        let deadline = Instant::now() + DISK_TIMEOUT;
        while !state.is_stored(until) {
            state.check_disk()?;
            if !state.writing {
                state = self.write(state);
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let waited = self.written.wait_timeout_while(state, left, |state| state.writing);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.writing {
                return Err(StoreError::silent_for(DISK_TIMEOUT));
            }
        }
        Ok(state)
    }

    /// Writes one transaction: the facts, and the entries that are not on the disk yet, those of
    /// other calls included.
    fn write<'a>(&'a self, mut state: Guard<'a>) -> Guard<'a> {
        let (mut last, mut facts) = (state.copy.log.last_seq(), state.copy.facts);
        state.cut = None;
        if let Some(store) = &self.store {
            let batch = state.copy.log.batch(state.stored.next(), TRANSACTION_BYTES);
            if batch.last() < last {
                // The log has reached nothing before it is there.
                facts.log_epoch = state.noted.log_epoch;
            }
            state.writing = true;
            drop(state);
            let written = store.write(&batch, &facts);
            state = self.lock();
            state.writing = false;
            self.written.notify_all();
            if let Err(error) = written {
                state.fail_disk(&error);
                return state;
            }
            last = batch.last();
        }
        state.stored = state.cut.map_or(last, |cut| cut.min(last));
        state.noted = facts;
        self.ring(&state);
        state
    }

    pub(crate) fn ring(&self, state: &State) {
        self.bells.ring(state.stored, state.committed_seq());
    }

    pub(crate) fn lock(&self) -> Guard<'_> {
        locked(&self.state)
    }
}

impl Source for Replica {
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T {
        let state = self.lock();
        read(&state.copy.log, state.stored, state.committed_seq())
    }

    fn bells(&self) -> &Bells {
        &self.bells
    }
}

impl State {
    /// The last entry that can be shown as committed.
    pub(crate) fn committed_seq(&self) -> Seq {
        self.copy.facts.committed.min(self.stored)
    }

    /// Whether the entries up to this one and the facts are on the disk. The committed place is
    /// written when something else is.
    fn is_stored(&self, until: Seq) -> bool {
        let Facts { committed, .. } = self.copy.facts;
        let are_facts = Facts { committed, ..self.noted } == self.copy.facts;
        self.stored >= until.min(self.copy.log.last_seq()) && are_facts
    }

    pub(crate) fn check_disk(&self) -> Result<(), StoreError> {
        self.disk_failed.clone().map_or(Ok(()), Err)
    }

    fn fail_disk(&mut self, error: &StoreError) {
        error!("became read-only, the disk has failed error={:?}", error.problem);
        self.disk_failed = Some(error.clone());
    }

    pub(crate) fn read_only(&self) -> Option<String> {
        let full = "the log is full: MAX_LOG_BYTES is less than the master's";
        let failed = self.disk_failed.as_ref().map(|error| format!("the disk has failed: {error}"));
        failed.or(self.full.then(|| full.into()))
    }

    /// Takes the call's entries into the log and returns how many are new.
    fn accept(&mut self, call: &Numbered) -> Result<u64, Failed> {
        let (previous, last) = (call.first.previous(), self.copy.log.last_seq());
        let refusal = match self.copy.log.accept(call.epoch, call.first, &call.drafts) {
            Ok(new) => {
                log_accepted(call, new);
                self.copy.verify(call.last(), call.committed);
                return Ok(new);
            }
            Err(NotAccepted::Diverged(seq)) => self.refuse_diverged(seq),
            Err(NotAccepted::Gap) => {
                debug!("refused a gap first_seq={} last_seq={last}", call.first);
                let error = format!("Entries {} to {previous} are missing", last.next());
                self.refuse(Conflict::Gap, error)
            }
        };
        Err(Failed::Refused(refusal))
    }

    fn refuse_diverged(&self, seq: Seq) -> Refusal {
        warn!("refused diverged entries seq={seq}");
        self.refuse(Conflict::Diverged, format!("Another entry is held at {seq}"))
    }

    pub(crate) fn refuse(&self, code: Conflict, error: String) -> Refusal {
        Refusal { error, code, position: self.position() }
    }
}

fn log_accepted(call: &Numbered, new: u64) {
    let (last, Some(draft)) = (call.last(), call.drafts.last()) else { return };
    let msg = excerpt(&draft.message);
    match new {
        0 => {}
        1 => info!("accepted seq={last} msg={msg}"),
        _ => info!("accepted first_seq={} last_seq={last} last_msg={msg}", last.0 + 1 - new),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use common::entries::Epoch;
    use common::reign::{MasterId, Reign};
    use common::wire::{Heartbeat, Promise, Standing};

    use super::*;

    fn reign(epoch: u64, master: u128) -> Reign {
        Reign { epoch: Epoch(epoch), master: MasterId(master) }
    }

    /// The answer to a promise in one line.
    fn promise(replica: &Replica, epoch: u64, master: u128, takeover: bool) -> String {
        let (reign, url) = (reign(epoch, master), "http://m".into());
        match replica.promise(Promise { reign, url, takeover }).unwrap() {
            Ok(Standing { follows, position, .. }) => {
                let follows = follows.map_or(0, |id| id.0);
                format!("holds {} follows {follows}", position.last_seq)
            }
            Err(refusal) => format!("{:?}", refusal.code),
        }
    }

    /// A heartbeat of a reign that began with `start` entries, the last one of epoch `of`.
    fn beat(replica: &Replica, of_reign: Reign, start: u64, of: u64) -> Standing {
        let heartbeat = Heartbeat {
            reign: of_reign,
            reign_start: Some(Seq(start)),
            reign_start_epoch: Epoch(of),
            silent_after_ms: 60_000,
            ..Heartbeat::default()
        };
        replica.heartbeat(heartbeat).unwrap()
    }

    /// Epoch, first place, epoch before that, and the texts of a call of a reign of master 1.
    fn call(
        replica: &Replica,
        epoch: u64,
        start: u64,
        first: u64,
        prev: u64,
        texts: &str,
    ) -> String {
        let master = MasterId(1);
        let texts: Vec<String> = texts.chars().map(|text| format!("\"{text}\"")).collect();
        let texts = texts.join(",");
        let json = format!(
            r#"{{"epoch":{epoch},"master":"{master}","reign_start":{start},"seq":{first},
            "prev_epoch":{prev},"entries":[{texts}]}}"#
        );
        line(replica, &json)
    }

    #[test]
    fn a_promise_ends_the_reigns_before_it() {
        let replica = Replica::new(None, 9, u64::MAX);
        assert_eq!(call(&replica, 5, 0, 1, 0, "ab"), "ok 2 of 2");
        assert_eq!(promise(&replica, 6, 2, false), "LivingMaster", "it has just started");
        replica.lock().copy.has_listened();
        assert_eq!(promise(&replica, 6, 2, false), "holds 2 follows 1");
        assert_eq!(promise(&replica, 6, 2, false), "holds 2 follows 0");
        assert_eq!(promise(&replica, 6, 3, false), "StaleEpoch");
        assert_eq!(promise(&replica, 5, 2, false), "StaleEpoch");
        assert_eq!(call(&replica, 5, 0, 3, 5, "c"), "StaleEpoch 2");
        assert_eq!(call(&replica, 6, 0, 3, 5, "c"), "StaleEpoch 2", "it is another master's");
        assert_eq!(call(&replica, 7, 2, 3, 5, ""), "ok 2 of 2");
        assert_eq!(promise(&replica, 8, 1, false), "holds 2 follows 1");
    }

    #[test]
    fn who_hears_a_master_promises_nothing() {
        let replica = Replica::new(None, 9, u64::MAX);
        let hears = beat(&replica, reign(5, 1), 0, 0).hears.expect("the heartbeat is heard");
        assert_eq!(hears.master, MasterId(1));
        assert!(!hears.is_other(MasterId(1), "http://n") && hears.is_other(MasterId(2), ""));
        assert_eq!(promise(&replica, 6, 2, false), "LivingMaster");
        assert_eq!(promise(&replica, 6, 1, false), "holds 0 follows 1", "it is the same master");
        beat(&replica, reign(6, 1), 0, 0);
        assert_eq!(promise(&replica, 7, 2, true), "holds 0 follows 1", "an operator's word");
        beat(&replica, reign(8, 1), 0, 0);
        let last = Heartbeat { reign: reign(8, 1), abdicates: true, ..Heartbeat::default() };
        replica.heartbeat(last).unwrap();
        assert_eq!(promise(&replica, 9, 2, false), "holds 0 follows 1");
    }

    #[test]
    fn a_question_changes_nothing() {
        let replica = Replica::new(None, 9, u64::MAX);
        let before = beat(&replica, reign(5, 1), 0, 0);
        assert_eq!(replica.heartbeat(Heartbeat::default()).unwrap(), before);
        assert_eq!(beat(&replica, reign(4, 2), 0, 0), before, "nor does a reign that is over");
    }

    #[test]
    fn entries_of_a_former_reign_are_dropped() {
        let replica = Replica::new(None, 9, u64::MAX);
        assert_eq!(call(&replica, 5, 0, 1, 0, "abcd"), "ok 4 of 4");
        assert_eq!(replica.standing().position.log_epoch, Some(Epoch(5)));
        // The next reign began with two of them, and its third is another one.
        assert_eq!(call(&replica, 6, 2, 3, 5, "x"), "ok 3 of 3");
        assert_eq!(log_of(&replica), r#"{"messages":["a","b","x"]}"#);
        assert_eq!(replica.figures().2, 2);
        assert_eq!(replica.standing().position.log_epoch, Some(Epoch(6)));
        // This one began with one, and has appended nothing yet.
        assert_eq!(beat(&replica, reign(7, 1), 1, 5).position.last_seq, Seq(1));
        assert_eq!(replica.standing().position.log_epoch, Some(Epoch(7)));
        // And this one with another first entry.
        assert_eq!(beat(&replica, reign(9, 1), 1, 8).position.last_seq, Seq(0));
        assert_eq!(replica.standing().position.log_epoch, Some(Epoch(7)), "not reached");
        assert_eq!(call(&replica, 9, 1, 1, 0, "y"), "ok 1 of 1");
        assert_eq!(replica.standing().position.log_epoch, Some(Epoch(9)));
    }

    #[test]
    fn catching_up_reaches_a_reign_at_its_beginning() {
        let replica = Replica::new(None, 9, u64::MAX);
        assert_eq!(call(&replica, 5, 0, 1, 0, "abcd"), "ok 4 of 4");
        let piece = r#"{"epoch":6,"reign_start":3,"entry_epoch":5,"seq":1,"entries":["a","b"]}"#;
        assert_eq!(line(&replica, piece), "duplicate 4");
        assert_eq!(replica.standing().position.log_epoch, Some(Epoch(5)), "not reached");
        let rest =
            r#"{"epoch":6,"reign_start":3,"entry_epoch":5,"seq":3,"prev_epoch":5,"msg":"c"}"#;
        assert_eq!(line(&replica, rest), "duplicate 3", "the fourth is gone");
        assert_eq!(replica.standing().position.log_epoch, Some(Epoch(6)));
    }

    #[test]
    fn a_stray_entry_does_not_count() {
        let replica = Replica::new(None, 9, u64::MAX);
        assert_eq!(line(&replica, r#"{"msg":"seed"}"#), "unnumbered idx 0");
        let original = r#"{"epoch":4,"reign_start":1,"entry_epoch":0,"seq":1,"msg":"seed"}"#;
        assert_eq!(line(&replica, original), "duplicate 1", "an original's log is taken over");
        assert_eq!(call(&replica, 5, 0, 1, 0, "ab"), "ok 2 of 2");
        assert_eq!(line(&replica, r#"{"msg":"stray"}"#), "unnumbered idx 2");
        assert_eq!((replica.standing().position.last_seq, replica.count()), (Seq(2), 3));
        assert_eq!(promise(&replica, 6, 1, false), "holds 2 follows 1");
        assert_eq!(call(&replica, 6, 2, 3, 5, "c"), "ok 3 of 3");
        assert_eq!(log_of(&replica), r#"{"messages":["a","b","c"]}"#);
    }

    #[test]
    fn committed_entries_are_never_dropped() {
        let replica = Replica::new(None, 9, u64::MAX);
        assert_eq!(call(&replica, 5, 0, 1, 0, "abc"), "ok 3 of 3");
        assert_eq!(committed_after(&replica, 6, 2, 5), 2);
        assert_eq!(call(&replica, 7, 0, 2, 5, "x"), "Diverged 3");
        assert_eq!(call(&replica, 7, 1, 3, 6, "x"), "Diverged 3");
        assert_eq!(beat(&replica, reign(7, 1), 1, 5).position.log_epoch, Some(Epoch(5)));
        assert_eq!(log_of(&replica), r#"{"messages":["a","b","c"]}"#);
        assert_eq!(call(&replica, 7, 2, 3, 5, "x"), "ok 3 of 3");
    }

    /// The outcome in one line: the golden form that the tests below compare.
    fn line(replica: &Replica, json: &str) -> String {
        let Ok(call) = serde_json::from_str(json) else { return "not a call".into() };
        match replica.receive(call) {
            Outcome::Acknowledged(a) if a.duplicate => format!("duplicate {}", a.position.last_seq),
            Outcome::Acknowledged(a) => format!("ok {} of {}", a.seq, a.position.last_seq),
            Outcome::AppendedUnnumbered { idx } => format!("unnumbered idx {idx}"),
            Outcome::Refused(r) => format!("{:?} {}", r.code, r.position.last_seq),
            Outcome::Malformed => "malformed".into(),
            Outcome::Full => "full".into(),
            Outcome::DiskFailed(error) => format!("disk failed: {error}"),
        }
    }

    fn log_of(replica: &Replica) -> String {
        let all = common::http::Request { path: "/messages".into(), ..Default::default() };
        let read = replica
            .read(|log, last, committed| common::reading::answer(&all, log, last, committed));
        String::from_utf8(read.into_body()).unwrap()
    }

    #[test]
    fn calls_and_their_answers() {
        let replica = Replica::new(None, 9, u64::MAX);
        let script = [
            (r#"{"epoch":5,"seq":1,"msg":"a"}"#, "ok 1 of 1"),
            (r#"{"epoch":5,"seq":1,"msg":"a"}"#, "duplicate 1"),
            (r#"{"epoch":5,"seq":1,"msg":"x"}"#, "Diverged 1"),
            (r#"{"epoch":5,"seq":2,"prev_epoch":5,"entries":["b","c"]}"#, "ok 3 of 3"),
            (r#"{"epoch":5,"seq":3,"prev_epoch":5,"entries":["c","d"]}"#, "ok 4 of 4"),
            (r#"{"epoch":5,"seq":7,"prev_epoch":5,"acked_seq":6,"msg":"g"}"#, "Gap 4"),
            (r#"{"epoch":4,"seq":5,"prev_epoch":5,"msg":"e"}"#, "StaleEpoch 4"),
            (r#"{"epoch":6,"seq":5,"prev_epoch":6,"msg":"e"}"#, "Diverged 4"),
            (r#"{"epoch":6,"seq":5,"prev_epoch":5,"entry_epoch":5,"msg":"e"}"#, "ok 5 of 5"),
            (r#"{"epoch":6,"seq":6,"prev_epoch":5,"msg":"f"}"#, "ok 6 of 6"),
            (r#"{"epoch":6,"seq":7,"prev_epoch":6,"entries":[]}"#, "ok 6 of 6"),
            (r#"{"epoch":6,"seq":0,"msg":"z"}"#, "not a call"),
            (r#"{"epoch":6,"seq":7,"prev_epoch":6,"entry_epoch":7,"msg":"z"}"#, "malformed"),
            (r#"{"epoch":6,"seq":7}"#, "not a call"),
            (r#"{"epoch":6,"seq":7,"msg":"z","entries":[]}"#, "not a call"),
            (r#"{"entries":["z"]}"#, "not a call"),
            (r#"{"msg":"seed"}"#, "unnumbered idx 6"),
            (r#"{"msg":"seed"}"#, "unnumbered idx 7"),
            (r#"{"epoch":6,"seq":7,"prev_epoch":6,"msg":"seed"}"#, "Diverged 6"),
        ];
        for (json, expected) in script {
            assert_eq!(line(&replica, json), expected, "{json}");
        }
        assert_eq!(log_of(&replica), r#"{"messages":["a","b","c","d","e","f","seed","seed"]}"#);
        assert_eq!(replica.standing().position.epoch, Epoch(6));
    }

    #[test]
    fn an_early_call_waits_for_its_predecessor() {
        let replica = Replica::new(None, 9, u64::MAX);
        thread::scope(|scope| {
            let early = r#"{"epoch":5,"seq":2,"prev_epoch":5,"msg":"b"}"#;
            let early = scope.spawn(|| line(&replica, early));
            assert_eq!(line(&replica, r#"{"epoch":5,"seq":1,"msg":"a"}"#), "ok 1 of 1");
            assert_eq!(early.join().unwrap(), "ok 2 of 2");
        });
        assert_eq!(log_of(&replica), r#"{"messages":["a","b"]}"#);
    }

    #[test]
    fn what_is_there_already_needs_no_room() {
        let room = 3 * Message::new("a").bytes_in_log();
        let replica = Replica::new(None, 9, room);
        let send = |json: &str| line(&replica, json);
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b"]}"#), "ok 2 of 2");
        assert_eq!(send(r#"{"epoch":5,"seq":3,"prev_epoch":5,"msg":"cc"}"#), "full");
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "ok 3 of 3");
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "duplicate 3");
        assert_eq!(replica.read_only(), None);
        assert_eq!(send(r#"{"epoch":5,"seq":3,"prev_epoch":5,"entries":["c","d"]}"#), "full");
        let told = replica.read_only().expect("it is told that it is full");
        assert!(told.contains("MAX_LOG_BYTES"), "{told}");
    }

    #[test]
    fn an_early_call_without_a_predecessor_meets_a_gap() {
        let replica = Replica::new(None, 9, u64::MAX);
        let start = Instant::now();
        assert_eq!(line(&replica, r#"{"epoch":5,"seq":2,"prev_epoch":5,"msg":"b"}"#), "Gap 0");
        assert!(start.elapsed() >= PREDECESSOR_TIMEOUT);
        let start = Instant::now();
        let missed = r#"{"epoch":5,"seq":2,"prev_epoch":5,"acked_seq":1,"msg":"b"}"#;
        assert_eq!(line(&replica, missed), "Gap 0");
        assert!(start.elapsed() < PREDECESSOR_TIMEOUT, "nothing was on its way");
    }

    /// What a read of committed entries shows after a master has said this.
    fn committed_after(replica: &Replica, epoch: u64, committed: u64, of: u64) -> u64 {
        let heartbeat = Heartbeat {
            reign: reign(epoch, 0),
            last_seq: Seq(9),
            committed_seq: Seq(committed),
            committed_epoch: Epoch(of),
            ..Heartbeat::default()
        };
        replica.heartbeat(heartbeat).unwrap();
        replica.read(|_, _, committed| committed.0)
    }

    #[test]
    fn committed_counts_entries_known_to_be_the_masters() {
        // Goal: a heartbeat's commit counts up to where the copy is verified, in each reign anew.
        let replica = Replica::new(None, 9, u64::MAX);
        let send = |json: &str| line(&replica, json);
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "ok 3 of 3");
        assert_eq!(committed_after(&replica, 5, 2, 5), 2);
        assert_eq!(committed_after(&replica, 5, 4, 5), 3, "no more than it holds");
        assert_eq!(send(r#"{"epoch":5,"seq":4,"prev_epoch":5,"msg":"d"}"#), "ok 4 of 4");
        assert_eq!(replica.read(|_, _, committed| committed.0), 4, "told before it arrived");
        assert_eq!(send(r#"{"epoch":5,"seq":5,"prev_epoch":5,"msg":"e"}"#), "ok 5 of 5");
        assert_eq!(committed_after(&replica, 4, 5, 5), 4, "the word of a former master");
        // Another reign, in which another fifth entry was committed.
        assert_eq!(committed_after(&replica, 6, 5, 6), 4);
        assert_eq!(committed_after(&replica, 6, 7, 6), 4);
        assert_eq!(send(r#"{"epoch":6,"seq":5,"prev_epoch":5,"msg":"x"}"#), "Diverged 5");
        assert_eq!(replica.read(|_, _, committed| committed.0), 4);
    }

    #[test]
    fn a_call_tells_what_is_committed() {
        // Goal: the bell rings at once for those who wait for it, whatever the call carries.
        let replica = Replica::new(None, 9, u64::MAX);
        let is_committed = |seq| replica.bells().of(true).has_reached(seq);
        let send = |json: &str| line(&replica, json);
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "ok 3 of 3");
        assert!(replica.bells().of(false).has_reached(3) && !is_committed(1));
        let told = r#"{"epoch":5,"seq":3,"prev_epoch":5,"committed_seq":2,"msg":"c"}"#;
        assert_eq!(send(told), "duplicate 3");
        assert!(is_committed(2) && !is_committed(3));
        let told = r#"{"epoch":5,"seq":4,"prev_epoch":5,"committed_seq":9,"msg":"d"}"#;
        assert_eq!(send(told), "ok 4 of 4");
        assert!(is_committed(4) && !is_committed(5), "no more than it holds");
        let stale = r#"{"epoch":4,"seq":5,"prev_epoch":5,"committed_seq":9,"msg":"e"}"#;
        assert_eq!(send(stale), "StaleEpoch 4");
        assert_eq!(committed_after(&replica, 6, 4, 5), 4, "what is committed stays so");
    }

    #[test]
    fn a_heartbeat_rings_for_what_is_committed() {
        let replica = Replica::new(None, 9, u64::MAX);
        assert_eq!(line(&replica, r#"{"epoch":5,"seq":1,"entries":["a","b"]}"#), "ok 2 of 2");
        committed_after(&replica, 5, 1, 5);
        let bell = replica.bells().of(true);
        assert!(bell.has_reached(1) && !bell.has_reached(2));
    }

    #[test]
    fn a_copy_is_ready_when_level_with_its_master() {
        let replica = Replica::new(None, 9, u64::MAX);
        let told = |last, diverged| {
            let (reign, last_seq) = (reign(5, 1), Seq(last));
            let heartbeat = Heartbeat { reign, last_seq, diverged, ..Heartbeat::default() };
            replica.heartbeat(heartbeat).unwrap();
            replica.not_ready_reason().unwrap_or_default()
        };
        assert_eq!(replica.not_ready_reason().as_deref(), Some("no master has been heard"));
        assert_eq!(told(0, false), "");
        assert_eq!(told(2, false), "catching up: holds 0 of 2 entries");
        assert_eq!(told(0, true), "diverged: its log is not a prefix of the master's");
    }
}
