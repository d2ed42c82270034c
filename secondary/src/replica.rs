//! The copy of the log, and what a master's call does to it.
//!
//! A call that continues the copy is accepted. A call that comes before its predecessor waits for
//! it, so several calls in flight are stored in the order of `seq`. Entries that the copy holds
//! already are acknowledged again. A call that contradicts the copy is refused, and nothing is
//! overwritten.
//!
//! # What is on the disk when
//!
//! An entry goes through three states, in this order:
//!
//! | state | until where | on the disk | acknowledged and shown |
//! |---|---|---|---|
//! | accepted | `log.last_seq()` | perhaps | no |
//! | stored | `stored` | yes: its transaction is synced | yes |
//! | committed | `committed`, at most `stored` | yes | yes: a quorum holds the entry |
//!
//! The greatest epoch heard of is stored in the same way, up to `stored_epoch`, before a call of
//! that epoch is acknowledged or its heartbeat answered: a secondary that was restarted still
//! refuses a former master.
//!
//! One thread writes at a time, without the lock. Its transaction has the entries after `stored`,
//! [`TRANSACTION_BYTES`] at most; calls that arrive meanwhile share the next one (group commit).
//! The thread that writes waits as long as the disk takes. Every other call waits [`DISK_TIMEOUT`]
//! at most and then answers with an error, because a disk that hangs must not hold every thread. A
//! failed write makes the copy read-only until the process is started again: entries after `stored`
//! are never acknowledged and never shown.
//!
//! Without a disk an entry is stored as soon as it is in memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::entries::{Epoch, Log, Message, NotAccepted, Seq};
use common::follow::{Bells, Source};
use common::locked::locked;
use common::logging::excerpt;
use common::random::random;
use common::store::{Opened, Store, StoreError, TRANSACTION_BYTES};
use common::wire::{Ack, Conflict, Heartbeat, Numbered, Position, Refusal, Replicate};
use log::{debug, error, info, warn};

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

/// What the lock protects: the copy, and what is known of the master.
#[derive(Debug, Default)]
struct State {
    log: Log,
    /// The last entry that is on the disk.
    stored: Seq,
    /// A thread is writing to the disk.
    writing: bool,
    /// Why nothing can be written any more.
    disk_failed: Option<StoreError>,
    /// The last call with new entries found no room.
    full: bool,
    /// The greatest epoch heard of.
    epoch: Epoch,
    /// The greatest epoch that is on the disk.
    stored_epoch: Epoch,
    /// The name of this run of the process.
    instance: String,
    /// The last heartbeat of `epoch`.
    heartbeat: Option<Heartbeat>,
    /// Up to this entry the copy is known to be a prefix of the log of the master of `epoch`.
    verified: Seq,
    /// The last entry that a quorum has held, as the master of `epoch` told.
    told: Seq,
    /// The last entry known to be held by a quorum, whoever reigns.
    committed: Seq,
    /// Entries accepted since the start.
    accepted: u64,
}

type Guard<'a> = MutexGuard<'a, State>;

impl Replica {
    /// A copy that begins with the log on a disk and is kept there, or else an empty one in memory
    /// that keeps `most_keys` idempotency keys. The messages may take `max_log_bytes`.
    pub fn new(disk: Option<Opened>, most_keys: usize, max_log_bytes: u64) -> Replica {
        let (store, log, epoch) = match disk {
            Some(Opened { store, log, epoch }) => (Some(store), log, epoch),
            None => (None, Log::new(most_keys), Epoch::default()),
        };
        let (stored, instance) = (log.last_seq(), format!("{:016x}", random()));
        let state = State { log, stored, epoch, stored_epoch: epoch, instance, ..State::default() };
        let bells = Bells::default();
        bells.ring(stored, Seq::NONE);
        let (state, grown, written) = (Mutex::new(state), Condvar::new(), Condvar::new());
        Replica { state, grown, written, store, bells, max_log_bytes }
    }

    /// The most bytes that the messages may take.
    pub fn max_log_bytes(&self) -> u64 {
        self.max_log_bytes
    }

    /// The bytes that the messages take, and the number of entries accepted since the start.
    pub fn figures(&self) -> (u64, u64) {
        let state = self.lock();
        (state.log.bytes(), state.accepted)
    }

    /// Why nothing can be stored any more, in words.
    pub fn read_only(&self) -> Option<String> {
        self.lock().read_only()
    }

    /// Why this copy should not be read as if it were up to date; `None` when it may be.
    pub fn not_ready_reason(&self) -> Option<String> {
        let state = self.lock();
        if let Some(why) = state.read_only() {
            return Some(format!("read-only, {why}"));
        }
        let (held, heartbeat) = (state.stored, state.heartbeat?);
        if heartbeat.diverged {
            return Some("diverged: its log is not a prefix of the master's".into());
        }
        let last = heartbeat.last_seq;
        (last > held).then(|| format!("catching up: holds {held} of {last} entries"))
    }

    /// Where the copy stands.
    pub fn position(&self) -> Position {
        self.lock().position()
    }

