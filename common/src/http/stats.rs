//! Figures of a running server, and whether it is stopping.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::locked::locked;

/// Figures of a running server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Requests in progress.
    pub in_flight: usize,
    /// How many may be.
    pub max_in_flight: usize,
    /// Connections that tiny_http lost for good.
    pub stuck: usize,
    /// Requests that were refused because too many were in progress, or the server was stopping.
    pub refused_busy: u64,
    /// Requests that were refused because they were too long or not to be understood.
    pub refused_bad: u64,
}

/// The figures as they change.
#[derive(Debug, Default)]
pub(super) struct Figures {
    in_flight: Mutex<usize>,
    none_in_flight: Condvar,
    /// New requests are refused.
    pub(super) stopping: AtomicBool,
    /// Threads end.
    pub(super) over: AtomicBool,
    pub(super) stuck: AtomicUsize,
    pub(super) refused_busy: AtomicU64,
    pub(super) refused_bad: AtomicU64,
}

/// One request in progress: the `number`th when it began.
pub(super) struct InProgress<'a> {
    figures: &'a Figures,
    pub(super) number: usize,
}

impl Figures {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    pub(super) fn in_flight(&self) -> usize {
        *locked(&self.in_flight)
    }

    pub(super) fn begin(&self) -> InProgress<'_> {
        let mut count = locked(&self.in_flight);
        *count += 1;
        InProgress { figures: self, number: *count }
    }

    /// Waits until no request is in progress. Returns how many are when the time is up.
    pub(super) fn drain(&self, timeout: Duration) -> usize {
        let count = locked(&self.in_flight);
        let waited = self.none_in_flight.wait_timeout_while(count, timeout, |count| *count > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn stats(&self, max_in_flight: usize) -> Stats {
        Stats {
            in_flight: self.in_flight(),
            max_in_flight,
            stuck: self.stuck.load(SeqCst),
            refused_busy: self.refused_busy.load(SeqCst),
            refused_bad: self.refused_bad.load(SeqCst),
        }
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let mut count = locked(&self.figures.in_flight);
        *count -= 1;
        if *count == 0 {
            self.figures.none_in_flight.notify_all();
        }
    }
}
