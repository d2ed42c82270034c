//! A secondary: it holds a copy of the master's log and acknowledges what it holds.
//!
//! It never numbers an entry itself. [`replica`] decides what is accepted, in which order and
//! with which answer; [`routes`] turns requests into calls of it; [`faults`] delays and breaks
//! calls on demand; [`metrics`] says what is counted, and [`settings`] how it was started.

pub mod faults;
pub mod metrics;
pub mod replica;
pub mod routes;
pub mod settings;
