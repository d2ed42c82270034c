//! Everything that writes have in common, and the one lock that protects it: the log, the lines to
//! the nodes that keep it, and the requests that wait. The lock is never held during a call.
//!
//! Who makes the next call? A request calls every line that it finds free, on scoped threads that
//! it joins; entries that are left over, the line's courier sends. While the courier is out with a
//! call, a waiting request makes the next one. A line is free when its pause after a failure is
//! over, its calls in flight leave room and, with a disk, the batch is full.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use common::client::{Bearer, Client};
use common::entries::{Draft, Log, Seq};
use common::follow::{Bells, Source, unreadable};
use common::http::Response;
use common::locked::locked;
use common::reign::Facts;
use common::store::{Store, StoreError};
use common::wire::{Heard, Told};
use log::error;

use crate::bodies::SecondaryStatus;
use crate::concern::Concern;
use crate::confirmed::{CONFIRM_TIMEOUT, Rounds};
use crate::health::{Health, Thresholds};
use crate::lines::{Call, Line, Lines, When};
use crate::metrics::Metrics;
use crate::outcome::{NotAppended, ReadOnly};
use crate::takeover::Recovery;
use crate::timeline::Timeline;
use crate::waiters::{Ticket, Waiters};

/// How much longer than `RECOVERY_TIMEOUT_MS` a request waits for a first reign to begin.
const BEGIN_SLACK: Duration = Duration::from_secs(5);

/// How writes are replicated.
#[derive(Debug, Clone)]
pub struct Options {
    /// Base URLs of the secondaries.
    pub secondaries: Vec<String>,
    /// Bounds each call, and each write that fails fast.
    pub ack_timeout: Duration,
    /// Nodes that must be reachable for a write, the master included; `None` for no matter.
    pub quorum: Option<usize>,
    /// How many idempotency keys are remembered.
    pub idempotency_keys: usize,
    /// What missed heartbeats mean.
    pub thresholds: Thresholds,
    /// The size that the messages of the log may have, in bytes of JSON.
    pub max_log_bytes: u64,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// How long a first reign waits for all secondaries; zero for as long as it takes.
    pub recovery_timeout: Duration,
    /// With how many secondaries a reign begins.
    pub recovery: Recovery,
    /// The base URL of this master.
    pub url: String,
    /// What this master shows the secondaries.
    pub token: Bearer,
}

impl Options {
    /// Calls the secondary at this URL, each time for no longer than this.
    pub fn client(&self, url: &str, timeout: Duration) -> Client {
        Client::new(url, timeout).with_token(&self.token)
    }
}

#[cfg(test)]
impl Options {
    /// What unit tests use.
    pub fn of_test(secondaries: Vec<String>) -> Options {
        Options {
            secondaries,
            ack_timeout: Duration::from_secs(1),
            quorum: None,
            idempotency_keys: 9,
            thresholds: Thresholds { suspected_after: 2, unhealthy_after: 4 },
            max_log_bytes: u64::MAX,
            heartbeat: Duration::from_secs(1),
            recovery_timeout: Duration::ZERO,
            recovery: Recovery::Auto,
            url: "http://m".into(),
            token: Bearer::default(),
        }
    }
}

/// Whether this master reigns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// It does not yet.
    Waiting {
        /// Why not, in words.
        why: String,
        /// The master that reigns meanwhile.
        master: Option<Heard>,
        /// Nobody is known to have reigned before: the first reign begins soon.
        is_new: bool,
    },
    /// It does, or did until it was fenced.
    Reigning,
}

/// The replication of one master, shared by all its threads.
#[derive(Debug)]
pub struct Replication {
    state: Mutex<State>,
    /// Notified when the phase has changed, and when the reign is over.
    pub(crate) begun: Condvar,
    /// Requests wait for a first reign to begin until then.
    pub(crate) begins_by: Instant,
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) options: Arc<Options>,
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    pub(crate) bells: Bells,
    pub(crate) rounds: Rounds,
}

/// The state that the lock protects.
#[derive(Debug)]
pub struct State {
    /// The log.
    pub log: Log,
    /// What each node holds and gets.
    pub lines: Lines,
    /// What happened to the last appends.
    pub timeline: Timeline,
    pub(crate) waiters: Waiters<Thread>,
    /// The courier of each line; the disk's comes last.
    pub(crate) couriers: Vec<Courier>,
    /// Whether this master reigns.
    pub phase: Phase,
    /// What must not be forgotten.
    pub facts: Facts,
    /// Entries dropped since the start, because a better log did not have them.
    pub dropped: u64,
    /// When the reign began.
    pub reigns_since: Option<SystemTime>,
    /// What each secondary has told besides its position.
    pub told: Vec<Told>,
    /// The master that reigns since this one was fenced, as far as is known.
    pub successor: Option<Heard>,
    /// This process stops: another master may reign.
    pub(crate) abdicates: bool,
    pub(crate) disk_failure: Option<StoreError>,
    options: Arc<Options>,
}

