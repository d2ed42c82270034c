//! model
mod cluster;
mod faults;
mod harm;
mod log;
mod master;
mod properties;
mod secondary;
mod setup;
mod steps;
use setup::*;
use stateright::{Checker, Model};

fn base() -> Setup {
    let var = |n: &str, d: u8| std::env::var(n).ok().and_then(|v| v.parse().ok()).unwrap_or(d);
    Setup {
        secondaries: var("N", 2) as usize,
        directories: [var("DIR", 1) == 1, var("DIR2", var("DIR", 1)) == 1],
        disks: var("DISKS", 1) == 1,
        fault: None,
        recovery: Recovery::Quorum,
        backup: Backup::None,
        standby: false,
        places_are_told: false,
        slow_disk: false,
        late_fetch: false,
        epochs: var("E", 3),
        messages: var("M", 2),
        crashes: var("C", 1),
    }
}

#[test]
fn try_it() {
    let begin = std::time::Instant::now();
    let checker = base().checker().threads(2).spawn_bfs().join();
    println!("{} states, {} unique, depth {}, {:?}", checker.state_count(), checker.unique_state_count(), checker.max_depth(), begin.elapsed());
    for (name, path) in checker.discoveries() {
        println!("{name}:");
        for action in path.into_actions() {
            println!("   {action:?}");
        }
    }
}
