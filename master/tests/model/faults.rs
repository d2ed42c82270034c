//! Mistakes that the protocol must not contain: each is put in on purpose, and the model must find
//! the entry that it costs.

/// One mistake, in one place of the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A takeover begins with n − q + 1 promises.
    OnePromiseTooFew,
    /// A master on its own directory asks nobody.
    OwnDirectoryHearsNobody,
    /// "The last promise was to me" is taken for "the last reign followed was mine, and no promise
    /// to another since".
    LastPromiseWasMine,
    /// The rank of a log is the epoch of its last entry.
    RankByLastEntry,
    /// Entries ≤ L count as held by copies that have not reached L.
    NoBarrier,
    /// A copy that reaches L keeps what it has beyond L from former reigns.
    OldTailKept,
    /// A secondary forgets its promise when it restarts.
    PromiseNotPersisted,
    /// Two masters with one epoch and different identities are taken for one.
    EqualEpochsTakenForOne,
    /// The master counts an answer that carries a greater epoch than its own.
    GreaterEpochCounted,
    /// A call that waits for the disk is acknowledged although a promise was answered meanwhile.
    AckedAfterALaterPromise,
    /// `log_epoch` is raised by a call that ends before L.
    ReachedBeforeTheStart,
    /// The master's own vote counts before the entry is on its disk.
    OwnVoteBeforeTheDisk,
}
