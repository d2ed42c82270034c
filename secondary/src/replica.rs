//! The copy of the log, and what a master's call does to it.
//!
//! A call is accepted when it continues the copy. One that comes too early, because the call
//! before it is still on its way, waits for that one; so several calls in flight are stored in the
//! order of `seq`. What the copy holds already is acknowledged again. What contradicts it is
//! refused, and nothing is overwritten.
//!
//! With a [`Store`] nothing is acknowledged or shown that is not on the disk. Calls that arrive
//! while a transaction is being written share the next one. They do not wait for it for ever: a
//! disk that does not answer must not hold every thread.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::entries::{Accepted, Draft, Epoch, Log, NotAccepted, Seq};
use common::follow::{Bell, Source};
use common::logging::excerpt;
use common::store::{Opened, Store, StoreError, TRANSACTION_BYTES};
use common::wire::{Ack, Conflict, Heartbeat, Position, Refusal, Replicate};
use log::{debug, error, info, warn};

/// How long a call waits for the one before it.
pub const PREDECESSOR_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a call waits for the disk.
const DISK_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to a call.
#[derive(Debug)]
pub enum Outcome {
    /// Everything up to the last entry carried is held. Answers 200.
    Acknowledged(Ack),
    /// An entry without a number was appended. Answers 200 in the original's form.
    AppendedUnnumbered {
        /// Its 0-based place.
        idx: u64,
    },
    /// Nothing was stored. Answers 409.
    Refused(Refusal),
    /// There is no room for it. Answers 507.
    Full,
    /// The disk has failed: nothing is acknowledged any more. Answers 507 or 500.
    DiskFailed(StoreError),
    /// It is not a call that a master makes. Answers 400.
    Malformed,
}

/// A secondary's copy of the log. Shared by all handler threads.
#[derive(Debug)]
pub struct Replica {
    state: Mutex<State>,
    /// Something was accepted.
    grown: Condvar,
    /// A transaction is over.
    written: Condvar,
    store: Option<Store>,
    /// Rung when there is more to be read.
    bell: Bell,
    /// What messages may take.
    max_log_bytes: u64,
}

/// What a lock protects: the copy, and what is known of the master.
#[derive(Debug)]
struct State {
    log: Log,
    /// Up to here it is on the disk, if there is one: what is acknowledged and shown.
    stored: Seq,
    /// A thread is writing to it.
    writing: bool,
    /// Why nothing can be written any more.
    disk_failed: Option<StoreError>,
    /// The last call that brought something new found no room.
    full: bool,
    /// The greatest epoch heard of.
    epoch: Epoch,
    /// The one noted on the disk: a restart must not make a former master welcome again.
    stored_epoch: Epoch,
    instance: String,
    /// What the master of that epoch said last.
    heartbeat: Option<Heartbeat>,
    /// Up to here the copy is known to be a prefix of that master's log.
    verified: Seq,
    /// The last entry known to be held by a quorum. It stays so whoever reigns.
    committed: Seq,
    /// Entries taken since the start.
    accepted: u64,
}

impl Replica {
    /// An empty copy in memory that keeps the idempotency keys of the last `most_keys` entries with
    /// one; its messages may take `max_log_bytes`.
    pub fn in_memory(most_keys: usize, max_log_bytes: u64) -> Replica {
        Replica::new(Log::new(most_keys), Epoch::default(), None, max_log_bytes)
    }

    /// A copy that is kept on a disk.
    pub fn on_disk(Opened { store, log, epoch }: Opened, max_log_bytes: u64) -> Replica {
        Replica::new(log, epoch, Some(store), max_log_bytes)
    }

    fn new(log: Log, epoch: Epoch, store: Option<Store>, max_log_bytes: u64) -> Replica {
        let state = State {
            stored: log.last_seq(),
            log,
            writing: false,
            disk_failed: None,
            full: false,
            epoch,
            stored_epoch: epoch,
            instance: format!("{:016x}", RandomState::new().build_hasher().finish()),
            heartbeat: None,
            verified: Seq::NONE,
            committed: Seq::NONE,
            accepted: 0,
        };
        let bell = Bell::default();
        bell.ring(state.stored);
        let (state, grown, written) = (Mutex::new(state), Condvar::new(), Condvar::new());
        Replica { state, grown, written, store, bell, max_log_bytes }
    }

