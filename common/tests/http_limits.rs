//! Every limit has an answer: what is too much is refused, and the node goes on.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use common::http::{Limits, MAX_BODIES};
use support::{DEADLINE, Node, WIDE, Wire, port_of_ones_own};

const CHUNKED: &str = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Goal: requests beyond the limit are answered 503 at once, and it is over when the others are.
/// What waits for nobody is answered.
#[test]
fn requests_beyond_the_limit_must_come_back() {
    let node = Node::start(Limits { max_in_flight: 4, ..WIDE });
    let mut blocked: Vec<Wire> = (0..4).map(|_| node.connect()).collect();
    blocked.iter_mut().for_each(|client| client.ask("/block"));
    node.wait_until_blocked(4);
    let mut client = node.connect();
    for _ in 0..50 {
        let answer = client.get("/hello");
        answer.assert_error(503);
        assert_eq!(answer.field("Retry-After"), Some("1"));
    }
    node.get("/hello").assert_error(503);
    assert_eq!(node.get("/brief?query").status, 200);
    node.release();
    for client in &mut blocked {
        assert_eq!(client.answer().body, "\"released\"");
    }
    node.wait_for_stats("all requests have ended", |stats| stats.in_flight == 0);
    assert_eq!(client.get("/hello").status, 200, "it must recover");
}

/// Goal: a refused request's body is not taken for a request either, and a body that need not be
/// read costs nobody the connection.
#[test]
fn the_body_of_a_refused_request_is_no_request() {
    let node = Node::start(Limits { max_in_flight: 1, ..WIDE });
    let mut blocked = node.connect();
    blocked.ask("/block");
    node.wait_until_blocked(1);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let length = smuggled.len();
    for framing in [
        format!("Content-Length: {length}\r\n\r\n{smuggled}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"),
    ] {
        let mut client = node.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}"));
        client.answer().assert_error(503);
        client.assert_closed();
    }
    let mut client = node.connect();
    for _ in 0..3 {
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        client.answer().assert_error(503);
    }
    assert_eq!(node.begun(), ["GET /block"]);
}