/// The thread of a line that sends what is left over.
#[derive(Debug)]
pub(crate) struct Courier {
    pub(crate) thread: Thread,
    /// Until when it sleeps; `Now` while it is awake.
    pub(crate) sleeps_until: When,
    /// The number of the call that it makes, if it is out with one.
    pub(crate) out_with: Option<u64>,
}

impl Replication {
    /// A replication over this log, of which `facts` are known, and that is kept in the store, if
    /// there is one. Nothing is sent before [`Replication::begin_reign`].
    pub fn new(
        options: Arc<Options>,
        log: Log,
        facts: Facts,
        store: Option<Arc<Store>>,
    ) -> Replication {
        let (bells, last) = (Bells::default(), log.last_seq());
        bells.ring(last, Seq::NONE);
        let on_disk = store.as_ref().map(|_| last);
        let lines = Lines::new(&options.secondaries, options.thresholds, on_disk, Instant::now());
        let state = State {
            log,
            lines,
            timeline: Timeline::default(),
            waiters: Waiters::default(),
            couriers: Vec::new(),
            phase: Phase::Waiting { why: "recovering".into(), master: None, is_new: true },
            facts,
            dropped: 0,
            reigns_since: None,
            told: vec![Told::default(); options.secondaries.len()],
            successor: None,
            abdicates: false,
            disk_failure: None,
            options: Arc::clone(&options),
        };
        let client = |url: &String| options.client(url, options.ack_timeout);
        let clients = options.secondaries.iter().map(client).collect();
        let metrics = Arc::new(Metrics::new(options.secondaries.len()));
        let (state, begun, rounds) = (Mutex::new(state), Condvar::new(), Rounds::default());
        let begins_by = Instant::now() + options.recovery_timeout + BEGIN_SLACK;
        Replication { state, begun, begins_by, store, clients, options, metrics, bells, rounds }
    }

    /// The state, locked; keep it short.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Wakes those who wait for an entry that can be read now.
    pub(crate) fn ring(&self, lines: &Lines) {
        self.bells.ring(lines.stored_seq(), lines.committed_seq());
    }

    /// The base URLs of the secondaries.
    pub fn urls(&self) -> &[String] {
        &self.options.secondaries
    }

    /// The size that the messages of the log may have, in bytes.
    pub fn max_log_bytes(&self) -> u64 {
        self.options.max_log_bytes
    }
}

impl Source for Replication {
    fn read<T>(&self, read: impl FnOnce(&Log, Seq, Seq) -> T) -> T {
        let state = self.lock();
        read(&state.log, state.lines.stored_seq(), state.lines.committed_seq())
    }

    fn bells(&self) -> &Bells {
        &self.bells
    }

    fn hidden(&self) -> Option<String> {
        self.lock().hides_log()
    }

    fn confirm(&self) -> Result<Seq, Response> {
        self.confirm_within(CONFIRM_TIMEOUT).map_err(|why| unreadable(&why))
    }
}

impl State {
    /// How each secondary stands, by base URL.
    pub fn statuses(&self, now: Instant) -> Vec<(Arc<str>, SecondaryStatus)> {
        let last = self.lines.last_seq();
        let status = |(line, told): (&Line, &Told)| {
            let status = SecondaryStatus::of(line, told.dropped_entries, last, now);
            (Arc::clone(line.url()), status)
        };
        self.lines.secondaries().iter().zip(&self.told).map(status).collect()
    }

    /// The base URL of the master that reigns, as far as is known.
    pub fn master(&self) -> Option<&str> {
        let heard = match &self.phase {
            Phase::Waiting { master, .. } => master.as_ref(),
            Phase::Reigning if self.lines.fenced_by().is_some() => self.successor.as_ref(),
            Phase::Reigning => return Some(&self.options.url),
        };
        heard.map(|heard| heard.url.as_str()).filter(|url| !url.is_empty())
    }

    /// The base URLs of masters that stand by, as those secondaries say that are heard.
    pub fn standbys(&self) -> BTreeSet<&str> {
        let lines = self.lines.secondaries().iter().zip(&self.told);
        let heard = lines.filter(|(line, _)| line.health() == Health::Healthy);
        let urls = heard.flat_map(|(_, told)| told.standbys.iter().map(String::as_str));
        urls.filter(|url| *url != self.options.url).collect()
    }

