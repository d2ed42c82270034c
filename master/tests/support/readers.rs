//! Clients that read what is committed, while a test does its worst.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::history::Read;
use super::http::Connection;

/// Between two reads.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a reader waits for a node.
const PATIENCE: Duration = Duration::from_secs(1);

/// So many entries are read again each time.
const AGAIN: u64 = 3;

/// Reads until told to stop: one client reads from each of these nodes, one asks these masters in
/// turn for confirmed reads, and one follows the log from node to node.
pub fn read(masters: &[SocketAddr], nodes: &[SocketAddr], stop: &AtomicBool) -> Vec<Read> {
    thread::scope(|scope| {
        let of_one = |node| scope.spawn(move || poll(&[node], false, stop));
        let mut readers: Vec<_> = nodes.iter().copied().map(of_one).collect();
        readers.push(scope.spawn(move || poll(masters, true, stop)));
        readers.push(scope.spawn(move || follow(nodes, stop)));
        readers.into_iter().flat_map(|reader| reader.join().expect("a reader failed")).collect()
    })
}

fn poll(nodes: &[SocketAddr], is_confirmed: bool, stop: &AtomicBool) -> Vec<Read> {
    let (mut reads, mut from) = (Vec::new(), 1);
    let what = if is_confirmed { "confirmed" } else { "committed" };
    for node in nodes.iter().cycle() {
        let Ok(mut open) = Connection::open_for(*node, PATIENCE) else {
            thread::sleep(PAUSE);
            if stop.load(Ordering::SeqCst) {
                return reads;
            }
            continue;
        };
        let connection = next_connection();
        loop {
            thread::sleep(PAUSE);
            if stop.load(Ordering::SeqCst) {
                return reads;
            }
            let (begun, path) =
                (Instant::now(), format!("/messages?{what}=true&from={from}&limit=1000"));
            // A node that stands by, recovers or is gone shows nothing.
            let Ok(answer) = open.try_send("GET", &path, &[], "") else { break };
            if answer.status != 200 {
                break;
            }
            let (ended, messages) = (Instant::now(), answer.messages());
            let last_seq = answer.json()["last_seq"].as_u64().expect("a place");
            let next = from + messages.len() as u64;
            reads.push(Read { begun, ended, connection, is_confirmed, from, messages, last_seq });
            from = next.saturating_sub(AGAIN).max(1);
        }
    }
    unreachable!("there are nodes")
}

/// Follows the log, from node to node and over restarts, without a gap.
fn follow(nodes: &[SocketAddr], stop: &AtomicBool) -> Vec<Read> {
    let (mut reads, mut from) = (Vec::new(), 1);
    for node in nodes.iter().cycle() {
        let path = format!("/messages/stream?from={from}");
        let open = Connection::open_for(*node, PATIENCE).and_then(|open| open.follow(&path, &[]));
        let (connection, begun) = (next_connection(), Instant::now());
        // Signs of life keep the stream of a node that shows nothing: it is left after a while.
        let patience = Duration::from_secs(2);
        if let Ok(mut events) = open {
            while let Ok((Some(last_seq), data)) = events.next() {
                assert_eq!((last_seq, &data["seq"]), (from, &Value::from(from)), "a gap");
                let (ended, messages) =
                    (Instant::now(), vec![data["msg"].as_str().expect("a text").into()]);
                let is_confirmed = false;
                reads.push(Read {
                    begun,
                    ended,
                    connection,
                    is_confirmed,
                    from,
                    messages,
                    last_seq,
                });
                from += 1;
                if stop.load(Ordering::SeqCst) || begun.elapsed() > patience {
                    break;
                }
            }
        }
        if stop.load(Ordering::SeqCst) {
            break;
        }
        thread::sleep(PAUSE);
    }
    reads
}

fn next_connection() -> usize {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}
