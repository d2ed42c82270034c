//! A secondary: what it keeps, and how it answers a promise, a heartbeat and a call.
//!
//! Whatever these functions change is on the secondary's disk before the answer leaves.

use crate::faults::Fault;
use crate::log::{Entry, Epoch, Log, Reign, Seq};
use crate::setup::Setup;

/// What a secondary keeps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Secondary {
    /// The greatest reign that it has promised or followed.
    pub promised: Reign,
    /// The promised master was followed, and nothing was promised to another one since.
    pub followed: bool,
    /// The last reign whose log this copy is known to be a beginning of, and whose L it has reached.
    pub log_epoch: Epoch,
    /// The last place that it was told to be committed, at most the last one that it verified.
    pub committed: Seq,
    /// The copy.
    pub log: Log,
}

/// The answer to a promise: where the secondary stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position {
    /// Before this promise it followed the asking master, and had promised to no other since.
    pub mine: bool,
    /// [`Secondary::log_epoch`].
    pub log_epoch: Epoch,
    /// [`Secondary::committed`].
    pub committed: Seq,
    /// The log: the master can fetch it.
    pub log: Log,
}

/// What heartbeats and calls say of their reign.
#[derive(Clone, Copy)]
pub struct Herald {
    /// The reign.
    pub reign: Reign,
    /// L, the length of the log that the reign began with.
    pub start: Seq,
    /// The epoch of the entry at L.
    pub epoch_at_start: Epoch,
    /// The last place that the master has counted as committed.
    pub committed: Seq,
}

/// The entries of a call.
pub struct Call<'a> {
    /// The place of the first one.
    pub first: Seq,
    /// The epoch of the entry before the first one.
    pub prev_epoch: Epoch,
    /// The entries.
    pub entries: &'a [Entry],
}

/// The answer to a heartbeat or a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Another reign was promised.
    Refused,
    /// The reign is followed, but nothing is acknowledged.
    Followed,
    /// The log is verified and stored up to this place.
    Acked(Seq),
    /// An entry that was told to be committed is contradicted. It stays; an operator must look.
    Diverged,
}

impl Secondary {
    /// Promises a reign: no lower one is served from now on.
    pub fn promise(&mut self, reign: Reign, setup: &Setup) -> Option<Position> {
        if !self.allows(reign, setup) {
            return None;
        }
        let is_same_master = self.promised.id == reign.id;
        let mine =
            is_same_master && (self.followed || setup.fault == Some(Fault::LastPromiseWasMine));
        self.followed &= is_same_master;
        self.promised = reign;
        Some(Position { mine, log_epoch: self.log_epoch, committed: self.committed, log: self.log })
    }

    /// Takes a heartbeat: the reign is followed, and the entry at L is compared.
    pub fn heartbeat(&mut self, herald: &Herald, setup: &Setup) -> Answer {
        if !self.allows(herald.reign, setup) {
            return Answer::Refused;
        }
        self.follow(herald.reign);
        match self.log.epoch_at(herald.start) {
            None => Answer::Followed,
            Some(epoch) if epoch == herald.epoch_at_start => {
                self.reach(herald.start, herald, setup);
                Answer::Followed
            }
            Some(_) => match self.contradiction(herald.start, herald.epoch_at_start) {
                Ok(()) => Answer::Followed,
                Err(answer) => answer,
            },
        }
    }

    /// Takes a call: the reign is followed, the entries are compared, stored and acknowledged.
    pub fn call(&mut self, herald: &Herald, call: &Call<'_>, setup: &Setup) -> Answer {
        if !self.allows(herald.reign, setup) {
            return Answer::Refused;
        }
        self.follow(herald.reign);
        self.take(herald, call, setup).unwrap_or_else(|answer| answer)
    }

    /// A reign is obeyed if it is greater than the promised one, or the same.
    ///
    /// Whoever has heard of a master follows no first reign of another one: it was begun by somebody
    /// who heard nobody.
    pub fn allows(&self, reign: Reign, setup: &Setup) -> bool {
        let is_known = self.promised.epoch > 0;
        let is_later =
            reign.epoch > self.promised.epoch && !(is_known && setup.is_first(reign.epoch));
        let is_same = match setup.fault {
            Some(Fault::EqualEpochsTakenForOne) => reign.epoch == self.promised.epoch,
            _ => reign == self.promised,
        };
        is_later || is_same
    }

    fn follow(&mut self, reign: Reign) {
        self.promised = reign;
        self.followed = true;
    }

    /// Compares and stores the entries of a call. Once the entry before them is the master's, so is
    /// everything before it.
    pub fn take(
        &mut self,
        herald: &Herald,
        call: &Call<'_>,
        setup: &Setup,
    ) -> Result<Answer, Answer> {
        let mut verified = call.first - 1;
        match self.log.epoch_at(verified) {
            None => return Ok(Answer::Followed),
            Some(epoch) if epoch != call.prev_epoch => {
                self.contradiction(verified, call.prev_epoch)?;
                return Ok(Answer::Followed);
            }
            Some(_) => {}
        }
        for &entry in call.entries {
            verified += 1;
            if self.log.at(verified).is_some_and(|own| own != entry) {
                self.contradiction(verified, entry.epoch)?;
            }
            if self.log.last_seq() < verified {
                self.log.push(entry);
            }
        }
        if verified >= herald.start || setup.fault == Some(Fault::ReachedBeforeTheStart) {
            self.reach(verified, herald, setup);
        }
        if setup.places_are_told {
            self.committed = self.committed.max(herald.committed.min(verified));
        }
        Ok(Answer::Acked(verified))
    }

    /// The copy is verified up to L or more, so it is a beginning of the reign's log once the rest is
    /// dropped. The rest is of former reigns: entries of this reign come with a call that verifies
    /// them. If the rest stayed, an old log would rank as high as one with committed entries.
    fn reach(&mut self, verified: Seq, herald: &Herald, setup: &Setup) {
        if self.log_epoch != herald.reign.epoch {
            if setup.fault != Some(Fault::OldTailKept) {
                self.log.truncate(verified);
            }
            self.log_epoch = herald.reign.epoch;
        }
    }

    /// The master has another entry at this place, of this epoch. Epochs grow along a log, so it has
    /// none of the entries before that are of a later epoch either. All of them are dropped, unless
    /// one was told to be committed.
    fn contradiction(&mut self, place: Seq, epoch: Epoch) -> Result<(), Answer> {
        let of_later_epochs = self.log.iter().position(|entry| entry.epoch > epoch);
        let last = of_later_epochs.map_or(place - 1, |index| (index as Seq).min(place - 1));
        if last < self.committed {
            return Err(Answer::Diverged);
        }
        self.log.truncate(last);
        Ok(())
    }
}
