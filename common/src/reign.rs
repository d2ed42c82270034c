//! Who reigns, and what a node must not forget of that.
//!
//! A **reign** is the time of one master: an epoch, and the identity of the master. Epochs grow;
//! two masters that draw the same epoch are told apart by their identities.
//!
//! A node that *promises* a reign obeys no earlier one any more. A node that *follows* a reign has
//! taken a call or a heartbeat of it. [`Facts`] is everything that a node must know of that after a
//! restart.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::entries::{Epoch, Seq};
use crate::random::random;

/// The identity of a master: a random number, kept in its directory until that is promoted, in
/// memory drawn anew by each process. 0 is nobody's: a master of an earlier release does not give
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct MasterId(pub u128);

impl MasterId {
    /// Nobody's.
    pub const NONE: MasterId = MasterId(0);

    /// An identity that nobody else has.
    pub fn draw() -> MasterId {
        MasterId(u128::from(random()) << 64 | u128::from(random()))
    }
}

impl fmt::Display for MasterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for MasterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MasterId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MasterId, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = u128::from_str_radix(&text, 16).ok().filter(|_| is_hex);
        id.map(MasterId).ok_or_else(|| de::Error::custom("an identity is 32 hexadecimal digits"))
    }
}

/// The time of one master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Reign {
    /// Its epoch, greater than that of any reign before it.
    pub epoch: Epoch,
    /// The master.
    #[serde(default)]
    pub master: MasterId,
}

/// The epochs of first reigns: less than any that is drawn by the clock.
pub const FIRST_EPOCHS: Range<u64> = 1 << 40..1 << 41;

impl Reign {
    /// The first reign of a cluster whose secondaries have never heard of a master. Only such
    /// secondaries follow it.
    pub fn first(master: MasterId) -> Reign {
        let length = FIRST_EPOCHS.end - FIRST_EPOCHS.start;
        Reign { epoch: Epoch(FIRST_EPOCHS.start + random() % length), master }
    }

    /// Whether it is the first one of a cluster.
    pub fn is_first(self) -> bool {
        FIRST_EPOCHS.contains(&self.epoch.0)
    }
}

impl fmt::Display for Reign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.epoch.fmt(f)
    }
}

/// How much a log is worth to a starting master: the last reign whose log it began with, then its
/// length. Every entry that a majority has acknowledged is in the log of the greatest rank among
/// those that a starting master must hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rank {
    /// [`Facts::log_epoch`].
    pub log_epoch: Epoch,
    /// The last entry.
    pub last_seq: Seq,
}

/// What a node must not forget. With a directory it is on the disk before the node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// The greatest reign that this node has promised or followed; of a master, its own.
    pub promised: Reign,
    /// The promised master was followed, and nothing was promised to another one since.
    pub followed: bool,
    /// The last reign whose log this one is a beginning of, and at least as long as that log was
    /// when the reign began.
    pub log_epoch: Epoch,
    /// The last entry that is known to be held by a majority.
    pub committed: Seq,
    /// The first of the entries that came in the original's form past a master of ours; 0 if there
    /// are none. They do not count.
    pub strays_from: Seq,
    /// The identity of the master whose directory this is.
    pub id: MasterId,
}

impl Facts {
    /// Whether a master of this reign is obeyed. Whoever has heard of a master follows no first
    /// reign of another one: it was begun by somebody who heard nobody.
    pub fn allow(&self, reign: Reign) -> bool {
        let is_known = self.promised.epoch > Epoch::default();
        let is_later = reign.epoch > self.promised.epoch && !(is_known && reign.is_first());
        is_later || reign == self.promised
    }

    /// Promises a reign, which must be allowed.
    pub fn promise(&mut self, reign: Reign) {
        assert!(self.allow(reign), "{reign:?} promised after {:?}", self.promised);
        self.followed &= self.promised.master == reign.master;
        self.promised = reign;
    }

    /// Follows a reign, which must be allowed.
    pub fn follow(&mut self, reign: Reign) {
        self.promise(reign);
        self.followed = true;
    }

    /// The master that was followed last, if nothing was promised to another one since.
    pub fn follows(&self) -> Option<MasterId> {
        self.followed.then_some(self.promised.master)
    }

    /// The rank of a log that ends with this entry.
    pub fn rank(&self, last_seq: Seq) -> Rank {
        Rank { log_epoch: self.log_epoch, last_seq }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reign(epoch: u64, master: u128) -> Reign {
        Reign { epoch: Epoch(epoch), master: MasterId(master) }
    }

    #[test]
    fn a_promise_ends_every_earlier_reign() {
        let mut facts = Facts::default();
        facts.promise(reign(5, 1));
        assert!(facts.allow(reign(5, 1)) && facts.allow(reign(6, 2)));
        assert!(!facts.allow(reign(4, 1)) && !facts.allow(reign(5, 2)), "the same epoch");
    }

    #[test]
    fn a_first_reign_is_followed_by_newcomers_only() {
        let (first, other) = (Reign::first(MasterId(1)), Reign::first(MasterId(2)));
        let mut facts = Facts::default();
        assert!(first.is_first() && facts.allow(first));
        facts.follow(first);
        assert!(facts.allow(first) && !facts.allow(other) && facts.allow(reign(1 << 50, 2)));
        facts.promise(reign(5 << 50, 2));
        assert!(!facts.allow(first));
        let mut early = Facts::default();
        early.promise(reign(5, 2));
        assert!(!early.allow(first), "an earlier release named a small epoch");
    }

    #[test]
    fn a_promise_to_another_ends_following() {
        let mut facts = Facts::default();
        facts.follow(reign(5, 1));
        facts.promise(reign(6, 1));
        assert_eq!(facts.follows(), Some(MasterId(1)), "it is the same master");
        facts.promise(reign(7, 2));
        facts.promise(reign(8, 1));
        assert_eq!(facts.follows(), None, "somebody may have reigned in between");
        facts.follow(reign(8, 1));
        assert_eq!(facts.follows(), Some(MasterId(1)));
    }

    #[test]
    fn an_identity_is_read_as_it_is_written() {
        let id = MasterId::draw();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<MasterId>(&json).unwrap(), id);
        for wrong in ["\"\"", "\"+0000000000000000000000000000000\"", "7", "null"] {
            assert!(serde_json::from_str::<MasterId>(wrong).is_err(), "{wrong}");
        }
    }
}
