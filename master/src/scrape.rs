//! The text of `GET /metrics`: the master's counters, and its state at this moment.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Instant, SystemTime};

use common::access::Access;
use common::follow::Followers;
use common::http::{Response, Stats};
use common::metrics::Exposition;

use crate::bodies::SecondaryStatus;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::state::Replication;

/// The answer to `GET /metrics`. Only who is trusted with it is told the epoch.
pub fn answer(
    replication: &Replication,
    followers: &Followers,
    http: Stats,
    access: &Access,
    is_trusted: bool,
) -> Response {
    let state = replication.lock();
    let lines = &state.lines;
    let bytes = (state.log.bytes(), replication.max_log_bytes());
    let (last_seq, is_read_only) = (lines.stored_seq(), state.read_only().is_some());
    let (dropped, since) = (state.dropped, state.reigns_since);
    let (epoch, committed_seq) = (lines.reign().epoch.0 as f64, lines.committed_seq().0 as f64);
    let statuses = state.statuses(Instant::now());
    drop(state);
    let refused = replication.metrics.refused.iter().chain(access.refused());
    let mut out =
        Exposition::of_node("master", last_seq, bytes, is_read_only, followers, &http, refused);
    write_counters(&mut out, &replication.metrics, replication.urls());
    out.counter("entries_dropped", "Entries that a better log did not have, since the start")
        .sample(&[], dropped);
    if is_trusted {
        out.gauge("epoch", "The reign of this master; 0 while it recovers").sample(&[], epoch);
    }
    let since = since.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
    out.gauge("reign_begin_seconds", "When this master began to reign, since 1970; 0 if not yet")
        .sample(&[], since.unwrap_or_default().as_secs_f64());
    out.gauge("committed_seq", "The last entry that a majority has held")
        .sample(&[], committed_seq);
    write_statuses(&mut out, &statuses);
    out.into_response()
}

fn write_counters(out: &mut Exposition, metrics: &Metrics, urls: &[String]) {
    let (appends, duplicates) = (metrics.appends.load(Relaxed), metrics.duplicates.load(Relaxed));
    out.counter("appends", "Entries appended since the start").sample(&[], appends);
    out.counter("duplicates", "POSTs whose Idempotency-Key was known").sample(&[], duplicates);
    let mut durations = out.histogram("append_duration_seconds", "How long a POST took");
    durations.buckets(&[("result", "created")], &metrics.created);
    durations.buckets(&[("result", "failed")], &metrics.failed);
    let calls = || urls.iter().zip(&metrics.calls);
    let mut acks = out.counter("acks", "Entries acknowledged in calls");
    for (url, calls) in calls() {
        acks.sample(&[("secondary", url)], calls.acks.load(Relaxed));
    }
    let mut results = out.counter("calls", "Calls to a secondary that are over");
    for (url, calls) in calls() {
        for (result, count) in calls.results.iter() {
            results.sample(&[("secondary", url), ("result", result)], count);
        }
    }
    let mut entries = out.histogram("call_entries", "Entries in one call");
    for (url, calls) in calls() {
        entries.buckets(&[("secondary", url)], &calls.entries);
    }
}

fn write_statuses(out: &mut Exposition, statuses: &[(Arc<str>, SecondaryStatus)]) {
    let mut gauge = |name, help, value: fn(&SecondaryStatus) -> f64| {
        let mut family = out.gauge(name, help);
        for (url, status) in statuses {
            family.sample(&[("secondary", url)], value(status));
        }
    };
    let acked = "It holds everything up to this entry";
    gauge("secondary_acked_seq", acked, |status| status.acked_seq.0 as f64);
    gauge("secondary_lag_entries", "Entries that it lacks", |status| status.lag_entries as f64);
    let lag = "For how long it has lacked something without progress";
    gauge("secondary_lag_seconds", lag, |status| status.lag_seconds);
    let diverged = "1 if its log is not a prefix of the master's";
    gauge("secondary_diverged", diverged, |status| f64::from(status.diverged));
    let mut states = out.gauge("secondary_state", "1 for the state that it is in");
    for (url, status) in statuses {
        for health in [Health::Healthy, Health::Suspected, Health::Unhealthy] {
            let state = format!("{health:?}").to_lowercase();
            let is_so = f64::from(status.status == health);
            states.sample(&[("secondary", url), ("state", &state)], is_so);
        }
    }
}
