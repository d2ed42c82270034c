//! Figures of a running server, its limits, and whether it is stopping.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::Limits;
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
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) limits: Limits,
    in_flight: AtomicUsize,
    drained: (Mutex<()>, Condvar),
    pub(super) stopping: AtomicBool,
    pub(super) stuck: AtomicUsize,
    pub(super) refused_busy: AtomicU64,
    pub(super) refused_bad: AtomicU64,
}

/// One request in progress.
pub(super) struct InProgress<'a>(&'a Figures);

impl Figures {
    pub(super) fn new(limits: Limits) -> Figures {
        Figures {
            limits,
            in_flight: AtomicUsize::new(0),
            drained: Default::default(),
            stopping: AtomicBool::new(false),
            stuck: AtomicUsize::new(0),
            refused_busy: AtomicU64::new(0),
            refused_bad: AtomicU64::new(0),
        }
    }

    /// Whether new requests are refused.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.is_stopping() && self.in_flight() == 0
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
    }

    /// Counts a request until the guard is dropped. Also says how many are in progress with it.
    pub(super) fn begin(&self) -> (InProgress<'_>, usize) {
        (InProgress(self), self.in_flight.fetch_add(1, SeqCst) + 1)
    }

    /// Waits until no request is in progress. Returns how many are when the time is up.
    pub(super) fn drain(&self, timeout: Duration) -> usize {
        let lock = locked(&self.drained.0);
        let waited = self.drained.1.wait_timeout_while(lock, timeout, |()| self.in_flight() > 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.in_flight()
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            in_flight: self.in_flight(),
            max_in_flight: self.limits.max_in_flight,
            stuck: self.stuck.load(SeqCst),
            refused_busy: self.refused_busy.load(SeqCst),
            refused_bad: self.refused_bad.load(SeqCst),
        }
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, SeqCst) == 1 && self.0.is_stopping() {
            // The lock: `drain` either sees the zero or already waits.
            let _lock = locked(&self.0.drained.0);
            self.0.drained.1.notify_all();
        }
    }
}
