//! A master: when it may begin a reign, over which log, and what it counts as committed.

use crate::faults::Fault;
use crate::log::{Epoch, Id, Log, Rank, Reign, Seq};
use crate::secondary::{Call, Herald, Position};
use crate::setup::{Recovery, Setup};

/// What a master's directory keeps; without one, what its process keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Own {
    /// Its identity.
    pub id: Id,
    /// The last reign that it began, 0 without any.
    pub reigned: Epoch,
    /// As of a secondary. A first reign does not raise it: perhaps nobody has followed that reign.
    pub log_epoch: Epoch,
    /// The log. While the master reigns it is up to date only up to L: the rest is in
    /// [`Begun::log`].
    pub log: Log,
}

/// What a master does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// It has crashed, was deposed, looks around or stands by: it asks for nothing.
    Idle,
    /// It asks for promises to a reign of this epoch.
    Asking(Epoch),
    /// It reigns in this epoch, or believes so.
    Reigning(Epoch),
}

/// A master.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Master {
    /// What it keeps.
    pub own: Own,
    /// What it does.
    pub phase: Phase,
}

impl Master {
    /// A master that has never reigned.
    pub fn new(id: Id) -> Master {
        let own = Own { id, reigned: 0, log_epoch: 0, log: Log::default() };
        Master { own, phase: Phase::Idle }
    }

    /// The greatest epoch that it has used, as far as it knows.
    pub fn epoch(&self) -> Epoch {
        match self.phase {
            Phase::Idle => self.own.reigned,
            Phase::Asking(epoch) | Phase::Reigning(epoch) => epoch,
        }
    }

    /// It waits for promises to this reign.
    pub fn asks_for(&self, reign: Reign) -> bool {
        self.own.id == reign.id && self.phase == Phase::Asking(reign.epoch)
    }

    /// It believes to reign in this reign.
    pub fn leads(&self, reign: Reign) -> bool {
        self.own.id == reign.id && self.phase == Phase::Reigning(reign.epoch)
    }
}

/// Why a reign may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grounds {
    /// So many promises that every committed entry is seen, and nobody else commits any more.
    Takeover,
    /// The own directory has all that it ever acknowledged, and nobody has reigned since.
    OwnDirectory,
    /// Nobody that answers has ever heard of a master.
    FirstReign,
    /// `RECOVERY=any`.
    OperatorsWord,
}

/// Whether a master may begin a reign of this epoch, when it has heard these promises.
pub fn may_begin(own: &Own, epoch: Epoch, heard: &[Position], setup: &Setup) -> Option<Grounds> {
    if heard.len() >= setup.promises_for_takeover() {
        Some(Grounds::Takeover)
    } else if is_own(own, heard, setup) {
        Some(Grounds::OwnDirectory)
    } else {
        match setup.recovery {
            Recovery::Any => Some(Grounds::OperatorsWord),
            Recovery::Auto if setup.is_first(epoch) => Some(Grounds::FirstReign),
            _ => None,
        }
    }
}

/// Whether all that this master has acknowledged is in its log, and nobody can have reigned since.
/// A secondary that was told of a committed place beyond the log shows that the directory is old.
fn is_own(own: &Own, heard: &[Position], setup: &Setup) -> bool {
    own.reigned > 0
        && heard.iter().filter(|position| position.mine).count()
            >= setup.promises_on_own_directory()
        && heard.iter().all(|position| position.committed <= own.log.last_seq())
}

/// The logs of the best rank among the promised and the own one. Two logs of one rank may differ in
/// what is not committed: any of them will do.
pub fn best_logs(own: &Own, heard: &[Position], setup: &Setup) -> Vec<Log> {
    let own_epoch = if is_own(own, heard, setup) { own.reigned } else { own.log_epoch };
    let promised = heard.iter().map(|position| (position.log_epoch, position.log));
    let logs: Vec<(Epoch, Log)> = promised.chain([(own_epoch, own.log)]).collect();
    let rank = |&(log_epoch, log): &(Epoch, Log)| -> Rank {
        match setup.fault {
            Some(Fault::RankByLastEntry) => (log.last().map_or(0, |e| e.epoch), log.last_seq()),
            _ => (log_epoch, log.last_seq()),
        }
    };
    let best = logs.iter().map(rank).max();
    let mut logs: Vec<Log> =
        logs.iter().filter(|log| Some(rank(log)) == best).map(|&(_, log)| log).collect();
    logs.sort_unstable();
    logs.dedup();
    logs
}

/// A reign that has begun. Its log only grows, so every call of it that may still be on its way is a
/// piece of that log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Begun {
    /// The reign.
    pub reign: Reign,
    /// L, the length of the log that it began with.
    pub start: Seq,
    /// Its log.
    pub log: Log,
    /// The last place that its master has counted as committed.
    pub committed: Seq,
}

impl Begun {
    /// What every heartbeat and call says.
    pub fn herald(&self) -> Herald {
        Herald {
            reign: self.reign,
            start: self.start,
            epoch_at_start: self.log.epoch_at(self.start).unwrap_or_default(),
            committed: self.committed,
        }
    }

    /// The call with the entries `first..=last`.
    pub fn piece(&self, first: Seq, last: Seq) -> Call<'_> {
        Call {
            first,
            prev_epoch: self.log.epoch_at(first - 1).unwrap_or_default(),
            entries: &self.log[usize::from(first) - 1..usize::from(last)],
        }
    }

    /// How far the entries are committed when each secondary has acknowledged so far.
    ///
    /// Entries up to L count as held only by copies that have reached L: others may still rank below
    /// a log without these entries. The master's own vote counts when it is stored, so a crash keeps
    /// what was counted ([`State::survivors`](crate::cluster::State)).
    pub fn countable(&self, acked: &[Seq], setup: &Setup) -> Seq {
        let holds = |acked: Seq, place: Seq| {
            acked >= place && (acked >= self.start || setup.fault == Some(Fault::NoBarrier))
        };
        let is_committed = |&place: &Seq| {
            acked.iter().filter(|&&acked| holds(acked, place)).count() >= setup.acks_needed()
        };
        (1..=self.log.last_seq()).rev().find(is_committed).unwrap_or(0)
    }
}
