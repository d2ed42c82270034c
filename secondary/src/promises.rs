//! What a secondary and its masters know of each other: heartbeats, promises, and where the copy
//! stands.
//!
//! A heartbeat of a reign that is obeyed is noted on the disk before it is answered, and so is a
//! promise, with everything that was accepted before. A secondary that hears a master promises
//! nothing to another one, unless an operator has told that one to begin.

use std::time::Instant;

use common::entries::{Epoch, Seq};
use common::reign::Reign;
use common::store::StoreError;
use common::wire::{Conflict, Heard, Heartbeat, Position, Promise, Refusal, Standing, Told};
use log::{info, warn};

use crate::replica::{Failed, Replica, State};

impl Replica {
    /// Where the copy stands.
    pub fn standing(&self) -> Standing {
        self.lock().standing()
    }

    /// Why this copy should not be read as if it were up to date; `None` when it may be.
    pub fn not_ready_reason(&self) -> Option<String> {
        let state = self.lock();
        if let Some(why) = state.read_only() {
            return Some(format!("read-only, {why}"));
        }
        state.copy.not_ready_reason(state.stored, Instant::now())
    }

    /// Whether a master of ours was ever promised or followed.
    pub fn is_driven(&self) -> bool {
        self.lock().copy.facts.promised.epoch > Epoch::default()
    }

    /// Records where the master stands, and answers where this copy does. A heartbeat of a reign
    /// that is over, or of none, changes nothing.
    /// Fails when what must not be forgotten could not be written to the disk.
    pub fn heartbeat(&self, heartbeat: Heartbeat) -> Result<Standing, StoreError> {
        let (mut state, reign) = (self.lock(), heartbeat.reign);
        if reign.epoch > Epoch::default() && state.copy.facts.allow(reign) {
            let (start, epoch) = (heartbeat.reign_start, heartbeat.reign_start_epoch);
            state.copy.follow(reign);
            state.copy.hear(heartbeat, Instant::now());
            if let Some(start) = start {
                if let Some(found) = state.copy.contradiction_at_start(start, epoch) {
                    // A master finds out with its next call.
                    let _ = self.resolve(&mut state, found);
                }
                state.copy.verify_start(start, epoch);
                let _ = self.reach(&mut state, start);
            }
            self.ring(&state);
            state = self.persist(state, Seq::NONE)?;
        }
        Ok(state.standing())
    }

    /// Promises to obey no reign before this one any more. The answer says where the copy stands,
    /// and whom it has followed until now; everything accepted before is on the disk.
    /// Fails with a refusal in the first place, or with what is wrong with the disk.
    pub fn promise(&self, promise: Promise) -> Result<Result<Standing, Refusal>, StoreError> {
        match self.try_promise(promise) {
            Ok(standing) => Ok(Ok(standing)),
            Err(Failed::Refused(refusal)) => Ok(Err(refusal)),
            Err(Failed::Disk(error)) => Err(error),
        }
    }

    fn try_promise(&self, Promise { reign, url, takeover }: Promise) -> Result<Standing, Failed> {
        let mut state = self.lock();
        state.check_disk()?;
        state.check_reign(reign)?;
        let heard = state.copy.hears(Instant::now());
        let heard = heard.filter(|heard| heard.is_other(reign.master, &url));
        if let Some(heard) = heard.filter(|_| !takeover) {
            let error = format!("The master {} is heard", heard.url);
            return Err(Failed::Refused(state.refuse(Conflict::LivingMaster, error)));
        }
        if !takeover && state.copy.may_have_missed(reign, Instant::now()) {
            let error = "It has just started and may have missed a living master".into();
            return Err(Failed::Refused(state.refuse(Conflict::LivingMaster, error)));
        }
        let follows = state.copy.facts.follows();
        state.copy.promise(reign);
        let candidate = Heard { master: reign.master, url, is_candidate: true };
        state.copy.expect(candidate, Instant::now());
        let last = state.copy.log.last_seq();
        let state = self.persist(state, last)?;
        state.check_reign(reign)?;
        info!("promised epoch={reign} master={}", reign.master);
        Ok(Standing { follows, ..state.standing() })
    }
}

impl State {
    pub(crate) fn position(&self) -> Position {
        let last_seq = self.copy.last_counted(self.stored);
        Position {
            last_seq,
            last_epoch: self.copy.log.epoch_of(last_seq),
            epoch: self.copy.facts.promised.epoch,
            log_epoch: Some(self.noted.log_epoch),
            instance: self.instance.clone(),
        }
    }

    fn standing(&self) -> Standing {
        let facts = &self.copy.facts;
        Standing {
            position: self.position(),
            master: facts.promised.master,
            follows: facts.follows(),
            committed_seq: self.committed_seq(),
            has_followers: false,
            told: Box::new(Told { dropped_entries: self.copy.dropped, ..Told::default() }),
            hears: self.copy.hears(Instant::now()),
        }
    }

    /// Refuses a reign that is over.
    pub(crate) fn check_reign(&self, reign: Reign) -> Result<(), Failed> {
        let known = self.copy.facts.promised;
        if self.copy.facts.allow(reign) {
            return Ok(());
        }
        warn!("refused a stale master epoch={reign} known_epoch={known}");
        let error = if reign.epoch < known.epoch {
            format!("Epoch {reign} is over: epoch {known} has begun")
        } else {
            format!("Epoch {reign} is another master's")
        };
        Err(Failed::Refused(self.refuse(Conflict::StaleEpoch, error)))
    }
}
