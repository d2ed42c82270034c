//! Reads that are never stale: `GET /messages?confirmed=true`.
//!
//! A master that was cut off can serve an old log as if it were current: another one reigns, and it
//! has not heard of that. So a confirmed read asks the secondaries first (Raft's read index):
//!
//! 1. It notes the last committed entry, or the last entry of the log that the reign began with, if
//!    that is greater: former masters may have committed entries up to there.
//! 2. A quorum must answer heartbeats in the epoch of this reign, the master included, that were
//!    sent after the read arrived. A later reign needs a promise of one of them, so none had begun.
//! 3. The noted entry must be committed. The answer is the log up to it.
//!
//! The heartbeats are those of `couriers.rs`, sent out of turn. One heartbeat is on its way to a
//! secondary at a time and serves all reads that arrived before it, however many there are.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::Thread;
use std::time::{Duration, Instant};

use common::entries::Seq;
use common::follow::Bell;

use crate::couriers::HEARTBEAT_TIMEOUT;
use crate::state::Replication;

/// How long a confirmed read takes at most: the heartbeats on their way end, and then its own.
pub const CONFIRM_TIMEOUT: Duration = HEARTBEAT_TIMEOUT.saturating_mul(2);

/// The time between two looks at whether another master reigns.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What confirmed reads and the threads of the heartbeats tell each other.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    /// The threads of the heartbeats.
    threads: OnceLock<Vec<Thread>>,
    /// A read waits for heartbeats with greater numbers than this.
    wanted: AtomicU64,
    /// Rung with [`Lines::answered_number`](crate::lines::Lines::answered_number).
    pub(crate) answered: Bell,
}

impl Rounds {
    /// These threads send the heartbeats.
    pub(crate) fn set_threads(&self, threads: Vec<Thread>) {
        // They are started once.
        let _ = self.threads.set(threads);
    }

    /// Whether a read waits for a heartbeat that begins after the one of this number.
    pub(crate) fn wants_after(&self, number: u64) -> bool {
        self.wanted.load(SeqCst) >= number
    }

    /// Has each secondary sent a heartbeat with a greater number than this.
    fn want_after(&self, number: u64) {
        self.wanted.fetch_max(number, SeqCst);
        self.threads.get().into_iter().flatten().for_each(Thread::unpark);
    }
}

impl Replication {
    /// The place up to which the log was committed when this was called, or a later one.
    /// Fails when the log must not be read, or when a quorum has not confirmed in time that this
    /// master reigns; the error says why.
    pub(crate) fn confirm_within(&self, timeout: Duration) -> Result<Seq, String> {
        let deadline = Instant::now() + timeout;
        let (number, place) = {
            let state = self.lock();
            let lines = &state.lines;
            (lines.last_number(), lines.committed_seq().max(lines.reign_start()))
        };
        self.rounds.want_after(number);
        self.wait_for(&self.rounds.answered, number + 1, deadline)?;
        self.wait_for(self.bells.of(true), place.0, deadline)?;
        Ok(place)
    }

    fn wait_for(&self, bell: &Bell, number: u64, deadline: Instant) -> Result<(), String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let has_come = bell.wait(number, left.min(LOOK_INTERVAL));
            match self.lock().hides_log() {
                Some(why) => return Err(why),
                None if has_come => return Ok(()),
                None if left.is_zero() => {
                    return Err("no quorum has confirmed in time that this master reigns".into());
                }
                None => {}
            }
        }
    }
}
