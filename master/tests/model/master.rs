//! A master: when it may begin a reign, over which log, and what it counts as committed.

use crate::faults::Fault;
use crate::log::{Epoch, Id, Log, Rank, Reign, Seq};
use crate::secondary::{Herald, Position};
use crate::setup::{Recovery, Setup};

/// What a master's directory keeps; without one, what its process keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Own {
    pub id: Id,
    /// The last reign that it began, and so the reign whose log this is. 0: it never reigned.
    pub log_epoch: Epoch,
    /// The log. A reigning master's log stands with its reign, and here only up to L.
    pub log: Log,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    /// Stopped, looking, standing by or deposed: it asks for nothing.
    Idle,
    /// It asks for promises to a reign of this epoch.
    Asking(Epoch),
    /// It reigns, or believes so.
    Reigning(Epoch),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Master {
    pub own: Own,
    pub phase: Phase,
}

impl Master {
    pub fn new(id: Id) -> Master {
        Master { own: Own { id, log_epoch: 0, log: Log::default() }, phase: Phase::Idle }
    }

    /// The greatest epoch that it has used.
    pub fn epoch(&self) -> Epoch {
        match self.phase {
            Phase::Idle => self.own.log_epoch,
            Phase::Asking(epoch) | Phase::Reigning(epoch) => epoch,
        }
    }

    pub fn asks_for(&self, reign: Reign) -> bool {
        self.own.id == reign.id && self.phase == Phase::Asking(reign.epoch)
    }

    pub fn reigns_in(&self, reign: Reign) -> bool {
        self.own.id == reign.id && self.phase == Phase::Reigning(reign.epoch)
    }
}

/// Why a reign may begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Grounds {
    /// So many promises that every committed entry is seen, and no former master commits another.
    Takeover,
    /// The own directory has every entry that it acknowledged, and nobody reigned since.
    OwnDirectory,
    /// Nobody that answers has ever heard of a master.
    NewCluster,
    /// `RECOVERY=any`.
    OperatorsWord,
}

/// May a master begin a reign of this epoch after these promises?
pub fn may_begin(own: &Own, epoch: Epoch, heard: &[Position], setup: &Setup) -> Option<Grounds> {
    let mine = heard.iter().filter(|position| position.mine).count();
    let is_old_backup = heard.iter().any(|position| position.committed > own.log.last_seq());
    if heard.len() >= setup.promises_for_takeover() {
        Some(Grounds::Takeover)
    } else if own.log_epoch > 0 && mine >= setup.promises_on_own_directory() && !is_old_backup {
        Some(Grounds::OwnDirectory)
    } else if setup.recovery == Recovery::Any {
        Some(Grounds::OperatorsWord)
    } else if setup.recovery != Recovery::Quorum && epoch == 1 {
        // Epoch 1 is greater than every epoch that was heard: no answer names a reign.
        Some(Grounds::NewCluster)
    } else {
        None
    }
}

/// The logs of the best rank among the promised and the own one. Logs of one rank may differ in
/// what is not committed; any of them will do.
pub fn best_logs(own: &Own, heard: &[Position], setup: &Setup) -> Vec<Log> {
    let mut logs = vec![(own.log_epoch, own.log)];
    logs.extend(heard.iter().map(|position| (position.log_epoch, position.log)));
    let rank = |(log_epoch, log): &(Epoch, Log)| -> Rank {
        match setup.fault {
            Some(Fault::RankByLastEntry) => (log.last().map_or(0, |e| e.epoch), log.last_seq()),
            _ => (*log_epoch, log.last_seq()),
        }
    };
    let best = logs.iter().map(rank).max();
    logs.retain(|log| Some(rank(log)) == best);
    let mut logs: Vec<Log> = logs.into_iter().map(|(_, log)| log).collect();
    logs.sort_unstable();
    logs.dedup();
    logs
}

/// A reign that has begun: its log only grows, so any call of it that may still be on its way is
/// a piece of this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Begun {
    pub reign: Reign,
    /// L, the length of the log that it began with.
    pub start: Seq,
    pub log: Log,
    /// The last place that its master counted as committed.
    pub committed: Seq,
    /// It began with fewer promises than a takeover needs.
    pub provisional: bool,
}

impl Begun {
    pub fn herald(&self) -> Herald {
        Herald {
            reign: self.reign,
            start: self.start,
            epoch_at_start: self.log.epoch_at(self.start).unwrap_or_default(),
            committed: self.committed,
        }
    }

    /// How far the entries are committed, given how far each secondary has acknowledged. The
    /// master's own vote counts too: [`Own`] says how much of the log survives a crash.
    pub fn countable(&self, acked: &[Seq], setup: &Setup) -> Seq {
        let holds = |acked: Seq, place: Seq| match setup.fault {
            Some(Fault::NoBarrier) => acked >= place,
            _ => acked >= place && acked >= self.start,
        };
        let is_committed = |place: &Seq| {
            acked.iter().filter(|&&acked| holds(acked, *place)).count() >= setup.acks_needed()
        };
        (1..=self.log.last_seq()).rev().find(is_committed).unwrap_or(0)
    }
}
