//! Figures of a running server, its limits, and whether it is stopping.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Limits, Response};
use crate::locked::locked;

/// Figures of a running server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests in progress.
    pub in_flight: usize,
    /// How many may be.
    pub max_in_flight: usize,
    /// Connections that tiny_http lost for good.
    pub stuck: usize,
    /// Connections of TLS or HTTP/2 that were closed.
    pub foreign: u64,
    /// Requests that were refused and whose connections are being closed.
    pub refusing: usize,
    /// Requests that were refused because too many were in progress, or the server was stopping.
    pub refused_busy: u64,
    /// Requests that were refused because they were too long or not to be understood.
    pub refused_bad: u64,
}

impl Stats {
    fn unfinished(&self) -> usize {
        self.in_flight + self.refusing
    }
}

#[derive(Debug)]
pub(super) struct Figures {
    pub(super) limits: Limits,
    stats: Mutex<Stats>,
    /// Bytes of all bodies that are being received, but for the short ones.
    body_bytes: AtomicUsize,
    drained: Condvar,
    pub(super) stopping: AtomicBool,
}

/// One request in progress.
pub(super) struct InProgress<'a>(&'a Figures);

/// What one request has received of its body.
pub(super) struct Held<'a> {
    figures: &'a Figures,
    bytes: Cell<usize>,
}

impl Figures {
    pub(super) fn new(limits: Limits) -> Figures {
        let stats = Stats { max_in_flight: limits.max_in_flight, ..Stats::default() };
        let (drained, stopping) = (Condvar::new(), AtomicBool::new(false));
        let body_bytes = AtomicUsize::new(0);
        Figures { limits, stats: Mutex::new(stats), body_bytes, drained, stopping }
    }

    pub(super) fn stats(&self) -> Stats {
        *locked(&self.stats)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Stats)) {
        change(&mut locked(&self.stats));
    }

    /// Counts the refusal of a request.
    pub(super) fn count(&self, refusal: &Response) {
        self.change(|stats| match refusal.status {
            503 => stats.refused_busy += 1,
            _ => stats.refused_bad += 1,
        });
    }

    /// Whether new requests are refused.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_over(&self) -> bool {
        self.is_stopping() && self.stats().unfinished() == 0
    }

    /// The connection of a refused request is going to be closed.
    pub(super) fn refuse(&self) {
        self.change(|stats| stats.refusing += 1);
    }

    /// It has been closed.
    pub(super) fn refused(&self) {
        self.change(|stats| stats.refusing -= 1);
        self.drained.notify_all();
    }

    /// Counts a request until the guard is dropped. Also says how many are in progress with it.
    pub(super) fn begin(&self) -> (InProgress<'_>, usize) {
        let mut stats = locked(&self.stats);
        stats.in_flight += 1;
        (InProgress(self), stats.in_flight)
    }

    /// Waits until no request is in progress. Returns how many are when the time is up.
    pub(super) fn drain(&self, timeout: Duration) -> usize {
        let stats = locked(&self.stats);
        let waited = self.drained.wait_timeout_while(stats, timeout, |now| now.unfinished() > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.unfinished()
    }
}

impl Held<'_> {
    /// Nothing yet.
    pub(super) fn new(figures: &Figures) -> Held<'_> {
        Held { figures, bytes: Cell::new(0) }
    }

    /// So many bytes more. Returns how many all requests have.
    pub(super) fn add(&self, bytes: usize) -> usize {
        self.bytes.set(self.bytes.get() + bytes);
        self.figures.body_bytes.fetch_add(bytes, SeqCst) + bytes
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.figures.body_bytes.fetch_sub(self.bytes.get(), SeqCst);
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let mut stats = locked(&self.0.stats);
        stats.in_flight -= 1;
        if stats.in_flight == 0 {
            self.0.drained.notify_all();
        }
    }
}
