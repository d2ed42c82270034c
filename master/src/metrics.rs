//! What the master counts and measures since its start. [`scrape`](crate::scrape) tells it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::metrics::{Counts, Histogram};

use crate::lines::LineId;

/// Seconds: a POST on one machine takes a fraction of a millisecond, one that fails a minute.
const SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0,
    2.0, 4.0, 8.0, 16.0, 32.0, 64.0,
];

/// Entries in one call.
const ENTRIES: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

/// Counters and histograms of the master. Threads add to them without a lock.
#[derive(Debug)]
pub struct Metrics {
    /// Entries that were appended.
    pub appends: AtomicU64,
    /// POSTs that were answered with an entry that was there before.
    pub duplicates: AtomicU64,
    /// Durations of POSTs that were answered 201, in seconds.
    pub created: Histogram,
    /// Durations of POSTs whose entry was appended but not acknowledged as asked, in seconds.
    pub failed: Histogram,
    /// POSTs that were refused before anything was appended, by reason.
    pub refused: Counts,
    /// Calls, by secondary.
    pub calls: Vec<Calls>,
}

/// Finished calls to one secondary.
#[derive(Debug)]
pub struct Calls {
    /// Calls, by result: `ok` or `failed`.
    pub results: Counts,
    /// Entries in the calls that were acknowledged.
    pub acks: AtomicU64,
    /// Entries in one call.
    pub entries: Histogram,
}

impl Metrics {
    /// Zero everywhere, for so many secondaries.
    pub fn new(secondaries: usize) -> Metrics {
        let calls = || Calls {
            results: Counts::new(&["ok", "failed"]),
            acks: AtomicU64::new(0),
            entries: Histogram::new(ENTRIES),
        };
        Metrics {
            appends: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            created: Histogram::new(SECONDS),
            failed: Histogram::new(SECONDS),
            refused: Counts::new(&["disk", "key_reused", "log_full", "read_only"]),
            calls: (0..secondaries).map(|_| calls()).collect(),
        }
    }

    /// Counts a finished call to this secondary, which carried so many entries.
    pub fn called(&self, line: LineId, entries: u64, ok: bool) {
        let calls = &self.calls[line];
        calls.entries.observe(entries as f64);
        calls.results.add(if ok { "ok" } else { "failed" });
        if ok {
            calls.acks.fetch_add(entries, Relaxed);
        }
    }
}