/// Goal: refusing takes no body, so a client that waits to be told to continue is refused at once
/// and holds nothing up.
#[test]
fn clients_that_expect_100_are_refused_at_once() {
    let node = Node::start(Limits { max_in_flight: 1, ..WIDE });
    let mut blocked = node.connect();
    blocked.ask("/block");
    node.wait_until_blocked(1);
    let mut waiting: Vec<Wire> = (0..8).map(|_| node.connect()).collect();
    for client in &mut waiting {
        client.send(
            "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        );
    }
    node.get("/hello").assert_error(503);
    waiting.iter_mut().for_each(|client| client.answer().assert_error(503));
}

/// Goal: clients that trickle their bodies keep nobody out: those that take longest give way to a
/// body that comes at once.
#[test]
fn slow_bodies_give_way_to_quick_ones() {
    let node = Node::start(Limits { max_in_flight: 4, ..WIDE });
    let body = "x".repeat(5000);
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n";
    let mut slow: Vec<Wire> = (0..2).map(|_| node.connect()).collect();
    slow.iter_mut().for_each(|client| client.send(format!("{head}x")));
    node.wait_for_stats("both are being received", |stats| stats.in_flight == 2);
    let start = Instant::now();
    let mut refused = 0;
    loop {
        let mut quick = node.connect();
        quick.send(format!("{head}{body}"));
        let answer = quick.answer();
        if answer.status == 200 {
            assert_eq!(answer.body, body);
            break;
        }
        answer.assert_error(503);
        refused += 1;
        assert!(start.elapsed() < DEADLINE, "{refused} were refused");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(refused > 0, "the slow ones had no time at all");
    node.wait_for_stats("one has given way", |stats| stats.in_flight == 1);
}

/// Goal: clients that do not read their answers keep nobody out either.
#[test]
fn slow_readers_give_way_to_quick_ones() {
    let node = Node::start(Limits { max_in_flight: 4, ..WIDE });
    let mut slow: Vec<Wire> = (0..2).map(|_| node.connect()).collect();
    // More than the buffers of both sides take.
    slow.iter_mut().for_each(|client| client.ask("/bytes?50000000"));
    node.wait_for_stats("both are being answered", |stats| stats.in_flight == 2);
    let mut quick = node.connect();
    support::eventually("one has given way", || {
        assert_eq!(quick.get("/bytes?2000").status, 200, "an answer always begins");
        let stats = node.server.stats();
        if stats.in_flight < 2 { Ok(()) } else { Err(stats) }
    });
}

/// Goal: all bodies that are being received take no more memory together than 64 of the greatest
/// length, and the slowest of them make room.
#[test]
fn bodies_together_are_bounded() {
    let node = Node::start(Limits { max_body_bytes: 10_000, ..WIDE });
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n";
    let body = "x".repeat(10_000);
    let mut slow: Vec<Wire> = (0..MAX_BODIES).map(|_| node.connect()).collect();
    slow.iter_mut().for_each(|client| client.send(format!("{head}{}", &body[1..])));
    node.wait_for_stats("all are being received", |stats| stats.in_flight == MAX_BODIES);
    support::eventually("the slowest has made room", || {
        let mut quick = node.connect();
        quick.send(format!("{head}{body}"));
        let answer = quick.answer();
        if answer.status == 503 { Err(answer) } else { Ok(answer) }
    });
    node.wait_for_stats("it is given up", |stats| stats.in_flight < MAX_BODIES);
}

/// Goal: nobody waits for a client that has gone, however it went; those that stay are waited for.
#[test]
fn clients_that_have_gone_are_given_up() {
    let node = Node::start(WIDE);
    let mut clients: Vec<Wire> = (0..4).map(|_| node.connect()).collect();
    clients.iter_mut().for_each(|client| client.ask("/wait"));
    node.wait_for_stats("all wait", |stats| stats.in_flight == 4);
    let mut stays = clients.remove(0);
    clients.remove(0).half_close();
    clients.remove(0).reset();
    drop(clients);
    node.wait_for_stats("three are given up", |stats| stats.in_flight == 1);
    node.release();
    assert_eq!(stays.answer().body, "\"waited\"");
}

/// Goal: a client that gives up a request and asks anew from the same port waits for no answer to
/// the request before.
#[test]
fn a_port_used_again_waits_for_nobody() {
    let (node, port) = (Node::start(WIDE), port_of_ones_own());
    for pause in [50, 100, 700] {
        let mut first = Wire::connect_from(port, node.address);
        first.ask("/wait");
        node.wait_for_stats("it waits", |stats| stats.in_flight == 1);
        thread::sleep(Duration::from_millis(pause));
        first.reset();
        let mut second = Wire::connect_from(port, node.address);
        assert_eq!(second.get("/hello").status, 200);
        second.reset();
        node.wait_for_stats("nobody is waited for", |stats| stats.in_flight == 0);
    }
}

/// Goal: a body may be as long as the limit and not a byte longer, however it is framed.
#[test]
fn the_limit_on_bodies_is_exact() {
    for most in [100, 1024, 5000] {
        let node = Node::start(Limits { max_body_bytes: most, ..WIDE });
        let fitting = "x".repeat(most);
        let mut client = node.connect();
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {most}\r\n\r\n{fitting}"
        ));
        assert_eq!(client.answer().body, fitting);
        client.send(format!("{CHUNKED}{most:x}\r\n{fitting}\r\n0\r\n\r\n"));
        assert_eq!(client.answer().body, fitting);
        let longer = most + 1;
        client.send(format!("{CHUNKED}{longer:x}\r\n{fitting}x\r\n0\r\n\r\n"));
        client.answer().assert_error(413);
        client.assert_closed();
        let mut client = node.connect();
        client.send(format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {longer}\r\n\r\n{fitting}x"
        ));
        client.answer().assert_error(413);
        client.assert_closed();
        assert_eq!(node.begun().len(), 2);
    }
}

