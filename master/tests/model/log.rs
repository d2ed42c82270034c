//! Reigns, entries, logs and ranks: the values that the protocol compares.

use std::ops::Deref;

/// The number of a reign. A later reign has a greater number; no reign has number 0.
pub type Epoch = u8;

/// The place of an entry, counted from 1.
pub type Seq = u8;

/// How good a log is, [`log_epoch`](crate::secondary::Secondary::log_epoch) first, then its last
/// place. The log of the greatest rank becomes the log of the next reign.
pub type Rank = (Epoch, Seq);

/// The longest log of the model.
pub const LONGEST: usize = 4;

/// The identity of a master. A directory keeps it; a master in memory draws a new one in each life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Id(u8);

impl Id {
    /// The identity of master 0 or 1 in its first, second ... life.
    pub fn new(master: usize, life: u8) -> Id {
        Id(1 + master as u8 + 2 * life)
    }

    /// The master that drew this identity: 0 or 1.
    pub fn master(self) -> usize {
        usize::from(self.0 + 1) % 2
    }
}

/// One master's rule over the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Reign {
    /// Its number.
    pub epoch: Epoch,
    /// The master's identity: it tells two masters apart that drew the same number.
    pub id: Id,
}

/// An entry. The reign that appended it stands for its message: a reign appends one entry at a
/// place, so the reign and the place tell any two entries apart.
pub type Entry = Reign;

/// A log of at most [`LONGEST`] entries. It reads as a slice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Log {
    len: Seq,
    entries: [Entry; LONGEST],
}

impl Log {
    /// The place of the last entry, 0 without any.
    pub fn last_seq(&self) -> Seq {
        self.len
    }

    /// The entry at a place, if the log is that long.
    pub fn at(&self, place: Seq) -> Option<Entry> {
        let index = usize::from(place).checked_sub(1)?;
        self.get(index).copied()
    }

    /// The epoch of the entry at a place. Place 0 has epoch 0 in every log.
    pub fn epoch_at(&self, place: Seq) -> Option<Epoch> {
        if place == 0 { Some(0) } else { self.at(place).map(|entry| entry.epoch) }
    }

    /// Appends an entry.
    pub fn push(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }

    /// Keeps the entries up to a place.
    pub fn truncate(&mut self, last: Seq) {
        self.len = self.len.min(last);
        self.entries[usize::from(self.len)..].fill(Entry::default());
    }

    /// The log up to a place.
    pub fn beginning(&self, last: Seq) -> Log {
        let mut log = *self;
        log.truncate(last);
        log
    }
}

impl Deref for Log {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        &self.entries[..usize::from(self.len)]
    }
}
