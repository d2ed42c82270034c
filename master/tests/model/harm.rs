//! What must never happen, and the record of what was committed.

use crate::log::{Epoch, Log, Seq};
use crate::master::Begun;

/// A promise of the cluster that was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Harm {
    /// An entry that was committed in a reign is missing from a later reign's log.
    Lost,
    /// Two reigns committed different entries at one place.
    Forked,
    /// A reign has begun twice, each time with a log of its own; or two reigns have one epoch.
    TwoLogs,
    /// A secondary dropped a committed entry.
    Dropped,
    /// A secondary met a contradiction at or below a place that it was told to be committed.
    Diverged,
}

/// What was ever committed. No node knows it: the model keeps it to judge the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Committed {
    pub log: Log,
    /// The lowest reign that committed the entry at each place.
    by: [Epoch; 4],
}

impl Committed {
    /// A reign has counted entries up to its committed place.
    pub fn commit(&mut self, begun: &Begun, reigns: &[Begun]) -> Option<Harm> {
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
        let is_later = |other: &&Begun| other.reign.epoch > begun.reign.epoch;
        let has_it = |later: &Begun| later.log.starts_with(&counted);
        (!reigns.iter().filter(is_later).all(has_it)).then_some(Harm::Lost)
    }

    /// A reign begins with a log.
    pub fn harm_of_beginning(&self, begun: &Begun, reigns: &[Begun]) -> Option<Harm> {
        if reigns.iter().any(|other| other.reign == begun.reign) {
            return Some(Harm::TwoLogs);
        }
        let is_missing = |index: &usize| {
            self.by[*index] < begun.reign.epoch && begun.log.get(*index) != self.log.get(*index)
        };
        (0..self.log.len()).any(|index| is_missing(&index)).then_some(Harm::Lost)
    }

    /// A secondary's log has changed.
    pub fn harm_of_dropping(&self, before: &Log, after: &Log) -> Option<Harm> {
        let is_dropped = |place: Seq| {
            before.at(place).is_some()
                && before.at(place) == self.log.at(place)
                && after.at(place) != before.at(place)
        };
        (1..=self.log.last_seq()).any(is_dropped).then_some(Harm::Dropped)
    }
}
