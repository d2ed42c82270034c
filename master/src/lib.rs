//! The master: it accepts messages, puts them into one order, and drives every secondary.
//!
//! | module | what it decides |
//! |---|---|
//! | [`routes`] | which request gets which answer |
//! | [`write`](mod@write) | the life of one POST: append, call, wait, answer |
//! | [`outcome`] | how a write ends, and the words for it |
//! | [`state`] | what the one lock protects, and whether an entry may be appended |
//! | [`lines`] | per node: the entries it holds, the entries on their way, when more may be sent |
//! | [`waiters`] | which requests wait for which entry, and which of them an answer decides |
//! | [`bodies`] | the bodies that clients send and read |
//! | [`calls`] | a call, and what its answer changes |
//! | [`ask`](mod@ask) | who answers for a secondary, and where it stands |
//! | [`couriers`] | the same without a client: retries, catch-up, heartbeats, the master's own disk |
//! | [`confirmed`] | reads that are never stale |
//! | [`takeover`] | when a master may begin a reign, and over which log |
//! | [`recovery`] | how it does so: looks, promises, the best log |
//! | [`fetch`] | how a better log becomes the own one |
//! | [`succession`] | one process, one reign after another; standing by in between |
//! | [`concern`], [`health`] | how many nodes must hold an entry; what missed heartbeats mean |
//! | [`metrics`], [`scrape`], [`timeline`], [`events`], [`page`] | figures, their text, and the live page |
//! | [`directory`] | the commands for the directory of a stopped node |
//! | [`settings`] | how the master was started |
//!
//! `concern`, `health`, `lines`, `takeover` and `waiters` are pure: no socket, no clock, no thread. The way of
//! a message is told on the front page of the crate `common`.

pub mod ask;
pub mod bodies;
pub mod calls;
pub mod concern;
pub mod confirmed;
pub mod couriers;
pub mod directory;
pub mod events;
pub mod fetch;
pub mod health;
pub mod lines;
pub mod metrics;
pub mod outcome;
pub mod page;
pub mod recovery;
pub mod routes;
pub mod scrape;
pub mod settings;
pub mod state;
pub mod succession;
pub mod takeover;
pub mod timeline;
pub mod waiters;
pub mod write;
