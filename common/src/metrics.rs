//! What a node counts and measures, in the text format of Prometheus: `GET /metrics`.
//!
//! Nothing is counted twice: what the log, the lines or the HTTP layer know anyway is read from
//! them when somebody asks. `docker/README.md` says what each metric means and when to worry.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::entries::Seq;
use crate::http::{Response, Stats};

/// The media type of the answer.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How often something happened, by a word that says what exactly.
#[derive(Debug)]
pub struct Counts(Mutex<BTreeMap<&'static str, u64>>);

impl Counts {
    /// None of these has happened: they are told as 0, so that the first time is seen as a change.
    pub fn new(words: &[&'static str]) -> Counts {
        Counts(Mutex::new(words.iter().map(|word| (*word, 0)).collect()))
    }

    /// It happened once more.
    pub fn add(&self, what: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(what).or_default() += 1;
    }

    /// All of them.
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How many values fell between which bounds. Threads add to it without a lock.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One per bound, for values up to it, and one for those beyond.
    counts: Vec<AtomicU64>,
    /// The sum of all values, in millionths.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one with these upper bounds, which ascend.
    pub fn new(bounds: &'static [f64]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Adds a value that is not negative.
    pub fn observe(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        self.counts[place].fetch_add(1, Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Relaxed);
    }

    /// The upper bounds.
    pub fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// How many values there are up to each bound, and last how many in all.
    pub fn cumulative(&self) -> Vec<u64> {
        let mut sum = 0;
        let add = |count: &AtomicU64| {
            sum += count.load(Relaxed);
            sum
        };
        self.counts.iter().map(add).collect()
    }
}

/// Writes metrics in the text format; names get the prefix `replog_`.
pub struct Writer<'a>(DescriptorEncoder<'a>);

impl fmt::Debug for Writer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer<'_> {
    /// A number that goes up and down.
    ///
    /// # Errors
    /// When there is no room for the text.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    /// The same, with labels.
    ///
    /// # Errors
    /// When there is no room for the text.
    pub fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: &[(L, f64)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values
            .iter()
            .try_for_each(|(labels, value)| metric.encode_family(labels)?.encode_gauge(value))
    }

    /// A number that only grows; its name gets the suffix `_total`.
    ///
    /// # Errors
    /// When there is no room for the text.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// The same, with labels.
    ///
    /// # Errors
    /// When there is no room for the text.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: &[(L, u64)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(labels, value)| {
            metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(value, None)
        })
    }

    /// Histograms with labels.
    ///
    /// # Errors
    /// When there is no room for the text.
    pub fn histograms<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: &[(L, &Histogram)],
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        values.iter().try_for_each(|(labels, histogram)| {
            let counts = histogram.counts.iter().map(|count| count.load(Relaxed));
            let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let sum = histogram.sum.load(Relaxed) as f64 / 1e6;
            metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        })
    }
}

/// What a node tells when somebody asks.
pub trait Figures: fmt::Debug + Send + Sync + 'static {
    /// Writes all of it.
    ///
    /// # Errors
    /// When there is no room for the text.
    fn write(&self, out: &mut Writer<'_>) -> fmt::Result;
}

/// What every node tells of itself.
#[derive(Debug)]
pub struct NodeFigures {
    /// `master` or `secondary`.
    pub role: &'static str,
    /// The last entry that can be read.
    pub last_seq: Seq,
    /// What the messages take, in bytes of JSON.
    pub log_bytes: u64,
    /// What they may take.
    pub max_log_bytes: u64,
    /// Nothing can be stored now.
    pub read_only: bool,
    /// What was refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// How many clients follow, and how many may.
    pub followers: (usize, usize),
    /// Of the HTTP layer.
    pub http: Stats,
}

impl Figures for NodeFigures {
    fn write(&self, out: &mut Writer<'_>) -> fmt::Result {
        let build = [("version", env!("CARGO_PKG_VERSION")), ("role", self.role)];
        out.gauges("build_info", "What is running; always 1", &[(build, 1.0)])?;
        out.gauge("last_seq", "The last entry that can be read here", self.last_seq.0 as f64)?;
        out.gauge("log_bytes", "What the messages take, as JSON", self.log_bytes as f64)?;
        let read_only = f64::from(u8::from(self.read_only));
        out.gauge("read_only", "1 while nothing can be stored", read_only)?;
        // A limit that there is not.
        let most = if self.max_log_bytes == u64::MAX { 0 } else { self.max_log_bytes };
        out.gauge("log_bytes_limit", "MAX_LOG_BYTES; 0 for no limit", most as f64)?;
        let (in_flight, most) = (self.http.in_flight as f64, self.http.max_in_flight as f64);
        out.gauge("requests_in_flight", "Requests in progress, this one too", in_flight)?;
        out.gauge("requests_in_flight_limit", "MAX_IN_FLIGHT", most)?;
        let (followers, most) = self.followers;
        out.gauge("followers", "Clients that follow the log", followers as f64)?;
        out.gauge("followers_limit", "MAX_FOLLOWERS", most as f64)?;
        let mut refused = self.refused.clone();
        *refused.entry("busy").or_default() += self.http.refused_busy;
        *refused.entry("bad_request").or_default() += self.http.refused_bad;
        let refused: Vec<_> = refused.into_iter().map(|(why, n)| ([("reason", why)], n)).collect();
        out.counters("refused", "Requests that were refused, by reason", &refused)
    }
}

/// The answer to `GET /metrics`.
pub fn answer(figures: impl Figures) -> Response {
    let mut registry = Registry::with_prefix("replog");
    registry.register_collector(Box::new(Scrape(figures)));
    let mut written = String::new();
    text::encode(&mut written, &registry).expect("a string has room");
    Response::text(200, MEDIA_TYPE, written)
}

#[derive(Debug)]
struct Scrape<F>(F);

impl<F: Figures> Collector for Scrape<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.write(&mut Writer(encoder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Some;

    impl Figures for Some {
        fn write(&self, out: &mut Writer<'_>) -> fmt::Result {
            out.gauge("up", "It is up", 0.5)?;
            out.counters("calls", "Calls", &[([("to", "a\"b")], 3), ([("to", "c")], 4)])?;
            let histogram = Histogram::new(&[0.1, 1.0]);
            [0.1, 0.5, 7.0].iter().for_each(|value| histogram.observe(*value));
            assert_eq!(histogram.cumulative(), [1, 2, 3]);
            out.histograms("took_seconds", "Time", &[([("result", "ok")], &histogram)])
        }
    }

    #[test]
    fn metrics_are_written_with_names_types_and_labels() {
        let text = String::from_utf8(answer(Some).into_body()).unwrap();
        let expected = [
            "# HELP replog_up It is up",
            "# TYPE replog_up gauge",
            "replog_up 0.5",
            "replog_calls_total{to=\"a\\\"b\"} 3",
            "replog_calls_total{to=\"c\"} 4",
            "# TYPE replog_took_seconds histogram",
            "replog_took_seconds_sum{result=\"ok\"} 7.6",
            "replog_took_seconds_count{result=\"ok\"} 3",
            "replog_took_seconds_bucket{le=\"0.1\",result=\"ok\"} 1",
            "replog_took_seconds_bucket{le=\"1.0\",result=\"ok\"} 2",
            "replog_took_seconds_bucket{le=\"+Inf\",result=\"ok\"} 3",
            "# EOF",
        ];
        for line in expected {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
    }
}
