//! What the master counts and measures: `GET /metrics`, and the latencies of the live page.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use common::metrics::{Counts, Figures, Histogram, NodeFigures, Writer};

use crate::lines::LineId;
use crate::state::Replication;
use common::wire::Health;

/// Seconds: a POST on one machine takes a fraction of a millisecond, one that fails a minute.
const SECONDS: &[f64] = &[
    0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0,
    2.0, 4.0, 8.0, 16.0, 32.0, 64.0,
];

/// Entries in one call.
const ENTRIES: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

/// Counted since the process was started.
#[derive(Debug)]
pub struct Metrics {
    /// Entries that were appended.
    pub appends: AtomicU64,
    /// POSTs that were answered with an entry that was there before.
    pub duplicates: AtomicU64,
    /// How long POSTs took that were answered 201, in seconds.
    pub created: Histogram,
    /// How long POSTs took whose entry was appended and not acknowledged as it was asked for.
    pub failed: Histogram,
    /// POSTs that were refused before anything was appended, by reason.
    pub refused: Counts,
    calls: Vec<Calls>,
}

/// The calls to one secondary.
#[derive(Debug)]
struct Calls {
    ok: AtomicU64,
    failed: AtomicU64,
    /// Entries that they have carried and that were acknowledged.
    acks: AtomicU64,
    entries: Histogram,
}

impl Metrics {
    /// Nothing yet, for so many secondaries.
    pub fn new(secondaries: usize) -> Metrics {
        let calls = || Calls {
            ok: AtomicU64::new(0),
            failed: AtomicU64::new(0),
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

    /// A call to this secondary is over, which carried so many entries.
    pub fn called(&self, line: LineId, entries: u64, ok: bool) {
        let calls = &self.calls[line];
        calls.entries.observe(entries as f64);
        if ok {
            calls.ok.fetch_add(1, Relaxed);
            calls.acks.fetch_add(entries, Relaxed);
        } else {
            calls.failed.fetch_add(1, Relaxed);
        }
    }
}

/// What `GET /metrics` tells.
#[derive(Debug)]
pub struct MasterFigures {
    /// As every node.
    pub node: NodeFigures,
    /// Where the rest is read from.
    pub replication: Arc<Replication>,
}

impl Figures for MasterFigures {
    fn write(&self, out: &mut Writer<'_>) -> fmt::Result {
        self.node.write(out)?;
        let metrics = &self.replication.metrics;
        let appends = metrics.appends.load(Relaxed);
        out.counter("appends", "Entries appended since the start", appends)?;
        let duplicates = metrics.duplicates.load(Relaxed);
        out.counter("duplicates", "POSTs whose Idempotency-Key was known", duplicates)?;
        let took = [
            ([("result", "created")], &metrics.created),
            ([("result", "failed")], &metrics.failed),
        ];
        out.histograms("append_duration_seconds", "How long a POST took", &took)?;
        self.write_calls(out)?;
        self.write_state(out)
    }
}

impl MasterFigures {
    fn write_calls(&self, out: &mut Writer<'_>) -> fmt::Result {
        let urls = self.replication.urls();
        let calls = || urls.iter().map(String::as_str).zip(&self.replication.metrics.calls);
        let acks: Vec<_> =
            calls().map(|(url, c)| ([("secondary", url)], c.acks.load(Relaxed))).collect();
        out.counters("acks", "Entries acknowledged in calls", &acks)?;
        let results = |(url, c): (_, &Calls)| {
            let labels = |result| [("secondary", url), ("result", result)];
            let (ok, failed) = (c.ok.load(Relaxed), c.failed.load(Relaxed));
            [(labels("ok"), ok), (labels("failed"), failed)]
        };
        let results: Vec<_> = calls().flat_map(results).collect();
        out.counters("calls", "Calls to a secondary that are over", &results)?;
        let entries: Vec<_> = calls().map(|(url, c)| ([("secondary", url)], &c.entries)).collect();
        out.histograms("call_entries", "Entries in one call", &entries)
    }

    fn write_state(&self, out: &mut Writer<'_>) -> fmt::Result {
        let (statuses, epoch, committed) = {
            let state = self.replication.lock();
            let lines = &state.lines;
            (state.statuses(Instant::now()), lines.epoch(), lines.committed_seq())
        };
        out.gauge("epoch", "The reign of this master; 0 while it recovers", epoch.0 as f64)?;
        let help = "The last entry that a majority has held";
        out.gauge("committed_seq", help, committed.0 as f64)?;
        let mut per_secondary = |name, help, value: fn(&common::wire::SecondaryStatus) -> f64| {
            let values: Vec<_> = statuses
                .iter()
                .map(|(url, status)| ([("secondary", &**url)], value(status)))
                .collect();
            out.gauges(name, help, &values)
        };
        let acked = "It holds everything up to this entry";
        per_secondary("secondary_acked_seq", acked, |s| s.acked_seq.0 as f64)?;
        per_secondary("secondary_lag_entries", "Entries that it lacks", |s| s.lag_entries as f64)?;
        let lag = "For how long it has lacked something without progress";
        per_secondary("secondary_lag_seconds", lag, |s| s.lag_seconds)?;
        let diverged = "1 if its log is not a prefix of the master's";
        per_secondary("secondary_diverged", diverged, |s| f64::from(u8::from(s.diverged)))?;
        let known = [Health::Healthy, Health::Suspected, Health::Unhealthy];
        let states: Vec<_> = statuses
            .iter()
            .flat_map(|(url, status)| {
                known.map(|state| {
                    let is = f64::from(u8::from(status.status == state));
                    let (url, state) = (url.to_string(), format!("{state:?}").to_lowercase());
                    ([("secondary".to_string(), url), ("state".to_string(), state)], is)
                })
            })
            .collect();
        out.gauges("secondary_state", "1 for the state that it is in", &states)
    }
}
