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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use common::entries::{Epoch, Log, Message};
    use common::reign::{Facts, Reign};
    use common::wire::Position;

    use super::*;
    use crate::lines::Found;
    use crate::state::Options;

    const LONG: Duration = Duration::from_secs(60);

    /// A master whose second reign begins over one entry, of which its secondaries have not told.
    fn replication(secondaries: usize) -> Replication {
        let mut log = Log::new(9);
        log.append(Epoch(1), &Message::new("m").into());
        let options = Options::of_test(vec!["http://a".into(); secondaries]);
        let replication = Replication::new(Arc::new(options), log, Facts::default(), None);
        let found = vec![Found::Nothing; secondaries];
        let reign = Reign { epoch: Epoch(2), ..Reign::default() };
        replication.begin_reign(reign, Vec::new(), &found);
        replication
    }

    /// Answers a heartbeat that begins now.
    fn answer(replication: &Replication, held: u64, epoch: u64) {
        let (number, _) = replication.heartbeat(0);
        let (last_seq, last_epoch, instance) = (Seq(held), Epoch(held.min(1)), "1".into());
        let (epoch, log_epoch) = (Epoch(epoch), Some(Epoch(epoch)));
        let position = Position { last_seq, last_epoch, epoch, log_epoch, instance };
        replication.observe(0, number, Ok(Found::Ours(position.into())));
    }

    /// What a read gets that arrives before these heartbeats are answered.
    fn read_before(replication: &Replication, heartbeats: &[(u64, u64)]) -> Result<Seq, String> {
        thread::scope(|scope| {
            let before = replication.lock().lines.next_number();
            let reading = scope.spawn(|| replication.confirm_within(LONG));
            while !replication.rounds.wants_after(before) {
                thread::yield_now();
            }
            heartbeats.iter().for_each(|(held, epoch)| answer(replication, *held, *epoch));
            reading.join().unwrap()
        })
    }

    #[test]
    fn a_new_reign_confirms_what_it_began_with() {
        // Goal: a former master may have committed the entry, so a quorum that does not hold it yet
        // confirms nothing.
        let replication = replication(1);
        answer(&replication, 0, 2);
        let early = replication.confirm_within(Duration::ZERO).unwrap_err();
        assert!(early.contains("no quorum"), "an older heartbeat counted: {early}");
        assert_eq!(read_before(&replication, &[(0, 2), (1, 2)]), Ok(Seq(1)));
        assert_eq!(read_before(&replication, &[(1, 2)]), Ok(Seq(1)));
    }

    #[test]
    fn a_greater_epoch_refuses_all_reads() {
        let replication = replication(2);
        answer(&replication, 1, 2);
        let refused = read_before(&replication, &[(1, 1), (1, 3)]).unwrap_err();
        assert!(refused.contains("epoch 3 has begun"), "{refused}");
    }

    #[test]
    fn a_master_without_secondaries_confirms_alone() {
        assert_eq!(replication(0).confirm_within(LONG), Ok(Seq(1)));
    }
}