    /// Records where the master stands, and answers where this copy does.
    /// Fails when a greater epoch could not be written to the disk.
    pub fn heartbeat(&self, heartbeat: Heartbeat) -> Result<Position, StoreError> {
        let mut state = self.lock();
        if heartbeat.epoch >= state.epoch {
            state.enter(heartbeat.epoch);
            state.heartbeat = Some(heartbeat);
            let committed = heartbeat.committed_seq;
            let held = state.holds(committed, heartbeat.committed_epoch);
            state.verify(if held { committed } else { Seq::NONE }, committed);
            self.ring(&state);
        }
        // An epoch that is on the disk needs no write: the answer comes after a failure too.
        if heartbeat.epoch > state.stored_epoch {
            state = self.persist(state, Seq::NONE)?;
        }
        Ok(state.position())
    }

    /// Does what a master's call asks for.
    pub fn receive(&self, call: Replicate) -> Outcome {
        let outcome = match call {
            Replicate::Original(message) => self.append_unnumbered(message),
            // No master holds an entry of a reign after its own.
            Replicate::Numbered(call) if call.epoch > call.master_epoch => Ok(Outcome::Malformed),
            Replicate::Numbered(call) => self.accept(&call),
        };
        outcome.unwrap_or_else(Outcome::DiskFailed)
    }

    fn append_unnumbered(&self, message: Message) -> Result<Outcome, StoreError> {
        let mut state = self.lock();
        state.check_disk()?;
        if state.log.bytes() + message.json().len() as u64 > self.max_log_bytes {
            return Ok(Outcome::Full);
        }
        let text = excerpt(&message);
        let seq = state.log.append(Epoch::default(), &message.into());
        state.accepted += 1;
        self.grown.notify_all();
        drop(self.persist(state, seq)?);
        info!("accepted seq={seq} numbered=false msg={text}");
        Ok(Outcome::AppendedUnnumbered { idx: seq.previous().0 })
    }

