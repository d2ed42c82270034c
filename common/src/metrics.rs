//! Counters and histograms, and the text that `GET /metrics` answers: OpenMetrics 1.0.
//!
//! Nothing is counted twice: figures that the log, the lines or the HTTP layer hold anyway are
//! read from them at each scrape. `docker/README.md` says what each metric means and when to worry.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::entries::Seq;
use crate::follow::Followers;
use crate::http::{Response, Stats};

/// The media type of the text.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Counters told apart by a word. Threads add to them without a lock.
#[derive(Debug)]
pub struct Counts(Vec<(&'static str, AtomicU64)>);

impl Counts {
    /// A counter for each word. All begin at 0, so that the first time is seen as a change.
    pub fn new(words: &[&'static str]) -> Counts {
        Counts(words.iter().map(|word| (*word, AtomicU64::new(0))).collect())
    }

    /// Counts one more of a word that was given to [`Counts::new`].
    pub fn add(&self, word: &str) {
        let counter = self.0.iter().find(|(known, _)| *known == word);
        counter.expect("each word that is counted was given to `new`").1.fetch_add(1, Relaxed);
    }

    /// Every word and its count, in the order of [`Counts::new`].
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(word, count)| (*word, count.load(Relaxed)))
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
    /// An empty histogram with these upper bounds, which ascend.
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

    /// The number of values up to each bound, and last the number of all.
    pub fn cumulative(&self) -> Vec<u64> {
        let mut sum = 0;
        let add = |count: &AtomicU64| {
            sum += count.load(Relaxed);
            sum
        };
        self.counts.iter().map(add).collect()
    }
}

/// The text of `GET /metrics` as it grows, family by family. Names get the prefix `replog_`; help
/// texts hold neither line breaks nor backslashes.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins with the figures that every node has. The size of the log and its limit are in bytes
    /// of JSON; `refused` is the number of requests that the role refused, by reason.
    pub fn of_node(
        role: &str,
        last_seq: Seq,
        (log_bytes, max_log_bytes): (u64, u64),
        is_read_only: bool,
        followers: &Followers,
        http: &Stats,
        refused: impl Iterator<Item = (&'static str, u64)>,
    ) -> Exposition {
        let mut out = Exposition::default();
        let build = [("version", env!("CARGO_PKG_VERSION")), ("role", role)];
        out.gauge("build_info", "What is running; always 1").sample(&build, 1.0);
        let no_limit_is_0 = |most| if most == u64::MAX { 0.0 } else { most as f64 };
        let in_flight = http.in_flight as f64;
        let gauges = [
            ("last_seq", "The last entry that can be read here", last_seq.0 as f64),
            ("log_bytes", "What the entries take: JSON and five bytes each", log_bytes as f64),
            ("read_only", "1 while nothing can be stored", f64::from(is_read_only)),
            ("log_bytes_limit", "MAX_LOG_BYTES; 0 for no limit", no_limit_is_0(max_log_bytes)),
            ("requests_in_flight", "Requests in progress, this one too", in_flight),
            ("requests_in_flight_limit", "MAX_IN_FLIGHT", http.max_in_flight as f64),
            ("followers", "Clients that follow the log", followers.count() as f64),
            ("followers_limit", "MAX_FOLLOWERS", followers.most as f64),
        ];
        for (name, help, value) in gauges {
            out.gauge(name, help).sample(&[], value);
        }
        let by_http = [
            ("bad_request", http.refused_bad),
            ("busy", http.refused_busy),
            ("other_protocol", http.foreign),
        ];
        let mut family = out.counter("refused", "Requests that were refused, by reason");
        for (reason, count) in by_http.into_iter().chain(refused) {
            family.sample(&[("reason", reason)], count);
        }
        out
    }

    /// Begins a number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help, "")
    }

    /// Begins a number that only grows; its samples get the suffix `_total`.
    pub fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "counter", help, "_total")
    }

    /// Begins histograms.
    pub fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help, "")
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, suffix: &str) -> Family<'_> {
        self.0 += &format!("# HELP replog_{name} {help}\n# TYPE replog_{name} {kind}\n");
        Family { text: &mut self.0, name: format!("replog_{name}{suffix}") }
    }

    /// The answer with the whole text.
    pub fn into_response(self) -> Response {
        Response::text(200, MEDIA_TYPE, self.0 + "# EOF\n")
    }
}

/// A metric whose samples are being written.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl Family<'_> {
    /// Writes a value with these labels: name and value of each.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Debug) {
        self.line("", labels, value);
    }

    /// Writes a histogram with these labels.
    pub fn buckets(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let counts = histogram.cumulative();
        self.line("_sum", labels, histogram.sum.load(Relaxed) as f64 / 1e6);
        self.line("_count", labels, counts[counts.len() - 1]);
        let bounds = histogram.bounds.iter().map(|bound| format!("{bound:?}"));
        for (bound, count) in bounds.chain(["+Inf".into()]).zip(counts) {
            self.line("_bucket", &[&[("le", bound.as_str())], labels].concat(), count);
        }
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Debug) {
        let label = |(name, value): &(&str, &str)| {
            let value = value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
            format!("{name}=\"{value}\"")
        };
        let labels = labels.iter().map(label).collect::<Vec<_>>().join(",");
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        *self.text += &format!("{}{suffix}{labels} {value:?}\n", self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_each_bound() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        [0.1, 0.5, 7.0].iter().for_each(|value| histogram.observe(*value));
        assert_eq!(histogram.cumulative(), [1, 2, 3]);
    }

    #[test]
    fn words_are_counted_from_0() {
        let counts = Counts::new(&["ok", "failed"]);
        (0..2).for_each(|_| counts.add("failed"));
        assert_eq!(counts.iter().collect::<Vec<_>>(), [("ok", 0), ("failed", 2)]);
    }

    #[test]
    fn the_text_is_as_openmetrics_asks() {
        let histogram = Histogram::new(&[0.1, 1.0]);
        [0.1, 0.5, 7.0].iter().for_each(|value| histogram.observe(*value));
        let mut out = Exposition::default();
        out.gauge("up", "It is up").sample(&[], 0.5);
        out.counter("starts", "Starts").sample(&[], 2);
        out.counter("calls", "Calls").sample(&[("to", "a\"\\\n"), ("by", "b")], 3);
        out.histogram("took_seconds", "Time").buckets(&[("result", "ok")], &histogram);
        let text = String::from_utf8(out.into_response().into_body()).unwrap();
        let expected = r##"# HELP replog_up It is up
# TYPE replog_up gauge
replog_up 0.5
# HELP replog_starts Starts
# TYPE replog_starts counter
replog_starts_total 2
# HELP replog_calls Calls
# TYPE replog_calls counter
replog_calls_total{to="a\"\\\n",by="b"} 3
# HELP replog_took_seconds Time
# TYPE replog_took_seconds histogram
replog_took_seconds_sum{result="ok"} 7.6
replog_took_seconds_count{result="ok"} 3
replog_took_seconds_bucket{le="0.1",result="ok"} 1
replog_took_seconds_bucket{le="1.0",result="ok"} 2
replog_took_seconds_bucket{le="+Inf",result="ok"} 3
# EOF
"##;
        assert_eq!(text, expected);
    }
}
