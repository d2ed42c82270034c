//! What the black-box tests share: real nodes as child processes ([`node`]), a cluster of them
//! ([`cluster`]), a client that shows every byte ([`http`]), secondaries that misbehave
//! ([`fake`]) or are none of ours ([`originals`]), clients that misbehave ([`grammar`]), a wire that
//! can be cut ([`relay`]), and a disk that fails ([`disk`]).
//!
//! Nothing here has a fixed port or a fixed sleep: nodes pick their port and say which, and
//! [`wait_until`] waits for a condition with a deadline.

// Each test file is a crate of its own, to which all of this is public and of which it uses a part.
#![allow(dead_code, unreachable_pub)]

pub mod binary;
pub mod cluster;
pub mod directory;
pub mod disk;
pub mod fake;
pub mod grammar;
pub mod history;
pub mod http;
pub mod masters;
pub mod node;
pub mod originals;
pub mod output;
pub mod port;
pub mod readers;
pub mod relay;
pub mod small_disk;
pub mod writers;

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that is expected to happen soon. A passing test never waits so long.
pub const SOON: Duration = Duration::from_secs(15);

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `look` is content; its error says what it saw instead. Panics with the last of
/// these when the time is up.
pub fn wait_until<T, E: Display>(
    what: &str,
    within: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        // Taken before the look, so that one look always comes after the time is up.
        let waited = start.elapsed();
        match look() {
            Ok(seen) => return seen,
            Err(seen) if waited >= within => panic!("not {what} within {within:?}: {seen}"),
            Err(_) => thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Runs `client` on `count` threads that begin in one instant, each with its number, and returns
/// what they return in the order of the numbers.
pub fn at_once<T: Send>(count: usize, client: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(count);
    let run = |number| {
        barrier.wait();
        client(number)
    };
    thread::scope(|scope| {
        let run = &run;
        let clients: Vec<_> = (0..count).map(|n| scope.spawn(move || run(n))).collect();
        clients.into_iter().map(|client| client.join().expect("a client thread failed")).collect()
    })
}

/// A word that no other message of this process has, for tests that look for lost and repeated
/// ones.
pub fn unique(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Relaxed))
}
