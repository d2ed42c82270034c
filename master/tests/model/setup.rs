//! A configuration: which nodes there are, what they keep, and how far the model looks.

use crate::faults::Fault;
use crate::log::Epoch;

/// With how many promises a reign may begin besides by takeover and on the own directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// `RECOVERY=quorum`: no other way.
    Quorum,
    /// The default: the first reign of a cluster begins with those that answer.
    Auto,
    /// `RECOVERY=any`: every reign may begin with those that answer.
    Any,
}

/// Whether an operator copies a master's directory once and puts the copy back later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backup {
    /// No.
    None,
    /// The copy has the master's identity.
    WithItsId,
    /// The identity was removed from the copy: the master draws a new one.
    WithoutItsId,
}

/// One configuration of the model.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// n, the number of secondaries.
    pub secondaries: usize,
    /// Whether each of the masters has a directory.
    pub masters: &'static [bool],
    /// Secondaries have a directory: they keep everything when they restart.
    pub disks: bool,
    /// The mistake that is put in.
    pub fault: Option<Fault>,
    /// How a reign may begin with fewer promises.
    pub recovery: Recovery,
    /// What an operator does with a master's directory.
    pub backup: Backup,
    /// A master that stands by brings its own log level with what another reign has committed.
    pub levelling: bool,
    /// Calls tell what is committed.
    pub places_are_told: bool,
    /// Calls wait for a secondary's disk, and promises arrive meanwhile.
    pub slow_disk: bool,
    /// A better log is fetched late: the secondary may have followed a greater reign by then.
    pub late_fetch: bool,
    /// The greatest epoch.
    pub epochs: Epoch,
    /// The number of appends.
    pub messages: u8,
    /// The number of crashes.
    pub crashes: u8,
}

impl Setup {
    /// Two masters with directories and secondaries with disks, within these bounds.
    pub const fn new(secondaries: usize, epochs: Epoch, messages: u8, crashes: u8) -> Setup {
        Setup {
            secondaries,
            masters: &[true, true],
            disks: true,
            fault: None,
            recovery: Recovery::Quorum,
            backup: Backup::None,
            levelling: false,
            places_are_told: false,
            slow_disk: false,
            late_fetch: false,
            epochs,
            messages,
            crashes,
        }
    }

    /// q, the majority of the n secondaries and a master.
    pub fn majority(&self) -> usize {
        let nodes = self.secondaries + 1;
        nodes / 2 + 1
    }

    /// How many secondaries must hold an entry together with the master.
    pub fn acks_needed(&self) -> usize {
        self.majority() - 1
    }

    /// n − q + 2, at most n.
    pub fn promises_for_takeover(&self) -> usize {
        let needed = self.secondaries + 2 - self.majority();
        let missing = usize::from(self.fault == Some(Fault::OnePromiseTooFew));
        needed.min(self.secondaries) - missing
    }

    /// q − 1.
    pub fn promises_on_own_directory(&self) -> usize {
        match self.fault {
            Some(Fault::OwnDirectoryHearsNobody) => 0,
            _ => self.majority() - 1,
        }
    }

    /// Whether this is the epoch of a first reign, of a cluster that has never heard of a master.
    /// First reigns that need no quorum have epochs of their own, lower than all others.
    pub fn is_first(&self, epoch: Epoch) -> bool {
        match self.recovery {
            Recovery::Quorum => epoch == 1,
            _ => usize::from(epoch) <= self.masters.len(),
        }
    }

    /// The epoch of a master's first reign.
    pub fn first_epoch(&self, master: usize) -> Epoch {
        match self.recovery {
            Recovery::Quorum => 1,
            _ => master as Epoch + 1,
        }
    }

    /// A secondary's promise outlives a restart.
    pub fn promises_are_kept(&self) -> bool {
        self.disks && self.fault != Some(Fault::PromiseNotPersisted)
    }
}
