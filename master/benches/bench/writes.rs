//! How fast appends are, and what they cost.

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use crate::load::{Load, Until, drive};
use crate::nodes::{
    Cluster, Node, binaries, ours, ours_on_disk, ours_telling, role, urls, with_master,
};
use crate::peers::{ALL, Kept, Peer};
use crate::post::Post;
use crate::report::{median, table};
use crate::{MEASURED, rounds};

/// What is measured.
struct Row {
    clients: usize,
    w: Option<&'static str>,
    message_bytes: usize,
    /// Entries in the log when it begins.
    entries: usize,
    full_answer: bool,
    /// The nodes log every append, as they do if they are not told otherwise.
    telling: bool,
}

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
pub fn measure(cluster: &Cluster, clients: usize, until: Until) -> Measured {
    let mut before = Duration::ZERO;
    let mut begun = || before = cluster.cpu();
    let address = cluster.nodes[0].address;
    let load = drive(address, clients, &*cluster.protocol, until, &mut begun);
    let used = cluster.cpu() - before;
    measured(&load, used, &cluster.nodes[0])
}

fn measured(load: &Load, used: Duration, node: &Node) -> Measured {
    Measured {
        rate: load.rate(),
        percentiles: [0.5, 0.99, 0.999].map(|share| load.percentile(share)),
        cpu: used.as_secs_f64() * 10_000.0 / load.count as f64,
        memory: node.memory() as f64 / 1e6,
        client_busy: load.client_busy,
    }
}

/// The table of appends.
pub fn writes() {
    let row = |clients, w, message_bytes, entries, full_answer| Row {
        clients,
        w,
        message_bytes,
        entries,
        full_answer,
        telling: false,
    };
    let rows = [
        row(1, None, 100, 0, false),
        row(8, None, 100, 0, false),
        row(64, None, 100, 0, false),
        row(256, None, 100, 0, false),
        Row { telling: true, ..row(64, None, 100, 0, false) },
        row(1, Some("1"), 100, 0, false),
        row(64, Some("1"), 100, 0, false),
        row(1, None, 10 << 10, 0, false),
        row(64, None, 10 << 10, 0, false),
        row(64, Some("1"), 10 << 10, 0, false),
        row(1, None, 100, 100_000, false),
        row(64, None, 100, 100_000, false),
        row(1, None, 100, 0, true),
        row(64, None, 100, 0, true),
        row(8, None, 100, 100_000, true),
    ];
    let mut results: Vec<Vec<(Measured, f64)>> = rows.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds() {
        for (number, row) in rows.iter().enumerate() {
            let measured = run(row);
            print!(
                "\rround {round}, row {} of {}: {:.0} POST/s    ",
                number + 1,
                rows.len(),
                measured.0.rate
            );
            let _ = std::io::stdout().flush();
            results[number].push(measured);
        }
    }
    println!();
    let lines = rows.iter().zip(&results).map(|(row, runs)| {
        let of = |value: fn(&Measured) -> f64| median(runs.iter().map(|(run, _)| value(run)));
        let log = if row.entries == 0 { "empty".into() } else { row.entries.to_string() };
        vec![
            row.clients.to_string(),
            row.w.unwrap_or("all").to_string(),
            row.message_bytes.to_string(),
            log,
            if row.full_answer { "full" } else { "short" }.into(),
            if row.telling { "info" } else { "warn" }.into(),
            format!("{:.0}", of(|run| run.rate)),
            format!("{:.2}", of(|run| run.percentiles[0])),
            format!("{:.2}", of(|run| run.percentiles[1])),
            format!("{:.2}", of(|run| run.percentiles[2])),
            format!("{:.2}", of(|run| run.cpu)),
            format!("{:.0}", of(|run| run.memory)),
            format!("{:.2}", median(runs.iter().map(|(_, calls)| *calls))),
            format!("{:.0} %", of(|run| run.client_busy) * 100.0),
        ]
    });
    table(
        &[
            "clients",
            "w",
            "bytes",
            "log",
            "answer",
            "logging",
            "POST/s",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "CPU s/10k",
            "master MB",
            "calls/append",
            "client busy",
        ],
        lines,
    );
    println!("medians of {} rounds; all logs were equal at the end of each", rounds());
}