    /// What the messages of the log may take, in bytes.
    pub fn max_log_bytes(&self) -> u64 {
        self.max_log_bytes
    }

    /// Bytes that the messages take, and how many entries were taken since the start.
    pub fn figures(&self) -> (u64, u64) {
        let state = self.lock();
        (state.log.bytes(), state.accepted)
    }

    /// Why nothing can be stored any more, in words.
    pub fn read_only(&self) -> Option<String> {
        self.lock().read_only()
    }

    /// Takes note of how the master stands, and says how this copy does.
    ///
    /// # Errors
    /// When a greater epoch could not be noted on the disk.
    pub fn hear(&self, heartbeat: Heartbeat) -> Result<Position, StoreError> {
        let mut state = self.lock();
        if heartbeat.epoch >= state.epoch {
            state.enter(heartbeat.epoch);
            state.heartbeat = Some(heartbeat);
            let committed = heartbeat.committed_seq;
            let held = state.holds(committed, heartbeat.committed_epoch);
            state.verify(if held { committed } else { Seq::NONE });
        }
        if heartbeat.epoch <= state.stored_epoch {
            // Nothing is to be noted for this one: it is answered even when the disk has failed.
            return Ok(state.position());
        }
        Ok(self.persist(state, Seq::NONE)?.position())
    }

    /// Why this copy should not be read as if it were up to date; `None` when it may be.
    pub fn lag(&self) -> Option<String> {
        let state = self.lock();
        if let Some(why) = state.read_only() {
            return Some(format!("read-only, {why}"));
        }
        let (last, heard) = (state.stored, state.heartbeat?);
        if heard.diverged {
            return Some("diverged: its log is not a prefix of the master's".into());
        }
        (heard.last_seq > last)
            .then(|| format!("catching up: holds {last} of {} entries", heard.last_seq))
    }

    /// Where the copy stands.
    pub fn position(&self) -> Position {
        self.lock().position()
    }

    /// Does what a master's call asks for.
    pub fn receive(&self, mut call: Replicate) -> Outcome {
        let epoch = call.entry_epoch.unwrap_or(call.epoch);
        if epoch > call.epoch {
            // No master holds an entry of a reign after its own.
            return Outcome::Malformed;
        }
        let Some(drafts) = call.drafts() else { return Outcome::Malformed };
        let call = match call.seq {
            Some(Seq::NONE) => return Outcome::Malformed,
            Some(first) => Numbered {
                master_epoch: call.epoch,
                epoch,
                first,
                prev_epoch: call.prev_epoch,
                acked: call.acked_seq,
                drafts,
            },
            None => return self.append_unnumbered(&drafts[0]),
        };
        let mut state = self.wait_for_predecessor(&call);
        if let Some(failed) = &state.disk_failed {
            return Outcome::DiskFailed(failed.clone());
        }
        state.enter(call.master_epoch);
        state.full = !state.has_room(&call, self.max_log_bytes);
        if state.full {
            return Outcome::Full;
        }
        let accepted = match state.receive(&call) {
            Ok(accepted) => accepted,
            Err(refusal) => return Outcome::Refused(refusal),
        };
        state.accepted += accepted.new;
        self.grown.notify_all();
        match self.persist(state, call.last()) {
            Ok(state) => {
                let seq = call.last();
                let duplicate = accepted.new == 0 && !call.drafts.is_empty();
                debug!("acknowledged seq={seq} duplicate={duplicate}");
                let (status, idx, position) = ("ok".into(), seq.previous().0, state.position());
                Outcome::Acknowledged(Ack { status, idx, seq, duplicate, position })
            }
            Err(error) => Outcome::DiskFailed(error),
        }
    }

