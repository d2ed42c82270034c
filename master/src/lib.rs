//! The master: it accepts messages, puts them into one order, and drives every secondary.
//!
//! | module | what it decides |
//! |---|---|
//! | [`lines`] | per secondary: what it has acknowledged, what is on its way, what may be sent now |
//! | [`waiters`] | which requests wait for which entry, and whom a settled call wakes |
//! | [`replication`] | the life of one write: append, claim, call, settle, answer |
//! | [`heartbeat`] | the same without a client: noticing and levelling a secondary that was away |
//! | [`routes`] | what is answered to which request |
//! | [`settings`] | how the master was started |
//!
//! `lines` and `waiters` are pure: no socket, no clock, no thread.

pub mod heartbeat;
pub mod lines;
pub mod replication;
pub mod routes;
pub mod settings;
pub mod waiters;
