//! Mistakes that are put in on purpose. The model must find what each of them costs: otherwise it
//! would not see a mistake in the protocol either.

/// One mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A takeover begins with n − q + 1 promises.
    OnePromiseTooFew,
    /// A master that returns to its directory asks nobody.
    OwnDirectoryHearsNobody,
    /// "The last promise was to this master" is taken for "this master was followed last, and no
    /// other was promised since".
    LastPromiseWasMine,
    /// The rank of a log is the epoch of its last entry.
    RankByLastEntry,
    /// Acknowledgements of entries up to L count from copies that have not reached L.
    NoBarrier,
    /// A copy that reaches L keeps what it has beyond L.
    OldTailKept,
    /// A secondary forgets its promise when it restarts.
    PromiseNotPersisted,
    /// Two masters with one epoch and different identities are taken for one.
    EqualEpochsTakenForOne,
    /// A master counts an answer that names a greater epoch than its own.
    GreaterEpochCounted,
    /// A call that waited for the disk is acknowledged although a promise was answered meanwhile.
    AckedAfterALaterPromise,
    /// A call that ends before L raises `log_epoch`.
    ReachedBeforeTheStart,
    /// A master's own vote counts before the entry is on its disk.
    OwnVoteBeforeTheDisk,
}

impl Fault {
    /// Every mistake.
    pub const ALL: [Fault; 12] = [
        Fault::OnePromiseTooFew,
        Fault::OwnDirectoryHearsNobody,
        Fault::LastPromiseWasMine,
        Fault::RankByLastEntry,
        Fault::NoBarrier,
        Fault::OldTailKept,
        Fault::PromiseNotPersisted,
        Fault::EqualEpochsTakenForOne,
        Fault::GreaterEpochCounted,
        Fault::AckedAfterALaterPromise,
        Fault::ReachedBeforeTheStart,
        Fault::OwnVoteBeforeTheDisk,
    ];
}
