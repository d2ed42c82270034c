//! No single request, whatever it announces or withholds, ends or blocks a node.

mod support;

use std::time::{Duration, Instant};

use common::http::{Limits, MAX_HEAD_BYTES, MAX_PIPELINED};
use support::{DEADLINE, Node, WIDE, Wire, eventually};

/// Short patience, so that the tests are short too.
const IMPATIENT: Limits =
    Limits { max_in_flight: 64, max_body_bytes: 64 * 1024, timeout: Duration::from_millis(400) };

/// Goal: an announced body that no machine could hold is answered 413 and ends nothing. tiny_http
/// alone allocates what is announced and aborts the process.
#[test]
fn an_announced_body_of_any_size_does_not_end_the_process() {
    let node = Node::start(WIDE);
    for _ in 0..10 {
        for length in ["1000000000000000", "9223372036854775807", "9223372036854775808"] {
            let mut client = node.connect();
            client.send(format!("POST /echo HTTP/1.1\r\nContent-Length: {length}\r\n\r\nx"));
            client.answer().assert_error(413);
            client.assert_closed();
        }
    }
    let mut client = node.connect();
    client.send("POST /echo HTTP/1.1\r\nContent-Length: 99999999999999999999999999\r\n\r\nx");
    client.answer().assert_error(413);
    node.assert_alive();
    assert_eq!(node.begun(), ["GET /hello"]);
}

/// Goal: the connections that tiny_http loses by that are counted.
#[test]
fn lost_connections_are_counted() {
    let node = Node::start(IMPATIENT);
    let mut announced = node.connect();
    announced.send("POST /echo HTTP/1.1\r\nContent-Length: 1000000000000000\r\n\r\nx");
    announced.answer().assert_error(413);
    let mut newer = node.connect();
    newer.send("GET /hello HTTP/2.0\r\n\r\n");
    newer.assert_closed();
    node.wait_for_stats("two lost connections", |stats| stats.stuck == 2);
    node.assert_alive();
}

/// Goal: a 413 comes before the body does, and arrives at a client that sends all of it first.
#[test]
fn a_413_does_not_wait_for_the_body_and_is_not_lost() {
    let node = Node::start(WIDE);
    let mut waiting = node.connect();
    waiting.send("POST /echo HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n");
    waiting.answer().assert_error(413);
    let mut eager = node.connect();
    eager.send("POST /echo HTTP/1.1\r\nContent-Length: 5000000\r\n\r\n");
    eager.send(vec![b'x'; 5_000_000]);
    eager.answer().assert_error(413);
    eager.assert_closed();
    assert_eq!(node.begun(), [""; 0]);
}

/// Goal: a connection that sends nothing is closed when its time is up, and not before.
#[test]
fn an_idle_connection_is_closed() {
    let node = Node::start(IMPATIENT);
    let mut silent = node.connect();
    let mut kept = node.connect();
    assert_eq!(kept.get("/hello").status, 200);
    let start = Instant::now();
    silent.assert_closed();
    kept.assert_closed();
    assert!(start.elapsed() >= IMPATIENT.timeout / 2, "{:?}", start.elapsed());
}

/// Goal: a byte now and then does not keep a connection open, be it of a head or of a body.
#[test]
fn a_trickling_connection_is_closed() {
    for head in
        ["GET /hello HTTP/1.1\r\nX: ", "POST /echo HTTP/1.1\r\nContent-Length: 9999\r\n\r\n"]
    {
        let node = Node::start(IMPATIENT);
        let mut client = node.connect();
        client.send(head);
        let start = Instant::now();
        while client.send_if_open("x") && start.elapsed() < DEADLINE {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(start.elapsed() < DEADLINE, "it was never closed: {head}");
        assert_eq!(node.begun(), [""; 0]);
        node.assert_alive();
    }
}

/// Goal: a head without end is cut off long before the timeout.
#[test]
fn an_endless_head_is_cut_off() {
    let node = Node::start(WIDE);
    let mut client = node.connect();
    client.send("GET /hello HTTP/1.1\r\nX: ");
    let (start, piece, mut sent) = (Instant::now(), vec![b'x'; 16 * 1024], 0);
    while client.send_if_open(&piece) && start.elapsed() < DEADLINE {
        sent += piece.len();
        // As fast as a slow network: the node looks at its connections four times a second.
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(sent as u64 > MAX_HEAD_BYTES, "closed after {sent} bytes");
    assert!(start.elapsed() < DEADLINE, "never closed, {sent} bytes");
    node.assert_alive();
}

/// Goal: a client that does not read its answer does not hold a handler for ever.
#[test]
fn a_reader_that_does_not_read_is_given_up() {
    let node = Node::start(IMPATIENT);
    let mut client = node.connect();
    client.ask("/bytes?50000000");
    eventually("given up", || match node.server.stats().in_flight {
        0 if !node.begun().is_empty() => Ok(()),
        count => Err(count),
    });
    node.assert_alive();
}

/// Goal: requests piled up behind a blocked one use up no threads, and too many end the
/// connection.
#[test]
fn pipelined_requests_wait_their_turn() {
    let node = Node::start(Limits { max_in_flight: 8, ..WIDE });
    let mut client = node.connect();
    client.ask("/block");
    node.wait_until_blocked(1);
    (0..MAX_PIPELINED / 2).for_each(|n| client.ask(&format!("/{n}")));
    node.assert_alive();
    node.wait_for_stats("one in progress", |stats| stats.in_flight == 1);
    node.release();
    assert_eq!(client.answer().body, "\"released\"");
    for n in 0..MAX_PIPELINED / 2 {
        assert_eq!(client.answer().body, format!("\"/{n}\""));
    }
    assert!(node.most_inside() <= 2, "{} at once", node.most_inside());
}

/// Goal: a client that pipelines without end is cut off, and keeps nobody else waiting meanwhile.
#[test]
fn too_many_pipelined_requests_end_the_connection() {
    let flooded = Node::start(Limits { max_in_flight: 8, ..WIDE });
    let mut flood = flooded.connect();
    flood.ask("/block");
    flooded.wait_until_blocked(1);
    flood.send("GET /x HTTP/1.1\r\n\r\n".repeat(1000));
    flooded.assert_alive();
    flood.assert_closed();
}

/// Goal: handlers that panic or forget to answer are a 500 each, and use up nothing.
#[test]
fn a_panic_is_a_500_and_the_node_lives_on() {
    let node = Node::start(Limits { max_in_flight: 4, ..WIDE });
    let mut client = node.connect();
    for _ in 0..50 {
        client.get("/panic").assert_error(500);
        client.get("/drop").assert_error(500);
    }
    node.assert_alive();
    assert_eq!(Wire::connect(node.address).get("/hello").status, 200);
}
