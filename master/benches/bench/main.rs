//! Measures the replicated log: `make bench`, or `make bench ONLY="writes idle"` for some of it;
//! `make bench-peers` for the same work beside Redis, etcd and NATS.
//!
//! All nodes are release processes of their own on this machine, so they and the client share its
//! cores: only ratios of pairs that ran alternately, in one run, say something.

// A program of its own: nothing of it is public.
#![allow(unreachable_pub)]

mod limits;
mod load;
mod nodes;
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

/// The section that is not measured unless it is asked for.
const PEERS: &str = "peers";

/// How long one measurement takes.
const MEASURED: Duration = Duration::from_secs(2);

fn main() {
    if let Ok(role) = env::var("BENCH_ROLE") {
        return shapes::play(&role, &env::var("BENCH_OF").unwrap_or_default());
    }
    let sections: [(&str, &str, fn()); 8] = [
        ("writes", "appends", writes::writes),
        ("shapes", "beside the floor and beside a pair of calls per request", writes::shapes),
        ("growth", "a long log", limits::growth),
        ("stream", "a large answer", limits::stream),
        ("catchup", "a secondary that starts empty", limits::catchup),
        ("idle", "idle connections", limits::idle),
        ("blocked", "clients that wait", limits::blocked),
        (PEERS, "beside Redis, etcd and NATS", writes::peers),
    ];
    let asked: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    for (name, what, run) in sections {
        // The others need programs that are not part of this; they are measured when asked for.
        let meant = asked.is_empty() && name != PEERS;
        if meant || asked.iter().any(|asked| asked == name) {
            println!("\n{name}: {what}");
            run();
        }
    }
}
