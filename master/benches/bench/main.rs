//! Measures the replicated log: `make bench`, or `make bench ONLY="writes idle"` for some of it;
//! `make bench-peers` for the same work beside Redis, etcd and NATS; `make bench ONLY=beside
//! BESIDE=/path` beside other binaries of ours. `README.md` in the folder above tells the rest.
//!
//! All nodes are release processes of their own on this machine, so they and the client share its
//! cores: only ratios of pairs that ran alternately, in one run, say something.

// A program of its own: nothing of it is public.
#![allow(unreachable_pub)]

mod attackers;
mod attacks;
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

/// The sections that are measured only if they are asked for: they need other programs, or long.
const WHEN_ASKED: [&str; 5] = ["attacks", "beside", "peers", "peers-disk", "outage"];

/// How long one measurement takes.
const MEASURED: Duration = Duration::from_secs(2);

fn main() {
    if let Ok(role) = env::var("BENCH_ROLE") {
        let of = env::var("BENCH_OF").unwrap_or_default();
        return if role == "attacker" { attackers::play(&of) } else { shapes::play(&role, &of) };
    }
    let sections: [(&str, &str, fn()); 13] = [
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
        ("attacks", "honest clients beside attackers", attacks::attacks),
        ("outage", "the master ends under load, beside the leader of etcd", outage::outage),
    ];
    let asked: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, what, run) in sections {
        let meant = asked.is_empty() && !WHEN_ASKED.contains(&name);
        if meant || asked.iter().any(|asked| asked == name) {
            println!("\n{name}: {what}");
            run();
        }
    }
}
