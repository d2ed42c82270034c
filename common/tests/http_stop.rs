//! A stop in good order: what is in progress is finished, what comes later is refused.

mod support;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::http::Drained;
use support::{DEADLINE, Node, WIDE, Wire, eventually};

/// Waits until new connections are refused: the stop has begun.
fn wait_until_refused(node: &Node) {
    eventually("new connections are refused", || match TcpStream::connect(node.address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Goal: requests in progress are finished and answered; new connections are refused by the
/// system, requests on kept ones with 503.
#[test]
fn a_stop_finishes_what_is_in_progress() {
    let node = Node::start(WIDE);
    let (mut kept, mut blocked) = (node.connect(), node.connect());
    assert_eq!(kept.get("/hello").status, 200);
    blocked.ask("/block");
    node.wait_until_blocked(1);
    thread::scope(|scope| {
        let stop = scope.spawn(|| node.server.stop(2 * DEADLINE));
        wait_until_refused(&node);
        for _ in 0..3 {
            let answer = kept.get("/hello");
            answer.assert_error(503);
            assert!(answer.field("Retry-After").is_some(), "{answer:?}");
        }
        assert!(!stop.is_finished(), "one request is in progress");
        node.release();
        assert_eq!(blocked.answer().body, "\"released\"");
        assert_eq!(stop.join().unwrap(), Drained { unfinished: 0 });
    });
}

/// Goal: a request whose body is still arriving is in progress, and is finished too.
#[test]
fn a_stop_waits_for_an_arriving_body() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    client.send(format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4000\r\n\r\n{}",
        "x".repeat(2000)
    ));
    node.wait_for_stats("it is being read", |stats| stats.in_flight == 1);
    thread::scope(|scope| {
        let stop = scope.spawn(|| node.server.stop(2 * DEADLINE));
        wait_until_refused(&node);
        client.send("x".repeat(2000));
        assert_eq!(client.answer().body, "x".repeat(4000));
        assert_eq!(stop.join().unwrap(), Drained { unfinished: 0 });
    });
}

/// Goal: a stop does not wait longer than it was told, and says what it left unfinished.
#[test]
fn a_stop_counts_what_is_unfinished() {
    let node = Node::start(WIDE);
    let mut blocked: Vec<Wire> = (0..2).map(|_| node.connect()).collect();
    blocked.iter_mut().for_each(|client| client.ask("/block"));
    node.wait_until_blocked(2);
    let (start, timeout) = (Instant::now(), Duration::from_millis(300));
    assert_eq!(node.server.stop(timeout), Drained { unfinished: 2 });
    let waited = start.elapsed();
    assert!(waited >= timeout && waited < DEADLINE, "it waited for {waited:?}");
}

/// Goal: idle connections do not hold up a stop.
#[test]
fn a_stop_with_idle_connections_is_immediate() {
    let node = Node::start(WIDE);
    let mut idle: Vec<Wire> = (0..50).map(|_| node.connect()).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.get("/hello").status, 200));
    node.wait_for_stats("all have been answered", |stats| stats.in_flight == 0);
    let start = Instant::now();
    assert_eq!(node.server.stop(2 * DEADLINE), Drained { unfinished: 0 });
    assert!(start.elapsed() < DEADLINE, "it waited for {:?}", start.elapsed());
}