/// Goal: an ordinary client, which sends all of its oversized body before it reads, gets its 413
/// whole; a reset would have taken it away.
#[test]
fn a_client_that_sends_everything_gets_its_413() {
    let node = Node::start(WIDE);
    let body = "x".repeat(5 << 20);
    let length = body.len();
    for framing in [
        format!("Content-Length: {length}\r\n\r\n{body}"),
        format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"),
    ] {
        let mut client = node.connect();
        client.send(format!("POST /echo HTTP/1.1\r\nHost: node\r\n{framing}"));
        let answer = client.answer();
        answer.assert_error(413);
        assert_eq!(answer.field("Connection"), Some("close"));
        client.assert_closed();
    }
    assert_eq!(node.begun(), Vec::<String>::new());
}

/// Goal: a client that uses its port again right after it was refused is answered: what is known of
/// a refused connection is not held against the next one from there.
#[test]
fn a_port_used_again_is_answered() {
    let node = Node::start(WIDE);
    let port = port_of_ones_own();
    let body = "x".repeat(3000);
    let echo =
        format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for round in 0..20 {
        for announced in ["1048577", "2147483648"] {
            let mut client = Wire::connect_from(port, node.address);
            client.send(format!(
                "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {announced}\r\n\r\n{{}}"
            ));
            client.final_answer().assert_error(413);
            if round % 2 == 0 {
                client.assert_closed();
            }
            client.reset();
            let mut client = Wire::connect_from(port, node.address);
            client.ask("/hello");
            assert_eq!(client.final_answer().status, 200, "round {round}");
            client.send(&echo);
            assert_eq!(client.final_answer().body, body, "round {round}");
            client.reset();
        }
    }
}

/// Goal: a client that takes a while to send its oversized body still gets its 413. One that pauses
/// for longer than the node waits does not, so a try counts in which the machine was quick enough.
#[test]
fn a_client_that_sends_slowly_gets_its_413() {
    let node = Node::start(WIDE);
    let told = (0..20).any(|_| {
        let mut client = node.connect();
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n");
        let (mut sent_at, mut longest, mut is_open) = (Instant::now(), Duration::ZERO, true);
        for _ in 0..7 {
            thread::sleep(Duration::from_millis(100));
            is_open = is_open && client.send_if_open("x".repeat(10_000));
            longest = longest.max(sent_at.elapsed());
            sent_at = Instant::now();
        }
        if longest >= Duration::from_millis(150) {
            return false;
        }
        assert!(is_open, "cut off with pauses of {longest:?}");
        client.answer().assert_error(413);
        client.assert_closed();
        true
    });
    assert!(told, "the machine was never quick enough");
}

/// Goal: a 413 comes by the announced length alone, and within the chunk that is too much: nobody
/// waits for the rest.
#[test]
fn an_oversized_body_is_refused_before_its_end() {
    let node = Node::start(Limits { max_body_bytes: 2000, ..WIDE });
    let mut announced = node.connect();
    announced.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\nfirst");
    announced.answer().assert_error(413);
    let mut chunked = node.connect();
    chunked.send(format!("{CHUNKED}ffffffff\r\n{}", "x".repeat(2100)));
    chunked.answer().assert_error(413);
    announced.assert_closed();
    chunked.assert_closed();
}

/// Goal: a handler that panics or forgets to answer is answered for, and costs no thread.
#[test]
fn a_handler_that_panics_is_a_500() {
    let node = Node::start(Limits { max_in_flight: 4, ..WIDE });
    let mut client = node.connect();
    for _ in 0..200 {
        client.get("/panic").assert_error(500);
        client.get("/drop").assert_error(500);
    }
    assert_eq!(client.get("/hello").status, 200, "the connection goes on");
    // A request counts for a moment longer than its answer takes.
    node.wait_for_stats("none in progress", |stats| stats.in_flight == 0);
    let mut blocked: Vec<Wire> = (0..4).map(|_| node.connect()).collect();
    blocked.iter_mut().for_each(|client| client.ask("/block"));
    node.wait_until_blocked(4);
    client.get("/hello").assert_error(503);
    node.wait_for_stats("four in progress", |stats| stats.in_flight == 4);
    // A thread that dies of each panic would be replaced by another one.
    assert!(node.handler_threads() <= 20, "{} threads", node.handler_threads());
}