    /// Returns when everything up to this entry, and the epoch, is on the disk.
    fn persist<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        until: Seq,
    ) -> Result<MutexGuard<'a, State>, StoreError> {
        let Some(store) = &self.store else {
            (state.stored, state.stored_epoch) = (state.log.last_seq(), state.epoch);
            self.bell.ring(state.stored);
            return Ok(state);
        };
        let (epoch, deadline) = (state.epoch, Instant::now() + DISK_TIMEOUT);
        while state.stored < until || state.stored_epoch < epoch {
            if let Some(failed) = &state.disk_failed {
                return Err(failed.clone());
            }
            if state.writing {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(StoreError::silent_for(DISK_TIMEOUT));
                }
                let waited = self.written.wait_timeout(state, left);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            // With the entries of all who came while another one wrote.
            let batch = state.log.batch(state.stored.next(), TRANSACTION_BYTES);
            let epoch = state.epoch;
            state.writing = true;
            drop(state);
            let written = store.write(&batch, epoch);
            state = self.lock();
            state.writing = false;
            match written {
                Ok(()) => {
                    (state.stored, state.stored_epoch) = (batch.last(), epoch);
                    self.bell.ring(state.stored);
                }
                Err(error) => state.fail(error),
            }
            self.written.notify_all();
        }
        Ok(state)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The log's methods change it as the last thing they do: it is valid after a panic too.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_predecessor(&self, call: &Numbered) -> MutexGuard<'_, State> {
        let deadline = Instant::now() + PREDECESSOR_TIMEOUT;
        let mut state = self.lock();
        while state.is_early(call) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.grown.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn append_unnumbered(&self, draft: &Draft) -> Outcome {
        let mut state = self.lock();
        if let Some(failed) = &state.disk_failed {
            return Outcome::DiskFailed(failed.clone());
        }
        if state.log.bytes() + draft.message.json().len() as u64 > self.max_log_bytes {
            return Outcome::Full;
        }
        let seq = state.log.append(Epoch::default(), draft);
        state.accepted += 1;
        self.grown.notify_all();
        if let Err(error) = self.persist(state, seq) {
            return Outcome::DiskFailed(error);
        }
        info!("accepted seq={seq} numbered=false msg={}", excerpt(&draft.message));
        Outcome::AppendedUnnumbered { idx: seq.0 - 1 }
    }
}

impl Source for Replica {
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T {
        let state = self.lock();
        read(&state.log, state.stored, state.committed.min(state.stored))
    }

    fn bell(&self) -> &Bell {
        &self.bell
    }
}

/// A call by a master that numbers its entries.
#[derive(Debug)]
struct Numbered {
    master_epoch: Epoch,
    epoch: Epoch,
    first: Seq,
    prev_epoch: Epoch,
    acked: Seq,
    drafts: Vec<Draft>,
}

