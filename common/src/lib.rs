//! A replicated log, small enough to read in an afternoon.
//!
//! One **master** takes messages and puts them into one order; every **secondary** holds a copy.
//! A client that posts a message is answered when the secondaries hold it too: the log *blocks*
//! on replication, and a secondary with a delay lets you watch it do so.
//!
//! This crate is what both roles must agree on. The crates `master` and `secondary` are thin
//! around it.
//!
//! # The life of a write
//!
//! 1. A client sends `POST /messages {"msg":"hello"}`. The [HTTP layer](http) reads and checks
//!    the request and hands it to a thread of its own.
//! 2. The master appends the message to its [log](entries::Log). That gives it a place: its
//!    [`seq`](entries::Seq), 1 for the first.
//! 3. It claims the *line* of every secondary that is free (`master::lines`) and
//!    [calls](client) the secondary with everything that one lacks, this entry included
//!    ([`wire::replicate_body`]). The calls go out at the same time, on scoped threads.
//! 4. The secondary sleeps its `DELAY_MS`, accepts the entries in the order of `seq`
//!    (`secondary::replica`), and acknowledges: "I hold everything up to and including 7".
//! 5. The call is settled: what it decides is told to whom it concerns (`master::waiters`), and
//!    one waiting request makes the next call if more has arrived.
//! 6. When every secondary holds the entry the client reads `201`. When one has failed, it reads
//!    `502`: the entry is in the log, stays there, and reaches that secondary later.
//!
//! # The promises
//!
//! 1. **One order.** Every node's log is a prefix of the master's: same entries, same order, no
//!    gap, no duplicate.
//! 2. **201 means it.** As many nodes hold the entry as the client asked for; a read on any of
//!    them after that shows it.
//! 3. **An error says whether the message is in the log.** 400, 413 and 503: it is not. 502: it
//!    is, its `seq` is given; sending it again without a key would store it twice.
//! 4. **Nothing accepted disappears** while one node that acknowledged it lives or, with a disk,
//!    comes back.
//! 5. **A blocked client blocks nobody else.**
//! 6. **Every limit is stated**, and beyond it there is a clear answer: no hang, no panic, no lost
//!    entry. The limits of the HTTP layer are listed [there](http).
//!
//! # How one order comes about
//!
//! Only the master numbers entries. A call continues where the last acknowledged one ended, so a
//! secondary can tell a gap from a duplicate: a gap is refused with where it stands, and the next
//! call begins there; a duplicate is compared and acknowledged again. Each reign of a master has
//! an [epoch](entries::Epoch), greater than any before it; an entry keeps the one it was appended
//! in, so `seq` and epoch together name an entry for ever. A secondary refuses a master whose
//! epoch is over, and entries that contradict what it holds. It never overwrites.
//!
//! # Where the log is kept
//!
//! In [memory](entries), and with `DATA_DIR` in a [file](store) too. Without one a restarted node
//! starts empty and is sent the log again, or fetches it (`master::recovery`). With one, nothing
//! counts as held that is not on the disk: the master's own disk is one more line beside those to
//! the secondaries.
//!
//! # Deliberately not here
//!
//! Leader election: whoever starts the processes decides which one is the master, and epochs make
//! a wrong decision harmless. Sharding, deletion, compaction, several logs; TLS inside the process
//! (a proxy does it).
//!
//! # Where things are
//!
//! Pure, without socket, clock or thread: [`entries`], [`wire`], [`whole`], and `lines` and `waiters` of the
//! master. Edges: [`http`] is the only user of tiny_http, [`client`] of ureq, [`store`] of redb.
//! Around them:
//! [`settings`], [`logging`], [`node`], [`openapi`].

pub mod chunk;
pub mod client;
pub mod entries;
pub mod follow;
pub mod http;
pub mod locked;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod openapi;
pub mod random;
pub mod reading;
pub mod settings;
pub mod store;
pub mod whole;
pub mod wire;