fn run(row: &Row) -> (Measured, f64) {
    let start = if row.telling { ours_telling } else { ours };
    let mut cluster = start(Post::new(row.message_bytes, Some("1"), false));
    if row.entries > 0 {
        drive(
            cluster.nodes[0].address,
            64,
            &*cluster.protocol,
            Until::Count(row.entries),
            &mut || {},
        );
        wait_until_level(&cluster);
    }
    cluster.protocol = Box::new(Post::new(row.message_bytes, row.w, row.full_answer));
    // A full answer grows with every append: the same number of them for a fair comparison.
    let until = match (row.full_answer, row.entries) {
        (true, 0) => Until::Count(2000),
        _ => Until::Time(MEASURED),
    };
    let (calls, entries) = calls_and_entries(&cluster);
    let measured = measure(&cluster, row.clients, until);
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
pub fn wait_until_level(cluster: &Cluster) {
    let lag = || {
        let health = cluster.nodes[0].get("/health");
        let statuses = health["secondary_statuses"].as_object().expect("the master names them");
        statuses.values().any(|status| status["lag_entries"] != 0)
    };
    while lag() {
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
        let pieces: Vec<_> = cluster
            .nodes
            .iter()
            .map(|node| {
                node.get(&format!("/messages?from={from}&limit={limit}"))["messages"].take()
            })
            .collect();
        assert!(pieces.windows(2).all(|pair| pair[0] == pair[1]), "logs differ from {from} on");
        let count = pieces[0].as_array().map_or(0, Vec::len) as u64;
        assert_eq!(count, limit, "entries are missing from {from} on");
    }
}

/// Ours beside the floor and beside a pair of calls per request, in turn.
pub fn shapes() {
    let message = 100;
    let mut lines = Vec::new();
    for clients in [1, 16, 64] {
        let mut ratios = [Vec::new(), Vec::new()];
        let mut rates = [Vec::new(), Vec::new(), Vec::new()];
        let mut cpu = [Vec::new(), Vec::new(), Vec::new()];
        for round in 1..=rounds() {
            let post = || Post::new(message, None, false);
            let all = [ours(post()), floor(post()), pair(post())];
            let [ours, floor, pair] =
                all.map(|cluster| measure(&cluster, clients, Until::Time(MEASURED)));
            ratios[0].push(ours.rate / floor.rate);
            ratios[1].push(ours.rate / pair.rate);
            for (n, one) in [&ours, &floor, &pair].into_iter().enumerate() {
                rates[n].push(one.rate);
                cpu[n].push(one.cpu);
            }
            println!(
                "round {round}, {clients} clients: ours {:.0}, floor {:.0}, pair {:.0} POST/s; \
                 client busy {:.0} %, {:.0} %, {:.0} %",
                ours.rate,
                floor.rate,
                pair.rate,
                ours.client_busy * 100.0,
                floor.client_busy * 100.0,
                pair.client_busy * 100.0
            );
        }
        let mut line = vec![clients.to_string()];
        line.extend(rates.into_iter().map(|rates| format!("{:.0}", median(rates))));
        line.extend(ratios.into_iter().map(|ratios| format!("{:.2}", median(ratios))));
        line.extend(cpu.into_iter().map(|cpu| format!("{:.2}", median(cpu))));
        lines.push(line);
    }
    table(
        &[
            "clients",
            "ours",
            "floor",
            "pair",
            "ours/floor",
            "ours/pair",
            "CPU ours",
            "CPU floor",
            "CPU pair",
        ],
        lines,
    );
}

fn floor(post: Post) -> Cluster {
    let secondaries: Vec<Node> = (0..2).map(|_| role("floor-secondary", "")).collect();
    let master = role("floor-master", &urls(&secondaries));
    with_master(master, secondaries, post)
}

fn pair(post: Post) -> Cluster {
    let (_, secondary) = binaries();
    let secondaries: Vec<Node> =
        (0..2).map(|_| Node::start(&mut Command::new(&secondary))).collect();
    let master = role("pair-master", &urls(&secondaries));
    with_master(master, secondaries, post)
}

/// Ours in memory beside each of the others that keeps an append there until it is answered.
pub fn peers_in_memory() {
    peers(|peer| peer.kept == Kept::Memory);
}

/// Ours on disk beside each of the others that puts an append there before it is answered.
pub fn peers_on_disk() {
    peers(|peer| peer.kept != Kept::Memory);
}

/// In turn; those that are not installed are named.
fn peers(which: fn(&Peer) -> bool) {
    let mut lines = Vec::new();
    for peer in ALL.iter().filter(|peer| which(peer)) {
        if !peer.is_installed() {
            println!("skipped: {} is not installed", peer.name);
            continue;
        }
        for clients in [1, 16, 64] {
            lines.push(pairs(peer, clients));
        }
    }
    table(
        &[
            "peer", "acks", "kept in", "clients", "ours /s", "peer /s", "ratio", "p50 ours",
            "p50 peer", "ratio", "CPU ours", "CPU peer",
        ],
        lines,
    );
    println!(
        "medians of {} pairs; p50 in ms, CPU-seconds per 10 000 appends on all nodes",
        rounds()
    );
}

fn pairs(peer: &Peer, clients: usize) -> Vec<String> {
    let mut runs = Vec::new();
    for round in 1..=rounds() {
        let until = Until::Time(MEASURED);
        let post = Post::new(100, None, false);
        let own = if peer.kept == Kept::Memory { ours(post) } else { ours_on_disk(post) };
        let own = measure(&own, clients, until);
        let other = measure(&peer.start(100), clients, until);
        println!(
            "{} {clients} clients, round {round}: ours {:.0}/s, {:.0}/s; client busy {:.0} %, {:.0} %",
            peer.name,
            own.rate,
            other.rate,
            own.client_busy * 100.0,
            other.client_busy * 100.0
        );
        runs.push((own, other));
    }
    let of = |value: fn(&(Measured, Measured)) -> f64| median(runs.iter().map(value));
    vec![
        peer.name.to_string(),
        peer.acks.to_string(),
        format!("{:?}", peer.kept).to_lowercase(),
        clients.to_string(),
        format!("{:.0}", of(|(own, _)| own.rate)),
        format!("{:.0}", of(|(_, other)| other.rate)),
        format!("{:.2}", of(|(own, other)| own.rate / other.rate)),
        format!("{:.2}", of(|(own, _)| own.percentiles[0])),
        format!("{:.2}", of(|(_, other)| other.percentiles[0])),
        format!("{:.2}", of(|(own, other)| own.percentiles[0] / other.percentiles[0])),
        format!("{:.2}", of(|(own, _)| own.cpu)),
        format!("{:.2}", of(|(_, other)| other.cpu)),
    ]
}
