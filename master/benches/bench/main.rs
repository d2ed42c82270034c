//! Measures the replicated log: `make bench`, or `make bench ONLY="writes idle"` for some of it;
//! `make bench-peers` for the same work beside Redis, etcd and NATS; `make bench ONLY=beside
//! BESIDE=/path` beside other binaries of ours. `README.md` in the folder above tells the rest.
//!
//! All nodes are release processes of their own on this machine, so they and the client share its
//! cores: only ratios of pairs that ran alternately, in one run, say something.

// A program of its own: nothing of it is public.
#![allow(unreachable_pub)]

mod etcd;
mod limits;
mod load;
mod nodes;
mod outage;
mod pairs;
mod peers;
mod post;
mod report;
mod shapes;
mod writes;

use std::env;
use std::time::Duration;

/// How often everything is measured; what is printed is the median. `ROUNDS` changes it.
fn rounds() -> usize {
    env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

/// The sections that are not measured unless they are asked for: they need other programs.
const BESIDE_OTHERS: [&str; 4] = ["beside", "peers", "peers-disk", "outage"];

/// How long one measurement takes.
const MEASURED: Duration = Duration::from_secs(2);

fn main() {
    if let Ok(role) = env::var("BENCH_ROLE") {
        return shapes::play(&role, &env::var("BENCH_OF").unwrap_or_default());
    }
    let sections: [(&str, &str, fn()); 12] = [
        ("writes", "appends", writes::writes),
        ("shapes", "beside the floor and beside a pair of calls per request", pairs::shapes),
        ("growth", "a long log", limits::growth),
        ("stream", "a large answer", limits::stream),
        ("catchup", "a secondary that starts empty", limits::catchup),
        ("idle", "idle connections", limits::idle),
        ("blocked", "clients that wait", limits::blocked),
        ("watched", "open pages", limits::watched),
        ("beside", "this build beside another", pairs::beside),
        ("peers", "in memory, beside Redis, etcd and NATS", pairs::peers_in_memory),
        ("peers-disk", "on disk, beside Redis, etcd and NATS", pairs::peers_on_disk),
        ("outage", "the master ends under load, beside the leader of etcd", outage::outage),
    ];
    let asked: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, what, run) in sections {
        let meant = asked.is_empty() && !BESIDE_OTHERS.contains(&name);
        if meant || asked.iter().any(|asked| asked == name) {
            println!("\n{name}: {what}");
            run();
        }
    }
}