    fn accept(&self, call: &Numbered) -> Result<Outcome, StoreError> {
        let early = |state: &mut State| state.is_early(call);
        let waited = self.grown.wait_timeout_while(self.lock(), PREDECESSOR_TIMEOUT, early);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.check_disk()?;
        state.enter(call.master_epoch);
        state.full = !state.has_room(call, self.max_log_bytes);
        if state.full {
            return Ok(Outcome::Full);
        }
        let new = match state.accept(call) {
            Ok(new) => new,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        state.accepted += new;
        self.grown.notify_all();
        let seq = call.last();
        let state = self.persist(state, seq)?;
        self.ring(&state);
        let position = state.position();
        drop(state);
        let duplicate = new == 0 && !call.drafts.is_empty();
        debug!("acknowledged seq={seq} duplicate={duplicate}");
        let (status, idx) = ("ok".into(), seq.previous().0);
        Ok(Outcome::Acknowledged(Ack { status, idx, seq, duplicate, position }))
    }

    /// Returns when every entry up to this one, and the epoch, are on the disk.
    fn persist<'a>(&'a self, mut state: Guard<'a>, until: Seq) -> Result<Guard<'a>, StoreError> {
        let (epoch, deadline) = (state.epoch, Instant::now() + DISK_TIMEOUT);
        while state.stored < until || state.stored_epoch < epoch {
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

    /// Writes one transaction: the epoch, and the entries that are not on the disk yet, those of
    /// other calls included.
    fn write<'a>(&'a self, mut state: Guard<'a>) -> Guard<'a> {
        let (mut last, epoch) = (state.log.last_seq(), state.epoch);
        if let Some(store) = &self.store {
            let batch = state.log.batch(state.stored.next(), TRANSACTION_BYTES);
            state.writing = true;
            drop(state);
            let written = store.write(&batch, epoch);
            state = self.lock();
            state.writing = false;
            self.written.notify_all();
            if let Err(error) = written {
                error!("became read-only, the disk has failed error={:?}", error.problem);
                state.disk_failed = Some(error);
                return state;
            }
            last = batch.last();
        }
        (state.stored, state.stored_epoch) = (last, epoch);
        self.ring(&state);
        state
    }

    fn ring(&self, state: &State) {
        self.bells.ring(state.stored, state.committed_seq());
    }

    fn lock(&self) -> Guard<'_> {
        locked(&self.state)
    }
}

impl Source for Replica {
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T {
        let state = self.lock();
        read(&state.log, state.stored, state.committed_seq())
    }

    fn bells(&self) -> &Bells {
        &self.bells
    }
}

impl State {
    fn position(&self) -> Position {
        Position {
            last_seq: self.stored,
            last_epoch: self.log.epoch_of(self.stored),
            epoch: self.epoch,
            instance: self.instance.clone(),
        }
    }

    fn check_disk(&self) -> Result<(), StoreError> {
        self.disk_failed.clone().map_or(Ok(()), Err)
    }

    fn read_only(&self) -> Option<String> {
        let full = "the log is full: MAX_LOG_BYTES is less than the master's";
        let failed = self.disk_failed.as_ref().map(|error| format!("the disk has failed: {error}"));
        failed.or(self.full.then(|| full.into()))
    }

    /// Begins the reign of this epoch, if it is a new one.
    fn enter(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            (self.epoch, self.verified, self.heartbeat) = (epoch, Seq::NONE, None);
            self.told = Seq::NONE;
        }
    }

    /// The last entry that can be shown as committed.
    fn committed_seq(&self) -> Seq {
        self.committed.min(self.stored)
    }

    /// Whether this entry of the master's is held. Two entries at one place are the same when their
    /// epochs are, and so are all entries before them. Epoch 0 names no entry.
    fn holds(&self, seq: Seq, epoch: Epoch) -> bool {
        let named = epoch > Epoch::default() && seq <= self.log.last_seq();
        named && self.log.epoch_of(seq) == epoch
    }

    /// Records that the copy is a prefix of the master's log up to `seq`, and that a quorum has
    /// held the entries up to `committed`.
    fn verify(&mut self, seq: Seq, committed: Seq) {
        self.verified = self.verified.max(seq);
        self.told = self.told.max(committed);
        self.committed = self.committed.max(self.told.min(self.verified));
    }

    /// Whether the entries before this call are missing and on their way. Nothing is on its way if
    /// the master believes more to be acknowledged than the copy holds: the copy was started anew.
    fn is_early(&self, call: &Numbered) -> bool {
        let last = self.log.last_seq();
        call.first > last.next() && last >= call.acked && call.master_epoch >= self.epoch
    }

    /// Whether the messages stay within `most` bytes. Entries that are held already need no room.
    fn has_room(&self, call: &Numbered, most: u64) -> bool {
        let last = self.log.last_seq().0;
        let new = (call.first.0..).zip(&call.drafts).filter(|(seq, _)| *seq > last);
        let new: u64 = new.map(|(_, draft)| draft.message.json().len() as u64).sum();
        new == 0 || self.log.bytes() + new <= most
    }

    /// Takes the call's entries into the log and returns how many are new.
    fn accept(&mut self, call: &Numbered) -> Result<u64, Refusal> {
        if call.master_epoch < self.epoch {
            let (theirs, known) = (call.master_epoch, self.epoch);
            warn!("refused a stale master epoch={theirs} known_epoch={known}");
            let error = format!("Epoch {theirs} is over: epoch {known} has begun");
            return Err(self.refuse(Conflict::StaleEpoch, error));
        }
        let (previous, last) = (call.first.previous(), self.log.last_seq());
        if previous <= last && self.log.epoch_of(previous) != call.prev_epoch {
            return Err(self.refuse_diverged(previous));
        }
        match self.log.accept(call.epoch, call.first, &call.drafts) {
            Ok(new) => {
                log_accepted(call, new);
                self.verify(call.last(), call.committed);
                Ok(new)
            }
            Err(NotAccepted::Diverged(seq)) => Err(self.refuse_diverged(seq)),
            Err(NotAccepted::Gap) => {
                debug!("refused a gap first_seq={} last_seq={last}", call.first);
                let error = format!("Entries {} to {previous} are missing", last.next());
                Err(self.refuse(Conflict::Gap, error))
            }
        }
    }

    fn refuse_diverged(&self, seq: Seq) -> Refusal {
        warn!("refused diverged entries seq={seq}");
        self.refuse(Conflict::Diverged, format!("Another entry is held at {seq}"))
    }

    fn refuse(&self, code: Conflict, error: String) -> Refusal {
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

    use super::*;

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
            (r#"{"epoch":6,"seq":7,"prev_epoch":6,"msg":"seed"}"#, "Diverged 8"),
        ];
        for (json, expected) in script {
            assert_eq!(line(&replica, json), expected, "{json}");
        }
        assert_eq!(log_of(&replica), r#"{"messages":["a","b","c","d","e","f","seed","seed"]}"#);
        assert_eq!(replica.position().epoch, Epoch(6));
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
        // `"a",` is four bytes, and the last comma does not count.
        let replica = Replica::new(None, 9, 11);
        let send = |json: &str| line(&replica, json);
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b"]}"#), "ok 2 of 2");
        assert_eq!(send(r#"{"epoch":5,"seq":3,"prev_epoch":5,"msg":"cc"}"#), "full");
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "ok 3 of 3");
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "duplicate 3");
        assert_eq!(replica.not_ready_reason(), None);
        assert_eq!(send(r#"{"epoch":5,"seq":3,"prev_epoch":5,"entries":["c","d"]}"#), "full");
        let told = replica.not_ready_reason().expect("it is told that it is full");
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
            epoch: Epoch(epoch),
            last_seq: Seq(9),
            committed_seq: Seq(committed),
            committed_epoch: Epoch(of),
            diverged: false,
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
            let (epoch, last_seq) = (Epoch(5), Seq(last));
            let heartbeat = Heartbeat { epoch, last_seq, diverged, ..Heartbeat::default() };
            replica.heartbeat(heartbeat).unwrap();
            replica.not_ready_reason().unwrap_or_default()
        };
        assert_eq!(told(0, false), "");
        assert_eq!(told(2, false), "catching up: holds 0 of 2 entries");
        assert_eq!(told(0, true), "diverged: its log is not a prefix of the master's");
    }
}
