//! The master: it accepts messages, puts them into one order, and drives every secondary.
//!
//! | module | what it decides |
//! |---|---|
//! | [`concern`] | how many nodes must hold an entry, and how far a quorum has got |
//! | [`health`] | what missed heartbeats mean, and how long to leave a failing secondary alone |
//! | [`lines`] | per secondary: what it has acknowledged, what is on its way, what may be sent now |
//! | [`waiters`] | which requests wait for which entry, and whom a settled call wakes |
//! | [`replication`] | the life of one write: append, claim, call, settle, answer |
//! | [`heartbeat`] | the same without a client: noticing and levelling a secondary that was away |
//! | [`recovery`] | how a reign begins: with what the secondaries hold |
//! | [`metrics`], [`timeline`] | what is counted and measured |
//! | [`scrape`] | the text of `GET /metrics` |
//! | [`events`] | the state of the cluster for the live page, as it changes |
//! | [`disk`] | writing the log to the disk, while the calls are out |
//! | [`directory`] | what an operator can do with the directory of a stopped node |
//! | [`routes`] | what is answered to which request |
//! | [`settings`] | how the master was started |
//!
//! `concern`, `health`, `lines` and `waiters` are pure: no socket, no clock, no thread.

pub mod calls;
pub mod concern;
pub mod couriers;
pub mod directory;
pub mod events;
pub mod health;
pub mod lines;
pub mod metrics;
pub mod recovery;
pub mod routes;
pub mod scrape;
pub mod settings;
pub mod state;
pub mod timeline;
pub mod waiters;
pub mod write;
