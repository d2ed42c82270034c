//! The record of what was committed, and what must never happen to it.

use crate::log::{Epoch, LONGEST, Log, Seq};
use crate::master::Begun;

/// A promise of the cluster that was broken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Harm {
    /// An entry that was committed in a reign is missing from a later reign's log.
    Lost,
    /// Two reigns committed different entries at one place.
    Forked,
    /// A reign began twice, each time with a log of its own.
    TwoLogs,
    /// A copy of a reign dropped an entry that this reign or an earlier one had committed.
    Dropped,
    /// A copy was contradicted at a place that it was told to be committed.
    Diverged,
}

/// What was ever committed. No node knows it: it is kept to judge the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Committed {
    log: Log,
    /// The lowest reign that committed the entry at each place.
    by: [Epoch; LONGEST],
}

impl Committed {
    /// A reign counts entries as committed.
    pub fn count(&mut self, begun: &Begun, reigns: &[Begun]) -> Option<Harm> {
        let counted = begun.log.beginning(begun.committed);
        for (index, &entry) in counted.iter().enumerate() {
            match self.log.get(index) {
                Some(&other) if other != entry => return Some(Harm::Forked),
                Some(_) => self.by[index] = self.by[index].min(begun.reign.epoch),
                None => {
                    self.log.push(entry);
                    self.by[index] = begun.reign.epoch;
                }
            }
        }
        let mut later = reigns.iter().filter(|other| other.reign.epoch > begun.reign.epoch);
        later.any(|later| !later.log.starts_with(&counted)).then_some(Harm::Lost)
    }

    /// A reign begins.
    pub fn harm_of_beginning(&self, begun: &Begun, reigns: &[Begun]) -> Option<Harm> {
        if reigns.iter().any(|other| other.reign == begun.reign) {
            return Some(Harm::TwoLogs);
        }
        let is_missing = |index: usize| {
            self.by[index] < begun.reign.epoch && begun.log.get(index) != self.log.get(index)
        };
        (0..self.log.len()).any(is_missing).then_some(Harm::Lost)
    }

    /// A message of a reign of this epoch changes a copy. The copy may drop an entry that only a
    /// later reign has committed: that reign has not counted this copy.
    pub fn harm_of_dropping(&self, epoch: Epoch, before: &Log, after: &Log) -> Option<Harm> {
        let is_dropped = |place: Seq| {
            let entry = before.at(place);
            let is_committed =
                entry == self.log.at(place) && self.by[usize::from(place) - 1] <= epoch;
            is_committed && after.at(place) != entry
        };
        let places = 1..=self.log.last_seq().min(before.last_seq());
        places.into_iter().any(is_dropped).then_some(Harm::Dropped)
    }

    /// From now on only reigns of this epoch or a later one begin, or change a copy.
    pub fn forget_who_committed_before(&mut self, epoch: Epoch) {
        self.by.iter_mut().filter(|by| **by < epoch).for_each(|by| *by = 0);
    }
}
