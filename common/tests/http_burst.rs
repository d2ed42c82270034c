//! Many clients, and many answers: nobody is left waiting, nothing is delayed.

mod support;

use std::time::{Duration, Instant};

use common::http::Limits;
use support::{Node, WIDE, Wire};

/// Goal: every client of a burst is served while all of them keep their connections. tiny_http
/// alone leaves most of them waiting for ever.
fn serve_a_burst_of(count: usize) {
    let node = Node::start(Limits { max_in_flight: count, ..WIDE });
    let mut clients: Vec<Wire> = (0..count).map(|_| node.connect()).collect();
    for round in 0..3 {
        clients.iter_mut().for_each(|client| client.ask("/hello"));
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.answer().status, 200, "client {number} in round {round}");
        }
    }
}

#[test]
fn a_burst_of_64_clients_is_served() {
    serve_a_burst_of(64);
}

#[test]
fn a_burst_of_300_clients_is_served() {
    serve_a_burst_of(300);
}

/// Goal: clients that connect at the same moment from many threads are all served too.
#[test]
fn a_burst_from_64_threads_is_served() {
    let node = Node::start(WIDE);
    let start = std::sync::Barrier::new(64);
    let serve = || {
        start.wait();
        let mut client = node.connect();
        (0..20).for_each(|_| assert_eq!(client.get("/hello").status, 200));
        client
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64).map(|_| scope.spawn(serve)).collect();
        let open: Vec<Wire> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        drop(open);
    });
}

/// Goal: large bodies that all arrive at once are read one after another; bytes that wait to be
/// read are not held against their senders.
#[test]
fn a_burst_of_large_bodies_is_served() {
    let node = Node::start(WIDE);
    let body = "x".repeat(1 << 20);
    let request =
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    std::thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| {
                let mut client = node.connect();
                for _ in 0..2 {
                    client.send(&request);
                    assert_eq!(client.answer().body.len(), body.len());
                }
            });
        }
    });
}

/// Goal: connections of a burst that never send anything do not keep the one behind them waiting.
/// The first few that come while tiny_http's own threads are waking are those which it forgets.
#[test]
fn silent_connections_keep_nobody_waiting() {
    for forgotten in [5, 6, 7, 9, 11] {
        let node = Node::start(WIDE);
        let mut clients: Vec<Wire> = (0..60).map(|_| node.connect()).collect();
        let start = Instant::now();
        assert_eq!(clients[forgotten].get("/hello").status, 200, "connection {forgotten}");
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(5), "connection {forgotten} waited for {waited:?}");
    }
}

/// Goal: no answer is held back for the 40 ms of a delayed acknowledgement, neither one of several
/// segments nor the second of two that follow each other.
#[test]
fn answers_are_not_delayed_by_40_ms_each() {
    let node = Node::start(WIDE);
    for (path, pipelined) in [("/bytes?46000", 1), ("/hello", 2)] {
        let mut client = node.connect();
        let requests = format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").repeat(pipelined);
        let mut ask = || {
            let start = Instant::now();
            client.send(&requests);
            (0..pipelined).for_each(|_| assert_eq!(client.answer().status, 200));
            start.elapsed()
        };
        // The system acknowledges the first ones at once.
        (0..20).for_each(|_| _ = ask());
        let mut times: Vec<Duration> = (0..60).map(|_| ask()).collect();
        times.sort();
        // A busy machine delays some of them, the trap nearly all.
        assert!(times[5] < Duration::from_millis(35), "{pipelined} {path}: {times:?}");
    }
}

/// Goal: threads are reused; creating one per request costs more than the request.
#[test]
fn a_thousand_requests_take_a_handful_of_threads() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    for _ in 0..1000 {
        assert_eq!(client.get("/hello").status, 200);
    }
    assert!(node.handler_threads() <= 20, "{} threads", node.handler_threads());
}

/// Goal: handlers that wait for long keep nobody else waiting.
#[test]
fn blocked_handlers_keep_nobody_waiting() {
    let node = Node::start(WIDE);
    let mut blocked: Vec<Wire> = (0..100).map(|_| node.connect()).collect();
    blocked.iter_mut().for_each(|client| client.ask("/block"));
    node.wait_until_blocked(100);
    node.assert_alive();
    node.release();
    for client in &mut blocked {
        assert_eq!(client.answer().body, "\"released\"");
    }
}
