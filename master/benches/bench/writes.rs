//! How fast appends are, and what they cost.

use std::time::Duration;

use crate::load::{Until, drive};
use crate::nodes::{Cluster, Ours};
use crate::post::Post;
use crate::report::{median, table};
use crate::{MEASURED, rounds};

/// What is measured: clients, `w`, bytes of a message, entries in the log when it begins, whether
/// the answer is full, and whether the nodes log every append, as is their default.
struct Row(usize, Option<&'static str>, usize, usize, bool, bool);

const ROWS: [Row; 15] = [
    Row(1, None, 100, 0, false, false),
    Row(8, None, 100, 0, false, false),
    Row(64, None, 100, 0, false, false),
    Row(256, None, 100, 0, false, false),
    Row(64, None, 100, 0, false, true),
    Row(1, Some("1"), 100, 0, false, false),
    Row(64, Some("1"), 100, 0, false, false),
    Row(1, None, 10 << 10, 0, false, false),
    Row(64, None, 10 << 10, 0, false, false),
    Row(64, Some("1"), 10 << 10, 0, false, false),
    Row(1, None, 100, 100_000, false, false),
    Row(64, None, 100, 100_000, false, false),
    Row(1, None, 100, 0, true, false),
    Row(64, None, 100, 0, true, false),
    Row(8, None, 100, 100_000, true, false),
];

/// What came of it in one round.
pub struct Measured {
    /// Answers per second.
    pub rate: f64,
    /// Latencies in milliseconds that half, 99 % and 99.9 % of the answers stayed below.
    pub percentiles: [f64; 3],
    /// CPU-seconds of all nodes per 10 000 appends.
    pub cpu: f64,
    /// Memory of the first node in MB, at the end.
    pub memory: f64,
    /// The share of a core that the client used.
    pub client_busy: f64,
}

/// Drives the first node of a cluster.
pub fn measure(cluster: &Cluster, clients: usize) -> Measured {
    measure_until(cluster, clients, Until::Time(MEASURED))
}

fn measure_until(cluster: &Cluster, clients: usize, until: Until) -> Measured {
    let mut before = Duration::ZERO;
    let mut begun = || before = cluster.cpu();
    let node = &cluster.nodes[0];
    let load = drive(node.address, clients, &*cluster.protocol, until, &mut begun);
    let used = cluster.cpu() - before;
    Measured {
        rate: load.rate(),
        percentiles: [0.5, 0.99, 0.999].map(|share| load.percentile(share)),
        cpu: used.as_secs_f64() * 10_000.0 / load.count as f64,
        memory: node.memory() as f64 / 1e6,
        client_busy: load.client_busy,
    }
}

/// Fills the log of a cluster with so many messages, and waits until every secondary has them.
pub fn fill(cluster: &Cluster, count: usize, message_bytes: usize) {
    let post = Post::new(message_bytes, Some("1"), false);
    drive(cluster.nodes[0].address, 64, &post, Until::Count(count), &mut || {});
    wait_until_level(cluster);
}

/// The table of appends.
pub fn writes() {
    let mut results = ROWS.map(|row| (row, Vec::new()));
    for round in 1..=rounds() {
        for (number, (row, runs)) in results.iter_mut().enumerate() {
            runs.push(run(row));
            let rate = runs[round - 1].0.rate;
            println!("round {round}, row {} of {}: {rate:.0} POST/s", number + 1, ROWS.len());
        }
    }
    let lines = results.iter().map(|(Row(clients, w, bytes, entries, full, telling), runs)| {
        let of = |value: fn(&Measured) -> f64| median(runs.iter().map(|(run, _)| value(run)));
        let [p50, p99, p999] = [0, 1, 2].map(|at| {
            let values = runs.iter().map(|(run, _)| run.percentiles[at]);
            median(values)
        });
        format!(
            "{clients}|{}|{bytes}|{entries}|{}|{}|\
             {:.0}|{p50:.2}|{p99:.2}|{p999:.2}|{:.2}|{:.0}|{:.2}|{:.0} %",
            w.unwrap_or("all"),
            if *full { "full" } else { "short" },
            if *telling { "info" } else { "warn" },
            of(|run| run.rate),
            of(|run| run.cpu),
            of(|run| run.memory),
            median(runs.iter().map(|(_, calls)| *calls)),
            of(|run| run.client_busy) * 100.0,
        )
    });
    let head = "clients|w|bytes|log|answer|logging|POST/s|p50 ms|p99 ms|p99.9 ms|CPU s/10k|\
                master MB|calls/append|client busy";
    table(head, lines);
    println!("medians of {} rounds; all logs were equal at the end of each", rounds());
}

fn run(&Row(clients, w, message_bytes, entries, full_answer, telling): &Row) -> (Measured, f64) {
    let cluster = Ours { telling, ..Ours::new() }.start(Post::new(message_bytes, w, full_answer));
    if entries > 0 {
        fill(&cluster, entries, message_bytes);
    }
    // A full answer grows with every append: the same number of them for a fair comparison.
    let until = match (full_answer, entries) {
        (true, 0) => Until::Count(2000),
        _ => Until::Time(MEASURED),
    };
    let (calls, entries) = calls_and_entries(&cluster);
    let measured = measure_until(&cluster, clients, until);
    assert_equal_logs(&cluster);
    let (calls_after, entries_after) = calls_and_entries(&cluster);
    (measured, (calls_after - calls) / (entries_after - entries))
}

fn calls_and_entries(cluster: &Cluster) -> (f64, f64) {
    let health = cluster.nodes[0].get("/health");
    let statuses = health["secondary_statuses"].as_object().expect("the master names them");
    let calls = statuses.values().filter_map(|status| status["calls"].as_f64()).sum();
    (calls, health["count"].as_f64().expect("it is a number"))
}

/// Waits until every secondary has everything.
fn wait_until_level(cluster: &Cluster) {
    let lags = || {
        let health = cluster.nodes[0].get("/health");
        let statuses = health["secondary_statuses"].as_object().expect("the master names them");
        statuses.values().any(|status| status["lag_entries"] != 0)
    };
    while lags() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Panics if the logs differ, entry by entry.
pub fn assert_equal_logs(cluster: &Cluster) {
    wait_until_level(cluster);
    let last = cluster.nodes[0].get("/health")["count"].as_u64().expect("it is a number");
    for from in (1..=last).step_by(2000) {
        // Not what clients whose time was up have sent since.
        let limit = (last + 1 - from).min(2000);
        let path = format!("/messages?from={from}&limit={limit}");
        let nodes = cluster.nodes.iter();
        let pieces: Vec<_> = nodes.map(|node| node.get(&path)["messages"].take()).collect();
        assert!(pieces.windows(2).all(|pair| pair[0] == pair[1]), "logs differ from {from} on");
        let count = pieces[0].as_array().map_or(0, Vec::len) as u64;
        assert_eq!(count, limit, "entries are missing from {from} on");
    }
}
