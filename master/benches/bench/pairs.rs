//! Ours beside something else, measured in turn in one run: only such ratios say something.

use std::env;

use crate::nodes::{Cluster, Ours, ours, role, secondaries, urls, with_master};
use crate::peers::{Kept, Peer, installed};
use crate::post::short;
use crate::report::{median, table};
use crate::rounds;
use crate::writes::{Measured, assert_equal_logs, measure};

/// Measures this and the other, each as often as the other first. Gives a line for [`pairs_table`]:
/// of each figure the medians of both, and of the ratios of the pairs.
pub fn pairs(
    name: &str,
    rounds: usize,
    this: &dyn Fn() -> Measured,
    other: &dyn Fn() -> Measured,
) -> String {
    let mut runs = Vec::new();
    for round in 1..=rounds {
        let early = (round % 2 == 0).then(other);
        let (this, other) = (this(), early.unwrap_or_else(other));
        println!(
            "{name}, round {round}: {:.0}/s beside {:.0}/s, x {:.3}; client busy {:.0} %, {:.0} %",
            this.rate,
            other.rate,
            this.rate / other.rate,
            this.client_busy * 100.0,
            other.client_busy * 100.0
        );
        runs.push((this, other));
    }
    let columns = |digits: usize, figure: fn(&Measured) -> f64| {
        let this = median(runs.iter().map(|(this, _)| figure(this)));
        let other = median(runs.iter().map(|(_, other)| figure(other)));
        let ratio = median(runs.iter().map(|(this, other)| figure(this) / figure(other)));
        format!("{this:.digits$}|{other:.digits$}|{ratio:.3}")
    };
    let rate = columns(0, |run| run.rate);
    let p50 = columns(3, |run| run.percentiles[0]);
    let cpu = columns(2, |run| run.cpu);
    format!("{name}|{rate}|{p50}|{cpu}")
}

/// Prints lines of pairs.
pub fn pairs_table(lines: impl IntoIterator<Item = String>) {
    let head = "|/s|other /s|ratio|p50 ms|other p50|ratio|CPU s/10k|other CPU|ratio";
    table(head, lines);
    println!("medians of the pairs; CPU-seconds of all nodes per 10 000 appends");
}

/// How many clients there are in turn; `CLIENTS="1 64"` chooses others.
pub fn clients(usual: &[usize]) -> Vec<usize> {
    let chosen = env::var("CLIENTS").unwrap_or_default();
    let chosen: Vec<usize> =
        chosen.split_whitespace().map(|count| count.parse().expect("CLIENTS: numbers")).collect();
    if chosen.is_empty() { usual.to_vec() } else { chosen }
}

/// New clusters of ours beside others, a line for each number of clients.
fn clusters(
    name: &str,
    usual: &[usize],
    this: &dyn Fn() -> Cluster,
    other: &dyn Fn() -> Cluster,
) -> Vec<String> {
    let line = |clients| {
        let ours = || {
            let cluster = this();
            let measured = measure(&cluster, clients);
            assert_equal_logs(&cluster);
            measured
        };
        let theirs = || measure(&other(), clients);
        pairs(&format!("{name}, {clients} clients"), rounds(), &ours, &theirs)
    };
    clients(usual).into_iter().map(line).collect()
}

/// This build beside another one, in memory and on disk; `KEPT=disk` for one of them.
pub fn beside() {
    let kept = env::var("KEPT").unwrap_or_default();
    let mut lines = Vec::new();
    for (name, on_disk) in [("memory", false), ("disk", true)] {
        let Some(other) = Ours::beside() else {
            println!("skipped: BESIDE=/path does not say where the other binaries are");
            return;
        };
        if kept.is_empty() || kept == name {
            let [this, other] = [Ours::new(), other].map(|ours| Ours { on_disk, ..ours });
            let (this, other) = (|| this.start(short()), || other.start(short()));
            lines.extend(clusters(name, &[1, 8, 64, 256], &this, &other));
        }
    }
    pairs_table(lines);
}

/// Ours beside the floor and beside a pair of calls per request.
pub fn shapes() {
    let this = || ours(short());
    let mut lines = clusters("the floor", &[1, 16, 64], &this, &floor);
    lines.extend(clusters("a pair of calls", &[1, 16, 64], &this, &pair));
    pairs_table(lines);
}

fn floor() -> Cluster {
    let secondaries: Vec<_> = (0..2).map(|_| role("floor-secondary", "")).collect();
    let master = role("floor-master", &urls(&secondaries));
    with_master(master, secondaries, short())
}

fn pair() -> Cluster {
    let secondaries = secondaries(2);
    let master = role("pair-master", &urls(&secondaries));
    with_master(master, secondaries, short())
}

/// Ours in memory beside each of the others that keeps an append there until it is answered.
pub fn peers_in_memory() {
    peers(|peer| peer.kept == Kept::Memory);
}

/// Ours on disk beside each of the others that puts an append there before it is answered.
pub fn peers_on_disk() {
    peers(|peer| peer.kept != Kept::Memory);
}

fn peers(which: fn(&Peer) -> bool) {
    let mut lines = Vec::new();
    for peer in installed(which) {
        let ours = Ours { on_disk: peer.kept != Kept::Memory, ..Ours::new() };
        let name = format!("{} ({} acks, {:?})", peer.name, peer.acks, peer.kept);
        let (this, other) = (|| ours.start(short()), || peer.start(100));
        lines.extend(clusters(&name, &[1, 16, 64], &this, &other));
    }
    pairs_table(lines);
}
