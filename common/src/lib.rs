//! A replicated log, small enough to read in a day, and its core in an evening.
//!
//! One **master** takes messages and puts them into one order; every **secondary** holds a copy.
//! A client that posts a message is answered when the secondaries hold it too: the log *blocks*
//! on replication, and a secondary with a delay lets you watch it do so.
//!
//! This crate holds the parts that both roles must agree on. The crates `master` and `secondary`
//! are built on it.
//!
//! # The way of a message
//!
//! Ten steps, from the client to the disk of a secondary and back:
//!
//! 1. [`http`]: a client sends `POST /messages {"msg":"hello"}`. The request is read, checked, and
//!    given a thread.
//! 2. `master/src/routes.rs`: the body and the headers say the message, the write concern and the
//!    idempotency key.
//! 3. `master/src/write.rs`: the life of one POST. The request appends its entry, calls the
//!    secondaries, and waits until its entry is decided.
//! 4. `master/src/state.rs`: everything that the one lock protects. The [log](entries::Log) gives
//!    the entry its place, its [`seq`](entries::Seq), 1 for the first.
//! 5. `master/src/lines`: a *line* is one secondary as the master sees it. Its cursor `acked` is
//!    the last entry that the secondary holds, its cursor `next` the first entry of the next call.
//!    The master's own disk is a line too.
//! 6. `master/src/calls.rs`: a request calls every line that it finds free, on scoped threads that
//!    it joins; a request without `w` makes the last call on its own thread. The courier of a line
//!    sends the entries that no request has sent (`couriers.rs`). A call carries all entries from
//!    `next` on; entries appended during the call go with the next one.
//! 7. [`client`]: the call travels over a kept connection, and arrives at the secondary's own
//!    [`http`] and `secondary/src/routes.rs`.
//! 8. `secondary/src/replica.rs`: after its `DELAY_MS` the secondary accepts the entries in the
//!    order of `seq`, and acknowledges: "I hold everything up to and including 7".
//! 9. [`store`]: with a disk nothing is acknowledged before it is synced there.
//! 10. `master/src/waiters.rs`: the answer settles the call, `acked` advances, and the requests
//!     whose entry it decides are woken. The client reads `201` when the master, by its disk if it
//!     has one, and as many secondaries as `w` asks for hold the entry. Without `w` those are all,
//!     and one failure is a `502`: the entry is in the log, stays there, and reaches that secondary
//!     later. With `w` failures are retried until `wtimeout`.
//!
//! # The promises
//!
//! 1. **One order.** Every node's log is a prefix of the master's: same entries, same order, no
//!    gap, no duplicate. What a takeover leaves behind on a node is dropped there.
//! 2. **201 means it.** As many nodes hold the entry as the client asked for; a read on any of
//!    them after that shows it.
//! 3. **An error says whether the message is in the log.** 307, 503 and every 4xx: it is not. 500
//!    and 507: `stored` in the answer says so. 502: it is at its `seq`, unless `"stored":"unknown"`
//!    says that the master's disk had not confirmed it; sending it again without a key would store
//!    it twice. An entry that no majority holds can still be lost with the master.
//! 4. **What a majority has acknowledged is never lost.** A master begins only with the promises of
//!    so many secondaries that one of them has every such entry, and waits as long as that takes. A
//!    node without a disk that restarts has forgotten its entries and its promises.
//! 5. **A blocked client blocks nobody else,** up to `MAX_IN_FLIGHT` of them.
//! 6. **Every limit is stated**, and beyond it there is a clear answer: no hang, no panic, no lost
//!    entry. The limits of the HTTP layer are listed [there](http).
//!
//! # How one order comes about
//!
//! Only the master numbers entries. A call continues where the last one ended, so a secondary can
//! tell a gap from a duplicate: a gap is refused with the secondary's position, and the next call
//! begins there; a duplicate is compared and acknowledged again. Each reign of a master has an
//! [epoch](entries::Epoch), greater than any before it; an entry keeps the epoch that it was
//! appended in, so `seq` and epoch together name an entry for ever. A secondary refuses a master
//! whose epoch is over. Entries that contradict the reigning master's log are dropped, and kept in a
//! file; a secondary never drops what it knows a majority to hold.
//!
//! # How a master takes over
//!
//! A second master process stands by. When the secondaries hear the first one no more, it asks them
//! to *promise* to obey no earlier [reign](reign::Reign). With n secondaries and a majority of q
//! nodes, n − q + 2 promises are enough: any q − 1 secondaries, which together with a master have
//! acknowledged an entry, have one of them in common. So the log of the greatest
//! [rank](reign::Rank) among those that promised has every such entry, and the former master gets
//! no majority any more. The new one takes that log over, and begins (`master::takeover`,
//! `master::recovery`). A former master that hears of it stands by in its turn
//! (`master::succession`).
//!
//! # What is on the disk when
//!
//! A node keeps the log in [memory](entries), and with `DATA_DIR` in a [file](store) too. A
//! secondary writes entries to the file before it acknowledges them. The master writes while its
//! calls are out, and counts itself as a holder of an entry only when the entry is on its disk;
//! reads show nothing before that. A new reign is on the disk before any entry is sent in it, and a
//! promise, with everything accepted before it, before it is answered. Without a file a restarted
//! node starts empty and is sent the log again, or fetches it (`master::fetch`).
//!
//! # Deliberately not here
//!
//! One role for all nodes: masters take over from each other, and a secondary never becomes one.
//! Members that change while the cluster runs. Sharding, deletion, compaction, several logs; TLS
//! inside the process (a proxy does it).
//!
//! # Where things are
//!
//! Pure, without socket, clock or thread: [`chunk`], [`entries`], [`reign`], [`wire`], [`json`],
//! and `concern`, `health`, `lines`, `takeover` and `waiters` of the master. Edges: [`http`] is the
//! only user of tiny_http, [`client`] of ureq, [`store`] of redb. Reads: [`reading`], [`follow`].
//! Who may ask: [`access`], [`tokens`]. What the clock has to do with epochs: [`epochs`]. Around them:
//! [`settings`], [`logging`], [`metrics`], [`openapi`], [`node`].

pub mod access;
pub mod chunk;
pub mod client;
pub mod entries;
pub mod epochs;
pub mod follow;
pub mod http;
pub mod json;
pub mod locked;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod openapi;
pub mod random;
pub mod reading;
pub mod reign;
pub mod seldom;
pub mod settings;
pub mod store;
pub mod tokens;
pub mod vital;
pub mod wire;
