//! A secondary: what it keeps, and how it answers a promise, a heartbeat and a call.
//!
//! Everything that these functions change is on the secondary's disk before the answer leaves.

use crate::faults::Fault;
use crate::log::{Epoch, Id, Log, Rank, Reign, Seq};
use crate::setup::Setup;

/// What a secondary keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Secondary {
    /// The greatest reign that it promised to or followed.
    pub promised: Reign,
    /// The master whose reign it followed last, if it has promised to no other since.
    pub follows: Option<Id>,
    /// The last reign whose log this copy is known to be a beginning of, and whose `reign_start`
    /// it has reached.
    pub log_epoch: Epoch,
    /// The last place that it was told to be committed, at most the last that it verified.
    pub committed: Seq,
    pub log: Log,
}

/// The answer to a promise: where the secondary stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// It followed the asking master last, and has promised to no other since.
    pub mine: bool,
    pub log_epoch: Epoch,
    pub committed: Seq,
    pub log: Log,
}

/// What a heartbeat or a call says of its reign.
#[derive(Clone, Copy)]
pub struct Herald {
    pub reign: Reign,
    /// The length L of the log that the reign began with: `reign_start`.
    pub start: Seq,
    /// The epoch of the entry at L.
    pub epoch_at_start: Epoch,
    /// The last place that the master counts as committed.
    pub committed: Seq,
}

/// A call: entries from the place `first` on, and the epoch of the entry before them.
pub struct Call<'a> {
    pub first: Seq,
    pub prev_epoch: Epoch,
    pub entries: &'a [crate::log::Entry],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The secondary has promised to another reign.
    Refused,
    /// The entry before the call's first one is missing, or was another one.
    Gap,
    /// The log is verified up to this place.
    Acked(Seq),
    /// A committed entry is contradicted. An operator must look.
    Diverged,
}

/// A contradiction at or below a committed place.
struct Diverged;

impl Secondary {
    /// A promise: no lower reign is served from now on. The answer says where this copy stands,
    /// and whether it followed the asker *before* this promise.
    pub fn promise(&mut self, reign: Reign, setup: &Setup) -> Option<Position> {
        if !self.admits(reign, setup) {
            return None;
        }
        let mine = match setup.fault {
            Some(Fault::LastPromiseWasMine) => self.promised.id == reign.id,
            _ => self.follows == Some(reign.id),
        };
        self.promised = reign;
        if self.follows != Some(reign.id) {
            self.follows = None;
        }
        Some(Position { mine, log_epoch: self.log_epoch, committed: self.committed, log: self.log })
    }

    /// A heartbeat: the reign is followed, and the entry at L is compared.
    pub fn heartbeat(&mut self, herald: &Herald, setup: &Setup) -> Answer {
        if !self.admits(herald.reign, setup) {
            return Answer::Refused;
        }
        self.follow(herald.reign);
        match self.log.epoch_at(herald.start) {
            None => Answer::Gap,
            Some(epoch) if epoch == herald.epoch_at_start => {
                self.reached(herald, setup);
                Answer::Gap
            }
            Some(_) => self.contradiction(herald.start).map_or(Answer::Diverged, |()| Answer::Gap),
        }
    }

    /// A call: entries are compared, appended and acknowledged.
    pub fn call(&mut self, herald: &Herald, call: &Call<'_>, setup: &Setup) -> Answer {
        if !self.admits(herald.reign, setup) {
            return Answer::Refused;
        }
        self.follow(herald.reign);
        self.take(herald, call, setup).unwrap_or(Answer::Diverged)
    }

    /// The rank of this copy's log: never the epoch of its last entry.
    pub fn rank(&self) -> Rank {
        (self.log_epoch, self.log.last_seq())
    }

    /// A reign is admitted if it is greater than the promised one, or the same.
    pub fn admits(&self, reign: Reign, setup: &Setup) -> bool {
        match setup.fault {
            Some(Fault::EqualEpochsTakenForOne) => reign.epoch >= self.promised.epoch,
            _ => reign.epoch > self.promised.epoch || reign == self.promised,
        }
    }

    fn follow(&mut self, reign: Reign) {
        self.promised = reign;
        self.follows = Some(reign.id);
    }

    pub fn take(
        &mut self,
        herald: &Herald,
        call: &Call<'_>,
        setup: &Setup,
    ) -> Result<Answer, impl Sized + use<>> {
        let previous = call.first - 1;
        match self.log.epoch_at(previous) {
            None => return Ok(Answer::Gap),
            Some(epoch) if epoch != call.prev_epoch => {
                return self.contradiction(previous).map(|()| Answer::Gap);
            }
            Some(_) => {}
        }
        let mut verified = previous;
        for &entry in call.entries {
            verified += 1;
            if self.log.at(verified).is_some_and(|own| own != entry) {
                self.contradiction(verified)?;
            }
            if self.log.last_seq() < verified {
                self.log.push(entry);
            }
        }
        if verified >= herald.start || setup.fault == Some(Fault::ReachedBeforeTheStart) {
            self.reached(herald, setup);
        }
        if setup.places_are_told {
            self.committed = self.committed.max(herald.committed.min(verified));
        }
        Ok(Answer::Acked(verified))
    }

    /// The copy has reached L: it is a beginning of the reign's log once everything beyond L that
    /// is not of this reign is dropped. A reign appends beyond L in its own epoch only.
    fn reached(&mut self, herald: &Herald, setup: &Setup) {
        if self.log_epoch == herald.reign.epoch {
            return;
        }
        if setup.fault != Some(Fault::OldTailKept) {
            let known = self.log.iter().skip(usize::from(herald.start));
            let good = known.take_while(|entry| entry.epoch == herald.reign.epoch).count();
            self.log.truncate(herald.start + good as Seq);
        }
        self.log_epoch = herald.reign.epoch;
    }

    /// The reign's log has another entry at this place: the own tail is dropped, unless a majority
    /// is known to have it.
    fn contradiction(&mut self, place: Seq) -> Result<(), Diverged> {
        if place <= self.committed {
            return Err(Diverged);
        }
        self.log.truncate(place - 1);
        Ok(())
    }
}
