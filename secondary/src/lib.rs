//! A secondary: it holds a copy of the master's log and acknowledges what it holds.
//!
//! It never numbers an entry itself. [`copy`] has the rules: what is accepted, what is promised to
//! whom, what is dropped. [`replica`] shares the copy among threads and keeps it on the disk;
//! [`promises`] answers heartbeats and requests for promises; [`routes`] turns requests into calls
//! of both; [`standbys`] remembers which masters stand by; [`faults`] delays and breaks calls on
//! demand; [`metrics`] says what is counted, and [`settings`] how it was started.

pub mod copy;
pub mod faults;
pub mod metrics;
pub mod promises;
pub mod replica;
pub mod routes;
pub mod settings;
pub mod standbys;