    /// Ends all appends until the node is started again.
    pub(crate) fn fail_disk(&mut self, error: StoreError) {
        error!("became read-only, the disk has failed error={:?}", error.problem);
        self.lines.fail_disk();
        self.disk_failure.get_or_insert(error);
    }

    /// Why the disk has failed, if it has.
    pub fn disk_failure(&self) -> Option<&StoreError> {
        self.disk_failure.as_ref()
    }

    /// Why nothing can be appended now; `None` when it can.
    pub fn read_only(&self) -> Option<ReadOnly> {
        if let Some(epoch) = self.lines.fenced_by() {
            return Some(ReadOnly::Fenced(epoch, self.successor.clone()));
        }
        if let Some(error) = &self.disk_failure {
            return Some(ReadOnly::DiskFailed(error.clone()));
        }
        if let Phase::Waiting { why, master, .. } = &self.phase {
            return Some(ReadOnly::Waiting(why.clone(), master.clone()));
        }
        let (quorum, reachable) = (self.options.quorum?, self.lines.reachable());
        (reachable < quorum).then_some(ReadOnly::NoQuorum { reachable, quorum })
    }

    /// Why the log must not be read as if it were current; `None` when it may be.
    pub fn hides_log(&self) -> Option<String> {
        match self.read_only()? {
            why @ (ReadOnly::Fenced(..) | ReadOnly::Waiting(..)) => Some(why.to_string()),
            ReadOnly::NoQuorum { .. } | ReadOnly::DiskFailed(_) => None,
        }
    }

    /// Appends an entry, unless its idempotency key is known. Returns its place, and whether it was
    /// there before.
    /// Fails when it must not be appended.
    pub fn append(&mut self, draft: &Draft, now: Instant) -> Result<(Seq, bool), NotAppended> {
        // Whoever does not reign says nothing of what is stored.
        if let Some(why @ (ReadOnly::Waiting(..) | ReadOnly::Fenced(..))) = self.read_only() {
            return Err(NotAppended::ReadOnly(why));
        }
        // A known key first: it tells truly that the message is stored, whatever can be now.
        if let Some(seq) = draft.key.as_deref().and_then(|key| self.log.find_key(key)) {
            let is_same = self.log.json(seq) == draft.message.json().as_bytes();
            return if is_same { Ok((seq, true)) } else { Err(NotAppended::KeyReused(seq)) };
        }
        if let Some(read_only) = self.read_only() {
            return Err(NotAppended::ReadOnly(read_only));
        }
        if self.log.bytes() + draft.message.bytes_in_log() > self.options.max_log_bytes {
            return Err(NotAppended::LogFull);
        }
        let seq = self.log.append(self.lines.reign().epoch, draft);
        self.lines.appended(seq, now);
        Ok((seq, false))
    }

    /// Whether a call could begin now that carries the entry.
    pub fn can_call(&self, ticket: Ticket, concern: Concern, now: Instant) -> bool {
        let urgent = concern == Concern::AllOrFail;
        (0..self.lines.secondaries().len())
            .any(|line| self.lines.is_claimable(line, ticket.seq, urgent, now))
    }

    /// Begins a call on every free line that lacks the entry and has not failed the request.
    pub fn claim_free(&mut self, ticket: Ticket, concern: Concern, now: Instant) -> Vec<Call> {
        let urgent = concern == Concern::AllOrFail;
        let State { log, lines, waiters, .. } = self;
        let able = (0..lines.secondaries().len()).filter(|line| !waiters.has_failed(ticket, *line));
        let mut claim = |line| lines.claim(line, ticket.seq, urgent, log, now);
        let mut calls: Vec<Call> = able.clone().filter_map(&mut claim).collect();
        if !calls.is_empty() {
            // The first call releases the batch: lines that waited for a full one may call now.
            calls.extend(able.filter_map(claim));
        }
        calls
    }

    /// The earliest time at which the request may call a line by itself. The line lacks the entry,
    /// and a call is out on it, or its courier is.
    pub fn room_at(&self, ticket: Ticket, concern: Concern) -> Option<Instant> {
        let lines = self.lines.secondaries().iter().enumerate();
        let lacking = lines.filter(|(id, line)| {
            let is_out = self.couriers.get(*id).is_some_and(|own| own.out_with.is_some());
            let is_alone = is_out || !line.is_idle();
            is_alone && line.next_seq() <= ticket.seq && !self.waiters.has_failed(ticket, *id)
        });
        lacking.filter_map(|(_, line)| line.free_at(concern == Concern::AllOrFail).instant()).min()
    }
}
