//! What a run of the model contains: how many nodes, what they keep, and how far it looks.

use crate::faults::Fault;

/// How a new reign may begin besides by takeover and on the own directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// `RECOVERY=quorum`: no other way.
    Quorum,
    /// A new cluster begins with whoever answers.
    FirstStart,
    /// The same, but such a reign commits nothing before n − q + 2 secondaries have followed it.
    FirstStartCountsLate,
    /// `RECOVERY=any`: every reign may begin with whoever answers.
    Any,
}

/// Whether an operator copies a master's directory and puts the copy back later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backup {
    None,
    /// The copy keeps the master's identity.
    WithItsId,
    /// The identity is removed from the copy, so that the master draws a new one.
    WithoutItsId,
}

/// One configuration of the model.
#[derive(Clone, Debug)]
pub struct Setup {
    /// n, the number of secondaries.
    pub secondaries: usize,
    /// Whether each master has a directory.
    pub directories: [bool; 2],
    /// Secondaries keep what they know when they restart.
    pub disks: bool,
    pub fault: Option<Fault>,
    pub recovery: Recovery,
    pub backup: Backup,
    /// A standing-by master brings its own log level with the committed entries.
    pub standby: bool,
    /// Calls carry the committed place.
    pub places_are_told: bool,
    /// A secondary's disk is slow: a call waits for it.
    pub slow_disk: bool,
    /// A fetch reads the log as it is then, not as it was when the promise was answered.
    pub late_fetch: bool,
    /// The greatest epoch of a reign.
    pub epochs: u8,
    /// The number of appends.
    pub messages: u8,
    /// The number of crashes of any node.
    pub crashes: u8,
}

impl Setup {
    /// q, the majority of n secondaries and a master.
    pub fn majority(&self) -> usize {
        (self.secondaries + 1) / 2 + 1
    }

    /// The number of secondaries that must hold an entry with the master for it to be committed.
    pub fn acks_needed(&self) -> usize {
        self.majority() - 1
    }

    /// The number of promises for a takeover: n − q + 2, at most n. It has a secondary in common
    /// with every q − 1 secondaries that committed an entry.
    pub fn promises_for_takeover(&self) -> usize {
        let needed = match self.fault {
            Some(Fault::OnePromiseTooFew) => self.secondaries + 1 - self.majority(),
            _ => self.secondaries + 2 - self.majority(),
        };
        needed.min(self.secondaries)
    }

    /// The number of promises on the own directory, from secondaries that followed it last.
    pub fn promises_on_own_directory(&self) -> usize {
        match self.fault {
            Some(Fault::OwnDirectoryHearsNobody) => 0,
            _ => self.majority() - 1,
        }
    }

    /// A secondary's promise outlives a restart.
    pub fn promises_are_kept(&self) -> bool {
        self.disks && self.fault != Some(Fault::PromiseNotPersisted)
    }
}