impl Numbered {
    fn last(&self) -> Seq {
        Seq(self.first.0 + self.drafts.len() as u64 - 1)
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

    /// A call or a heartbeat of this epoch's master has come.
    fn enter(&mut self, epoch: Epoch) {
        if epoch > self.epoch {
            (self.epoch, self.verified, self.heartbeat) = (epoch, Seq::NONE, None);
        }
    }

    fn read_only(&self) -> Option<String> {
        let full = "the log is full: MAX_LOG_BYTES is less than the master's";
        let failed = self.disk_failed.as_ref().map(|error| format!("the disk has failed: {error}"));
        failed.or_else(|| self.full.then(|| full.to_string()))
    }

    /// Nothing is written any more until the node is started again.
    fn fail(&mut self, error: StoreError) {
        error!("became read-only, the disk has failed error={:?}", error.problem);
        self.disk_failed = Some(error);
    }

    fn has_room(&self, call: &Numbered, most: u64) -> bool {
        let unknown =
            (call.first.0..).zip(&call.drafts).filter(|(seq, _)| *seq > self.log.last_seq().0);
        let new: u64 = unknown.map(|(_, draft)| draft.message.json().len() as u64).sum();
        new == 0 || self.log.bytes() + new <= most
    }

    /// Whether this entry of the master's is held. Two entries at one place are the same when their
    /// epochs are, and so is everything before them; epoch 0 names no entry.
    fn holds(&self, seq: Seq, epoch: Epoch) -> bool {
        let named = epoch > Epoch::default() && seq <= self.log.last_seq();
        named && self.log.epoch_of(seq) == epoch
    }

    /// The copy is a prefix of the master's log up to here.
    fn verify(&mut self, seq: Seq) {
        self.verified = self.verified.max(seq);
        let told = self.heartbeat.map_or(Seq::NONE, |heartbeat| heartbeat.committed_seq);
        self.committed = self.committed.max(told.min(self.verified));
    }

    /// Whether the entries before this call are missing and on their way. If the master believes
    /// more to be acknowledged than there is, this copy has started anew: nothing is on its way.
    fn is_early(&self, call: &Numbered) -> bool {
        let last = self.log.last_seq();
        call.first > last.next() && last >= call.acked && call.master_epoch >= self.epoch
    }

    fn receive(&mut self, call: &Numbered) -> Result<Accepted, Refusal> {
        if call.master_epoch < self.epoch {
            let (theirs, known) = (call.master_epoch, self.epoch);
            warn!("refused a stale master epoch={theirs} known_epoch={known}");
            let error = format!("Epoch {theirs} is over: epoch {known} has begun");
            return Err(self.refuse(Conflict::StaleEpoch, error));
        }
        let previous = call.first.previous();
        let last = self.log.last_seq();
        if previous <= last && self.log.epoch_of(previous) != call.prev_epoch {
            return Err(self.refuse_diverged(previous));
        }
        match self.log.accept(call.epoch, call.first, &call.drafts) {
            Ok(accepted) => {
                if accepted.new > 0 {
                    self.log_accepted(call, last.next());
                }
                self.verify(call.last());
                Ok(accepted)
            }
            Err(NotAccepted::Diverged(seq)) => Err(self.refuse_diverged(seq)),
            Err(NotAccepted::Gap) => {
                debug!("refused a gap first_seq={} last_seq={last}", call.first);
                let error = format!("Entries {} to {previous} are missing", last.next());
                Err(self.refuse(Conflict::Gap, error))
            }
        }
    }

    fn log_accepted(&self, call: &Numbered, first_new: Seq) {
        let (last, message) = (call.last(), &call.drafts[call.drafts.len() - 1].message);
        if first_new == last {
            info!("accepted seq={last} msg={}", excerpt(message));
        } else {
            info!("accepted first_seq={first_new} last_seq={last} last_msg={}", excerpt(message));
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn call(json: &str) -> Replicate {
        serde_json::from_str(json).unwrap()
    }

    /// The outcome in one line: the golden form that the tests below compare.
    fn line(replica: &Replica, json: &str) -> String {
        match replica.receive(call(json)) {
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
        let replica = Replica::in_memory(9, u64::MAX);
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
            (r#"{"epoch":6,"seq":0,"msg":"z"}"#, "malformed"),
            (r#"{"epoch":6,"seq":7,"prev_epoch":6,"entry_epoch":7,"msg":"z"}"#, "malformed"),
            (r#"{"epoch":6,"seq":7}"#, "malformed"),
            (r#"{"epoch":6,"seq":7,"msg":"z","entries":[]}"#, "malformed"),
            (r#"{"entries":["z"]}"#, "malformed"),
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
    fn an_early_call_waits_for_its_predecessor_and_is_stored_after_it() {
        let replica = Replica::in_memory(9, u64::MAX);
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
        let replica = Replica::in_memory(9, 11);
        let send = |json: &str| line(&replica, json);
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b"]}"#), "ok 2 of 2");
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "ok 3 of 3");
        assert_eq!(send(r#"{"epoch":5,"seq":1,"entries":["a","b","c"]}"#), "duplicate 3");
        assert_eq!(replica.lag(), None);
        assert_eq!(send(r#"{"epoch":5,"seq":3,"prev_epoch":5,"entries":["c","d"]}"#), "full");
        let told = replica.lag().expect("it is told that it is full");
        assert!(told.contains("MAX_LOG_BYTES"), "{told}");
    }

    #[test]
    fn an_early_call_whose_predecessor_never_comes_is_told_what_is_missing() {
        let replica = Replica::in_memory(9, u64::MAX);
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
        replica.hear(heartbeat).unwrap();
        replica.read(|_, _, committed| committed.0)
    }

    #[test]
    fn committed_is_what_the_master_says_of_entries_that_are_known_to_be_its_own() {
        let replica = Replica::in_memory(9, u64::MAX);
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
    fn a_copy_is_ready_when_its_master_says_that_it_is_level_and_no_other() {
        let replica = Replica::in_memory(9, u64::MAX);
        let told = |last, diverged| {
            let (epoch, last_seq) = (Epoch(5), Seq(last));
            let heartbeat = Heartbeat { epoch, last_seq, diverged, ..Heartbeat::default() };
            replica.hear(heartbeat).unwrap();
            replica.lag().unwrap_or_default()
        };
        assert_eq!(told(0, false), "");
        assert_eq!(told(2, false), "catching up: holds 0 of 2 entries");
        assert_eq!(told(0, true), "diverged: its log is not a prefix of the master's");
    }
}
