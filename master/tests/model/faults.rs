//! Mistakes that are put in on purpose. The model must find what each of them costs: otherwise it
//! would not see a mistake in the protocol either.
//!
//! | mistake | a shortest run that it ruins |
//! |---|---|
//! | [`OnePromiseTooFew`](Fault::OnePromiseTooFew) | M1 commits with S1; M2 hears S2 only and begins without the entry |
//! | [`OwnDirectoryHearsNobody`](Fault::OwnDirectoryHearsNobody) | M1 is deposed; M2 commits; M1 returns with its old log and a greater epoch |
//! | [`LastPromiseWasMine`](Fault::LastPromiseWasMine) | M1 is deposed and asks S1 twice: the second answer names M1 as the last one promised |
//! | [`RankByLastEntry`](Fault::RankByLastEntry) | reign 3 commits an entry of reign 1; reign 4 prefers a log with an entry of reign 2 that nobody else has |
//! | [`NoBarrier`](Fault::NoBarrier) | S1 has the first of two old entries, it counts; a log that is shorter, but of a later reign, outranks it |
//! | [`OldTailKept`](Fault::OldTailKept) | S1's entry from reign 1 makes its log as long as the one with the committed entry of reign 2 |
//! | [`PromiseNotPersisted`](Fault::PromiseNotPersisted) | S1 promises M2, restarts, and acknowledges to M1 |
//! | [`EqualEpochsTakenForOne`](Fault::EqualEpochsTakenForOne) | M1 and M2 reign with one epoch, and each secondary obeys both |
//! | [`GreaterEpochCounted`](Fault::GreaterEpochCounted) | S1 says how long M2's log is, and M1 takes it for its own |
//! | [`AckedAfterALaterPromise`](Fault::AckedAfterALaterPromise) | M2 begins without the entry that S1 was about to store for M1 |
//! | [`ReachedBeforeTheStart`](Fault::ReachedBeforeTheStart) | S1 gets one of two entries anew, and drops or outranks the other |
//! | [`OwnVoteBeforeTheDisk`](Fault::OwnVoteBeforeTheDisk) | M1 commits with S1, crashes before it has stored the entry, and returns with S2 |

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
