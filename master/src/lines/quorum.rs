//! What so many nodes hold, and have answered, that it counts.

use common::entries::Seq;

use super::{Line, Lines};
use crate::concern;
use crate::health::Health;

impl Lines {
    /// The last entry that a quorum has held. It does not go back when a secondary forgets.
    pub fn committed_seq(&self) -> Seq {
        self.committed
    }

    pub(super) fn commit(&mut self) {
        // A copy that has not reached the beginning of the reign may be one of an older log.
        let reached = |acked: Seq| if acked >= self.reign_start { acked.0 } else { 0 };
        let acked = self.secondaries.iter().map(|line| reached(line.acked_seq()));
        let held = acked.chain([self.stored_seq().0]).collect();
        self.committed = self.committed.max(Seq(concern::committed(held, self.quorum)));
    }

    /// A quorum has answered heartbeats of this number or a greater one in the epoch of this reign,
    /// the master included: when the first of those was sent, nobody else reigned.
    pub fn answered_number(&self) -> u64 {
        let mut answered: Vec<u64> = self.secondaries.iter().map(Line::answered).collect();
        answered.push(u64::MAX);
        concern::committed(answered, self.quorum)
    }

    /// How many secondaries hold the entry. Entries from before the reign count only with the whole
    /// log that the reign began with.
    pub fn acks(&self, seq: Seq) -> usize {
        let until = seq.max(self.reign_start);
        self.secondaries.iter().filter(|line| line.acked_seq() >= until).count()
    }

    /// The number of nodes that are not known to be away, the master included.
    pub fn reachable(&self) -> usize {
        let can_follow = |line: &&Line| line.health() != Health::Unhealthy && !line.diverged();
        1 + self.secondaries.iter().filter(can_follow).count()
    }
}
